"""So many rows, in this histogram, of this median or mean length: exactly where the pool can, else the nearest, with what is short.

    pool ──bins──▶ quotas ──first in the order──▶ a choice ──fewest exchanges within a bin──▶ the length that was asked for

The histogram comes first: no exchange leaves its bin. All that decides is whole numbers.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import polars as pl

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.rows import Selection, Summary
from tracemill.selectors.shares import (
    DECIMALS,
    Ints,
    check_decimals,
    greedy_fill,
    place,
    require,
    spread,
    verdict,
    written,
)

REACH = "table"
NEEDS = ("id",)
MEANING = {
    "shortfall.target": "`rows`, `histogram`, `median_length` or `mean_length`.",
    "shortfall.value": "The value of the histogram.",
    "shortfall.wanted": "What was wanted of it.",
    "shortfall.got": "What was taken.",
    "shortfall.available": "What there was.",
    "shortfall.short": "What lacks: 0 where the target is met, below 0 where more than wanted filled up.",
}
"""What the columns of its table mean, for cards."""

RANGE = ".."
WHOLE = "all"
SHARES_SUM_TO = Fraction(1, 10**6)
"""How far from 1 written shares may add up, so that a third may be written 0.333333."""

Histogram = Mapping[str, int | float]
_Line = tuple[str, str | None, int, int | None, int | None, int | None]

SHORTFALL = {
    "target": pl.String,
    "value": pl.String,
    "wanted": pl.Int64,
    "got": pl.Int64,
    "available": pl.Int64,
    "short": pl.Int64,
}

_BIN, _VALUE, _PLACE, _LENGTH = ("_target_bin", "_target_value", "_target_place", "_target_length")
_RANK, _QUOTA = ("_target_rank", "_target_quota")


def check(
    *,
    rows: int,
    by: str | None,
    histogram: Histogram | None,
    median: int | None,
    mean: int | None,
    tolerance: int,
    **_: object,
) -> None:
    """Raise ValueError for a target that contradicts itself."""
    if rows < 1:
        raise ValueError(f"rows = {rows}: ask for at least one row")
    if (by is None) != (histogram is None):
        raise ValueError(f"by = {by!r}, histogram = {histogram}: a histogram is over a column, so give both or neither")
    if median is not None and mean is not None:
        raise ValueError(f"median = {median}, mean = {mean}: one of them can be met; leave the other out")
    for name, value in (("median", median), ("mean", mean), ("tolerance", tolerance)):
        if value is not None and value < 0:
            raise ValueError(f"{name} = {value}: 0 or more")
    if histogram is not None:
        _weights(rows, histogram)
        _ranges(histogram)


def exact_target(
    traces: pl.LazyFrame,
    *,
    engine: object = None,  # noqa: ARG001 - every selector has it; this one asks no model
    rows: int,
    by: str | None = None,
    histogram: Histogram | None = None,
    if_short: Literal["fewer", "fill"] = "fewer",
    median: int | None = None,
    mean: int | None = None,
    tolerance: int = 0,
    length: str = "n_tokens",
    order: tuple[str, ...] = (),
    seed: int = 0,
) -> Selection:
    """Take exactly `rows` rows that make the `histogram` over the column `by` and have this `median` or `mean` length.

    `histogram` names values and counts that add up to `rows` (`{ easy = 300, hard = 700 }`), or shares that add up to 1
    (`{ easy = 0.3, hard = 0.7 }`, made whole by largest remainder). A name is a value as text, or a range of numbers:
    `"0..0.5"`, low end inside, high end not; an end may be left out. Rows of no name are never taken. Where a name has too few
    rows, there are `fewer` in all, or the others `fill` up in proportion to what is wanted of them.

    `median` (of an even number of rows the lower of the two in the middle) or `mean` of the column `length` is met to within
    `tolerance`. Rows are first taken by lot, or by the columns of `order`, a `-` in front for the largest first; then rows are
    exchanged within their bins. A median that the pool has is met, and otherwise the nearest there is; a mean
    is approached by the largest exchanges that do not overshoot, which can end beside a narrow tolerance though some other
    choice would meet it. Rows of unknown length are not taken where a length is asked for. Ties go to the smaller id.

    Table `shortfall`: a line for each target (rows, histogram, median_length, mean_length) with what was `wanted`, `got` and
    `available`, and by how much it is `short`: 0 where it is met. A mean is in tokens of all rows together, and a length is
    short by as much as it lies outside the tolerance. The rows that were not taken say in their evidence how many `rows_short`
    the choice is.
    """
    check(rows=rows, by=by, histogram=histogram, median=median, mean=mean, tolerance=tolerance)
    require("exact_target", traces, *([by] if by else []))
    aim = median if median is not None else mean
    measured = traces.select(
        "id",
        (pl.lit(None, pl.String) if by is None else pl.col(by).cast(pl.String)).alias(_VALUE),
        _bin(by, histogram).alias(_BIN),
        (pl.lit(0, pl.Int64) if aim is None else _size(traces, length)).alias(_LENGTH),
        place("exact_target", traces, order, seed).alias(_PLACE),
    )
    pool = measured.collect().sort(_BIN, _PLACE)
    able = pool.filter(pl.col(_BIN).is_not_null() & pl.col(_LENGTH).is_not_null())
    weights = _weights(rows, histogram) if histogram is not None else {WHOLE: rows}
    counted: dict[int, int] = dict(able.group_by(_BIN).len().iter_rows())
    goal = _Goal(
        names=list(weights),
        wanted=spread(rows, list(weights.values()), [rows] * len(weights)),
        there=[counted.get(number, 0) for number in range(len(weights))],
        fill=list(weights.values()) if if_short == "fill" else None,
    )
    bins = [_Bin(part, quota) for part, quota in zip(_parts(able, goal.there), goal.quotas, strict=True)]
    reached = None
    if aim is not None and goal.got > 0:
        reached = (_meet_median if median is not None else _meet_mean)(bins, aim, tolerance)
    taken = pl.Series("taken", np.concatenate([bin_.taken for bin_ in bins]), pl.Boolean)
    judged = pool.join(able.select("id", taken), on="id", how="left").join(goal.frame(), on=_BIN, how="left")
    evidence = {} if aim is None else {"length": pl.col(_LENGTH), "median" if median is not None else "mean": aim}
    chosen = _judged(judged, rows_short=rows - goal.got, **evidence)
    lines = goal.lines(shaped=histogram is not None) + _length_lines(goal.got, median, mean, tolerance, reached)
    return Selection(
        rows=traces.join(chosen.lazy(), on="id", how="left", maintain_order="left"),
        tables={"shortfall": pl.LazyFrame(lines, schema=SHORTFALL, orient="row")},
        summary=_summary(lines),
    )


def _summary(lines: Sequence[_Line]) -> Summary:
    short = any(line[-1] for line in lines)
    note = "Short: what the rows that were left could not give." if short else "All of it is met."
    return Summary(title="Target", rows=[dict(zip(SHORTFALL, line, strict=True)) for line in lines], note=note)


@dataclass
class _Goal:
    """Bin by bin: what is wanted, what is there, and what is taken."""

    names: list[str]
    wanted: list[int]
    there: list[int]
    fill: list[int] | None
    """Weights by which bins with rows to spare stand in for those without; None: they do not."""

    def __post_init__(self) -> None:
        self.quotas = [min(want, there) for want, there in zip(self.wanted, self.there, strict=True)]
        if self.fill is not None:
            spare = [there - quota for there, quota in zip(self.there, self.quotas, strict=True)]
            more = spread(sum(self.wanted) - sum(self.quotas), self.fill, spare)
            self.quotas = [quota + extra for quota, extra in zip(self.quotas, more, strict=True)]
        self.got = sum(self.quotas)

    def frame(self) -> pl.DataFrame:
        columns = {_BIN: range(len(self.names)), "bin": self.names, _QUOTA: self.quotas}
        return pl.DataFrame(columns, schema={_BIN: pl.Int64, "bin": pl.String, _QUOTA: pl.Int64})

    def lines(self, *, shaped: bool) -> list[_Line]:
        """The lines of `shortfall` for the rows and, where there is one, the histogram."""
        wanted = sum(self.wanted)
        lines: list[_Line] = [("rows", None, wanted, self.got, sum(self.there), wanted - self.got)]
        bins = zip(self.names, self.wanted, self.quotas, self.there, strict=True)
        return lines + [("histogram", name, want, got, there, want - got) for name, want, got, there in bins if shaped]


def _judged(decided: pl.DataFrame, **evidence: Any) -> pl.DataFrame:
    """The verdict on each row, by id."""
    rank = pl.int_range(1, pl.len() + 1).over(_BIN, order_by=[pl.col(_LENGTH).is_null(), _PLACE])
    shown = {"value": pl.col(_VALUE), "bin": pl.col("bin"), "place": pl.col(_RANK), "quota": pl.col(_QUOTA)}
    judged = decided.with_columns(rank.alias(_RANK)).with_columns(*verdict(_why_not(), **shown, **evidence))
    return judged.select("id", "selected", "reason", "evidence")


def _why_not() -> pl.Expr:
    return (
        pl.when(pl.col("taken"))
        .then(None)
        .when(pl.col(_BIN).is_null())
        .then(pl.lit("not_in_histogram"))
        .when(pl.col(_LENGTH).is_null())
        .then(pl.lit("unknown_length"))
        .when(pl.col(_RANK) > pl.col(_QUOTA))
        .then(pl.lit("quota_full"))
        .otherwise(pl.lit("exchanged_for_length"))
    )


def _length_lines(rows: int, median: int | None, mean: int | None, tolerance: int, reached: int | None) -> list[_Line]:
    """The line of the length target, if there is one; a mean is counted in tokens of all rows, so that it stays whole."""
    for target, aim, unit in (("median_length", median, 1), ("mean_length", mean, rows)):
        if aim is not None:
            outside = None if reached is None else max(0, abs(reached - aim * unit) - tolerance * unit)
            return [(target, None, aim * unit, reached, None, outside)]
    return []


def _weights(rows: int, histogram: Histogram) -> dict[str, int]:
    """The weight of each name: its count, or its share in millionths; names in the order of the alphabet, so that the order in the recipe changes nothing."""
    if not histogram:
        raise ValueError("histogram = {}: name at least one value, such as { easy = 0.5, hard = 0.5 }")
    names = sorted(histogram)
    values = [histogram[name] for name in names]
    for name, value in zip(names, values, strict=True):
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"histogram.{name} = {value}: a count or share of 0 or more")
        check_decimals(f"histogram.{name}", value)
    if all(isinstance(value, int) for value in values):
        if sum(values) != rows:
            raise ValueError(
                f"histogram adds up to {sum(values)} and rows = {rows}: make them equal, or write shares such as 0.5 that add up to 1"
            )
        return {name: int(value) for name, value in zip(names, values, strict=True)}
    shares = [written(value) for value in values]
    if abs(sum(shares, Fraction(0)) - 1) > SHARES_SUM_TO:
        raise ValueError(
            f"histogram adds up to {float(sum(shares, Fraction(0)))}: shares add up to 1, counts (whole numbers) to rows"
        )
    return {name: int(share * 10**DECIMALS) for name, share in zip(names, shares, strict=True)}


def _ranges(histogram: Histogram) -> list[tuple[float, float]] | None:
    """The ranges that the names of a histogram are, in their order by name; None where names are values."""
    names = sorted(histogram)
    if not any(RANGE in name for name in names):
        return None
    ranges = []
    for name in names:
        low, dots, high = name.partition(RANGE)
        try:
            ends = (float(low or "-inf"), float(high or "inf"))
        except ValueError:
            dots, ends = "", (0.0, 0.0)
        if not dots or not ends[0] < ends[1]:
            raise ValueError(f'histogram.{name}: beside other ranges, a range such as "0.25..0.5", the low end first')
        ranges.append(ends)
    ordered = sorted(ranges)
    for (_, end), (start, _) in pairwise(ordered):
        if start < end:
            raise ValueError(f"histogram: ranges overlap between {start} and {end}; let one end where the next begins")
    return ranges


def _bin(by: str | None, histogram: Histogram | None) -> pl.Expr:
    """The number of each row's name in the histogram, null where it has none."""
    if by is None or histogram is None:
        return pl.lit(0, pl.Int64)
    ranges = _ranges(histogram)
    if ranges is None:
        numbers = {name: number for number, name in enumerate(sorted(histogram))}
        return pl.col(by).cast(pl.String).replace_strict(numbers, default=None, return_dtype=pl.Int64)
    value = pl.col(by).cast(pl.Float64).fill_nan(None)
    inside = [
        pl.when((value >= low) & (value < high)).then(pl.lit(number, pl.Int64))
        for number, (low, high) in enumerate(ranges)
    ]
    return pl.coalesce(inside)


