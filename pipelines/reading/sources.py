"""From a `[[source]]` of the recipe to problems: which column means what, and what becomes of a row that means nothing.

    {"question": "6 * 7?", "answer": 42.0, "level": 2}
        ▶ Problem(problem_id=<qid>, question="6 * 7?", gold="42", meta={"level": 2})
    {"question": null, "answer": 42.0}
        ▶ SourceRejection(row_number=7, reason="missing_question", ...)

A fault of the file is a RecipeError, whenever it shows: nothing is sampled before every source was read to its end.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from tracemill.pipelines.reading.columns import Columns
from tracemill.pipelines.reading.rawrow import LIMITS, BadRow, Limits, Row, Unusable, json_text, pick
from tracemill.pipelines.reading.readers import Resolve, files_of, hub_batches, hub_commit, read_rows
from tracemill.pipelines.versions.parquet import sha256_of
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import Source, suggest
from tracemill.schemas.rows import Problem

VERSION = 4
"""Of what this module makes of a row; in every source key, so that a change reads all sources again."""
_PATIENCE = 1000
"""Rows without the question column after which it is misspelt rather than rare, and without an answer after which the source counts as having none."""
_ABSENT = object()
_NO_JSON = ("not_json", "not_an_object", "torn_line")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceProblem:
    """A problem and where it stands: `row_number` counts lines or rows from 1."""

    problem: Problem
    row_number: int
    file: str = ""
    """Named where a source has several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRejection:
    """A row that became no problem."""

    source: int
    """Index of its `[[source]]`."""
    row_number: int
    file: str = ""
    reason: str
    evidence: Mapping[str, Any]
    problem_id: str | None = None
    row: str = "null"
    """JSON text of the row as it was, or of its beginning."""


def read_source(
    source: Source, index: int, *, resolve: Resolve | None = None, gold_needed: bool = True, limits: Limits = LIMITS
) -> Iterator[SourceProblem | SourceRejection]:
    """Every row of a source, in order, as a problem or as the reason why it is none.

    With `gold_needed`, a row whose answer column holds nothing is rejected. Where the recipe names no such column and no
    row has `answer`, the source has no golds; where one has it, rows without it are rejected.
    `limit` counts rows, whatever becomes of them.
    """
    columns = Columns(source, index, source_name(source), gold_needed=gold_needed)
    seen = _Seen(source_name(source), columns)
    empty = True
    limited = islice(read_rows(source, resolve, limits), source.limit)
    for row in _held_back(limited, columns):
        empty = False
        seen.look(row)
        yield _read(row, columns, source, index)
    seen.check()
    if empty:
        raise RecipeError(f"source {source_name(source)}: empty; a source holds one row or more")


def _held_back(rows: Iterable[Row | BadRow], columns: Columns) -> Iterator[Row | BadRow]:
    """The rows, the first of them only once it is known whether the source has answers."""
    held: list[Row | BadRow] = []
    patient = True
    for row in rows:
        if isinstance(row, Row):
            columns.look(row.columns)
        held.append(row)
        patient = patient and columns.looks_for_answers and len(held) < _PATIENCE
        if not patient:
            yield from held
            held.clear()
    yield from held


def _read(row: Row | BadRow, columns: Columns, source: Source, index: int) -> SourceProblem | SourceRejection:
    problem_id = None
    if isinstance(row, BadRow):
        reason, evidence, shown = row.reason, row.evidence, row.row
    else:
        try:
            problem_id = columns.problem_id(row.columns)
            problem = columns.problem(row.columns, problem_id)
            return SourceProblem(problem=problem, row_number=row.number, file=row.file)
        except Unusable as fault:
            reason, evidence, shown = fault.reason, fault.evidence, json_text(row.columns)
    return SourceRejection(
        source=index,
        row_number=row.number,
        file=row.file,
        reason=reason,
        evidence={**place(source_name(source), row.file, row.number), **evidence},
        problem_id=problem_id,
        row=shown,
    )


def source_name(source: Source) -> str:
    """How rows name where they come from: never a path, which differs from machine to machine."""
    if source.hub is not None:
        return Path(source.hub).name if Path(source.hub).is_dir() else source.hub
    return source.ref or Path(str(source.path)).name


def place(source: str, file: str, number: int) -> dict[str, Any]:
    """Where a row stands, for the evidence of its rejection."""
    return {"source": source, **({"file": file} if file else {}), "row_number": number}


def source_hash(source: Source, *, resolve: Resolve | None = None) -> str:
    """A hash of a source's content, 64 hex digits: of its files wherever they lie, or of the commit of a Hub dataset."""
    digest = hashlib.sha256()
    files = files_of(source, resolve)
    if files is not None:
        try:
            parts = [f"{file.suffix} {sha256_of(file)}" for file in files]
        except OSError as error:
            raise RecipeError(f"source {source_name(source)}: not readable: {error}") from None
        digest.update("\n".join(parts).encode())
    elif commit := hub_commit(source):
        digest.update(f"{source.hub} {source.config} {source.split} {commit}".encode())
    else:
        for batch in hub_batches(source):
            digest.update(batch.serialize())
    return digest.hexdigest()


def source_key(
    sources: Iterable[Source], *, resolve: Resolve | None = None, gold_needed: bool = True, code: str = ""
) -> str:
    """What all problems of a recipe follow from: the content of its sources, and how (`code`: by what) they are read."""
    parts = []
    for source in sources:
        mapping = source.model_dump(mode="json", exclude={"path", "keep", "weight", "cap"})
        parts.append([source_hash(source, resolve=resolve), source_name(source), mapping])
    said = msgspec.json.encode([VERSION, code, gold_needed, parts], order="deterministic")
    return hashlib.sha256(said).hexdigest()


class _Seen:
    """Which columns the rows of a source had, to tell a misspelt column from a rare one."""

    def __init__(self, name: str, columns: Columns) -> None:
        self._name, self._question = name, columns.question
        self._missing = set(columns.required)
        self._known: set[str] = set()
        self._rows = self._unparsed = 0
        self._first_unparsed: Mapping[str, Any] = {}

    def look(self, row: Row | BadRow) -> None:
        if isinstance(row, BadRow):
            if row.reason in _NO_JSON:
                self._unparsed += 1
                self._first_unparsed = self._first_unparsed or row.evidence
            return
        self._rows += 1
        if self._missing:
            self._missing = {name for name in self._missing if pick(row.columns, name, _ABSENT) is _ABSENT}
            self._known |= _names(row.columns) if self._missing and self._rows <= _PATIENCE else set()
        if self._rows == _PATIENCE and self._question in self._missing:
            self.check()

    def check(self) -> None:
        """Raise for what no row had."""
        if not self._rows and self._unparsed:
            raise RecipeError(
                f"source {self._name}: not JSON lines: none of {self._unparsed} lines is an object; "
                f"the first: {', '.join(f'{name} {value}' for name, value in self._first_unparsed.items())}"
            )
        if self._rows and self._missing:
            lines = [f"source {self._name}: no column {name!r}{self._instead(name)}" for name in sorted(self._missing)]
            raise RecipeError("\n".join(lines))

    def _instead(self, name: str) -> str:
        meant = suggest(name, self._known)
        there = f"; the columns are: {', '.join(sorted(self._known)[:40])}"
        return meant if meant.startswith("; known") else f"{meant}{there}"


def _names(columns: Mapping[str, Any], prefix: str = "") -> set[str]:
    names = set()
    for name, value in columns.items():
        names.add(f"{prefix}{name}")
        if isinstance(value, Mapping):
            names |= _names(value, f"{prefix}{name}.")
    return names
