"""From traces to decisions: every trace is chosen, or turned down at a stage, for a reason, with evidence.

Decisions are narrow: filters and selectors read the columns they name, and what is wide is joined again at the end.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from tracemill.pipelines.choosing.choice import DECISION, Choice, choose, reconcile, verdicts
from tracemill.pipelines.plan import Plan
from tracemill.pipelines.recipes.catalog import Plugin
from tracemill.pipelines.scale.spread import Spread, cut, in_order, problem_of, spread_over
from tracemill.schemas.rows import Summary

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["DECISION", "Decisions", "decide"]

PIECE_ROWS = 1 << 15
"""So many traces at once are shown to a selector that looks at each problem alone."""


@dataclass(frozen=True)
class Decisions:
    """`frame`: one row a trace, id, stage (null: chosen), reason, evidence, then columns that selectors added."""

    frame: pl.DataFrame
    tables: Mapping[str, pl.LazyFrame] = field(default_factory=dict)
    facts: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """What selectors say of how they chose, by selector; of one that chose several times, the last."""
    summaries: Mapping[str, Summary] = field(default_factory=dict)
    """What they say of what they found, by selector."""

    @property
    def chosen(self) -> pl.DataFrame:
        return self.frame.filter(pl.col("stage").is_null())

    def counts(self) -> list[dict[str, object]]:
        """How many traces each stage turned down, by reason."""
        down = self.frame.filter(pl.col("stage").is_not_null())
        return down.group_by("stage", "reason").len("count").sort("stage", "reason").to_dicts()


def decide(
    plan: Plan,
    traces: pl.LazyFrame,
    problems: pl.LazyFrame,
    *,
    client: "Client | None" = None,
    folder: Path | None = None,
) -> Decisions:
    """Apply the filters, then the selectors in the order given, to `traces`; `problems` tells how often each was solved.

    With `client` the workers of a Dask cluster do what can be parted, and the same rows are chosen. They see `folder`, and the
    files that `traces` and `problems` are read from.
    """
    with spread_over(client, folder, traces, problems, PIECE_ROWS) as spread:
        total = traces.select(pl.len()).collect().item()
        frame = verdicts(plan.filters, traces) if spread is None else spread.verdicts(plan.filters)
        reconcile("filters", total, len(frame))
        tables: dict[str, list[pl.LazyFrame]] = {}
        facts: dict[str, Mapping[str, object]] = {}
        summaries: dict[str, Summary] = {}
        for place, selector in enumerate(plan.selectors):
            before = sum(other.name == selector.name for other in plan.selectors[:place])
            named = f"{selector.name} {before + 1}" if before else selector.name
            narrowed = []
            for choice in _choices(plan, selector, traces, problems, frame, spread):
                narrowed.append(choice.frame)
                facts.update({named: choice.facts} if choice.facts else {})
                summaries.update({named: choice.summary} if choice.summary else {})
                for name, table in choice.tables.items():
                    tables.setdefault(name, []).append(table)
            frame = in_order(frame, pl.concat(narrowed, how="vertical_relaxed"))
        joined = {name: pl.concat(pieces, how="diagonal_relaxed") for name, pieces in tables.items()}
        return Decisions(frame, joined, facts, summaries)


def _choices(
    plan: Plan,
    selector: Plugin,
    traces: pl.LazyFrame,
    problems: pl.LazyFrame,
    frame: pl.DataFrame,
    spread: Spread | None,
) -> Iterator[Choice]:
    engine = plan.embedder if selector.takes("engine") else None
    per = tuple(selector.options.get("per", selector.about("GROUP", ())))
    by_problem = selector.about("REACH", "table") == "row" or per == ("problem_id",)
    brought = any(source.columns for source in plan.recipe.source)
    if spread is None:
        handed = {"engine": engine} if engine is not None else {}
        for near, piece in _pieces(frame, by_problem=by_problem):
            yield choose(selector, handed, traces.filter(near), problems.filter(near), piece, brought=brought)
    elif by_problem:
        yield from spread.choices(selector, engine, _pieces(frame, by_problem=True), brought=brought)
    elif selector.about("REACH", "table") == "group" and per:
        yield from spread.choices(selector, engine, spread.by_group(per, frame), brought=brought)
    else:
        yield spread.whole(selector, engine, traces, problems, frame, brought=brought)


def _pieces(frame: pl.DataFrame, *, by_problem: bool) -> Iterator[tuple[pl.Expr, pl.DataFrame]]:
    """What a selector decides about at once: whole problems where it looks at each alone, else all; and where that is."""
    if not by_problem or frame.height <= PIECE_ROWS:
        yield pl.lit(value=True), frame
        return
    problem = problem_of(frame)
    if not problem.is_sorted():
        order = problem.arg_sort()
        frame, problem = frame[order], problem[order]
    for near, start, end in cut(problem, PIECE_ROWS):
        yield near, frame[start:end]
