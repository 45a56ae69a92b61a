"""A version's tables in the layouts of trainers. Each view is a function with the name of its format, `-` written `_`.

    trl-sft     rows                         one row a chosen trace; where rows are folded, of the table `traces`
    trl-dpo     samples, problems            one row a pair of answers to one prompt; without samples: rows, rejected, problems
    trl-kto     samples, problems            one row an answer that is right or wrong; without samples the same
    trl-grpo    problems                     one row a problem of which a trace was chosen: prompts that can be learnt from
    verl        problems                     the same, in verl's columns
    sharegpt, alpaca    rows                 as trl-sft, with the dataset_info.json of LLaMA-Factory
    openrlhf    rows, or problems            as trl-sft or trl-grpo, in OpenRLHF's columns
    mixchain-wide   rows                     one row a question in the published columns of MixChain
    mixchain-long   traces                   one row a chain with alpha, beta and stage
    hrm         rows                         one row a labelled step, or two at once: what step_tree and human_steps make
    trl-prm     nodes, problems              one row a way from the question to the first bad step, or to its end
    step-pairs  pairs, problems              one row a pair of sibling steps, the better one known
    rest        values, nodes, problems      one row a step with its ReST-MCTS* value
    omega-pairs nodes, problems              one row a pair of sibling steps with the probability that the first is better
    medverse        rows                     a Petri-net trace in the published tags of MedVerse
    petri-linear    rows                     the same as a plain chain, steps in topological order
    petri-dag       rows                     one row a step, with what it depends on
    knowrl          rows                     one row a problem in the released columns of KnowRL
    zip-rc          rows                     one row a rollout with the class of its labelled tokens
    r2r             rows, divergences        one row a token: whether a small model diverges there

Column names are those that TRL 1.16 (trl-prm: 1.13, the last with a trainer for it), verl 0.9, LLaMA-Factory 0.9.5 and OpenRLHF 0.11 read. Conversations are lists of turns in
every row, because TRL decides by the first row how to read them all; golds stay text, because Arrow cannot mix numbers and words.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import polars as pl

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import FORMATS, suggest
from tracemill.schemas.views.gist import gist_segments
from tracemill.schemas.views.knowrl import knowrl
from tracemill.schemas.views.llama_factory import alpaca, dataset_info, sharegpt
from tracemill.schemas.views.mixchain import mixchain_long, mixchain_wide
from tracemill.schemas.views.modes import mode_pairs
from tracemill.schemas.views.openrlhf import openrlhf
from tracemill.schemas.views.petri import medverse, petri_dag, petri_linear
from tracemill.schemas.views.prm import hrm, omega_pairs, rest, step_pairs, trl_prm
from tracemill.schemas.views.r2r import r2r
from tracemill.schemas.views.tables import Tables, candidates, chosen, paired, table
from tracemill.schemas.views.trl import trl_dpo, trl_grpo, trl_kto, trl_sft
from tracemill.schemas.views.verl import verl
from tracemill.schemas.views.zip_rc import zip_rc

Format = Callable[..., pl.LazyFrame]
Answers = Callable[[Tables], tuple[str, pl.LazyFrame]]
_FUNCTIONS: tuple[Format, ...] = (
    *(trl_sft, trl_dpo, trl_kto, trl_grpo, verl, sharegpt, alpaca, openrlhf),
    *(mixchain_wide, mixchain_long, knowrl),
    *(hrm, trl_prm, step_pairs, rest, omega_pairs),
    *(medverse, petri_linear, petri_dag),
    *(zip_rc, r2r, mode_pairs, gist_segments),
)


MADE_OF: Mapping[str, tuple[str, str]] = {
    "mixchain-wide": ("mixchain", "solution_index"),
    "mixchain-long": ("mixchain", "solution_index"),
    "hrm": ("step_tree", "granularity"),
    "trl-prm": ("step_tree", "nodes"),
    "step-pairs": ("step_tree", "pairs"),
    "rest": ("step_tree", "values"),
    "omega-pairs": ("step_tree", "nodes"),
    **dict.fromkeys(("medverse", "petri-linear", "petri-dag"), ("petri_trace", "entity_plan")),
    "knowrl": ("hints", "kept_kp_index"),
    "zip-rc": ("reward_remaining_labels", "last_class"),
    "r2r": ("divergent_tokens", "slm_token"),
    "gist-segments": ("gist_segments", "marker_ids"),
    "mode-pairs": ("mode_advantage or hybrid_mode_mix", "modes"),
}
"""Formats of what one method makes: the method, and the column of its traces or the table of its own that tells it."""


@dataclass(frozen=True, slots=True)
class View:
    """A format with its options bound."""

    rows: Callable[[Tables], pl.LazyFrame]
    answers: Answers | None = None
    """The answers that rows are made of: the table they stand in, and a frame with n_tokens; None where rows are prompts."""
    info: Callable[[str, str, Sequence[str]], Mapping[str, Any]] | None = None
    """`dataset_info.json` by the dataset's name, the file's and its columns, where the trainer finds datasets by one."""


def view_named(name: str) -> Format:
    """The function of a format."""
    if name not in FORMATS:
        raise RecipeError(f"no format {name!r}{suggest(name, FORMATS)}")
    return next(function for function in _FUNCTIONS if function.__name__ == name.replace("-", "_"))


def bound(name: str, options: Mapping[str, Any]) -> View:
    """A format with options, which are checked already, and what belongs to it."""
    answers: Answers | None = _of_rows
    if name in ("trl-grpo", "verl", "knowrl") or options.get("form") == "rl":
        answers = None
    elif name in ("trl-prm", "step-pairs", "rest", "omega-pairs"):
        answers = _of_nodes
    elif name in ("trl-dpo", "trl-kto"):
        made = name == "trl-dpo" and options.get("kind") is None
        answers = partial(_right_or_wrong, options.get("role", "solver"), made)
    info = dataset_info if name in ("sharegpt", "alpaca") else None
    return View(partial(view_named(name), **options), answers, info)


def _of_rows(tables: Tables) -> tuple[str, pl.LazyFrame]:
    return "traces" if "traces" in tables else "rows", chosen(tables)


def _of_nodes(tables: Tables) -> tuple[str, pl.LazyFrame]:
    """The steps: what these formats are made of."""
    return "nodes", table(tables, "nodes").filter(pl.col("height") > 0)


def _right_or_wrong(role: str, made: bool, tables: Tables) -> tuple[str, pl.LazyFrame]:
    if made and role == "solver" and paired(tables):
        return _of_rows(tables)
    return "samples" if "samples" in tables else "rows and rejected", candidates(tables, role)[0]


__all__ = [
    *("MADE_OF", "Format", "Tables", "View", "bound", "view_named"),
    *("alpaca", "medverse", "mixchain_long", "mixchain_wide", "openrlhf", "petri_dag", "petri_linear", "sharegpt"),
    *("hrm", "knowrl", "omega_pairs", "rest", "step_pairs", "trl_prm"),
    *("trl_dpo", "trl_grpo", "trl_kto", "trl_sft", "verl", "zip_rc", "mode_pairs", "gist_segments"),
]
