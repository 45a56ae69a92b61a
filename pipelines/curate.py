"""From traces to decisions: every trace is chosen, or turned down at a stage, for a reason, with evidence.

Decisions are narrow: filters and selectors read the columns they name, and what is wide is joined again at the end.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import msgspec
import polars as pl

from tracemill.pipelines.catalog import Plugin
from tracemill.pipelines.foresee import COUNTED, recipes_fault
from tracemill.pipelines.plan import Plan
from tracemill.schemas.errors import CountsDiffer, RecipeError
from tracemill.schemas.rows import Selection, Summary
from tracemill.schemas.tables import ROWS

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")

PIECE_ROWS = 1 << 15
"""So many traces at once are shown to a selector that looks at each problem alone."""

DECISION = {"id": pl.String, "stage": pl.String, "reason": pl.String, "evidence": pl.String}


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
    client: "Client | None" = None,  # noqa: ARG001 - the signature first
) -> Decisions:
    """Apply the filters, then the selectors in the order given, to `traces`; `problems` tells how often each was solved.

    `client`: the workers of a Dask cluster do what can be spread; they choose the same rows.
    """
    total = traces.select(pl.len()).collect().item()
    frame = _filtered(plan, traces)
    _reconcile("filters", total, len(frame))
    tables: dict[str, list[pl.LazyFrame]] = {}
    facts: dict[str, Mapping[str, object]] = {}
    summaries: dict[str, Summary] = {}
    for selector in plan.selectors:
        narrowed = []
        for near, piece in _pieces(selector, frame):
            kept = piece.filter(pl.col("stage").is_null()).drop("stage", "reason", "evidence")
            seen = _with_counts(traces.filter(near), problems.filter(near))
            left = seen.join(kept.lazy(), on="id", how="inner", maintain_order="left")
            selection: Selection = _run(selector.name, partial(selector.call, left, **plan.engine_of(selector)))
            _keeps_given(plan, selector.name, selection, left)
            narrowed.append(_narrowed(piece, selector.name, selection, left))
            facts.update({selector.name: selection.facts} if selection.facts else {})
            summaries.update({selector.name: selection.summary} if selection.summary else {})
            for name, table in selection.tables.items():
                tables.setdefault(name, []).append(table)
        frame = pl.concat(narrowed, how="vertical_relaxed")
    joined = {name: pl.concat(pieces, how="diagonal_relaxed") for name, pieces in tables.items()}
    return Decisions(frame, joined, facts, summaries)


def _pieces(selector: Plugin, frame: pl.DataFrame) -> Iterator[tuple[pl.Expr, pl.DataFrame]]:
    """What a selector decides about at once: whole problems where it looks at each alone, else all; and where that is."""
    per = selector.options.get("per", selector.about("GROUP", ()))
    alone = selector.about("REACH", "table") == "row" or tuple(per) == ("problem_id",)
    if not alone or frame.height <= PIECE_ROWS:
        yield pl.lit(value=True), frame
        return
    problem = frame["id"].str.replace(r"/[^/]*$", "")
    if not problem.is_sorted():
        order = problem.arg_sort()
        frame, problem = frame[order], problem[order]
    start = 0
    while start < frame.height:
        first, last = problem[start], problem[min(start + PIECE_ROWS, frame.height) - 1]
        end = int(problem.search_sorted(last, side="right"))
        yield pl.col("problem_id").is_between(pl.lit(first), pl.lit(last)), frame[start:end]
        start = end


def _filtered(plan: Plan, traces: pl.LazyFrame) -> pl.DataFrame:
    """The first filter that says no decides."""
    stages = [_staged(f"filter:{plugin.name}", plugin.call()) for plugin in plan.filters]
    nothing = pl.lit(None, pl.Struct({"stage": pl.String, "reason": pl.String, "evidence": pl.String}))
    verdict = pl.coalesce(*stages, nothing).alias("verdict")
    frame = _run("filters", lambda: traces.select("id", verdict).unnest("verdict").collect(engine="streaming"))
    for stage, down in frame.filter(pl.col("stage").is_not_null()).partition_by("stage", as_dict=True).items():
        _give_reasons(str(stage[0]), down)
    return frame


def _staged(stage: str, verdict: pl.Expr) -> pl.Expr:
    fields = [verdict.struct.field("reason"), verdict.struct.field("evidence")]
    return pl.when(verdict.is_not_null()).then(pl.struct(pl.lit(stage).alias("stage"), *fields))


def _with_counts(traces: pl.LazyFrame, problems: pl.LazyFrame) -> pl.LazyFrame:
    """Add how often each trace's problem was solved, over all its samples and not only those that are left."""
    counted = problems.select(
        "problem_id",
        *(
            pl.col("roles").list.eval(pl.element().struct.field(name)).list.sum().alias(f"problem_{name}")
            for name in ("correct", "total", "undecided")
        ),
    )
    return traces.join(counted, on="problem_id", how="left", maintain_order="left")


