"""Rows of the spool that have one id: what becomes of the second, the third and the others.

says the same                      collapses into the first
the same problem, other traces     its traces join those of the first: many data sets have a row for each trace
anything else                      is rejected: conflicting_duplicate
"""

import hashlib
import sqlite3
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import msgspec

from tracemill.pipelines.reading.rawrow import json_text
from tracemill.pipelines.reading.sources import SourceProblem, SourceRejection, place
from tracemill.pipelines.running.spool_writer import pack, unpack
from tracemill.schemas.rows import Given, Problem, draw, qid

_STATED = (
    *("gold", "difficulty", "messages", "tools", "options", "solution"),
    *("chains", "question_entities", "answer_entities"),
)
_FIELDS = ("problem_id", "question", *_STATED, "responses", "given")
_decoder = msgspec.msgpack.Decoder(Problem)


def problem_of(payload: bytes) -> Problem:
    """A problem as the spool holds it."""
    return _decoder.decode(unpack(payload))


def insert(db: sqlite3.Connection, seq: int, row: SourceProblem | SourceRejection) -> None:
    if isinstance(row, SourceRejection):
        db.execute("INSERT INTO source_rejections VALUES (?, ?)", (seq, pack(msgspec.msgpack.encode(row))))
        return
    problem = row.problem
    values = (
        seq,
        draw(problem.problem_id) - (1 << 63),  # SQLite's integers are signed
        problem.problem_id,
        digest(one_form(problem.problem_id)),
        content_of(problem),
        problem.source_index,
        row.file,
        row.row_number,
        pack(msgspec.msgpack.encode(problem)),
    )
    db.execute("INSERT INTO problems VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)


def one_form(problem_id: str) -> str:
    """What all spellings of an id share that a person, a file system or a join could take for the same."""
    return " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFC", problem_id).casefold()).split())


def digest(data: str | bytes) -> bytes:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).digest()[:16]


def content_of(problem: Problem) -> bytes:
    """What two rows of one id are compared by: 16 bytes of the problem, 16 of the traces it brings.

    Where they come from and the columns that only filters read are in neither.
    """
    states = [qid(problem.question), *(getattr(problem, name) for name in _STATED)]
    brings = [problem.responses, {name: given.said() for name, given in problem.given.items()}]
    return b"".join(digest(msgspec.json.encode(part, order="deterministic")) for part in (states, brings))


def settle_twins(db: sqlite3.Connection) -> tuple[int, int]:
    """Leave one problem an id; return how many rows collapsed into it, and how many were merged into it.

    The others become rejections under their seq.
    """
    db.execute("CREATE INDEX problems_twin ON problems (twin)")
    db.execute(
        "CREATE TEMP TABLE many AS SELECT twin, seq, content FROM problems WHERE twin IN "
        "(SELECT twin FROM problems GROUP BY twin HAVING count(*) > 1) ORDER BY twin, seq"
    )
    collapsed = merged = 0
    for _, group in groupby(db.execute("SELECT twin, seq, content FROM many ORDER BY rowid"), lambda row: row[0]):
        same, further = _settle(db, [(seq, content) for _, seq, content in group])
        collapsed += same
        merged += further
    db.execute(
        "DELETE FROM problems WHERE seq IN (SELECT seq FROM many) AND seq NOT IN (SELECT min(seq) FROM many GROUP BY twin)"
    )
    db.execute("DROP TABLE many")
    db.execute("DROP INDEX problems_twin")
    return collapsed, merged


def _settle(db: sqlite3.Connection, rows: Sequence[tuple[int, bytes]]) -> tuple[int, int]:
    """Settle the rows of one id, in the order of the sources: how many collapsed, and how many were merged."""
    first, content = rows[0]
    kept = _row(db, first)
    seen, collapsed, taken = {content}, 0, [kept.problem]
    for seq, other in rows[1:]:
        row = _row(db, seq)
        if other in seen:
            collapsed += 1
        elif other[:16] == content[:16] and kept.problem.responses and row.problem.responses:
            if twice := _named(taken) & _named([row.problem]):
                insert(db, seq, _rejected(row, kept, "duplicate_trace", trace=min(twice)))
                continue
            seen.add(other)
            taken.append(row.problem)
        else:
            differs = [name for name in _FIELDS if getattr(row.problem, name) != getattr(kept.problem, name)]
            insert(db, seq, _rejected(row, kept, "conflicting_duplicate", differs=differs))
    if len(taken) > 1:
        payload = pack(msgspec.msgpack.encode(_merged(taken)))
        db.execute("UPDATE problems SET payload = ? WHERE seq = ?", (payload, first))
    return collapsed, len(taken) - 1


def _row(db: sqlite3.Connection, seq: int) -> SourceProblem:
    query = "SELECT payload, row_number, file FROM problems WHERE seq = ?"
    payload, number, file = db.execute(query, (seq,)).fetchone()
    return SourceProblem(problem=problem_of(payload), row_number=number, file=file)


def _named(problems: Iterable[Problem]) -> set[str]:
    """The names that traces bring with them."""
    return {name for problem in problems for name, given in problem.given.items() if given.named}


def _merged(problems: Sequence[Problem]) -> Problem:
    """The first problem with the traces of all: a trace keeps a name that it brought, others are numbered by their column."""
    texts: dict[str, str | None] = {}
    given: dict[str, Given] = {}
    numbers: Counter[str] = Counter()
    for problem in problems:
        for name, text in problem.responses.items():
            told = problem.given.get(name, Given())
            if not told.named:
                column = name.rpartition("[")[0] or name
                name = f"{column}[{numbers[column]}]"
                numbers[column] += 1
            texts[name] = text
            if problem.source_index != problems[0].source_index:
                told = replace(told, source=problem.source, licence=told.licence or problem.licence)
            if told != Given():
                given[name] = told
    return replace(problems[0], responses=texts, given=given)


def _rejected(row: SourceProblem, kept: SourceProblem, reason: str, **evidence: Any) -> SourceRejection:
    mine = row.problem
    return SourceRejection(
        source=mine.source_index,
        file=row.file,
        row_number=row.row_number,
        problem_id=mine.problem_id,
        reason=reason,
        evidence={
            **place(mine.source, row.file, row.row_number),
            "first_id": kept.problem.problem_id,
            "first_row": kept.row_number,
            "first_file": kept.file,
            "first_source": kept.problem.source_index,
            **evidence,
        },
        row=json_text(msgspec.to_builtins(mine)),
    )
