"""What a method says of its whole dataset: its module-level `summary`, asked once at the end, shown on card and screen.

The function gets a LazyFrame of all traces that the method made, those that it turned down itself among them, and returns a
`schemas.rows.Summary`. It sees id, problem_id, difficulty, correct, n_tokens, finish_reason and the columns that the method
declares in COLUMNS; where it has a parameter `tables`, it is given the method's own tables by name as well.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from typing import Any

import polars as pl

from tracemill.pipelines.choosing.staging import Staged
from tracemill.pipelines.plan import Plan
from tracemill.pipelines.recipes.foresee import recipes_fault
from tracemill.schemas.intervals import Z95, wilson
from tracemill.schemas.rows import Mean, Share, Summary
from tracemill.schemas.tables import polars_types

SEEN: Mapping[str, pl.DataType] = {
    "id": pl.String(),
    "problem_id": pl.String(),
    "difficulty": pl.String(),
    "correct": pl.Boolean(),
    "n_tokens": pl.Int64(),
    "finish_reason": pl.String(),
}


def summary_of(plan: Plan, staged: Staged) -> dict[str, Any] | None:
    """The method's summary as the manifest has it; None where the method has none."""
    ask = plan.method.about("summary", None)
    if ask is None:
        return None
    with recipes_fault(f"summary of {plan.method.name}"):
        own = {"tables": {name: parts.scan() for name, parts in staged.tables.items()}} if _wants_tables(ask) else {}
        summary: Summary = plan.method.ask(partial(ask, **own), _all_traces(plan, staged))
    return plain_summary(summary)


def plain_summary(summary: Summary) -> dict[str, Any]:
    """A summary as plain data: estimates with their intervals."""
    rows = [{name: plain_estimate(value) for name, value in row.items()} for row in summary.rows]
    return {"title": summary.title, "rows": rows, "note": summary.note}


def _wants_tables(ask: Callable[..., Summary]) -> bool:
    return "tables" in signature(ask).parameters


def shown_summary(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """The rows for people: estimates with their intervals."""
    return [{name: _shown(value) for name, value in row.items()} for row in summary["rows"]]


def _all_traces(plan: Plan, staged: Staged) -> pl.LazyFrame:
    """Narrow columns of the traces that came on, and of those that the method turned down."""
    wanted = {**SEEN, **polars_types(plan.columns)}
    there = staged.traces.scan()
    missing = [pl.lit(None, kind).alias(name) for name, kind in wanted.items() if name not in there.collect_schema()]
    kept = there.with_columns(missing).select(pl.col(name).cast(kind) for name, kind in wanted.items())
    rows = staged.refused.scan().filter((pl.col("stage") == "method") & pl.col("id").is_not_null())
    fields = pl.Struct([pl.Field(name, kind) for name, kind in wanted.items()])
    down = rows.select(pl.col("row").str.json_decode(fields).alias("row")).unnest("row")
    return pl.concat([kept, down])


def plain_estimate(value: object) -> Any:
    """An estimate with its interval as plain data; anything else as it is."""
    match value:
        case Share(part, whole):
            low, high = wilson(part / whole, whole) if whole else (0.0, 1.0)
            return {"mean": part / whole if whole else None, "low": low, "high": high, "part": part, "whole": whole}
        case Mean(total, squares, count, least, most):
            if count == 0:
                return {"mean": None, "low": None, "high": None, "count": 0}
            mean = total / count
            spread = max(0.0, squares / count - mean**2) * count / max(1, count - 1)
            half = Z95 * math.sqrt(spread / count)
            low, high = max(least, mean - half), min(most, mean + half)
            return {"mean": mean, "low": low, "high": high, "count": count}
    return value


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        if value["mean"] is None:
            return ""
        digits = 3 if "whole" in value else 1
        return f"{value['mean']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
