"""What TRL 1.16 reads: supervised, pairs, answers that are right or wrong alone, and prompts with checkable answers."""

from typing import Annotated, Literal

import polars as pl
from pydantic import Field

from tracemill.schemas.views.tables import (
    PAIRED,
    Tables,
    answer,
    candidates,
    checkable,
    chosen,
    paired,
    table,
    tools_of,
)

PairKind = Literal["short_over_long", "correct_over_wrong"]


def trl_sft(tables: Tables, *, form: Literal["messages", "prompt-completion"] = "messages") -> pl.LazyFrame:
    """Chosen traces for supervised training: `messages`, or `prompt` and `completion` to learn the answer only.

    Where the conversations have tools, `tools` follows as JSON text, which TRL reads.
    """
    rows = chosen(tables).sort("id")
    tools = tools_of(rows)
    if form == "messages":
        return rows.select("messages", *tools)
    turns = pl.col("messages")
    before = turns.list.slice(0, (turns.list.len().cast(pl.Int64) - 1).clip(lower_bound=0))
    return rows.select(before.alias("prompt"), turns.list.tail(1).alias("completion"), *tools)


def trl_dpo(
    tables: Tables,
    *,
    kind: PairKind | Literal["both"] | None = None,
    pairs: Annotated[int, Field(ge=1)] = 1,
    role: str = "solver",
) -> pl.LazyFrame:
    """Pairs of answers to one prompt: `prompt`, `chosen`, `rejected`, with their `kind` and `problem_id`.

    `short_over_long` sets the shortest correct answer over the longest correct one, where their lengths differ;
    `correct_over_wrong` sets correct over wrong, the shortest against the shortest, so that length tells them apart as
    little as may be. Where the method makes pairs itself, they are taken, of its own kinds, unless `kind` says which of these or `both`. Up to `pairs` of each kind a problem: the next shortest against the next longest, and so on, no answer
    on both sides. A truncated answer is never chosen, an undecided one never used; equal texts count once.
    """
    if kind is None and role == "solver" and (better := paired(tables)):
        return _made(tables, better, pairs)
    answers, texts = candidates(tables, role)
    answers = answers.filter(pl.col("n_tokens").is_not_null())
    right, wrong = answers.filter(pl.col("status") == "equal"), answers.filter(pl.col("status") == "different")
    short = _numbered(right.filter(~pl.col("truncated")), pl.col("n_tokens"), "chosen")
    rivals = {
        "short_over_long": _numbered(right, -pl.col("n_tokens"), "rejected"),
        "correct_over_wrong": _numbered(wrong, pl.col("n_tokens"), "rejected"),
    }
    found = [
        short.join(rival, on=["problem_id", "number"]).with_columns(pl.lit(name).alias("kind"))
        for name, rival in rivals.items()
        if kind in (name, "both", None)
    ]
    longer = pl.col("rejected_tokens") > pl.col("chosen_tokens")
    problems = table(tables, "problems")
    tools = tools_of(problems)
    return (
        pl.concat(found)
        .filter((pl.col("number") <= pairs) & ((pl.col("kind") != "short_over_long") | longer))
        .join(problems.select("problem_id", "prompt", *tools), on="problem_id")
        .join(texts.select(chosen_key="key", chosen=answer("text")), on="chosen_key")
        .join(texts.select(rejected_key="key", rejected=answer("text")), on="rejected_key")
        .sort("problem_id", "kind", "number")
        .select("prompt", "chosen", "rejected", *tools, "kind", "problem_id")
    )


def _made(tables: Tables, better: str, pairs: int) -> pl.LazyFrame:
    """The pairs that the method made of its traces, by their ids."""
    worse, kind = PAIRED[better]
    problems = table(tables, "problems")
    tools = tools_of(problems)
    number = pl.int_range(1, pl.len() + 1).over("problem_id", "kind", order_by="id")
    rows = chosen(tables).with_columns(kind=kind).filter(pl.col("kind").is_not_null()).with_columns(number=number)
    return (
        rows.filter(pl.col("number") <= pairs)
        .select("problem_id", "kind", "number", chosen=answer(pl.col(better)), rejected=answer(pl.col(worse)))
        .join(problems.select("problem_id", "prompt", *tools), on="problem_id")
        .sort("problem_id", "kind", "number")
        .select("prompt", "chosen", "rejected", *tools, "kind", "problem_id")
    )


def trl_kto(tables: Tables, *, role: str = "solver") -> pl.LazyFrame:
    """Answers with what they are worth, one a row: `prompt`, `completion`, `label` (true: right), with their `problem_id`.

    Every right and every wrong answer is in it, of problems too that no trace was chosen of. An undecided answer is left
    out; a truncated one is never true: it is left out where it is right. Equal texts of a problem count once.
    """
    answers, texts = candidates(tables, role)
    right = pl.col("status") == "equal"
    labelled = answers.filter(~(right & pl.col("truncated"))).with_columns(right.alias("label"))
    problems = table(tables, "problems").filter(pl.col("prompt").is_not_null())
    tools = tools_of(problems)
    return (
        labelled.group_by("problem_id", "same_text", "label")
        .agg(pl.col("key").min())
        .join(problems.select("problem_id", "prompt", *tools), on="problem_id")
        .join(texts.select("key", completion=answer("text")), on="key")
        .sort("problem_id", "key")
        .select("prompt", "completion", "label", *tools, "problem_id")
    )


def trl_grpo(tables: Tables) -> pl.LazyFrame:
    r"""Prompts with checkable answers: `prompt`, and the gold as `solution`, the name that TRL's `accuracy_reward` reads.

    That reward finds no answer in a bare `(1,2)` or `x^2+1`: a gold without `$` or `\boxed` stands between dollars here.
    `gold` is the same as the source has it.
    """
    gold = pl.col("gold")
    marked = gold.str.contains("$", literal=True) | gold.str.contains("\\boxed", literal=True)
    solution = pl.when(marked).then(gold).otherwise(pl.concat_str(pl.lit("$"), gold, pl.lit("$")))
    problems = checkable(tables)
    return problems.select("prompt", *tools_of(problems), solution.alias("solution"), "gold", "problem_id")


def _numbered(answers: pl.LazyFrame, order: pl.Expr, side: str) -> pl.LazyFrame:
    """The answers of each problem, numbered from 1 in the order given, ties by key."""
    number = pl.int_range(1, pl.len() + 1).over("problem_id", order_by=[order, "key"])
    return answers.select(
        "problem_id",
        number.alias("number"),
        pl.col("key").alias(f"{side}_key"),
        pl.col("n_tokens").alias(f"{side}_tokens"),
    )
