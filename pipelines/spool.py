"""The working file of one dataset's builds: its problems, the rows its sources lost, what a method made of each problem.

    sources ──ingest──▶ problems (in draw order) ──method──▶ outcomes (by problem id) ──▶ tables

Everything here can be made again from the sources and the journal, so a file that this version cannot read is replaced.
One process at a time writes (the build holds a lock); kill -9 loses at most the last group of outcomes.
"""

import asyncio
import hashlib
import sqlite3
import threading
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tracemill.pipelines.rawrow import json_text
from tracemill.pipelines.sources import SourceProblem, SourceRejection, place
from tracemill.pipelines.spool_writer import OutcomeWriter, connect, pack, unpack
from tracemill.schemas.rows import Problem, draw, qid

_PAGE = 512
_problem_decoder = msgspec.msgpack.Decoder(Problem)
_rejection_decoder = msgspec.msgpack.Decoder(SourceRejection)


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestCounts:
    """What became of the rows of all sources: rows = problems + rejected + collapsed."""

    rows: int
    problems: int
    rejected: int
    collapsed: int
    """Rows that say the same as an earlier one of the same id."""


class Spool:
    """Problems in, outcomes out. Opening it starts a run: `outcomes` gives what this run put or got."""

    def __init__(
        self,
        path: Path,
        *,
        queue_bytes: int = 64 << 20,
        problems: Path | None = None,
        shard: tuple[int, int] | None = None,
    ) -> None:
        """`queue_bytes` is how much outcome may wait for the disk before `put_outcome` waits too.

        A shard (number, of how many) has its problems in the file `problems`, which it only reads, and its outcomes in `path`.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = OutcomeWriter(path, queue_bytes)
        self._read = connect(path)
        self._problems = self._read if problems is None else connect(problems)
        self._mine = "" if shard is None else f" AND {_shard_number(shard[1])} = {shard[0]}"
        self._reading = threading.Lock()
        with self._writer.transaction() as db:
            db.execute("DELETE FROM touched")

    # ---- problems

    def has_problems(self, source_key: str) -> bool:
        """Whether exactly the sources of this key were read to their end."""
        return self._fact("source_key") == source_key

    def ingest_counts(self) -> IngestCounts | None:
        """Counts of the last ingest, whichever run it was in; None where there was none."""
        text = self._fact("counts")
        return msgspec.json.decode(text, type=IngestCounts) if text else None

    def ingest(self, source_key: str, rows: Iterable[SourceProblem | SourceRejection]) -> IngestCounts:
        """Replace all problems by those of `rows`, or change nothing at all if reading `rows` raises.

        Of rows with one id, or ids that differ in nothing but Unicode form, white space or case, the first in source
        order stays. The others collapse into it where they say the same; otherwise they are rejected.
        """
        self._writer.flush()
        with self._writer.transaction() as db:
            db.execute("DROP INDEX IF EXISTS problems_draw")
            db.execute("DELETE FROM problems")
            db.execute("DELETE FROM source_rejections")
            count = 0
            for count, row in enumerate(rows, start=1):
                _insert(db, count, row)
            collapsed = _settle_twins(db)
            db.execute("CREATE UNIQUE INDEX problems_draw ON problems (draw, problem_id)")
            counts = IngestCounts(
                rows=count,
                problems=_count(db, "problems"),
                rejected=_count(db, "source_rejections"),
                collapsed=collapsed,
            )
            facts = [("source_key", source_key), ("counts", msgspec.json.encode(counts).decode())]
            db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts)
        return counts

    def count_problems(self) -> int:
        """Of the whole recipe, or of the shard that this is the spool of."""
        query = f"SELECT count(*) FROM problems WHERE true{self._mine}"  # noqa: S608 - numbers only
        return self._one(query, db=self._problems)[0]  # type: ignore[index, no-any-return]

    def problems(self, *, of_all_shards: bool = False) -> Iterator[Problem]:
        """All problems, or those of the shard, in the order of `draw(problem_id)`, one at a time.

        No read transaction stays open between two of them, so a build of days does not make the write-ahead log grow.
        """
        mine = "" if of_all_shards else self._mine
        query = (
            f"SELECT draw, problem_id, seq FROM problems WHERE (draw, problem_id) > (?, ?){mine} "  # noqa: S608 - numbers only
            "ORDER BY draw, problem_id LIMIT ?"
        )
        last: tuple[int, str] = (-(1 << 63), "")
        while page := self._all(query, (*last, _PAGE), db=self._problems):
            for _, _, seq in page:
                row = self._one("SELECT payload FROM problems WHERE seq = ?", (seq,), db=self._problems)
                if row is not None:
                    yield _problem_decoder.decode(unpack(row[0]))
            last = page[-1][:2]

    def source_rejections(self) -> Iterator[SourceRejection]:
        """Rows that became no problem, in source order."""
        last = 0
        query = "SELECT seq FROM source_rejections WHERE seq > ? ORDER BY seq LIMIT ?"
        while page := self._all(query, (last, _PAGE), db=self._problems):
            for (seq,) in page:
                row = self._one("SELECT payload FROM source_rejections WHERE seq = ?", (seq,), db=self._problems)
                if row is not None:
                    yield _rejection_decoder.decode(unpack(row[0]))
            last = page[-1][0]

    # ---- outcomes

    def get_outcome(self, problem_id: str, key: str) -> bytes | None:
        """What was made of a problem under this key, in this run or an earlier one; it then counts as of this run."""
        if (waiting := self._writer.waiting(problem_id)) is not None:
            return waiting[1] if waiting[0] == key else None
        row = self._one("SELECT payload FROM outcomes WHERE problem_id = ? AND key = ?", (problem_id, key))
        if row is None:
            return None
        self._writer.touch(problem_id)
        return unpack(row[0])

    async def put_outcome(self, problem_id: str, key: str, payload: bytes) -> None:
        """Keep an outcome in place of the problem's last one. Waits while too many bytes wait for the disk."""
        await self._writer.put(problem_id, key, payload)

    async def flush(self) -> None:
        """Return once every outcome put so far is on disk."""
        await asyncio.to_thread(self._writer.flush)

    def outcomes(self) -> Iterator[tuple[str, bytes]]:
        """Problem id and outcome of every problem that this run put or got one for, by problem id."""
        self._writer.flush()
        last = ""
        while page := self._all(
            "SELECT problem_id FROM touched WHERE problem_id > ? ORDER BY 1 LIMIT ?", (last, _PAGE)
        ):
            for (problem_id,) in page:
                row = self._one("SELECT payload FROM outcomes WHERE problem_id = ?", (problem_id,))
                if row is not None:
                    yield problem_id, unpack(row[0])
            last = page[-1][0]

    def count_outcomes(self) -> int:
        """How many problems `outcomes` would give."""
        self._writer.flush()
        return self._one("SELECT count(*) FROM touched")[0]  # type: ignore[index, no-any-return]

    def adopt(self, path: Path) -> None:
        """Take over the outcomes in a shard's spool, in place of older ones of the same problems; it stays as it is."""
        connect(path).close()  # one of another version is made anew, empty
        self._writer.adopt(path)

    def without_outcome(self, shards: int) -> dict[int, tuple[int, int]]:
        """For each of `shards` shards: problems without an outcome in this run, and problems in all; those with none lacking left out."""
        self._writer.flush()
        query = (
            f"SELECT {_shard_number(shards)} AS shard, sum(t.problem_id IS NULL) AS lacking, count(*) "  # noqa: S608 - numbers only
            "FROM problems LEFT JOIN touched AS t USING (problem_id) GROUP BY shard HAVING lacking > 0 ORDER BY shard"
        )
        return {shard: (lacking, total) for shard, lacking, total in self._all(query, ())}

    def close(self) -> None:
        """Write what waits and let go of the file; safe to call twice."""
        try:
            self._writer.close()
        finally:
            self._read.close()
            self._problems.close()

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- queries

    def _fact(self, name: str) -> str | None:
        row = self._one("SELECT value FROM facts WHERE name = ?", (name,), db=self._problems)
        return str(row[0]) if row else None

    def _one(
        self, query: str, values: tuple[Any, ...] = (), db: sqlite3.Connection | None = None
    ) -> tuple[Any, ...] | None:
        with self._reading:
            return (db or self._read).execute(query, values).fetchone()  # type: ignore[no-any-return]

    def _all(self, query: str, values: tuple[Any, ...], db: sqlite3.Connection | None = None) -> list[tuple[Any, ...]]:
        with self._reading:
            return (db or self._read).execute(query, values).fetchall()


