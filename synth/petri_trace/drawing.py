"""A net to look at: lines for a terminal, and an SVG image.

    5 steps in 3 frontiers; width 3, parallelism 1.67; critical path (*) 13 of 18 tokens
      premises    FH, CM
      frontier 1  * [1] FH, CM -> LS                           4 tokens
      frontier 2    [2] FH, LS -> MLH1           after 1       3 tokens
                  * [3] LS -> MSH2               after 1       5 tokens
                    [4] LS -> MSH6               after 1       2 tokens
      frontier 3  * [5] MLH1, MSH2, MSH6 -> MMR  after 2, 3, 4  4 tokens

The critical path is the heaviest way through the net: what has to be written one after the other, however much runs at once.
Names come from models and sources: they are cut, and characters that a terminal or XML would act on are shown as escapes.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any
from unicodedata import combining, east_asian_width
from xml.etree import ElementTree as ET  # it only writes here

from tracemill.schemas.printable import printable
from tracemill.synth.petri_trace.layout import levels_of, steps_of
from tracemill.synth.petri_trace.net import Net, Step

DRAWN = 3
"""So many traces of a problem are drawn; of a trace that was asked for, that one."""
LINES = 60
"""So many steps of a trace are listed in the terminal."""
NAME = 60

_BOX, _ROW, _GAP, _MARGIN = (200, 34), 52, 70, 24
_LETTERS = 27
"""So many columns of 7 pixels fit into a box."""
_INK, _PALE, _HOT = "#333333", "#9a9a9a", "#b3261e"


def legible(text: str, width: int) -> str:
    """One line: white space joined, what is not printable as an escape, cut at `width` columns."""
    shown = printable(" ".join(text.split()))
    if columns(shown) <= width:
        return shown
    ends = accumulate(map(columns, shown))
    return "".join(c for c, end in zip(shown, ends, strict=True) if end <= width - 3) + "..."


def columns(text: str) -> int:
    """How wide a text is in a terminal: Chinese, Japanese and Korean characters take two columns, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(c) else 1 + (east_asian_width(c) in "WF") for c in text)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - columns(text))


def critical_steps(steps: Sequence[Step]) -> list[int]:
    """The steps of the critical path, in order; where no tokens are known, of the longest one. Ties go to the lower number."""
    weight = {step.n: step.n_tokens if any(s.n_tokens for s in steps) else 1 for step in steps}
    best: dict[int, tuple[int, int | None]] = {}
    for step in steps:
        before = min(step.deps, key=lambda dep: (-best[dep][0], dep), default=None)
        best[step.n] = (weight[step.n] + (best[before][0] if before is not None else 0), before)
    at = min(best, key=lambda n: (-best[n][0], n), default=None)
    way = []
    while at is not None:
        way.append(at)
        at = best[at][1]
    return way[::-1]


# ---- the terminal


def picture(found: Mapping[str, Any]) -> Iterator[str]:
    """What `tracemill explain` draws: the net of the trace that was asked for, or of the first traces of its problem."""
    traces = [trace for trace in found["traces"] if trace["row"].get("steps")]
    asked = [trace for trace in traces if trace["id"] == found["asked"]["id"]]
    for trace in (asked or traces)[:DRAWN]:
        yield f"{legible(trace['id'], NAME)}: {summary(steps_of(trace['row']))}"
        yield from lines(steps_of(trace["row"]))
    if not asked and len(traces) > DRAWN:
        yield f"and {len(traces) - DRAWN} more traces: name one to see its net"


def summary(steps: Sequence[Step]) -> str:
    """The net in one line."""
    net = Net.of_steps(steps)
    path = critical_steps(steps)
    tokens = sum(step.n_tokens for step in steps)
    cost = f"{net.critical_path:,} of {tokens:,} tokens" if tokens else f"{len(path)} of {len(steps)} steps"
    return (
        f"{len(steps)} steps in {net.depth} frontiers; width {net.width}, parallelism {net.parallelism:.2f}; "
        f"critical path (*) {cost}"
    )


def lines(steps: Sequence[Step]) -> Iterator[str]:
    """A line a step, frontier by frontier, the critical path marked."""
    hot = set(critical_steps(steps))
    level = levels_of({step.n: step.deps for step in steps})
    shown = sorted(steps, key=lambda step: (level[step.n], step.n))[:LINES]
    titles = {step.n: f"[{step.n}] {legible(step.title, NAME)}" for step in shown}
    after = {step.n: f"after {', '.join(map(str, step.deps))}" if step.deps else "" for step in shown}
    wide, far = max(map(columns, titles.values())), max(map(len, after.values()))
    yield f"  {'premises':<12}{legible(', '.join(_premises(steps)), 2 * NAME)}"
    told = 0
    for step in shown:
        head = f"frontier {level[step.n]}" if level[step.n] != told else ""
        told = level[step.n]
        tokens = f"{step.n_tokens:,} tokens" if step.n_tokens else ""
        mark = "*" if step.n in hot else " "
        yield f"  {head:<12}{mark} {_padded(titles[step.n], wide)}  {after[step.n]:<{far}}  {tokens}".rstrip()
    if len(steps) > LINES:
        yield f"  and {len(steps) - LINES:,} steps more"


