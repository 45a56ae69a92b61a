"""Steps that people rated, as rows of a process reward model: PRM800K (arXiv:2305.20050) in HRM's form (arXiv:2503.13551).

A source row holds, at each step of a solution, several candidates with a rating each, and which of them the solution went on with:

    {"completions": [{"text": "3 * 8 = 24.", "rating": 1}, {"text": "3 * 8 = 26.", "rating": -1}], "chosen_completion": 0}

Each candidate is a row behind the steps that were chosen before it, and, from the second step on, one more together with the
step before it. Both are labelled by the candidate alone: a bad step and the one that puts it right are, together, good.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Message
from tracemill.schemas.rows import Outcome, Problem, Rejection, Share, Summary, Trace, Verdict
from tracemill.synth.step_tree.picture import picture
from tracemill.synth.step_tree.render import shown_input
from tracemill.synth.step_tree.rows import ROW_COLUMNS, split_of
from tracemill.synth.step_tree.tables import TABLES as TREE_TABLES
from tracemill.synth.step_tree.tables import node_rows
from tracemill.synth.step_tree.tree import Node

__all__ = ["COLUMNS", "GIVEN", "TABLES", "check", "human_steps", "picture", "summary"]

GIVEN = ("steps",)
"""What it takes from the source."""
COLUMNS = {**ROW_COLUMNS, "rating": int}
TABLES = {"nodes": TREE_TABLES["nodes"]}

GOOD, NEUTRAL, BAD = 1, 0, -1
"""PRM800K's ratings; a neutral candidate gives no row in HRM's release."""
MOST_TOKENS = 4096
"""Of a row's input; the released code."""


def check(*, at_most: int, test_share: float, **_: Any) -> None:
    """Raise ValueError for options that cannot work."""
    if at_most < 1:
        raise ValueError(f"at_most = {at_most}: tokens of a row's input, at least 1")
    if not 0 <= test_share <= 1:
        raise ValueError(f"test_share = {test_share}: a share between 0 and 1")


async def human_steps(
    problem: Problem, engine: Engine, *, at_most: int = MOST_TOKENS, coarse: bool = True, test_share: float = 0.2
) -> Outcome:
    """Make a row of every candidate that is rated good or bad, for `tracemill curate`.

    A step that no candidate was chosen for goes on with the one that a person wrote, which has no rating and is no row itself.
    Turned down, each with its reason: `neutral` and `unrated` candidates, rows whose input has more than `at_most` tokens
    (`too_long`; words where the recipe names no [model] with a tokenizer), and second copies of an input with its label
    (`duplicate`). `coarse` adds the rows of two steps. `test_share` of the questions are the test split, by hash.
    """
    reader = _Reader(problem, engine, at_most, coarse, split_of(problem.question, test_share))
    reader.read()
    if not reader.traces and not reader.rejections:
        reader.turn_down("no_steps")
    nodes = list(node_rows(problem.problem_id, reader.root)) if reader.root.children else []
    return Outcome(traces=reader.traces, rejections=reader.rejections, tables={"nodes": nodes})


def summary(traces: pl.LazyFrame) -> Summary:
    """Rows that were made and their labels, by split and by how many steps they show at once."""
    found = (
        traces.filter(pl.col("label_hard").is_not_null())
        .group_by("split", "granularity")
        .agg(pl.len().alias("rows"), pl.col("label_hard").sum().alias("good"))
        .sort("split", "granularity", descending=True)
        .collect(engine="streaming")
    )
    return Summary(
        title="Steps rated by people",
        rows=[
            {
                "split": row["split"],
                "steps shown": {"single": "one", "pair": "two"}[row["granularity"]],
                "made": row["rows"],
                "good": Share(row["good"], row["rows"]),
            }
            for row in found.to_dicts()
        ],
        note="A label is what a person said of the last step shown. Candidates rated neutral have none and are no rows.",
    )


@dataclass(slots=True)
class _Candidate:
    """One way to go on at a step."""

    node: Node
    rating: int | None


