"""The page of a row: its picture, its plain values, its conversation, its long texts; and a tree of its own page."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Any

from tracemill.pipelines.drawings import net_svg, tree_svg
from tracemill.pipelines.viewer import text
from tracemill.pipelines.viewer.pages import KEYS, Query, Viewer, link
from tracemill.pipelines.viewer.paging import Table
from tracemill.pipelines.viewer.search import Search
from tracemill.schemas.errors import RecipeError

LINE = 120
"""A text up to so many characters, and without line breaks, is a plain value."""
NODES = 5000
"""Nodes of a tree that are read."""
_THOUGHT = re.compile(r"<think>(.*?)(?:</think>|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a turn; a thought can be folded."""

    text: str
    thought: bool = False
    length: int = 0
    """Of the whole text, where only its beginning is here."""


@dataclass(frozen=True, slots=True)
class Turn:
    role: str
    parts: Sequence[Part]
    more: Mapping[str, Any] = field(default_factory=dict)
    """What the turn holds beside role and content."""


@dataclass(frozen=True, slots=True)
class Block:
    """A column that has a place of its own."""

    name: str
    kind: str
    """text, data or turns"""
    value: Any
    length: int = 0
    href: str | None = None
    """Where the whole text is, if this is its beginning."""
    open: bool = True


@dataclass(frozen=True, slots=True)
class Picture:
    title: str
    svg: str
    lines: Sequence[str]
    """The same as text."""
    why_not: str = ""


def row_page(viewer: Viewer, asked: Query, stop: Event) -> str:
    """One row, by its number or by the id that is its own in its table."""
    del stop
    table, number, row = _asked_row(viewer, asked)
    by = KEYS.get(table.name)
    blocks = list(_blocks(table.name, number, row))
    facts = {name: value for name, value in row.items() if name not in {block.name for block in blocks}}
    problem = row.get("problem_id")
    return viewer.render(
        "row.html.j2",
        table=table,
        number=number,
        name=row.get(by) if by else row.get("id"),
        facts=[(n, v if isinstance(v, str) else text.as_json(v)) for n, v in facts.items() if v is not None],
        empty=[name for name, value in facts.items() if value is None],
        blocks=blocks,
        pictures=[net_picture(row)] if row.get("steps") else [],
        permalink=link("row", t=table.name, **({"id": row[by]} if by else {"n": number})),
        life=row.get("id") or problem or row.get("key"),
        problem=problem,
        has_tree=problem is not None and has_tree(viewer, problem),
        before=link("row", t=table.name, n=number - 1) if number else None,
        after=link("row", t=table.name, n=number + 1) if number + 1 < table.rows else None,
        around=link("table", t=table.name, **{"from": number}),
    )


def whole_text(viewer: Viewer, asked: Query, stop: Event) -> str:
    """The text of one column of one row, for a page of plain text."""
    del stop
    table, _, row = _asked_row(viewer, asked)
    name = asked.get("c")
    if name not in row:
        raise RecipeError(f"no column {name!r} in {table.name}")
    value = row[name]
    whole = value if isinstance(value, str) else text.as_json(value, indent=2)
    return whole.encode("utf-8", "backslashreplace").decode("utf-8")


def tree_page(viewer: Viewer, asked: Query, stop: Event) -> str:
    """The step tree of a problem."""
    problem = asked.get("problem")
    nodes = nodes_of(viewer, problem, stop)
    if not nodes:
        raise RecipeError(f"no tree of a problem {problem!r} in {viewer.dataset}")
    return viewer.render("tree.html.j2", problem=problem, pictures=[tree_picture(problem, nodes)], nodes=len(nodes))


def _asked_row(viewer: Viewer, asked: Query) -> tuple[Table, int, dict[str, Any]]:
    table = viewer.table(asked.get("t", "rows"))
    if asked.all("id"):
        key, wanted = KEYS.get(table.name), asked.get("id")
        if key is None:
            raise RecipeError(f"rows of {table.name} have no id of their own: name one by its number, n=0 the first")
        number = table.find(key, wanted)
        if number is None:
            raise RecipeError(f"{table.name} has no row {wanted!r}")
    else:
        number = asked.number("n", 0)
    row = table.row(number)
    if row is None:
        raise RecipeError(f"{table.name} has no row {number:,}: it has {table.rows:,}, numbered from 0")
    return table, number, row