def _premises(steps: Sequence[Step]) -> list[str]:
    """What no step produces, in the order in which steps name it."""
    made = {step.right for step in steps}
    return list(dict.fromkeys(name for step in steps for name in step.left if name not in made))


# ---- SVG


def svg(row: Mapping[str, Any]) -> str:
    """The net of a row as an SVG image: premises, then a column a frontier, the critical path in red and thick.

    It stands alone (no script, no font, nothing fetched), and says in words what it shows to who cannot see it.
    """
    steps = steps_of(row)
    hot = critical_steps(steps)
    places = _places(steps)
    size = (
        max(x for x, _ in places.values()) + _BOX[0] + _MARGIN,
        max(y for _, y in places.values()) + _BOX[1] + _MARGIN,
    )
    image = ET.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {size[0]} {size[1]}",
            "width": str(size[0]),
            "height": str(size[1]),
            "role": "img",
            "font-family": "sans-serif",
            "font-size": "12",
        },
    )
    ET.SubElement(image, "title").text = f"Reasoning net of {legible(str(row.get('id', 'a trace')), NAME)}"
    ET.SubElement(image, "desc").text = f"{summary(steps)}. " + " ".join(_told(step) for step in steps)
    ET.SubElement(image, "rect", {"width": "100%", "height": "100%", "fill": "#ffffff"})
    ways, right = set(pairwise(hot)), {step.n: step.right for step in steps}
    for step in steps:
        made = {right[dep] for dep in step.deps}
        for source in (*step.deps, *(name for name in dict.fromkeys(step.left) if name not in made)):
            if source in places:
                _edge(image, places[source], places[step.n], hot=(source, step.n) in ways)
    for name in _premises(steps):
        _box(image, places[name], legible(name, _LETTERS), legible(name, 400), hot=False, round_=True)
    for step in steps:
        label = f"{step.n}. {legible(step.right, _LETTERS - 5)}"
        _box(image, places[step.n], label, _told(step), hot=step.n in hot, round_=False)
    ET.indent(image)
    return ET.tostring(image, encoding="unicode") + "\n"


def _places(steps: Sequence[Step]) -> dict[int | str, tuple[int, int]]:
    """Where the box of each premise (by name) and of each step (by number) has its upper left corner."""
    level = levels_of({step.n: step.deps for step in steps})
    columns: list[list[int | str]] = [list(_premises(steps)), *([] for _ in range(max(level.values(), default=0)))]
    for step in steps:
        columns[level[step.n]].append(step.n)
    tallest = max(map(len, columns))
    places: dict[int | str, tuple[int, int]] = {}
    for number, column in enumerate(columns):
        top = _MARGIN + (tallest - len(column)) * _ROW // 2
        for row, node in enumerate(column):
            places[node] = (_MARGIN + number * (_BOX[0] + _GAP), top + row * _ROW)
    return places


def _told(step: Step) -> str:
    rests = f", after {', '.join(map(str, step.deps))}" if step.deps else ""
    return f"Step {step.n}: {legible(step.title, 400)}{rests}."


def _edge(image: ET.Element, source: tuple[int, int], target: tuple[int, int], *, hot: bool) -> None:
    begin = (source[0] + _BOX[0], source[1] + _BOX[1] // 2)
    end = (target[0], target[1] + _BOX[1] // 2)
    bend = (end[0] - begin[0]) // 2
    path = f"M{begin[0]},{begin[1]} C{begin[0] + bend},{begin[1]} {end[0] - bend},{end[1]} {end[0]},{end[1]}"
    style = {"stroke": _HOT, "stroke-width": "2.5"} if hot else {"stroke": _PALE, "stroke-width": "1"}
    ET.SubElement(image, "path", {"d": path, "fill": "none", **style})


def _box(image: ET.Element, at: tuple[int, int], label: str, told: str, *, hot: bool, round_: bool) -> None:
    group = ET.SubElement(image, "g")
    ET.SubElement(group, "title").text = told
    place = {"x": str(at[0]), "y": str(at[1]), "width": str(_BOX[0]), "height": str(_BOX[1])}
    line = {"stroke": _HOT if hot else _INK, "stroke-width": "2.5" if hot else "1"}
    corners = {"rx": str(_BOX[1] // 2 if round_ else 4)}
    ET.SubElement(group, "rect", {**place, **corners, "fill": "#f4f4f4" if round_ else "#ffffff", **line})
    middle = {"x": str(at[0] + _BOX[0] // 2), "y": str(at[1] + _BOX[1] // 2 + 4), "text-anchor": "middle"}
    ET.SubElement(group, "text", {**middle, "fill": _INK}).text = label
