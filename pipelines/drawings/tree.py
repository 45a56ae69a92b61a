"""A step tree as an image: a line a node, below its parent and indented, its counts beside it.

    question        3/6  |---o-----|  How many more books does Ben have?
     ├─● n000001    3/5  |----o----|  3 * 8 = 24.
     │  └─■ n000004 0/1  o------|     8 * 2 = 18.   FIRST ERROR
     └─◆ n000005    0/0               ...

The interval column runs from 0 to 1: a dot where the share of right solutions is, a line from `low` to `high`. A disc is a good
step, a square a bad one, a hollow diamond one that nobody decided.
"""

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tracemill.pipelines.drawings.svg import LETTER, SHOWN, Canvas, colour, fitted

Row = Mapping[str, Any]

LINE, INDENT, MARGIN = 26, 20, 14
NAME, STEP = 14, 64
"""Letters of a node's name and of its step."""
RANGE = 110
"""Pixels from a share of 0 to a share of 1."""
HEAD = 30


@dataclass(frozen=True, slots=True)
class _Line:
    """A node at its place: `parent` is the line above it that it hangs from."""

    row: Row
    depth: int
    parent: int | None
    hidden: int
    """Nodes below it that are not drawn."""


def tree_svg(nodes: Sequence[Row], *, most: int = 80) -> str:
    """The tree of one problem, from its rows of the table `nodes`.

    Of more than `most` nodes those nearest the question are drawn, and each says how many below it are not. A node whose parent is
    missing, or that hangs below itself, is drawn as a root of its own.
    Raises ValueError where a row has no id or a count is no number.
    """
    try:
        return _drawn(nodes, _lines(nodes, max(1, most)))
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"these rows are no nodes of a step tree: {type(error).__name__}: {error}") from error


# ---- what stands where


def _lines(nodes: Sequence[Row], most: int) -> list[_Line]:
    """The lines from top to bottom: parents before children, siblings in the order of the rows."""
    names = {row["id"] for row in nodes}
    below: dict[Any, list[Row]] = {}
    for row in nodes:
        below.setdefault(row["parent_id"] if row["parent_id"] in names else None, []).append(row)
    near, parent_of = _nearest_first(nodes, below)
    drawn = {row["id"] for row in near[:most]}
    hidden: Counter[Any] = Counter()
    for row in reversed(near[most:]):  # children come before their parents here
        name = row["id"]
        hidden[parent_of[name]] += 1 + hidden[name]
    lines: list[_Line] = []
    roots = [row for row in near if parent_of[row["id"]] is None and row["id"] in drawn]
    waiting: list[tuple[Row, int, int | None]] = [(root, 0, None) for root in reversed(roots)]
    while waiting:
        row, depth, parent = waiting.pop()
        name, at = row["id"], len(lines)
        lines.append(_Line(row, depth, parent, hidden[name]))
        children = [child for child in below.get(name, ()) if child["id"] in drawn and parent_of[child["id"]] == name]
        waiting.extend((child, depth + 1, at) for child in reversed(children))
    return lines


def _nearest_first(nodes: Sequence[Row], below: Mapping[Any, Sequence[Row]]) -> tuple[list[Row], dict[Any, Any]]:
    """Every node once, in the order of its distance from its root, and by node the one that it hangs from."""
    found: list[Row] = []
    parent_of: dict[Any, Any] = {}

    def reach(roots: Sequence[Row]) -> None:
        waiting = deque(row for row in roots if row["id"] not in parent_of)
        parent_of.update((row["id"], None) for row in waiting)
        while waiting:
            row = waiting.popleft()
            found.append(row)
            for child in below.get(row["id"], ()):
                if child["id"] not in parent_of:
                    parent_of[child["id"]] = row["id"]
                    waiting.append(child)

    reach(below.get(None, ()))
    for row in nodes:  # what is left hangs below itself
        reach([row])
    return found, parent_of


# ---- the image


def _drawn(nodes: Sequence[Row], lines: Sequence[_Line]) -> str:
    left = MARGIN + INDENT * (max((line.depth for line in lines), default=0) + 1)
    columns = {"name": left + 6, "counts": left + 6 + NAME * LETTER}
    columns["range"] = columns["counts"] + 10 * LETTER
    columns["step"] = columns["range"] + RANGE + 20
    rest = len(nodes) - len(lines)
    width = columns["step"] + (STEP + 28) * LETTER + MARGIN
    height = HEAD + LINE * len(lines) + (LINE if rest > 0 else 0) + MARGIN
    canvas = Canvas(width, height, title=_title(nodes), told=_told(nodes, rest))
    _axis(canvas, columns["range"], HEAD + LINE * len(lines))
    for at in range(len(lines)):
        _edge(canvas, lines, at)
    for at, line in enumerate(lines):
        _node(canvas, line, _place(line, at), columns)
    if rest > 0:
        last = HEAD + LINE * len(lines) + LINE * 0.6
        canvas.text(MARGIN, last, f"and {rest:,} of {len(nodes):,} nodes are not drawn", fill=colour("pale"))
    return canvas.done()


def _place(line: _Line, at: int) -> tuple[float, float]:
    """The middle of a node's mark."""
    return MARGIN + INDENT * line.depth + 8, HEAD + LINE * (at + 0.5)


def _axis(canvas: Canvas, left: float, bottom: float) -> None:
    for share, label in ((0.0, "0"), (0.5, "share right"), (1.0, "1")):
        x = left + RANGE * share
        canvas.path(f"M{x:g},{HEAD - 6} V{bottom:g}", stroke=colour("line"), stroke_dasharray="1 3")
        canvas.text(x, HEAD - 12, label, text_anchor="middle", fill=colour("pale"), font_size=10)


