"""What a report says of one version, as plain data: counts and sums that stream out of its tables, and what its manifest holds.

Nothing here grows with the number of rows. Where a version lacks a table or a column, what hangs on it is None or empty.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from tracemill.pipelines.asking.reasons import columns_of
from tracemill.pipelines.cards.accuracy import by_number
from tracemill.pipelines.cards.parts import WINDOWS
from tracemill.pipelines.report.funnel import EXAMPLES, Funnel, funnel_of
from tracemill.pipelines.versions.dataset import Dataset

BINS = 24
"""Bars of a histogram; one more holds what is beyond them."""
MOST_GROUPS = 24
"""Difficulties, sources and the like that are told one by one, the largest."""
VERDICTS = ("right", "wrong", "undecided")

Counts = tuple[int, int, int]
"""By verdict, in the order of VERDICTS."""

_RIGHT = pl.col("correct").fill_null(value=False).sum().cast(pl.Int64)
_OPEN = pl.col("correct").null_count().cast(pl.Int64)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts by verdict of values in [i * width, (i + 1) * width); the last bin has no upper end."""

    width: int
    bins: tuple[Counts, ...]
    most: int
    """The largest value."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Quantiles of tokens in a group."""

    name: str
    count: int
    p5: float
    p25: float
    median: float
    p75: float
    p95: float


@dataclass(frozen=True, slots=True)
class Window:
    """What a trainer loses that cuts at so many tokens."""

    tokens: int
    rows_over: int
    tokens_cut: int


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of the chosen traces."""

    over: str
    """The table that they stand in."""
    rows: int
    total: int
    mean: float
    median: int
    p95: int
    histogram: Histogram
    windows: tuple[Window, ...]
    tokenizers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Chosen traces of one value: rows, tokens, right ones."""

    name: str
    rows: int
    tokens: int
    right: int


@dataclass(frozen=True, slots=True)
class Passed:
    """How often the samples of a problem were right, of one role: problems by bin of the share."""

    role: str
    labels: tuple[str, ...]
    problems: tuple[int, ...]
    samples: int
    right: int
    undecided: int


@dataclass(frozen=True, slots=True)
class Difficulty:
    """Problems by the source's label and by what became of them."""

    labels: tuple[str, ...]
    outcomes: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class Similar:
    """Rows that a selector found near another, by cosine, and how large the groups are that they form."""

    similarities: tuple[tuple[str, int], ...]
    sizes: tuple[tuple[str, int], ...]
    components: int
    rows: int


@dataclass(frozen=True, slots=True)
class Facts:
    """One version. `manifest` is what it says of itself; the rest is counted."""

    ref: str
    manifest: Mapping[str, Any]
    funnel: Funnel
    lengths: Lengths | None
    samples: Histogram | None
    levels: tuple[Spread, ...]
    """MixChain: tokens by alpha."""
    sources: tuple[Group, ...]
    passed: tuple[Passed, ...]
    difficulty: Difficulty | None
    similar: Similar | None


def facts_of(dataset: Dataset, *, examples: int = EXAMPLES, widths: tuple[int, int] = (0, 0)) -> Facts:
    """Count everything. `widths` are those of the bars of traces and samples, 0 for such as fit."""
    traces = _traces(dataset)
    return Facts(
        ref=str(dataset),
        manifest=dataset.manifest(),
        funnel=funnel_of(dataset, examples=examples),
        lengths=_lengths(dataset, traces, widths[0]),
        samples=_samples(dataset, widths[1]),
        levels=_levels(traces),
        sources=_groups(traces, "source"),
        passed=_passed(dataset),
        difficulty=_difficulty(dataset),
        similar=_similar(dataset),
    )


def _traces(dataset: Dataset) -> pl.LazyFrame:
    """Narrow columns of the chosen traces, folded or not."""
    wanted = {
        "n_tokens": pl.Int64,
        "correct": pl.Boolean,
        "source": pl.String,
        "tokenizer": pl.String,
        "alpha": pl.Float64,
    }
    return columns_of(dataset, table_of(dataset), wanted)


def table_of(dataset: Dataset) -> str:
    """Where the chosen traces stand."""
    return "traces" if "traces" in dataset.tables() else "rows"


# ---- lengths


