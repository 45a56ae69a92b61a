"""What a page is put together from: sections of blocks, and the words that numbers are shown in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tracemill.pipelines.report.charts import Chart, Table
from tracemill.pipelines.report.funnel import Funnel


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart with a sentence below it."""

    chart: Chart
    note: str = ""
    kind: ClassVar[str] = "figure"

    @property
    def key(self) -> str:
        return self.chart.name


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture that is no chart: `svg` is ours and trusted, with all text in it escaped; `table` says the same in words."""

    key: str
    title: str
    svg: str
    said: str
    table: Table
    kind: ClassVar[str] = "drawing"


@dataclass(frozen=True, slots=True)
class Numbers:
    """A table."""

    key: str
    title: str
    table: Table
    note: str = ""
    kind: ClassVar[str] = "numbers"


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph; `code` stands below it as it is typed."""

    key: str
    text: str
    code: str = ""
    kind: ClassVar[str] = "text"


@dataclass(frozen=True, slots=True)
class Steps:
    """The funnel, every reason of which opens. `most` is the longest bar of another funnel that stands beside it."""

    funnel: Funnel
    ref: str
    most: int = 0
    key: ClassVar[str] = "funnel"
    kind: ClassVar[str] = "steps"

    @property
    def scale(self) -> int:
        """What a bar of the whole width means."""
        return max([self.most, *(level.count for level in self.funnel.levels)])


@dataclass(frozen=True, slots=True)
class Tiles:
    """A few numbers that are read first: name, value, and what stands below it."""

    tiles: tuple[tuple[str, str, str], ...]
    key: ClassVar[str] = "tiles"
    kind: ClassVar[str] = "tiles"


@dataclass(frozen=True, slots=True)
class Change:
    """A row that is not the same in two versions: what it is called, why, and values of both sides."""

    title: str
    evidence: str
    values: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """Examples of rows that differ."""

    key: str
    title: str
    changes: tuple[Change, ...]
    kind: ClassVar[str] = "changes"


Block = Figure | Drawing | Numbers | Text | Steps | Tiles | Changes


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands below it."""

    key: str
    title: str
    blocks: Sequence[Block]
    lead: str = ""


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """A table of what can be shown; whole numbers get their commas."""
    return tuple(head), tuple(tuple(map(cell, row)) for row in rows)


def cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}" if isinstance(value, float) else str(value)


def share(part: float, whole: float) -> str:
    """A share in percent; empty where there is nothing to have a share of."""
    return f"{100 * part / whole:.1f} %" if whole else ""


def tokens(count: float) -> str:
    """A number of tokens in a word: 1.2 M."""
    for power, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= power:
            return f"{count / power:.1f} {unit}"
    return f"{count:,.0f}"
