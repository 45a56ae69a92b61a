"""How many and in which order: whole-number shares of a pool, the order that rows are taken in, lots. No selector stands here.

Nothing here is decided on floats: shares are counted out by largest remainder, percentages are the decimals as written.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import suggest
from tracemill.schemas.rows import draw

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

DECIMALS = 6
FEW = 64
_EXACT_BITS = 64


def written(number: float) -> Fraction:
    """The number as it was written: 0.1 is a tenth, not the float beside it."""
    return Fraction(str(number))


def check_amount(k: int | None, percent: float | None) -> None:
    """Raise ValueError unless one of `k` and `percent` says how many rows to take."""
    if (k is None) == (percent is None):
        raise ValueError(f"k = {k} and percent = {percent}: give one of them, a number of rows or a share of the pool")
    if k is not None and k < 1:
        raise ValueError(f"k = {k}: take at least one row")
    if percent is not None and not 0 < percent <= 100:
        raise ValueError(f"percent = {percent}: above 0 and up to 100; a tenth of the pool is 10")
    check_decimals("percent", percent)


def check_decimals(name: str, number: float | None) -> None:
    """Raise ValueError for a number that whole numbers cannot carry."""
    if number is not None and 10**DECIMALS % written(number).denominator:
        raise ValueError(f"{name} = {number}: at most {DECIMALS} decimals, so that whole numbers can decide")


def amount(pool: pl.Expr, k: int | None, percent: float | None, *, at_least: int = 0) -> pl.Expr:
    """How many of `pool` rows to take: `k`, or `percent` of them rounded down, but `at_least` so many; never more than there are."""
    if k is not None:
        wanted = pl.lit(k, pl.Int64)
    else:
        share = written(percent or 0) / 100
        wanted = pool.cast(pl.Int64) * share.numerator // share.denominator
    return pl.min_horizontal(pl.max_horizontal(wanted, pl.lit(at_least, pl.Int64)), pool.cast(pl.Int64))


def spread(total: int, weights: Sequence[int], caps: Sequence[int]) -> list[int]:
    """Whole shares of `total` in proportion to `weights`, none above its cap; what a cap keeps back goes to the others.

    By largest remainder; equal remainders go to the larger weight, then to the earlier place. Weights below 2**32.
    """
    shares = [0] * len(weights)
    able = [i for i, (weight, cap) in enumerate(zip(weights, caps, strict=True)) if weight > 0 and cap > 0]
    able.sort(key=lambda i: (caps[i] << _EXACT_BITS) // weights[i])  # who is full first stands first
    left, weight = min(total, sum(caps[i] for i in able)), sum(weights[i] for i in able)
    full = 0
    while full < len(able) and left * weights[i := able[full]] >= caps[i] * weight:
        shares[i] = caps[i]
        left, weight, full = left - caps[i], weight - weights[i], full + 1
    rest = able[full:]
    for i in rest:
        shares[i] = left * weights[i] // weight
    over = left - sum(shares[i] for i in rest)
    for i in sorted(rest, key=lambda i: (-(left * weights[i] % weight), -weights[i], i))[:over]:
        shares[i] += 1
    return shares


def greedy_fill(sizes: Ints, room: int) -> Bools:
    """Which of `sizes`, none below 0, are taken when each that still fits into `room` is, in the order given.

    Whole runs at a time: a run ends at a size that does not fit, and the next begins at the first that does.
    """
    taken = np.zeros(len(sizes), dtype=np.bool_)
    if not len(sizes):
        return taken
    total = np.cumsum(sizes, dtype=np.int64)
    least = np.minimum.accumulate(sizes[::-1])[::-1]
    at = _next_that_fits(sizes, 0, room)
    while at < len(sizes) and least[at] <= room:
        before = int(total[at]) - int(sizes[at])
        end = int(np.searchsorted(total, before + room, side="right"))
        taken[at:end] = True
        room -= int(total[end - 1]) - before
        at = _next_that_fits(sizes, end, room)
    return taken


def greedy_fills(sizes: Ints, starts: Ints, room: int) -> Bools:
    """`greedy_fill` of each group, all with the same room: group g is `sizes[starts[g]:starts[g + 1]]`, the last one ends at the end.

    Large groups one after another; of the small ones the first rows all at once, then the second rows, and so on.
    """
    taken = np.zeros(len(sizes), dtype=np.bool_)
    counts = np.diff(starts, append=len(sizes))
    for group in np.flatnonzero(counts > FEW):
        start, end = int(starts[group]), int(starts[group] + counts[group])
        taken[start:end] = greedy_fill(sizes[start:end], room)
    few = counts <= FEW
    starts, counts = starts[few], counts[few]
    left = np.full(len(starts), room, dtype=np.int64)
    for number in range(int(counts.max(initial=0))):
        there = np.flatnonzero(counts > number)
        rows = starts[there] + number
        fits = sizes[rows] <= left[there]
        taken[rows] = fits
        left[there] -= np.where(fits, sizes[rows], 0)
    return taken


def _next_that_fits(sizes: Ints, start: int, room: int) -> int:
    width = 64
    while start < len(sizes):
        found = np.flatnonzero(sizes[start : start + width] <= room)
        if len(found):
            return start + int(found[0])
        start, width = start + width, 2 * width
    return len(sizes)


def require(name: str, traces: pl.LazyFrame, *columns: str) -> pl.Schema:
    """The columns of the traces, among them all of `columns`, or a RecipeError that says which is missing."""
    schema = traces.collect_schema()
    for column in columns:
        if column not in schema:
            raise RecipeError(f"{name}: the traces have no column {column!r}{suggest(column, schema.names())}")
    return schema


def place(name: str, traces: pl.LazyFrame, order: Sequence[str], seed: int) -> pl.Expr:
    """The place of each row, 1 for the first, when all are sorted by the columns `order` and then by id.

    A `-` in front of a column puts its largest first; what has no value comes last both ways. No columns: by lot.
    """
    columns = [column.removeprefix("-") for column in order]
    schema = require(name, traces, *columns)
    values = [pl.col(c).fill_nan(None) if schema[c].is_float() else pl.col(c) for c in columns]
    return place_by(values or [lot(seed)], [column.startswith("-") for column in order] or [False])


def place_by(values: Sequence[pl.Expr], descending: Sequence[bool]) -> pl.Expr:
    """The place of each row by `values`, ties by id, nulls last."""
    keys = [*values, pl.col("id")]
    ordered = pl.arg_sort_by(keys, descending=[*descending, False], nulls_last=[True] * len(keys))
    return ordered.arg_sort().cast(pl.Int64) + 1


def lot(seed: int) -> pl.Expr:
    """A number drawn for each row from `seed` and its id: whoever stands beside it, a row keeps its number."""

    def drawn(ids: pl.Series) -> pl.Series:
        return pl.Series([draw(f"{seed}|{row_id}") for row_id in ids], dtype=pl.UInt64)

    return pl.col("id").map_batches(drawn, return_dtype=pl.UInt64, is_elementwise=True)


def ratio(part: pl.Expr, whole: pl.Expr | float) -> pl.Expr:
    """`part` / `whole`, each row rounded as it should be, wherever it stands.

    By a single number polars multiplies most rows with the inverse and divides the others, so that a row's last bit would
    depend on its place in the table. Spread out to a column, the number divides every row.
    """
    return part.cast(pl.Float64) / (part * 0 + whole).cast(pl.Float64)


def verdict(reason: pl.Expr, **evidence: Any) -> list[pl.Expr]:
    """`selected`, `reason` and `evidence`, from a reason that is null where a row is selected."""
    shown = pl.struct(
        value.alias(name) if isinstance(value, pl.Expr) else pl.lit(value).alias(name)
        for name, value in evidence.items()
    ).struct.json_encode()
    return [
        reason.is_null().alias("selected"),
        reason.alias("reason"),
        pl.when(reason.is_not_null()).then(shown).alias("evidence"),
    ]


def anew(traces: pl.LazyFrame, said: pl.LazyFrame) -> pl.LazyFrame:
    """`traces` with the columns of `said`, by `id`, in place of those that they have by the same names."""
    fresh = [name for name in said.collect_schema().names() if name != "id"]
    return traces.drop(fresh, strict=False).join(said, on="id", how="left", maintain_order="left")