@dataclass(slots=True)
class _Reader:
    """Reads one solution from its first step to its last."""

    problem: Problem
    engine: Engine
    at_most: int
    coarse: bool
    split: str
    root: Node = field(default_factory=lambda: Node(step="", name="question"))
    traces: list[Trace] = field(default_factory=list)
    rejections: list[tuple[Trace | None, Rejection]] = field(default_factory=list)
    seen: dict[tuple[str, int], str] = field(default_factory=dict)

    def turn_down(self, reason: str, trace: Trace | None = None, **evidence: Any) -> None:
        self.rejections.append((trace, Rejection(reason, evidence)))

    def read(self) -> None:
        steps, at = self.problem.steps or (), self.root
        for number, step in enumerate(steps):
            if not isinstance(step, Mapping):
                self.turn_down(
                    "wrong_type", step=number, found=type(step).__name__, steps_after=len(steps) - number - 1
                )
                return
            found = dict(self._candidates(number, step, at))
            for candidate in found.values():
                self._rows_of(candidate)
            follows = self._chosen(number, step, at, found)
            if follows is None:
                if number + 1 < len(steps):
                    self.turn_down("no_chosen_completion", step=number, steps_after=len(steps) - number - 1)
                return
            at = follows

    def _candidates(self, number: int, step: Mapping[str, Any], at: Node) -> Iterator[tuple[int, _Candidate]]:
        """The candidates of a step that have a text and a rating of the scale, by their place."""
        completions = step.get("completions")
        if not isinstance(completions, list):
            self.turn_down("no_completions", step=number, found=type(completions).__name__)
            return
        for place, one in enumerate(completions):
            text = one.get("text") if isinstance(one, Mapping) else None
            if not isinstance(text, str) or not text.strip():
                self.turn_down("no_text", step=number, completion=place, found=type(text).__name__)
                continue
            rating = one.get("rating")
            if rating is not None and (isinstance(rating, bool) or rating not in (GOOD, NEUTRAL, BAD)):
                self.turn_down(
                    "no_rating_of_the_scale", step=number, completion=place, rating=rating, allowed=[1, 0, -1]
                )
                rating = None
            node = at.add(self._node(f"s{number:03}-c{place:02}", text, rating))
            yield place, _Candidate(node, rating)

    def _node(self, name: str, text: str, rating: int | None) -> Node:
        decided = rating in (GOOD, BAD)
        return Node(
            step=text.strip(),
            name=name,
            n_correct=int(rating == GOOD),
            n_total=int(rating is not None),
            n_undecided=int(rating is not None and not decided),
            label_hard=int(rating == GOOD) if decided else None,
            label_source="human" if decided else None,
            n_tokens=self.engine.count_tokens(text),
        )

    def _chosen(self, number: int, step: Mapping[str, Any], at: Node, found: Mapping[int, _Candidate]) -> Node | None:
        """The step that the solution went on with."""
        chosen = step.get("chosen_completion")
        if chosen is not None:
            if isinstance(chosen, int | float) and not isinstance(chosen, bool) and chosen in found:
                return found[int(chosen)].node
            self.turn_down("no_such_completion", step=number, chosen=chosen, completions=sorted(found))
            return None
        written = step.get("human_completion")
        text = written.get("text") if isinstance(written, Mapping) else None
        if not isinstance(text, str) or not text.strip():
            return None
        return at.add(self._node(f"s{number:03}-human", text, None))

    def _rows_of(self, candidate: _Candidate) -> None:
        """Its row, and the one with the step before it, or why there is none."""
        node = candidate.node
        steps = node.steps()
        single = self._trace(candidate, steps, 1)
        if candidate.rating not in (GOOD, BAD):
            self.turn_down("unrated" if candidate.rating is None else "neutral", single, rating=candidate.rating)
            return
        self._take(single)
        if self.coarse and len(steps) > 1:
            self._take(self._trace(candidate, steps, 2))

    def _take(self, trace: Trace) -> None:
        shown, label = trace.columns["input"], trace.columns["label_hard"]
        tokens = self.engine.count_tokens(shown)
        if tokens > self.at_most:
            self.turn_down("too_long", trace, tokens=tokens, at_most=self.at_most)
        elif (first := self.seen.setdefault((shown, label), trace.name)) != trace.name:
            self.turn_down("duplicate", trace, of=f"{self.problem.problem_id}/{first}")
        else:
            self.traces.append(trace)

    def _trace(self, candidate: _Candidate, steps: list[str], current: int) -> Trace:
        node, cut = candidate.node, len(steps) - current
        text = "\n".join(steps)
        return Trace(
            problem_id=self.problem.problem_id,
            name=f"{node.name}-{'single' if current == 1 else 'pair'}",
            prompt=self.problem.messages or (Message(role="user", content=self.problem.question),),
            text=text,
            n_tokens=self.engine.count_tokens(text),
            finish_reason="given",
            model="given",
            counted=self.engine.counter(),
            verdict=Verdict(status="undecided", reason="inner_step", how="human"),
            columns={
                **dict.fromkeys(COLUMNS),
                "tree_id": self.problem.problem_id,
                "node_id": node.name,
                "parent_id": f"{self.problem.problem_id}/{node.parent.name}" if node.parent else None,
                "view": "orig",
                "granularity": "single" if current == 1 else "pair",
                "height": len(steps),
                "previous_steps": steps[:cut],
                "current_steps": steps[cut:],
                "n_correct": node.n_correct,
                "n_leaves": node.n_total,
                "n_undecided": node.n_undecided,
                "label_soft": None if node.label_hard is None else float(node.label_hard),
                "label_hard": node.label_hard,
                "merged_node_ids": [],
                "split": self.split,
                "input": shown_input(self.problem.question, steps[:cut], steps[cut:]),
                "label": None if node.label_hard is None else float(node.label_hard),
                "rating": candidate.rating,
            },
        )