def _keeps_given(plan: Plan, name: str, selection: Selection, left: pl.LazyFrame) -> None:
    """Refuse a selector that writes anew a column which given traces bring along: one name would mean two things."""
    if not any(source.columns for source in plan.recipe.source):
        return
    there = selection.rows.collect_schema().names()
    own = [
        column for column in left.collect_schema().names() if column in there and column not in {*ROWS.names, *COUNTED}
    ]
    both = left.select("id", *own).join(
        selection.rows.select("id", *(pl.col(column).alias(f"{column}\0") for column in own)), on="id"
    )
    anew = [pl.col(column).ne_missing(pl.col(f"{column}\0")).any().alias(column) for column in own]
    found = _run(name, lambda: both.select(anew).collect(engine="streaming")).row(0, named=True) if own else {}
    for column, changed in found.items():
        if changed:
            raise RecipeError(
                f"select:{name} writes a column {column!r}, and the traces bring one along; leave it out of source.columns, "
                "which then names the ones to bring"
            )


def _narrowed(frame: pl.DataFrame, name: str, selection: Selection, left: pl.LazyFrame) -> pl.DataFrame:
    """Write a selector's decisions into the frame, after checking that every row came back once."""
    before = {*left.collect_schema().names(), "selected", "reason", "evidence"}
    added = [column for column in selection.rows.collect_schema().names() if column not in before]
    decided = _run(
        name, lambda: selection.rows.select("id", "selected", "reason", "evidence", *added).collect(engine="streaming")
    )
    _reconcile(f"select:{name}", frame["stage"].null_count(), decided["id"].n_unique(), len(decided))
    if decided["selected"].null_count():
        raise CountsDiffer(
            f"select:{name} says of {decided['selected'].null_count()} rows neither yes nor no (selected is null)"
        )
    down = ~pl.col("selected")
    _give_reasons(f"select:{name}", decided.filter(down))
    decided = decided.select(
        "id",
        pl.when(down).then(pl.lit(f"select:{name}")).alias("new_stage"),
        pl.when(down).then("reason").alias("new_reason"),
        pl.when(down).then("evidence").alias("new_evidence"),
        *added,
    )
    joined = frame.join(decided, on="id", how="left", maintain_order="left")
    fresh = [pl.coalesce(column, f"new_{column}").alias(column) for column in ("stage", "reason", "evidence")]
    return joined.with_columns(fresh).drop("new_stage", "new_reason", "new_evidence")


def _give_reasons(stage: str, down: pl.DataFrame) -> None:
    """Hold a stage to its promise: whatever it turns down has a reason, and evidence that is a JSON object."""
    silent = down.filter(pl.col("reason").fill_null("") == "")
    if silent.height:
        raise CountsDiffer(f"{stage} turned down {silent.height} rows without a reason, such as {silent['id'][0]}")
    for row_id, evidence in down.select("id", "evidence").iter_rows() if ":" in stage.partition(":")[2] else ():
        try:
            msgspec.json.decode(evidence or "", type=dict[str, msgspec.Raw])
        except msgspec.MsgspecError:
            raise CountsDiffer(f"{stage}: the evidence of {row_id} is no JSON object: {evidence!r}") from None


def _reconcile(stage: str, *counts: int) -> None:
    if len(set(counts)) > 1:
        raise CountsDiffer(
            f"{stage}: {counts[0]:,} rows went in and {', '.join(f'{c:,}' for c in counts[1:])} came out"
        )


def _run(name: str, call: Callable[[], T]) -> T:
    """Call into a plug-in's expressions; nothing is lost by what they cannot do."""
    with recipes_fault(name):
        return call()
