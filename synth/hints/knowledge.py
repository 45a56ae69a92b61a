r"""Knowledge points: the form they are written in, and what is taken out of a list before anybody is shown it.

One point, of two lines:

    **Knowledge Point**: A triangle inscribed in a semicircle has a right angle.
       **Key Considerations**: The diameter must be one of its sides.

All but 3 of the 8,049 released points of KnowRL (arXiv:2604.12627) have this form; they have 320 characters on average and 603 at
most.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tracemill.synth.reply import split_reasoning
from tracemill.synth.roles import THINK

_ITEM = re.compile(
    r"^[ \t]*(?:\d+[.)]|[-*])[ \t]+(?=\*\*Knowledge Point\*\*)|^[ \t]*(?=\*\*Knowledge Point\*\*)", re.MULTILINE
)
_FIELDS = re.compile(
    r"\*\*Knowledge Point\*\*[ \t]*:[ \t]*(?P<principle>\S[^\n]*)\n\s*\*\*Key Considerations\*\*[ \t]*:[ \t]*(?P<caveats>\S[^\n]*)"
)


@dataclass(slots=True)
class Point:
    """A knowledge point on its way from where it was found to the list that is shown."""

    number: int
    """Its place in the list it came in, from 0."""
    text: str
    fate: str = "kept"
    """kept, or why it is not: blank, duplicate, too_long, over_the_limit, malformed, leaks."""
    revision: int = 0
    """How often it was rewritten."""
    same_as: int | None = None
    """The number of the point that it says again."""
    findings: list["Finding"] = field(default_factory=list)

    @property
    def kept(self) -> bool:
        return self.fate == "kept"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule of the leakage gate found in a point as it then was."""

    rule: str
    """L1 to L6."""
    weight: str
    """fails, or warns: worth a look, and no reason to drop the point."""
    revision: int
    evidence: str


def sifted(texts: Sequence[str], *, longest: int) -> list[Point]:
    """Points for texts, in order; what is blank, too long, or says an earlier one again is not kept."""
    points: list[Point] = []
    first: dict[str, int] = {}
    for number, text in enumerate(texts):
        point = Point(number, text)
        same = " ".join(point.text.split()).casefold()
        if not same:
            point.fate = "blank"
        elif len(point.text) > longest:
            point.fate = "too_long"
        elif same in first:
            point.fate, point.same_as = "duplicate", first[same]
        else:
            first[same] = number
        points.append(point)
    return points


def places(points: Sequence[Point]) -> dict[int, int]:
    """By place in the list that came in: the place among the kept ones, where the point or its twin is one of them."""
    kept = {point.number: place for place, point in enumerate(point for point in points if point.kept)}
    found = {point.number: point.number if point.same_as is None else point.same_as for point in points}
    return {number: kept[meant] for number, meant in found.items() if meant in kept}


def parsed(reply: str) -> tuple[list[str], list[str]]:
    """The points of a reply in their one form, and what stands among them that does not have it.

    Thoughts are no part of a reply. A point is a line of each field, nothing between or behind them; a preamble before the
    first point is allowed.
    """
    _, said = split_reasoning(reply, THINK)
    items = list(_ITEM.finditer(said))
    ends = [*(item.start() for item in items[1:]), len(said)]
    pieces = [said[item.end() : end].strip() for item, end in zip(items, ends, strict=False)]
    fields = [(piece, _FIELDS.fullmatch(piece)) for piece in pieces]
    return (
        [written(match["principle"], match["caveats"]) for _, match in fields if match],
        [piece for piece, match in fields if not match],
    )


def written(principle: str, caveats: str) -> str:
    """A point in its one form."""
    return f"**Knowledge Point**: {principle.strip()}\n   **Key Considerations**: {caveats.strip()}"
