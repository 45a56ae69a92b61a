"""One row of each value: the second copy of a text, wherever in the dataset it comes from, is turned down and names the first."""

import polars as pl

from tracemill.schemas.rows import Selection
from tracemill.selectors.shares import require, verdict

REACH = "table"
NEEDS = ("id",)

_FIRST = "_distinct_first"


def check(*, by: tuple[str, ...], **_: object) -> None:
    """Raise ValueError for options that cannot work."""
    if not by:
        raise ValueError("by = []: name the columns that tell rows apart, such as ['content']")


def distinct(
    traces: pl.LazyFrame,
    *,
    engine: object = None,  # noqa: ARG001 - every selector has it; this one asks no model
    by: tuple[str, ...],
) -> Selection:
    """Keep one row of those that are the same in all the columns `by`: the one with the smallest id.

    The others are turned down as `duplicate`, with the id of that row. No value is a value like any other.
    """
    check(by=by)
    require("distinct", traces, *by)
    rows = traces.with_columns(pl.col("id").min().over(by).alias(_FIRST))
    reason = pl.when(pl.col("id") != pl.col(_FIRST)).then(pl.lit("duplicate"))
    return Selection(rows=rows.with_columns(verdict(reason, of=pl.col(_FIRST))).drop(_FIRST))
