"""What the pages show: the version, a table of it, and all else by way of `rows.py` and `life.py`.

A page is a function of what stands behind the `?` of its address, and comes back as HTML. All text goes into templates as it is: they
escape it, and `visible` shows what cannot be seen.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Event, Lock
from typing import Any
from urllib.parse import urlencode

import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tracemill.pipelines.versions.dataset import Dataset
from tracemill.pipelines.versions.reports import place_of
from tracemill.pipelines.viewer import text
from tracemill.pipelines.viewer.paging import Table
from tracemill.pipelines.viewer.search import OPERATORS, Search, kind_of
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.printable import printable
from tracemill.schemas.recipe import suggest

HOME = Path(__file__).parent
PAGE, MOST = 50, 200
"""Rows of a page, and how many may be asked for."""
COLUMNS = 9
"""Columns of a table that are shown unless others are asked for."""
ASIDE = ("key", "licence", "tokenizer", "model", "source", "reasoning", "row", "token_ids")
"""Columns that are not among them while there are others."""
KEYS: Mapping[str, str] = {"rows": "id", "traces": "id", "problems": "problem_id", "samples": "key"}
"""The column by which a row of a table is named, each name once."""
FILES = {"README.md": "card", "recipe.toml": "recipe", "manifest.json": "manifest"}


class Query:
    """What stands behind the `?` of an address; RecipeError where it is not what a page takes."""

    def __init__(self, items: Sequence[tuple[str, str]]) -> None:
        self.items = list(items)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.items if key == name]

    def get(self, name: str, default: str = "") -> str:
        return next(iter(self.all(name)), default)

    def number(self, name: str, default: int) -> int:
        """A whole number from 0; what people write, such as 1,000, too."""
        said = self.get(name).replace(",", "").strip()
        if not said:
            return default
        if not (said.isascii() and said.isdigit() and len(said) < 19):
            raise RecipeError(f"{name} is a whole number from 0, not {said!r}")
        return int(said)

    def but(self, **changes: object) -> str:
        """The address with these parts changed, or left out where they are None."""
        kept = [(key, value) for key, value in self.items if key not in changes]
        return query(kept + [(key, value) for key, value in changes.items() if value is not None])


def query(items: Sequence[tuple[str, object]]) -> str:
    return "?" + urlencode([(key, str(value)) for key, value in items], errors="replace")


def link(page: str, **parts: object) -> str:
    """The address of a page, from any other page."""
    return page + query([(key, value) for key, value in parts.items() if value is not None])


@dataclass(frozen=True, slots=True)
class Cell:
    """A value in a table: its beginning, and how many characters it has where that is not all."""

    text: str
    length: int | None = None
    empty: bool = False
    number: bool = False


class Viewer:
    """One version, open for looking."""

    def __init__(self, dataset: Dataset, root: Path) -> None:
        self.dataset, self.root = dataset, root
        self.manifest = dataset.manifest()
        self._tables: dict[str, Table] = {}
        self._lock = Lock()
        self._running: set[Event] = set()
        self._ended = False

    def begin(self) -> Event:
        """What tells a page that is being made to stop; set from the start once the viewer ends."""
        stop = Event()
        self._running.add(stop)
        if self._ended:
            stop.set()
        return stop

    def done(self, stop: Event) -> None:
        stop.set()
        self._running.discard(stop)

    def end(self) -> None:
        """Nobody waits for any page any more."""
        self._ended = True
        for stop in self._running:
            stop.set()

    def table(self, name: str) -> Table:
        """A table with its footers, which are read once; RecipeError where the version has none of that name."""
        if name not in (names := self.manifest["tables"]):
            raise RecipeError(f"{self.dataset} has no table {name!r}{suggest(name, names)}")
        with self._lock:
            if name not in self._tables:
                self._tables[name] = Table(self.dataset, name)
            return self._tables[name]

    @property
    def report_file(self) -> Path:
        return place_of(self.root, self.dataset)

    @cached_property
    def _templates(self) -> Environment:
        found = Environment(
            loader=FileSystemLoader(HOME / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        found.filters["visible"] = text.visible
        found.filters["plain"] = lambda value: printable(text.short(value))
        found.filters["data"] = lambda value: text.visible(text.as_json(value, indent=2)[: text.WHOLE])
        found.filters["short"] = text.short
        found.filters["n"] = lambda number: f"{number:,}"
        found.globals |= {"link": link}
        return found

    def render(self, template: str, **parts: Any) -> str:
        """A page. Halves of surrogate pairs, which `visible` has shown as escapes, cannot be in it any more."""
        here = {"ref": str(self.dataset), "version": self.dataset, "tables": list(self.manifest["tables"])}
        html = self._templates.get_template(template).render(**here, **parts)
        return html.encode("utf-8", "backslashreplace").decode("utf-8")


def overview(viewer: Viewer, asked: Query, stop: Event) -> str:
    """What the version holds: its tables, what was turned down and why, and where it comes from."""
    del asked, stop
    manifest = viewer.manifest
    tables = [
        {"name": name, "rows": facts["rows"], "bytes": sum(file["bytes"] for file in facts["files"])}
        for name, facts in manifest["tables"].items()
    ]
    counts = manifest.get("counts", [])
    most = max((count["rows"] for count in counts), default=0)
    steps = [
        {**count, "share": count["rows"] / most if most else 0.0, "href": _of_reason(manifest, count)}
        for count in counts
    ]
    return viewer.render(
        "overview.html.j2",
        manifest=manifest,
        listed=tables,
        steps=steps,
        problems=manifest.get("problems", {}),
        models=manifest.get("models", {}),
        sources=manifest.get("sources", []),
        files={name: told for name, told in FILES.items() if (viewer.dataset.path / name).is_file()},
        has_report=viewer.report_file.is_file(),
    )


def _of_reason(manifest: Mapping[str, Any], count: Mapping[str, Any]) -> str:
    if count["stage"] == "chosen":
        return link("table", t="traces" if "traces" in manifest["tables"] else "rows")
    asked = [("t", "rejected"), ("f", "stage"), ("o", "is"), ("v", count["stage"])]
    return "table" + query([*asked, ("f", "reason"), ("o", "is"), ("v", count["reason"])])


def table_page(viewer: Viewer, asked: Query, stop: Event) -> str:
    """Some rows of a table: those from a number on, or those that a search finds from there on."""
    table = viewer.table(asked.get("t", "rows"))
    columns = _columns(table.schema, asked.all("c"))
    start, count = asked.number("from", 0), min(max(1, asked.number("n", PAGE)), MOST)
    conditions = _conditions(asked)
    search = Search.read(table.schema, conditions, asked.get("q"))
    if search:
        found = table.search(search, start=start, count=count, columns=columns, stop=stop)
        numbers, rows, looked_to = found.numbers, found.rows, found.looked_to
    else:
        rows = table.page(start, count, columns)
        numbers, looked_to = list(range(start, start + rows.num_rows)), start + rows.num_rows
    return viewer.render(
        "table.html.j2",
        table=table,
        columns=columns,
        kinds={field.name: kind_of(field.type) for field in table.schema},
        lines=list(_lines(table, numbers, rows, columns)),
        searching=bool(search),
        looked=(min(start, table.rows), looked_to),
        conditions=[*conditions, *[("", "is", "")] * (1 if conditions else 2)],
        operators=OPERATORS,
        asked=asked,
        ways=_ways(asked, start, count, table.rows, looked_to, searching=bool(search)),
        start=start,
        count=count,
    )


def _conditions(asked: Query) -> list[tuple[str, str, str]]:
    names, operators, values = asked.all("f"), asked.all("o"), asked.all("v")
    if not len(names) == len(operators) == len(values):
        raise RecipeError("a condition is a column, an operator and a value: f, o and v come together in an address")
    return [one for one in zip(names, operators, values, strict=True) if one[0]]


def _columns(schema: pa.Schema, wanted: Sequence[str]) -> list[str]:
    for name in wanted:
        if name not in schema.names:
            raise RecipeError(f"no column {name!r}{suggest(name, schema.names)}")
    if wanted:
        return list(dict.fromkeys(wanted))
    plain = [field.name for field in schema if field.name not in ASIDE and kind_of(field.type) != "list"]
    return (plain or list(schema.names))[:COLUMNS]


def _ways(asked: Query, start: int, count: int, rows: int, looked_to: int, *, searching: bool) -> dict[str, str]:
    """Links to other pages by their name, as far as there are any."""
    ways: dict[str, str] = {}
    if searching:
        if start:
            ways["from the beginning"] = asked.but(**{"from": None})
        if looked_to < rows:
            ways["continue from here"] = asked.but(**{"from": looked_to})
        return ways
    last = max(0, (rows - 1) // count * count)
    if start:
        ways |= {
            "first": asked.but(**{"from": None}),
            "previous": asked.but(**{"from": max(0, min(start - count, last))}),
        }
    if looked_to < rows:
        ways |= {"next": asked.but(**{"from": looked_to}), "last": asked.but(**{"from": last})}
    return ways


def _lines(table: Table, numbers: Sequence[int], rows: pa.Table, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    cells = [cells_of(rows[name].combine_chunks()) for name in columns]
    key = KEYS.get(table.name)
    names = rows[key].to_pylist() if key is not None and key in columns else [None] * len(numbers)
    for at, number in enumerate(numbers):
        named = {"id": names[at]} if names[at] is not None else {"n": number}
        yield {"number": number, "href": link("row", t=table.name, **named), "cells": [column[at] for column in cells]}


def cells_of(values: Any) -> list[Cell]:
    """An Arrow array as a table shows it. Of a text only its beginning is taken out of Arrow, however long it is."""
    if kind_of(values.type) == "text":
        lengths = pc.utf8_length(values).to_pylist()
        heads = pc.utf8_slice_codeunits(values, 0, text.CELL).to_pylist()
        return [
            Cell("", empty=True) if head is None else Cell(text.short(head), length if length > text.CELL else None)
            for head, length in zip(heads, lengths, strict=True)
        ]
    number = kind_of(values.type) == "number"
    return [_cell(value, number=number) for value in values.to_pylist()]


def _cell(value: Any, *, number: bool) -> Cell:
    if value is None:
        return Cell("", empty=True)
    told = text.as_json(value)
    return Cell(told[: text.CELL], len(told) if len(told) > text.CELL else None, number=number)
