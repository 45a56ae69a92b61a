"""A column less its mean, over its standard deviation: weights and advantages as trainers want them. Every row is taken.

w  1, 2, 6   ->   weight  -0.93, -0.46, 1.39         over the whole set, or over each problem's rows with per = "problem_id"
"""

import math

import polars as pl

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.rows import Selection
from tracemill.selectors.shares import require

REACH = "table"
NEEDS = ("id",)


def check(*, column: str, into: str, **_: object) -> None:
    """Raise ValueError for options that cannot work."""
    if column == into:
        raise ValueError(f"column and into are both {column!r}: the new column needs a name of its own")


def standardize(
    traces: pl.LazyFrame,
    *,
    engine: object = None,  # noqa: ARG001 - every selector has it; this one asks no model
    column: str,
    into: str,
    per: tuple[str, ...] = (),
) -> Selection:
    """Add `into`: `column` less its mean, over its population standard deviation, over all rows or those of equal `per`.

    Where all values are equal it is 0, and null where the value is null or not finite; such a value is in no mean. Sums are
    exact before they are rounded, so the result hangs neither on order nor on the machine. Put it behind every selector that drops rows.
    """
    check(column=column, into=into)
    schema = require("standardize", traces, column, *per)
    if not schema[column].is_numeric():
        raise RecipeError(f"standardize: column {column!r} holds {schema[column]}, not numbers")
    if into in schema:
        raise RecipeError(f"standardize: the traces have a column {into!r} already; give `into` another name")
    value = pl.col(column).cast(pl.Float64)
    finite = pl.when(value.is_finite()).then(value)
    standard = finite.map_batches(_standard, return_dtype=pl.Float64)
    rows = traces.with_columns((standard.over(per) if per else standard).alias(into))
    nothing = pl.lit(None, pl.String)
    return Selection(
        rows=rows.with_columns(pl.lit(value=True).alias("selected"), nothing.alias("reason"), nothing.alias("evidence"))
    )


def _standard(values: pl.Series) -> pl.Series:
    known = values.drop_nulls().to_list()
    if not known:
        return values
    mean = math.fsum(known) / len(known)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in known) / len(known))
    if spread == 0 or min(known) == max(known):
        return values * 0.0
    return pl.Series([None if v is None else (v - mean) / spread for v in values.to_list()], dtype=pl.Float64)