def _size(traces: pl.LazyFrame, length: str) -> pl.Expr:
    kind = require("exact_target", traces, length)[length]
    if not kind.is_integer():
        raise RecipeError(
            f"exact_target: length = {length!r} holds {kind}; name a column of whole numbers, such as n_tokens"
        )
    size = pl.col(length).cast(pl.Int64)
    return pl.when(size >= 0).then(size)


def _parts(able: pl.DataFrame, there: list[int]) -> list[Ints]:
    """The lengths of each bin's rows, in the order they are taken in."""
    starts = np.cumsum([0, *there])
    sizes = able[_LENGTH].to_numpy()
    return [sizes[start : start + count] for start, count in zip(starts, there, strict=False)]


@dataclass
class _Bin:
    """The lengths of a bin's rows in the order they are taken in, and which of them are: at first its first `quota`."""

    lengths: Ints
    quota: int

    def __post_init__(self) -> None:
        self.taken = np.arange(len(self.lengths)) < self.quota


def _meet_median(bins: list[_Bin], median: int, tolerance: int) -> int:
    """Exchange rows until the lower median is within the least tolerance there can be, from `tolerance` up; the median then."""
    total = sum(bin_.quota for bin_ in bins)
    most = ((total - 1) // 2, total // 2)
    ordered = [np.sort(bin_.lengths) for bin_ in bins]
    widest = max(max(abs(int(o[0]) - median), abs(int(o[-1]) - median)) for o in ordered if len(o))
    within = _least(tolerance, max(tolerance, widest), lambda width: _can(bins, ordered, median, width, most))
    zones = [np.sign(bin_.lengths - median) * (np.abs(bin_.lengths - median) > within) for bin_ in bins]
    there = [[int((zone == side).sum()) for zone in zones] for side in (-1, 0, 1)]
    counts = [
        [int((zone[bin_.taken] == side).sum()) for bin_, zone in zip(bins, zones, strict=True)] for side in (-1, 0, 1)
    ]
    if sum(counts[0]) > most[0]:
        _exchange(counts, there, over=0, most=most)
    elif sum(counts[2]) > most[1]:
        _exchange(counts, there, over=2, most=most)
    for number, (bin_, zone) in enumerate(zip(bins, zones, strict=True)):
        bin_.taken = np.zeros(len(zone), dtype=np.bool_)
        for side in (-1, 0, 1):
            bin_.taken[np.flatnonzero(zone == side)[: counts[side + 1][number]]] = True
    chosen = np.sort(np.concatenate([bin_.lengths[bin_.taken] for bin_ in bins]))
    return int(chosen[(total - 1) // 2])


def _least(low: int, high: int, works: Callable[[int], bool]) -> int:
    """The least number from `low` to `high` that works, where all above one that works do and `high` does."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if works(middle) else (middle + 1, high)
    return low


def _can(bins: list[_Bin], ordered: list[Ints], median: int, within: int, most: tuple[int, int]) -> bool:
    """Whether the quotas can be filled with at most so many rows below and above what lies within."""
    outside = least = largest = 0
    for bin_, lengths in zip(bins, ordered, strict=True):
        below = int(np.searchsorted(lengths, median - within, side="left"))
        above = len(lengths) - int(np.searchsorted(lengths, median + within, side="right"))
        needed = max(0, bin_.quota - (len(lengths) - below - above))
        outside, least, largest = outside + needed, least + max(0, needed - above), largest + min(below, needed)
    return max(least, outside - most[1]) <= min(largest, most[0])


def _exchange(counts: list[list[int]], there: list[list[int]], *, over: int, most: tuple[int, int]) -> None:
    """Move rows out of the zone `over` until it holds no more than it may: into the middle, then to the other side."""
    other = 2 - over
    limit = {0: most[0], 2: most[1]}

    def move(source: int, target: int, excess: int) -> None:
        room = [min(counts[source][i], there[target][i] - counts[target][i]) for i in range(len(counts[source]))]
        for i, moved in enumerate(spread(max(0, excess), room, room)):
            counts[source][i] -= moved
            counts[target][i] += moved

    move(over, 1, sum(counts[over]) - limit[over])
    move(over, other, sum(counts[over]) - limit[over])
    move(other, 1, sum(counts[other]) - limit[other])


def _meet_mean(bins: list[_Bin], mean: int, tolerance: int) -> int:
    """Exchange rows until the sum of lengths is within reach of the mean, the largest exchanges first; the sum then."""
    rows = sum(bin_.quota for bin_ in bins)
    total = sum(int(bin_.lengths[bin_.taken].sum()) for bin_ in bins)
    low, high = rows * (mean - tolerance), rows * (mean + tolerance)
    if low <= total <= high:
        return total
    sign = 1 if total > high else -1
    least, room = (total - high, total - low) if sign > 0 else (low - total, high - total)
    gains, owners, outs, ins = _exchanges(bins, sign)
    done = greedy_fill(gains, room)
    before = np.cumsum(np.where(done, gains, 0)) - np.where(done, gains, 0)
    done &= before < least
    gained = int(gains[done].sum())
    left = np.flatnonzero(~done)
    if gained < least and len(left) and gained + int(gains[left[-1]]) - room < least - gained:
        done[left[-1]] = True
        gained += int(gains[left[-1]])
    for number, bin_ in enumerate(bins):
        mine = done & (owners == number)
        bin_.taken[outs[mine]] = False
        bin_.taken[ins[mine]] = True
    return total - sign * gained


def _exchanges(bins: list[_Bin], sign: int) -> tuple[Ints, Ints, Ints, Ints]:
    """Pairs of a taken and an untaken row of a bin, by what their exchange takes off (sign 1) or adds, the largest first."""
    found = []
    for number, bin_ in enumerate(bins):
        inside, outside = np.flatnonzero(bin_.taken), np.flatnonzero(~bin_.taken)
        lengths = sign * bin_.lengths
        leaving = inside[np.lexsort((-inside, -lengths[inside]))]
        coming = outside[np.lexsort((outside, lengths[outside]))]
        pairs = min(len(leaving), len(coming))
        gain = lengths[leaving[:pairs]] - lengths[coming[:pairs]]
        useful = int((gain > 0).sum())
        found.append((gain[:useful], np.full(useful, number), leaving[:useful], coming[:useful]))
    gains, owners, outs, ins = (np.concatenate(column).astype(np.int64) for column in zip(*found, strict=True))
    order = np.lexsort((np.arange(len(gains)), -gains))
    return gains[order], owners[order], outs[order], ins[order]