def _edge(canvas: Canvas, lines: Sequence[_Line], at: int) -> None:
    line = lines[at]
    if line.parent is None:
        return
    (x, top), (end, y) = _place(lines[line.parent], line.parent), _place(line, at)
    above, own = (fitted(node.row["id"], SHOWN) for node in (lines[line.parent], line))
    canvas.path(
        f"M{x:g},{top:g} V{y:g} H{end:g}", data_from=above, data_to=own, stroke=colour("line"), stroke_width=1.5
    )


def _node(canvas: Canvas, line: _Line, place: tuple[float, float], columns: Mapping[str, float]) -> None:
    row, (x, y) = line.row, place
    group = canvas.group(_said(row), data_node=fitted(row["id"], SHOWN))
    _mark(canvas, group, row, x, y)
    base = y + 4
    root = row["parent_id"] is None
    name = "question" if root else fitted(row["node_id"], NAME)
    canvas.text(columns["name"], base, name, group, font_weight="600" if root else None)
    canvas.text(columns["range"] - 3 * LETTER, base, _counts(row), group, text_anchor="end")
    _interval(canvas, group, row, columns["range"], y)
    text = canvas.text(columns["step"], base, fitted(row["step"] or "", STEP), group)
    if marks := [*_marks(row), *([f"{line.hidden:,} below not drawn"] if line.hidden else [])]:
        ink = colour("bad" if row.get("is_first_error") else "pale")
        span = canvas.add("tspan", text, fill=ink, font_weight="600", dx=8 if text.text else None)
        span.text = ", ".join(marks)


def _mark(canvas: Canvas, group: Any, row: Row, x: float, y: float) -> None:
    """A disc, a square or a hollow diamond; a ring around the first error."""
    label, edge = row["label_hard"], {"stroke": colour("paper"), "stroke_width": 1.5}
    if label == 1:
        canvas.add("circle", group, cx=x, cy=y, r=6, fill=colour("good"), **edge)
    elif label == 0:
        canvas.rect(x - 5.5, y - 5.5, 11, 11, group, fill=colour("bad"), **edge)
    else:
        d = f"M{x - 6.5:g},{y:g} l6.5,-6.5 l6.5,6.5 l-6.5,6.5 z"
        canvas.path(d, group, fill=colour("paper"), stroke=colour("pale"), stroke_width=1.5)
    if row.get("is_first_error"):
        canvas.add("circle", group, cx=x, cy=y, r=10, fill="none", stroke=colour("bad"), stroke_width=2)


def _interval(canvas: Canvas, group: Any, row: Row, left: float, y: float) -> None:
    low, high = row.get("low"), row.get("high")
    ink = colour({1: "good", 0: "bad"}.get(row["label_hard"], "pale"))
    if low is not None and high is not None:
        begin, end = (left + RANGE * min(1.0, max(0.0, bound)) for bound in (low, high))
        d = f"M{begin:g},{y - 3:g} v6 M{begin:g},{y:g} H{end:g} M{end:g},{y - 3:g} v6"
        canvas.path(d, group, stroke=ink, stroke_width=1.5)
    if row["n_total"]:
        canvas.add("circle", group, cx=left + RANGE * (row["n_correct"] / row["n_total"]), cy=y, r=3.5, fill=ink)


# ---- in words


def _counts(row: Row) -> str:
    return f"{row['n_correct']:,}/{row['n_total']:,}"


def _marks(row: Row) -> Iterator[str]:
    if row.get("is_first_error"):
        yield "FIRST ERROR"
    if (row.get("mult") or 1) > 1:
        yield f"drawn {row['mult']:,} times"
    if row.get("n_undecided"):
        yield f"{row['n_undecided']:,} undecided"
    if row.get("leaf_kind"):
        yield f"ends {fitted(row['leaf_kind'], 12)}"
    if row.get("non_monotone"):
        yield "not monotone"


def _said(row: Row) -> str:
    """All of a node, in words."""
    label = {1: "good", 0: "bad"}.get(row["label_hard"], "open")
    share = f", {row['n_correct'] / row['n_total']:.2f}" if row["n_total"] else ""
    if row.get("low") is not None and row.get("high") is not None:
        share += f" between {row['low']:.2f} and {row['high']:.2f}"
    marks = "".join(f"; {mark.lower()}" for mark in _marks(row))
    return f"{fitted(row['node_id'], SHOWN)}, {label}: {_counts(row)} right{share}{marks}. {fitted(row['step'] or '', SHOWN)}"


def _title(nodes: Sequence[Row]) -> str:
    names = {fitted(row["id"], 60).rpartition("/")[0] for row in nodes}
    of = f" of {min(names)}" if len(names) == 1 and names != {""} else ""
    return f"Step tree{of}"


def _told(nodes: Sequence[Row], rest: int) -> str:
    labels = Counter({1: "good", 0: "bad"}.get(row["label_hard"], "open") for row in nodes)
    counted = ", ".join(f"{labels[name]:,} {name}" for name in ("good", "bad", "open"))
    said = [f"{len(nodes):,} nodes: {counted}."]
    said += [f"{_counts(row)} solutions right at the question." for row in nodes if row["parent_id"] is None]
    if errors := [fitted(row["node_id"], 40) for row in nodes if row.get("is_first_error")]:
        said.append(f"First errors: {', '.join(errors[:20])}{' and more' if len(errors) > 20 else ''}.")
    if rest > 0:
        said.append(f"{rest:,} nodes are not drawn.")
    return " ".join(said)
