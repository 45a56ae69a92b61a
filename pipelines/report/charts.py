"""What is drawn, as plain data: each chart says in words what it shows, and is a table of numbers for whoever does not see it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

Row = tuple[str, ...]
Table = tuple[Row, tuple[Row, ...]]
"""A head, and rows of as many cells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """Bars by label, the series on top of each other; `across` lays them on their side, for labels that are words.

    `edges` are numbers between the bars, of a histogram: there is one more of them than bars, and they stand in place of the labels.
    """

    name: str
    title: str
    said: str
    x: str
    y: str
    labels: tuple[str, ...]
    series: tuple[tuple[str, tuple[int, ...]], ...]
    edges: tuple[str, ...] = ()
    across: bool = False
    top: float = 0
    """The end of the axis of counts, where the bars are to be compared with others; 0: as high as they are."""

    @property
    def most(self) -> float:
        return max((sum(values) for values in zip(*(values for _, values in self.series), strict=True)), default=0)

    def table(self) -> Table:
        labels = self.labels if not self.edges else tuple(map(_between, self.edges, (*self.edges[1:], "")))
        names = tuple(name or self.y for name, _ in self.series)
        rows = [
            (label, *(f"{values[place]:,}" for _, values in self.series))
            for place, label in enumerate(labels[: len(self.labels)])
        ]
        some = [
            row for row, values in zip(rows, zip(*(v for _, v in self.series), strict=True), strict=True) if any(values)
        ]
        return (self.x, *names), tuple(some)


def _between(low: str, high: str) -> str:
    return f"{low} to below {high}" if high else f"{low} and more"


@dataclass(frozen=True, slots=True)
class Point:
    """A mean and its interval on each axis; an interval that is not known is the mean itself."""

    label: str
    x: float
    y: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    marked: bool = False
    """On the frontier: none is better in both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """Named points with intervals; those that are marked are joined by a line. `percent`: the axis of y is one of shares."""

    name: str
    title: str
    said: str
    x: str
    y: str
    points: tuple[Point, ...]
    left: float | None = None
    right: float | None = None
    """The ends of the axis of x, where the points are to be compared with others."""
    mark: str = ""
    """What it means to be marked; empty where nothing is."""

    @property
    def ends(self) -> tuple[float, float]:
        """From nothing, unless all points lie far from it."""
        low = min((point.x_low for point in self.points), default=0)
        high = max((point.x_high for point in self.points), default=1) or 1
        return (0.0 if low < high / 2 else max(0.0, low - (high - low) / 5)), high

    def table(self) -> Table:
        head = ("", self.x, "95 % interval", self.y, "95 % interval", *((self.mark,) if self.mark else ()))
        return head, tuple(
            (
                point.label,
                f"{point.x:,.1f}",
                f"{point.x_low:,.1f} to {point.x_high:,.1f}",
                f"{point.y:.1%}",
                f"{point.y_low:.1%} to {point.y_high:.1%}",
                *(("yes" if point.marked else "",) if self.mark else ()),
            )
            for point in self.points
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """A share and its 95 % interval for each label, in order."""

    name: str
    title: str
    said: str
    x: str
    y: str
    labels: tuple[str, ...]
    shares: tuple[tuple[float, float, float], ...]
    """Mean, low, high."""
    sizes: tuple[str, ...]
    """What each is the share of."""

    def table(self) -> Table:
        lines = zip(self.labels, self.shares, self.sizes, strict=True)
        return (self.x, self.y, "95 % interval", "of"), tuple(
            (label, f"{mean:.1%}", f"{low:.1%} to {high:.1%}", size) for label, (mean, low, high), size in lines
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Boxes:
    """Five quantiles for each label: 5, 25, 50, 75, 95 %."""

    name: str
    title: str
    said: str
    x: str
    y: str
    labels: tuple[str, ...]
    boxes: tuple[tuple[float, float, float, float, float], ...]
    top: float = 0

    @property
    def most(self) -> float:
        return max((box[-1] for box in self.boxes), default=0)

    def table(self) -> Table:
        head = (self.x, "5 %", "25 %", "median", "75 %", "95 %")
        return head, tuple(
            (label, *(f"{cut:,.0f}" for cut in box)) for label, box in zip(self.labels, self.boxes, strict=True)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """Points of a plane in groups; the first group is the ground that the others lie on. The table tells of the groups."""

    name: str
    title: str
    said: str
    x: str
    y: str
    groups: tuple[tuple[str, tuple[tuple[float, float], ...]], ...]
    rows: Table

    def table(self) -> Table:
        return self.rows


Chart = Bars | Points | Shares | Boxes | Cloud


def alike(a: Chart, b: Chart) -> tuple[Chart, Chart]:
    """Two charts of one kind on one scale, so that they can be compared by eye."""
    if isinstance(a, Bars) and isinstance(b, Bars):
        top, long = max(a.most, b.most), a if len(a.labels) > len(b.labels) else b
        return _longer(replace(a, top=top), long), _longer(replace(b, top=top), long)
    if isinstance(a, Boxes) and isinstance(b, Boxes):
        top = max(a.most, b.most)
        return replace(a, top=top), replace(b, top=top)
    if isinstance(a, Points) and isinstance(b, Points):
        left, right = min(a.ends[0], b.ends[0]), max(a.ends[1], b.ends[1])
        return replace(a, left=left, right=right), replace(b, left=left, right=right)
    return a, b


def _longer(chart: Bars, other: Bars) -> Bars:
    """A histogram with as many bars as another of the same width has; other bars as they are."""
    if not chart.edges or other.edges[: len(chart.edges)] != chart.edges:
        return chart
    more = (0,) * (len(other.labels) - len(chart.labels))
    series = tuple((name, values + more) for name, values in chart.series)
    return replace(chart, labels=other.labels, edges=other.edges, series=series)


def best(points: Sequence[Point]) -> tuple[Point, ...]:
    """Those marked that no other beats: as far left and as high, and better in one of the two."""
    return tuple(
        replace(
            point,
            marked=not any(
                other.x <= point.x and other.y >= point.y and (other.x, other.y) != (point.x, point.y)
                for other in points
            ),
        )
        for point in points
    )