def _lengths(dataset: Dataset, traces: pl.LazyFrame, width: int) -> Lengths | None:
    tokens = pl.col("n_tokens").drop_nulls()
    found = (
        traces.select(
            rows=tokens.len(),
            total=tokens.sum(),
            mean=tokens.mean(),
            median=tokens.quantile(0.5, "lower").cast(pl.Int64),
            p95=tokens.quantile(0.95, "lower").cast(pl.Int64),
            tokenizers=pl.col("tokenizer").drop_nulls().unique().sort().implode(),
            **{f"over_{w}": (tokens > w).sum().cast(pl.Int64) for w in WINDOWS},
            **{f"cut_{w}": (tokens - w).clip(lower_bound=0).sum() for w in WINDOWS},
        )
        .collect(engine="streaming")
        .row(0, named=True)
    )
    histogram = _histogram(traces, width)
    if histogram is None:
        return None
    return Lengths(
        over=table_of(dataset),
        **{name: found[name] for name in ("rows", "total", "mean", "median", "p95")},
        histogram=histogram,
        windows=tuple(Window(w, found[f"over_{w}"], found[f"cut_{w}"]) for w in WINDOWS),
        tokenizers=tuple(found["tokenizers"]),
    )


def _samples(dataset: Dataset, width: int) -> Histogram | None:
    """All that models wrote, chosen or not."""
    frame = columns_of(dataset, "samples", {"n_tokens": pl.Int64, "verdict": pl.String})
    verdict = pl.col("verdict")
    right = pl.when(verdict == "equal").then(pl.lit(value=True)).when(verdict == "different").then(pl.lit(value=False))
    return _histogram(frame.with_columns(right.alias("correct")), width)


