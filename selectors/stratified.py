"""As many rows of each kind as you say: so many of every value, or so many in all, shared out in proportion or evenly."""

from typing import Literal

import polars as pl

from tracemill.schemas.rows import Selection
from tracemill.selectors.shares import amount, check_amount, place, require, spread, verdict

REACH = "table"
NEEDS = ("id",)
MEANING = {
    "strata.stratum": "A value of the columns, as JSON text.",
    "strata.rows": "Rows of it.",
    "strata.wanted": "How many of them were wanted.",
    "strata.taken": "How many were taken.",
}
"""What the columns of its table mean, for cards."""

_PLACE, _RANK, _QUOTA, _ROWS = ("_strata_place", "_strata_rank", "_strata_quota", "_strata_rows")


def check(
    *, by: tuple[str, ...], each: int | None, k: int | None, percent: float | None, at_most: int | None, **_: object
) -> None:
    """Raise ValueError for options that cannot work."""
    if not by:
        raise ValueError("by = []: name the columns whose values make the strata, such as ['difficulty']")
    if each is not None and (k, percent) != (None, None):
        raise ValueError(f"each = {each}, k = {k}, percent = {percent}: give one, rows of every value or rows in all")
    if each is None:
        check_amount(k, percent)
    for name, value in (("each", each), ("at_most", at_most)):
        if value is not None and value < 1:
            raise ValueError(f"{name} = {value}: at least one row")


def stratified(
    traces: pl.LazyFrame,
    *,
    engine: object = None,  # noqa: ARG001 - every selector has it; this one asks no model
    by: tuple[str, ...],
    each: int | None = None,
    k: int | None = None,
    percent: float | None = None,
    share: Literal["proportional", "even"] = "proportional",
    at_most: int | None = None,
    order: tuple[str, ...] = (),
    seed: int = 0,
) -> Selection:
    """Take rows of every value of the columns `by`: `each` of every one, or `k` or `percent` of the whole shared among them.

    Shares are `proportional` to the rows a value has, or `even`. No value gives more than `at_most`, or than it has; what it
    cannot give the others do. Whole rows by largest remainder; equal remainders go to the larger value, then to the smaller
    by sorting (no value first). `percent` is rounded down. Within a value rows are taken by lot, or by the columns of `order`,
    a `-` in front for the largest first; ties go to the smaller id.

    Table `strata`: for each value (JSON text) the `rows` it has, `wanted` of it and `taken`; with `each` the difference is what
    it is short of.
    """
    check(by=by, each=each, k=k, percent=percent, at_most=at_most)
    require("stratified", traces, *by)
    strata = traces.group_by(by).agg(pl.len().cast(pl.Int64).alias(_ROWS)).sort(by).collect()
    sizes = strata[_ROWS].to_list()
    caps = [min(size, at_most or size) for size in sizes]
    if each is not None:
        quotas = [min(each, cap) for cap in caps]
        wanted = [min(each, at_most or each)] * len(sizes)
    else:
        total = strata.select(amount(pl.col(_ROWS).sum(), k, percent)).item() if sizes else 0
        wanted = quotas = spread(total, sizes if share == "proportional" else [1] * len(sizes), caps)
    strata = strata.with_columns(pl.Series(_QUOTA, quotas, pl.Int64), pl.Series("wanted", wanted, pl.Int64))
    ranked = (
        traces.with_columns(place("stratified", traces, order, seed).alias(_PLACE))
        .with_columns(pl.int_range(1, pl.len() + 1).over(by, order_by=_PLACE).alias(_RANK))
        .join(strata.lazy().drop("wanted"), on=by, how="left", nulls_equal=True, maintain_order="left")
    )
    reason = pl.when(pl.col(_RANK) > pl.col(_QUOTA)).then(pl.lit("over_quota"))
    evidence = {"stratum": pl.struct(by), "place": pl.col(_RANK), "quota": pl.col(_QUOTA), "of": pl.col(_ROWS)}
    rows = ranked.with_columns(*verdict(reason, **evidence)).drop(_PLACE, _RANK, _QUOTA, _ROWS)
    table = strata.lazy().select(
        pl.struct(by).struct.json_encode().alias("stratum"),
        pl.col(_ROWS).alias("rows"),
        "wanted",
        pl.col(_QUOTA).alias("taken"),
    )
    return Selection(rows=rows, tables={"strata": table})
