"""What becomes of some traces: the filters' verdicts on them, and what a selector takes of them, held to what both promise."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import msgspec
import polars as pl

from tracemill.pipelines.recipes.catalog import Plugin
from tracemill.pipelines.recipes.foresee import COUNTED, recipes_fault
from tracemill.schemas.errors import CountsDiffer, RecipeError
from tracemill.schemas.rows import Selection, Summary
from tracemill.schemas.tables import ROWS

T = TypeVar("T")

DECISION = {"id": pl.String, "stage": pl.String, "reason": pl.String, "evidence": pl.String}


@dataclass(frozen=True)
class Choice:
    """What a selector made of a piece: its frame of decisions, the selector's tables and facts."""

    frame: pl.DataFrame
    tables: Mapping[str, pl.LazyFrame] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)
    summary: Summary | None = None

    def collected(self) -> "Choice":
        """The same with its tables made."""
        return replace(self, tables={name: table.collect().lazy() for name, table in self.tables.items()})


def verdicts(filters: Sequence[Plugin], traces: pl.LazyFrame) -> pl.DataFrame:
    """DECISION of each of `traces`: the first filter that says no decides."""
    stages = [_staged(f"filter:{plugin.name}", plugin.call()) for plugin in filters]
    nothing = pl.lit(None, pl.Struct({"stage": pl.String, "reason": pl.String, "evidence": pl.String}))
    verdict = pl.coalesce(*stages, nothing).alias("verdict")
    frame = _run("filters", lambda: traces.select("id", verdict).unnest("verdict").collect(engine="streaming"))
    for stage, down in frame.filter(pl.col("stage").is_not_null()).partition_by("stage", as_dict=True).items():
        _give_reasons(str(stage[0]), down)
    return frame


def choose(
    selector: Plugin,
    handed: Mapping[str, Any],
    traces: pl.LazyFrame,
    problems: pl.LazyFrame,
    piece: pl.DataFrame,
    *,
    brought: bool,
) -> Choice:
    """What `selector` takes of those rows of `piece` that are left, with the columns they have in `traces`.

    `handed` is what a build gives it beside its options: engine, workers. `brought`: given traces bring columns of their own.
    """
    kept = piece.filter(pl.col("stage").is_null()).drop("stage", "reason", "evidence")
    left = _with_counts(traces, problems).join(kept.lazy(), on="id", how="inner", maintain_order="left")
    selection: Selection = _run(selector.name, partial(selector.call, left, **handed))
    if brought:
        _keeps_given(selector.name, selection, left.drop(set(kept.columns) - {"id"}))
    narrowed = _narrowed(piece, selector.name, selection, left)
    return Choice(narrowed, selection.tables, selection.facts, selection.summary)


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


def _keeps_given(name: str, selection: Selection, left: pl.LazyFrame) -> None:
    """Refuse a selector that writes anew a column which given traces bring along: one name would mean two things."""
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
    """Write a selector's decisions into the frame, after checking that every row came back once.

    A column that an earlier selector added, and this one too, says of the rows that this one saw what this one says.
    """
    brought = set(left.collect_schema().names()) - set(frame.columns) | {"id", "selected", "reason", "evidence"}
    added = [column for column in selection.rows.collect_schema().names() if column not in brought]
    decided = _run(
        name, lambda: selection.rows.select("id", "selected", "reason", "evidence", *added).collect(engine="streaming")
    )
    reconcile(f"select:{name}", frame["stage"].null_count(), decided["id"].n_unique(), len(decided))
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
        *(pl.col(column).alias(f"new_{column}") if column in frame.columns else column for column in added),
    )
    joined = frame.join(decided, on="id", how="left", maintain_order="left")
    fresh = [pl.coalesce(column, f"new_{column}").alias(column) for column in ("stage", "reason", "evidence")]
    seen = pl.col("stage").is_null()  # as it was: all expressions here read the frame before any is written
    again = [
        pl.when(seen).then(f"new_{column}").otherwise(column).alias(column)
        for column in added
        if column in frame.columns
    ]
    return joined.with_columns(*fresh, *again).drop(
        "new_stage", "new_reason", "new_evidence", *(f"new_{expression.meta.output_name()}" for expression in again)
    )


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


def reconcile(stage: str, *counts: int) -> None:
    if len(set(counts)) > 1:
        raise CountsDiffer(
            f"{stage}: {counts[0]:,} rows went in and {', '.join(f'{c:,}' for c in counts[1:])} came out"
        )


def _run(name: str, call: Callable[[], T]) -> T:
    """Call into a plug-in's expressions; nothing is lost by what they cannot do."""
    with recipes_fault(name):
        return call()