def _shard_number(count: int) -> str:
    """`shard_of` in SQL: draws are stored less 2**63, and SQLite's remainder has the sign of what it divides."""
    return f"((draw % {count} + {count}) % {count} + {(1 << 63) % count}) % {count}"


def _insert(db: sqlite3.Connection, seq: int, row: SourceProblem | SourceRejection) -> None:
    if isinstance(row, SourceRejection):
        db.execute("INSERT INTO source_rejections VALUES (?, ?)", (seq, pack(msgspec.msgpack.encode(row))))
        return
    problem = row.problem
    values = (
        seq,
        draw(problem.problem_id) - (1 << 63),  # SQLite's integers are signed
        problem.problem_id,
        _digest(_one_form(problem.problem_id)),
        _content(problem),
        problem.source_index,
        row.file,
        row.row_number,
        pack(msgspec.msgpack.encode(problem)),
    )
    db.execute("INSERT INTO problems VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)


def _one_form(problem_id: str) -> str:
    """What all spellings of an id share that a person, a file system or a join could take for the same."""
    return " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFC", problem_id).casefold()).split())


def _content(problem: Problem) -> bytes:
    """What makes two rows of one id say the same: all but where they come from and the columns that only filters read."""
    said = (
        qid(problem.question),
        problem.gold,
        problem.difficulty,
        problem.messages,
        problem.tools,
        problem.options,
        problem.solution,
        problem.chains,
        problem.question_entities,
        problem.answer_entities,
        problem.responses,
    )
    return _digest(msgspec.json.encode(said, order="deterministic"))


