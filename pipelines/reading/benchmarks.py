"""The `[benchmarks]` of a recipe, read to their ends before anything is sampled: files, folders and Hub datasets, as sources have them."""

from collections.abc import Mapping
from typing import Any

from tracemill.pipelines.reading.rawrow import LIMITS, BadRow, Row, pick, text_of
from tracemill.pipelines.reading.readers import hub_commit, read_rows
from tracemill.pipelines.reading.sources import source_hash
from tracemill.schemas.benchmarks import PART_QUESTION, PART_SOLUTION, Benchmark, Benchmarks, Item
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import BenchmarkTable, Source, suggest

_ABSENT = object()


def read_benchmarks(tables: Mapping[str, BenchmarkTable]) -> Benchmarks:
    """Every benchmark with its items, or a RecipeError for one that is not whole: a row that cannot be read could hide an item."""
    return Benchmarks({name: _read(name, table) for name, table in tables.items()})


def identity_of_benchmarks(benchmarks: Benchmarks, tables: Mapping[str, BenchmarkTable]) -> dict[str, Any]:
    """What counts for a version and for the outcome of a problem filter: content and columns, not the place."""
    return {
        name: {
            **table.model_dump(mode="json", exclude={"path", "revision"}, exclude_none=True),
            "sha256": benchmarks.all[name].sha256,
        }
        for name, table in tables.items()
    }


def _read(name: str, table: BenchmarkTable) -> Benchmark:
    where = f"benchmarks.{name}"
    source = Source(
        path=table.path,
        hub=table.hub,
        config=table.config,
        split=table.split,
        revision=table.revision if table.hub is not None else None,
    )
    items: list[Item] = []
    try:
        rows = 0
        for row in read_rows(source, None, LIMITS):
            items += _items(where, name, table, row)
            rows += 1
        sha256 = source_hash(source)
        revision = table.revision or (hub_commit(source) if table.hub is not None else None)
    except RecipeError as error:
        raise RecipeError(str(error) if where in str(error) else f"{where}: {error}") from None
    if not any(item.text.strip() for item in items):
        raise RecipeError(
            f"{where}: {rows:,} rows and none has a text in {table.question!r}; name the column of the questions"
        )
    return Benchmark(name=name, items=items, rows=rows, sha256=sha256, revision=revision)


def _items(where: str, name: str, table: BenchmarkTable, row: Row | BadRow) -> list[Item]:
    """The texts of a row that are looked for, each unless it is empty."""
    if isinstance(row, BadRow):
        raise RecipeError(f"{where}: row {row.number} cannot be read: {row.reason} {dict(row.evidence)}; mend the file")
    number = str(row.number)
    item = _text(where, row, table.id) if table.id is not None else number
    columns = {PART_QUESTION: table.question, PART_SOLUTION: table.solution}
    texts = {part: _text(where, row, column) for part, column in columns.items() if column is not None}
    return [Item(name, item or number, part, text) for part, text in texts.items() if text is not None]


def _text(where: str, row: Row, column: str) -> str | None:
    value = pick(row.columns, column, _ABSENT)
    if value is _ABSENT:
        raise RecipeError(f"{where}: row {row.number} has no column {column!r}{suggest(column, map(str, row.columns))}")
    if value is None:
        return None
    if (text := text_of(value)) is None:
        raise RecipeError(
            f"{where}: row {row.number}: column {column!r} is {type(value).__name__}, not text; name a column of text"
        )
    return text