def _histogram(frame: pl.LazyFrame, width: int) -> Histogram | None:
    """Bars of equal width, as many as reach 99 of 100 values; None where no row has a number of tokens."""
    there = frame.filter(pl.col("n_tokens") >= 0)
    most, usual = (
        there.select(pl.max("n_tokens"), pl.col("n_tokens").quantile(0.99).alias("p99"))
        .collect(engine="streaming")
        .row(0)
    )
    if most is None:
        return None
    width = width or nice(max(1.0, most if most < 2 * usual else usual) / BINS)
    place = (pl.col("n_tokens") // width).clip(upper_bound=BINS)
    found = (
        there.group_by(place.alias("bin"))
        .agg(_RIGHT.alias("right"), _OPEN.alias("open"), pl.len())
        .collect(engine="streaming")
    )
    bins = {at: (right, total - right - undecided, undecided) for at, right, undecided, total in found.iter_rows()}
    return Histogram(width, tuple(bins.get(at, (0, 0, 0)) for at in range(max(bins) + 1)), most)


def nice(least: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, ... that is not below."""
    power = 10 ** max(0, math.floor(math.log10(least)))
    return int(next(step * power for step in (1, 2, 5, 10) if step * power >= least))


def _levels(traces: pl.LazyFrame) -> tuple[Spread, ...]:
    tokens = pl.col("n_tokens")
    cuts = {"p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95}
    found = (
        traces.filter(pl.col("alpha").is_not_null() & tokens.is_not_null())
        .group_by("alpha")
        .agg(pl.len().alias("count"), *(tokens.quantile(cut, "nearest").alias(name) for name, cut in cuts.items()))
        .sort("alpha")
        .collect(engine="streaming")
    )
    return tuple(Spread(f"{alpha:g}", *rest) for alpha, *rest in found.head(MOST_GROUPS).iter_rows())


def _groups(traces: pl.LazyFrame, by: str) -> tuple[Group, ...]:
    found = (
        traces.group_by(by)
        .agg(pl.len().alias("rows"), pl.col("n_tokens").sum().alias("tokens"), _RIGHT.alias("right"))
        .sort("rows", by, descending=[True, False])
        .collect(engine="streaming")
    )
    return tuple(Group(str(name or ""), *rest) for name, *rest in found.head(MOST_GROUPS).iter_rows())


# ---- problems


def _passed(dataset: Dataset) -> tuple[Passed, ...]:
    """A role each, the one with the most samples first. Draws that nobody verifies, such as single steps, do not count."""
    drawn = pl.concat([_verified(dataset), _given(dataset)]).filter(pl.col("total") > 0)
    counted = (
        drawn.group_by("role", "correct", "total")
        .agg(pl.len().alias("problems"), pl.col("undecided").sum())
        .collect(engine="streaming")
    )
    parts = [_of_role(str(name), group) for (name,), group in counted.partition_by("role", as_dict=True).items()]
    return tuple(sorted(parts, key=lambda part: (-part.samples, part.role)))


def _verified(dataset: Dataset) -> pl.LazyFrame:
    """Right, undecided and all draws that have a verdict, of each role and problem."""
    verdict = pl.col("verdict")
    return (
        columns_of(dataset, "samples", {"role": pl.String, "problem_id": pl.String, "verdict": pl.String})
        .filter(verdict.is_not_null())
        .group_by("role", "problem_id")
        .agg(
            correct=(verdict == "equal").sum().cast(pl.Int64),
            total=pl.len().cast(pl.Int64),
            undecided=verdict.is_in(["equal", "different"]).not_().sum().cast(pl.Int64),
        )
        .select("role", "correct", "total", "undecided")
    )


def _given(dataset: Dataset) -> pl.LazyFrame:
    """The same of given traces, which are no draws; of all roles, as they were counted, where a version has no samples."""
    counts = {"role": pl.String, **dict.fromkeys(("correct", "total", "undecided"), pl.Int64)}
    if "problems" not in dataset.tables():
        return pl.LazyFrame(schema=counts)
    role = pl.col("roles").struct
    wanted = pl.col("role") == "given" if "samples" in dataset.tables() else pl.lit(value=True)
    return (
        dataset.scan("problems")
        .select("roles")
        .explode("roles", empty_as_null=True, keep_nulls=True)
        .select(role.field(name).cast(kind) for name, kind in counts.items())
        .filter(wanted)
    )


def _of_role(role: str, drawn: pl.DataFrame) -> Passed:
    """One bar for each number of right ones where all problems have equally many samples, else bars of a tenth."""
    totals = drawn["total"].unique().to_list()
    counts: dict[int, int] = {}
    if len(totals) == 1 and totals[0] <= BINS:
        labels = [f"{k}/{totals[0]}" for k in range(totals[0] + 1)]
        for row in drawn.iter_rows(named=True):
            counts[row["correct"]] = counts.get(row["correct"], 0) + row["problems"]
    else:
        labels = ["none", *(f"{10 * tenth}-{10 * tenth + 10}" for tenth in range(10)), "all"]
        for row in drawn.iter_rows(named=True):
            right, total = row["correct"], row["total"]
            place = 0 if right == 0 else 11 if right == total else 1 + 10 * right // total
            counts[place] = counts.get(place, 0) + row["problems"]
    return Passed(
        role,
        tuple(labels),
        tuple(counts.get(place, 0) for place in range(len(labels))),
        samples=int((drawn["total"] * drawn["problems"]).sum()),
        right=int((drawn["correct"] * drawn["problems"]).sum()),
        undecided=int(drawn["undecided"].sum()),
    )


def _difficulty(dataset: Dataset) -> Difficulty | None:
    wanted = columns_of(dataset, "problems", {"difficulty": pl.String, "outcome": pl.String})
    found = wanted.group_by("difficulty", "outcome").len().collect(engine="streaming")
    if found["difficulty"].null_count() == found.height:
        return None
    sizes = (
        found.group_by("difficulty")
        .agg(pl.col("len").sum())
        .sort(pl.col("len"), "difficulty", descending=[True, False])
    )
    shown = sorted(sizes.head(MOST_GROUPS)["difficulty"].to_list(), key=by_number)
    counts = {(level, outcome): count for level, outcome, count in found.iter_rows()}
    outcomes = [name for name in ("chosen", "none_chosen", "rejected", "failed") if name in found["outcome"]]
    return Difficulty(
        tuple("none given" if level is None else level for level in shown),
        tuple((name, tuple(counts.get((level, name), 0) for level in shown)) for name in outcomes),
    )


# ---- duplicates


def _similar(dataset: Dataset) -> Similar | None:
    """What `semantic_dedup` found; None where it did not run."""
    if "components" not in dataset.tables():
        return None
    pairs = columns_of(dataset, "duplicates", {"similarity": pl.Float64}).select(
        (pl.col("similarity") * 100).floor().cast(pl.Int64).alias("at")
    )
    near = pairs.group_by("at").len().sort("at").collect(engine="streaming")
    groups = columns_of(dataset, "components", {"component": pl.String, "size": pl.Int64}).unique("component")
    sizes = groups.group_by("size").len().sort("size").collect(engine="streaming")
    by_size: dict[str, int] = {}
    for size, count in sizes.iter_rows():
        name = str(size) if size < 10 else "10 to 99" if size < 100 else "100 or more"
        by_size[name] = by_size.get(name, 0) + count
    return Similar(
        tuple((f"{at / 100:.2f}", count) for at, count in _last(near.rows())),
        tuple(by_size.items()),
        components=int(sizes["len"].sum()),
        rows=int((sizes["size"] * sizes["len"]).sum()),
    )


def _last(rows: Sequence[tuple[Any, ...]]) -> Sequence[tuple[Any, ...]]:
    return [row for row in rows if row[0] is not None][-BINS:]