def _digest(data: str | bytes) -> bytes:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).digest()[:16]


def _settle_twins(db: sqlite3.Connection) -> int:
    """Leave one problem an id; return how many rows collapsed into it. The others become rejections under their seq."""
    db.execute("CREATE INDEX problems_twin ON problems (twin)")
    first = "JOIN problems AS f ON f.seq = (SELECT min(seq) FROM problems WHERE twin = p.twin) WHERE p.seq > f.seq"
    same = f"SELECT p.seq FROM problems AS p {first} AND p.content = f.content"  # noqa: S608 - fixed text
    collapsed = db.execute(f"DELETE FROM problems WHERE seq IN ({same})").rowcount  # noqa: S608 - fixed text
    columns = "p.seq, p.source, p.file, p.row_number, p.payload, f.source, f.file, f.row_number, f.payload"
    clashes = db.execute(f"SELECT {columns} FROM problems AS p {first}")  # noqa: S608 - fixed text
    for seq, *clash in clashes:
        _insert(db, seq, _conflict(*clash))
    db.execute("DELETE FROM problems WHERE seq IN (SELECT seq FROM source_rejections)")
    db.execute("DROP INDEX problems_twin")
    return collapsed


def _conflict(
    source: int,
    file: str,
    number: int,
    payload: bytes,
    first_source: int,
    first_file: str,
    first_number: int,
    first: bytes,
) -> SourceRejection:
    mine, kept = (_problem_decoder.decode(unpack(packed)) for packed in (payload, first))
    fields = (
        *("problem_id", "question", "gold", "difficulty", "messages", "tools", "options", "solution", "chains"),
        *("question_entities", "answer_entities", "responses"),
    )
    return SourceRejection(
        source=source,
        file=file,
        row_number=number,
        problem_id=mine.problem_id,
        reason="conflicting_duplicate",
        evidence={
            **place(mine.source, file, number),
            "first_id": kept.problem_id,
            "first_row": first_number,
            "first_file": first_file,
            "first_source": first_source,
            "differs": [name for name in fields if getattr(mine, name) != getattr(kept, name)],
        },
        row=json_text(msgspec.to_builtins(mine)),
    )


def _count(db: sqlite3.Connection, table: str) -> int:
    return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608 - fixed names
