"""Sections to one HTML file that loads nothing, runs nothing, and escapes whatever a model or a source wrote."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tracemill.pipelines.drawings import CSS
from tracemill.pipelines.report.blocks import Block, Figure, Section, Steps
from tracemill.pipelines.report.charts import Chart, Table, alike
from tracemill.pipelines.report.draw import DARK, LIGHT, svg
from tracemill.pipelines.report.funnel import WIDTH
from tracemill.schemas.printable import printable

BYTES = 5_000_000
"""No page is larger."""


@dataclass(frozen=True, slots=True)
class Paired:
    """A section of two versions: its blocks side by side, None where one has no such block."""

    key: str
    title: str
    lead: str
    blocks: Sequence[Any]
    paired: bool


def page_of(sections: Sequence[Section], ref: str, subtitle: str) -> str:
    """The page of one version."""
    told = [Paired(part.key, part.title, part.lead, part.blocks, paired=False) for part in sections]
    return _render(ref, subtitle, told, [ref], f"tracemill report {ref}")


def pair_page(
    top: Sequence[Section], a: Sequence[Section], b: Sequence[Section], refs: tuple[str, str], subtitle: str
) -> str:
    """The page of two: what differs on top, then the sections of both side by side, on the same scales."""
    told = [Paired(part.key, part.title, part.lead, part.blocks, paired=False) for part in top]
    mine, theirs = ({part.key: part for part in parts} for parts in (a, b))
    for key in dict.fromkeys([*mine, *theirs]):
        first = mine.get(key) or theirs[key]
        told.append(Paired(key, first.title, first.lead, list(_beside(mine.get(key), theirs.get(key))), paired=True))
    return _render(f"{refs[0]} and {refs[1]}", subtitle, told, refs, f"tracemill report {refs[0]} {refs[1]}")


def _beside(a: Section | None, b: Section | None) -> Sequence[tuple[Block | None, Block | None]]:
    left, right = ({block.key: block for block in part.blocks} if part else {} for part in (a, b))
    return [_scaled(left.get(key), right.get(key)) for key in dict.fromkeys([*left, *right])]


def _scaled(a: Block | None, b: Block | None) -> tuple[Block | None, Block | None]:
    if isinstance(a, Figure) and isinstance(b, Figure):
        one, other = alike(a.chart, b.chart)
        return Figure(one, a.note), Figure(other, b.note)
    if isinstance(a, Steps) and isinstance(b, Steps):
        most = max(a.scale, b.scale)
        return replace(a, most=most), replace(b, most=most)
    return a, b


def _render(title: str, subtitle: str, sections: Sequence[Paired], refs: Sequence[str], command: str) -> str:
    return (
        _templates()
        .get_template("page.html.j2")
        .render(title=title, subtitle=subtitle, sections=sections, refs=refs, command=command)
        .strip()
        + "\n"
    )


@cache
def _templates() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {
        "drawn": _drawn,
        "percent": _percent,
        "part": lambda part, whole: f"{part / whole:.4f}" if whole else "0",
        "wordy": _wordy,
        "light": LIGHT,
        "dark": DARK,
        "width": WIDTH,
        "drawings": Markup(CSS),  # noqa: S704 - a constant
    }
    made.filters |= {"trusted": Markup, "quoted": lambda text: shlex.quote(str(text))}
    return made


def shown(value: Any) -> Any:
    """What is put into a page: of a text, all that cannot be printed but line breaks and tabs is written as its escape."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return "\n".join("\t".join(map(printable, line.split("\t"))) for line in value.split("\n"))
    return value


def _drawn(chart: Chart, side: str) -> Markup:
    return Markup(svg(chart, key=side))  # noqa: S704 - ElementTree escaped every word in it


def _wordy(told: Table) -> bool:
    """Whether a table needs the width of the page: half of it holds some 60 letters and the space between columns."""
    lines = [told[0], *told[1]]
    return sum(3 + max(len(line[place]) for line in lines) for place in range(len(told[0]))) > 72


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f}%" if whole else "0%"


__all__ = ["BYTES", "page_of", "pair_page", "shown"]