# ---- a row in parts


def _blocks(table: str, number: int, row: Mapping[str, Any]) -> Iterator[Block]:
    """Columns that are no plain values: conversations first, then texts and data as the columns come."""
    talks = [name for name, value in row.items() if _is_talk(value)]
    for name in talks:
        yield Block(name, "turns", [turn_of(turn) for turn in row[name]])
    for name, value in row.items():
        if name in talks or value is None or isinstance(value, bool | int | float):
            continue
        data = _as_data(value)
        if data is None:
            if isinstance(value, str) and (len(value) > LINE or "\n" in value.strip()):
                href = link("text", t=table, n=number, c=name) if len(value) > text.WHOLE else None
                repeats = bool(talks) and name in ("question", "content", "reasoning")
                yield Block(name, "text", value[: text.WHOLE], len(value), href, open=not repeats)
            continue
        told = text.as_json(data, indent=2)
        if len(told) > LINE:
            href = link("text", t=table, n=number, c=name) if len(told) > text.WHOLE else None
            yield Block(name, "data", told[: text.WHOLE], len(told), href, open=len(told) < 4000)


def _is_talk(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(t, dict) and {"role", "content"} <= t.keys() for t in value)
    )


def _as_data(value: Any) -> Any:
    """A list or an object, also one that is written as JSON; None for a text."""
    if not isinstance(value, str):
        return value
    if value[:1] not in ("{", "["):
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def turn_of(turn: Mapping[str, Any]) -> Turn:
    """A turn of a conversation, its thoughts apart from what it says."""
    parts = [Part(str(turn["reasoning_content"]), thought=True)] if turn.get("reasoning_content") else []
    said, at = str(turn["content"] or ""), 0
    for thought in _THOUGHT.finditer(said):
        parts += [Part(said[at : thought.start()]), Part(thought[1], thought=True)]
        at = thought.end()
    parts.append(Part(said[at:]))
    more = {
        name: value
        for name, value in turn.items()
        if name not in ("role", "content", "reasoning_content") and value is not None
    }
    return Turn(str(turn["role"]), [_cut(part) for part in parts if part.text.strip()], more)


def _cut(part: Part) -> Part:
    return Part(part.text[: text.WHOLE], part.thought, len(part.text)) if len(part.text) > text.WHOLE else part


# ---- pictures


def net_picture(row: Mapping[str, Any]) -> Picture:
    """The Petri net of a row, as image and as text."""
    from tracemill.synth.petri_trace.drawing import lines, summary
    from tracemill.synth.petri_trace.layout import steps_of

    title = f"Petri net of {row.get('id')}"
    try:
        steps = steps_of(row)
        return Picture(title, net_svg(row), [summary(steps), *lines(steps)])
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # the row is shown all the same
        return Picture(title, "", [], f"The net cannot be drawn: {error}")


def tree_picture(problem: str, nodes: Sequence[Mapping[str, Any]]) -> Picture:
    """The step tree of a problem, as image and as text."""
    from tracemill.synth.step_tree.picture import picture

    title = f"Step tree of {problem}"
    life = {
        "asked": {"kind": "problem", "id": problem},
        "problem_id": problem,
        "tables": {"nodes": nodes},
        "traces": (),
    }
    try:
        return Picture(title, tree_svg(nodes), list(picture(life)))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return Picture(title, "", [], f"The tree cannot be drawn: {error}")


def has_tree(viewer: Viewer, problem: str) -> bool:
    return "nodes" in viewer.manifest["tables"] and viewer.table("nodes").find("problem_id", problem) is not None


def nodes_of(viewer: Viewer, problem: str, stop: Event) -> list[dict[str, Any]]:
    """The rows of `nodes` of a problem, in the order of the table; RecipeError where the version has none."""
    table = viewer.table("nodes")
    wanted = Search.equal("problem_id", problem)
    found = table.search(wanted, start=0, count=NODES, columns=table.schema.names, stop=stop, seconds=10)
    return list(found.rows.to_pylist())
