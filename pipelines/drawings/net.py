"""A Petri net of reasoning as an image: round places, square transitions, a column for the steps of each frontier.

                frontier 1                   frontier 2
    (● FH) ────▶ [1, 4 tokens] ──▶ (LS) ───▶ [2, 3 tokens] ──▶ (MLH1)
    (● CM) ────▶

Places are entities, transitions are steps; a place with a dot in it is marked from the start and stands before the first step
that reads it, one with a double line has to be reached. The critical path, what has to be written one after the other, is
thick and dashed. An arc over several columns keeps to a track of its own, which all arcs from one place share.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from tracemill.pipelines.drawings.layers import heights, ordered
from tracemill.pipelines.drawings.svg import LETTER, SHOWN, Canvas, colour, fitted
from tracemill.synth.petri_trace.drawing import critical_steps, summary
from tracemill.synth.petri_trace.layout import levels_of, steps_of
from tracemill.synth.petri_trace.net import Net, Step


class _Node(NamedTuple):
    kind: Literal["place", "step", "track"]
    name: str | int
    column: int = 0
    """Of a track; there is one of its place in every column that it crosses."""


_WIDTH = {"place": 176, "step": 62, "track": 0}
_HEIGHT = {"place": 30, "step": 34, "track": 0}
_ROOM: Mapping[str, float] = {"place": 44.0, "step": 50.0, "track": 14.0}
GAP, MARGIN, HEAD, FOOT = 46, 20, 34, 40
TRACKS = 1500
"""Of a net that would need more tracks, long arcs go straight."""
TOLD = 40
"""Steps that the description lists."""


@dataclass(frozen=True, slots=True)
class _Picture:
    steps: Sequence[Step]
    """Those that are drawn."""
    columns: Sequence[Sequence[_Node]]
    """Places stand in columns 0, 2, 4..., steps of frontier k in column 2k - 1."""
    arcs: Sequence[tuple[_Node, _Node]]
    tracks: Mapping[tuple[_Node, _Node], Sequence[_Node]]
    """By arc those that it keeps to on its way."""


def net_svg(row: Mapping[str, Any], *, most: int = 60) -> str:
    """The net of a row of `petri_trace`, from its column `steps`: n, left, right, deps, text, n_tokens.

    Of more than `most` steps those of the first frontiers are drawn, and the image says how many are not.
    Raises ValueError where the column is missing, empty, or no net: a number twice, a dependency that does not stand before its step.
    """
    try:
        steps = steps_of(row)
        level = levels_of({step.n: step.deps for step in steps})
        if len(level) != len(steps) or not steps:
            raise ValueError("there are no steps, or two have one number")
        shown = sorted(steps, key=lambda step: (level[step.n], step.n))[: max(1, most)]
        return _drawn(row, steps, _arranged(shown, level))
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"this row holds no net: {type(error).__name__}: {error}") from error


# ---- what stands where


def _arranged(steps: Sequence[Step], level: Mapping[int, int]) -> _Picture:
    place_column = _place_columns(steps, level)
    column_of = {_Node("place", name): column for name, column in place_column.items()}
    column_of |= {_Node("step", step.n): 2 * level[step.n] - 1 for step in steps}
    arcs = list(dict.fromkeys(_arcs(steps)))
    tracks = {arc: _tracks(arc, column_of) for arc in arcs}
    if len({track for found in tracks.values() for track in found}) > TRACKS:
        tracks = {arc: [] for arc in arcs}
    columns: list[list[_Node]] = [[] for _ in range(max(column_of.values()) + 1)]
    for node, column in column_of.items():
        columns[column].append(node)
    for track in dict.fromkeys(track for found in tracks.values() for track in found):
        columns[track.column].append(track)
    return _Picture(steps, ordered(columns, _links(arcs, tracks)), arcs, tracks)


def _place_columns(steps: Sequence[Step], level: Mapping[int, int]) -> dict[str, int]:
    """A place that is written stands behind the first step that writes it, one that is only read before the first that reads it."""
    column: dict[str, int] = {}
    for step in steps:
        column.setdefault(step.right, 2 * level[step.n])
    for step in steps:
        for name in step.left:
            column.setdefault(name, 2 * level[step.n] - 2)
    return column


def _arcs(steps: Iterable[Step]) -> Iterator[tuple[_Node, _Node]]:
    for step in steps:
        yield from ((_Node("place", name), _Node("step", step.n)) for name in step.left)
        yield _Node("step", step.n), _Node("place", step.right)


def _tracks(arc: tuple[_Node, _Node], column_of: Mapping[_Node, int]) -> list[_Node]:
    source, target = arc
    return [_Node("track", f"{source.name}", at) for at in range(column_of[source] + 1, column_of[target])]


def _links(
    arcs: Iterable[tuple[_Node, _Node]], tracks: Mapping[tuple[_Node, _Node], Sequence[_Node]]
) -> list[tuple[_Node, _Node]]:
    return [link for arc in arcs for link in pairwise((arc[0], *tracks[arc], arc[1]))]


# ---- the image


def _drawn(row: Mapping[str, Any], steps: Sequence[Step], picture: _Picture) -> str:
    middle = heights(
        picture.columns, _links(picture.arcs, picture.tracks), {n: _ROOM[n.kind] for c in picture.columns for n in c}
    )
    left, width = _lefts(len(picture.columns))
    at = {n: (float(left[i]), middle[n] + HEAD + MARGIN) for i, c in enumerate(picture.columns) for n in c}
    bottom = max(y + _ROOM[node.kind] / 2 for node, (_, y) in at.items())
    critical = critical_steps(steps)
    told = f"{summary(steps)}. " + " ".join(_said(step) for step in steps[:TOLD])
    more = f" And {len(steps) - TOLD:,} steps more." if len(steps) > TOLD else ""
    title = f"Petri net of {fitted(row.get('id', 'a trace'), 80)}"
    canvas = Canvas(max(width, 420), bottom + FOOT, title=title, told=told + more)
    for column in range(1, len(picture.columns), 2):
        x = left[column] + _WIDTH["step"] / 2
        canvas.text(x, HEAD - 8, f"frontier {column // 2 + 1}", text_anchor="middle", fill=colour("pale"))
    hot = _hot(critical, picture)
    for arc in sorted(picture.arcs, key=lambda arc: arc in hot):  # the critical path lies on top
        _arc(canvas, arc, [at[node] for node in picture.tracks[arc]], at, hot=arc in hot)
    net = Net.of_steps(steps)
    on_path = {node for arc in hot for node in arc}
    for node, place in at.items():
        if node.kind == "place":
            _place(canvas, str(node.name), place, net, hot=node in on_path)
    for step in picture.steps:
        _step(canvas, step, at[_Node("step", step.n)], hot=_Node("step", step.n) in on_path)
    _foot(canvas, steps, picture, bottom + 20)
    return canvas.done()


def _lefts(columns: int) -> tuple[list[int], int]:
    """Where each column begins, and where the last one ends with its margin."""
    lefts, x = [], MARGIN
    for column in range(columns):
        lefts.append(x)
        x += _WIDTH["step" if column % 2 else "place"] + GAP
    return lefts, x - GAP + MARGIN


def _hot(critical: Sequence[int], picture: _Picture) -> set[tuple[_Node, _Node]]:
    """The arcs of the critical path, from its first step to what its last one writes."""
    right = {step.n: step.right for step in picture.steps}
    hot = {(_Node("step", n), _Node("place", right[n])) for n in critical if n in right}
    hot |= {(_Node("place", right[n]), _Node("step", m)) for n, m in pairwise(critical) if n in right}
    return hot & set(picture.arcs)


def _arc(
    canvas: Canvas,
    arc: tuple[_Node, _Node],
    on: Sequence[tuple[float, float]],
    at: Mapping[_Node, tuple[float, float]],
    *,
    hot: bool,
) -> None:
    source, target = arc
    x, y = at[source][0] + _WIDTH[source.kind], at[source][1]
    d = f"M{x:g},{y:g}"
    for number, (to, height) in enumerate(on):
        column_width = _WIDTH["step" if (number % 2 == 0) == (source.kind == "place") else "place"]
        d += _bend(x, y, to, height) + f" H{to + column_width:g}"
        x, y = to + column_width, height
    end, height = at[target]
    d += _bend(x, y, end, height)
    look: dict[str, Any] = {"stroke": colour("line"), "stroke_width": 1.5}
    if hot:
        look = {"stroke": colour("hot"), "stroke_width": 3, "stroke_dasharray": "9 4"}
    canvas.path(d, data_from=_label(source), data_to=_label(target), **look)
    tip = f"M{end - 8:g},{height - 4.5:g} L{end:g},{height:g} L{end - 8:g},{height + 4.5:g} z"
    canvas.path(tip, fill=colour("hot" if hot else "pale"))


def _bend(x: float, y: float, to: float, height: float) -> str:
    reach = max(abs(to - x) / 2, 20)
    return f" C{x + reach:g},{y:g} {to - reach:g},{height:g} {to:g},{height:g}"


def _label(node: _Node) -> str:
    return f"{node.kind} {fitted(node.name, SHOWN)}"


def _place(canvas: Canvas, name: str, at: tuple[float, float], net: Net, *, hot: bool) -> None:
    x, y = at[0], at[1] - _HEIGHT["place"] / 2
    given, final = name in net.initial, name in net.final
    what = "given" if given else "to be reached" if final else "in between"
    group = canvas.group(f"{fitted(name, SHOWN)} ({what})", data_node=f"place {fitted(name, SHOWN)}")
    look = {"rx": 15, "stroke": colour("hot" if hot else "pale"), "stroke_width": 3 if hot else 1.2}
    if hot:
        look["stroke_dasharray"] = "9 4"
    canvas.rect(x, y, _WIDTH["place"], _HEIGHT["place"], group, fill=colour("panel"), **look)
    if final:
        inner = {"rx": 11, "fill": "none", "stroke": colour("pale"), "stroke_width": 1}
        canvas.rect(x + 4, y + 4, _WIDTH["place"] - 8, _HEIGHT["place"] - 8, group, **inner)
    if given:
        canvas.add("circle", group, cx=x + 14, cy=at[1], r=4, fill=colour("ink"))
    begin = 24 if given else 14
    canvas.text(x + begin, at[1] + 4, fitted(name, int((_WIDTH["place"] - begin - 10) / LETTER)), group)


def _step(canvas: Canvas, step: Step, at: tuple[float, float], *, hot: bool) -> None:
    x, y = at[0], at[1] - _HEIGHT["step"] / 2
    text = fitted(step.text, SHOWN)
    group = canvas.group(f"{_said(step)} {text}".strip(), data_node=f"step {step.n}")
    look = {"rx": 3, "stroke": colour("hot" if hot else "ink"), "stroke_width": 3 if hot else 1.2}
    if hot:
        look["stroke_dasharray"] = "9 4"
    canvas.rect(x, y, _WIDTH["step"], _HEIGHT["step"], group, fill=colour("paper"), **look)
    middle = x + _WIDTH["step"] / 2
    number = canvas.text(middle, at[1] + (-1 if step.n_tokens else 4), str(step.n), group, text_anchor="middle")
    number.set("font-weight", "600")
    if step.n_tokens:
        cost = f"{step.n_tokens:,} tok"
        canvas.text(middle, at[1] + 12, cost, group, text_anchor="middle", fill=colour("pale"), font_size=10)


def _foot(canvas: Canvas, steps: Sequence[Step], picture: _Picture, y: float) -> None:
    canvas.path(f"M{MARGIN},{y:g} h34", stroke=colour("hot"), stroke_width=3, stroke_dasharray="9 4")
    rest = len(steps) - len(picture.steps)
    more = f"; {rest:,} of {len(steps):,} steps are not drawn" if rest else ""
    canvas.text(MARGIN + 42, y + 4, f"critical path{more}", fill=colour("pale"))


def _said(step: Step) -> str:
    rests = f", after {', '.join(map(str, step.deps))}" if step.deps else ""
    cost = f", {step.n_tokens:,} tokens" if step.n_tokens else ""
    return f"Step {step.n}: {fitted(step.title, SHOWN)}{rests}{cost}."
