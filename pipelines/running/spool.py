"""The working file of one dataset's builds: its problems, the rows its sources lost, what a method made of each problem.

    sources ──ingest──▶ problems (in draw order) ──method──▶ outcomes (by problem id) ──▶ tables

Everything here can be made again from the sources and the journal, so a file that this version cannot read is replaced.
One process at a time writes (the build holds a lock); kill -9 loses at most the last group of outcomes.
"""

import asyncio
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tracemill.pipelines.reading.sources import SourceProblem, SourceRejection
from tracemill.pipelines.reading.twins import insert, problem_of, settle_twins
from tracemill.pipelines.running.spool_writer import OutcomeWriter, connect, unpack
from tracemill.schemas.rows import Problem, draw

_PAGE = 512
_rejection_decoder = msgspec.msgpack.Decoder(SourceRejection)


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestCounts:
    """What became of the rows of all sources: rows = problems + rejected + collapsed + merged."""

    rows: int
    problems: int
    rejected: int
    collapsed: int
    """Rows that say the same as an earlier one of the same id."""
    merged: int = 0
    """Rows that bring further traces of a problem that stands in an earlier one."""


class Spool:
    """Problems in, outcomes out. Opening it starts a run: `outcomes` gives what this run put or got."""

    _whole: str | None = None
    """In a shard: which problems the build admits, whatever shard they are of."""

    def __init__(self, path: Path, *, queue_bytes: int = 64 << 20, problems: Path | None = None) -> None:
        """`queue_bytes` is how much outcome may wait for the disk before `put_outcome` waits too.

        `problems` is another spool whose problems are read in place of its own; see `of_shard`.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = OutcomeWriter(path, queue_bytes)
        self._path = path
        self._read = connect(path)
        self._problems = self._read if problems is None else connect(problems)
        self._reading = threading.Lock()
        self._admitted = "1"
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
        order stays. The others collapse into it where they say the same; those that bring further traces of the same
        problem are merged into it; the rest are rejected.
        """
        self._writer.flush()
        with self._writer.transaction() as db:
            db.execute("DROP INDEX IF EXISTS problems_draw")
            db.execute("DELETE FROM problems")
            db.execute("DELETE FROM source_rejections")
            count, by_source = 0, Counter[int]()
            for count, row in enumerate(rows, start=1):
                by_source[row.source if isinstance(row, SourceRejection) else row.problem.source_index] += 1
                insert(db, count, row)
            collapsed, merged = settle_twins(db)
            db.execute("CREATE UNIQUE INDEX problems_draw ON problems (draw, problem_id)")
            counts = IngestCounts(
                rows=count,
                problems=_count(db, "problems"),
                rejected=_count(db, "source_rejections"),
                collapsed=collapsed,
                merged=merged,
            )
            facts = [
                ("source_key", source_key),
                ("counts", msgspec.json.encode(counts).decode()),
                ("by_source", msgspec.json.encode(by_source).decode()),
            ]
            db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts)
        return counts

    def rows_by_source(self) -> dict[int, int]:
        """How many rows the last ingest read of each source."""
        text = self._fact("by_source")
        return msgspec.json.decode(text, type=dict[int, int]) if text else {}

    def admit(self, cuts: Mapping[int, int]) -> None:
        """Of each source named here, leave out the problems whose draw is above its cut; of the others, none."""
        beyond = (f"(source = {int(source)} AND draw > {cut - (1 << 63)})" for source, cut in sorted(cuts.items()))
        self._admitted = f"NOT ({' OR '.join(beyond)})" if cuts else "1"

    def of_shard(self, path: Path, number: int, count: int) -> "Spool":
        """The spool of one of `count` shards, in a file of its own: its problems are those of its number that are admitted here."""
        shard = Spool(path, problems=self._path)
        shard._whole, shard._admitted = self._admitted, f"{self._admitted} AND {_shard_number(count)} = {number}"
        return shard

    def count_problems(self, *, source: int | None = None, left_out_too: bool = False) -> int:
        """How many problems are admitted, of one source or of all; `left_out_too`: how many the sources hold."""
        where = "1" if left_out_too else self._admitted
        where += f" AND source = {source}" if source is not None else ""
        query = f"SELECT count(*) FROM problems WHERE {where}"  # noqa: S608 - numbers only
        return self._one(query, db=self._problems)[0]  # type: ignore[index, no-any-return]

    def draw_at(self, source: int, place: int) -> int:
        """The draw of the problem at this place of its source, counted from 1 in the order of draws."""
        query = "SELECT draw FROM problems WHERE source = ? ORDER BY draw, problem_id LIMIT 1 OFFSET ?"
        return self._one(query, (source, place - 1), db=self._problems)[0] + (1 << 63)  # type: ignore[index, no-any-return]

    def problems(self, *, left_out_too: bool = False) -> Iterator[Problem]:
        """The admitted problems, or all, in the order of `draw(problem_id)`, one at a time.

        No read transaction stays open between two of them, so a build of days does not make the write-ahead log grow.
        """
        where = "1" if left_out_too else self._admitted
        query = (
            f"SELECT draw, problem_id, seq FROM problems WHERE (draw, problem_id) > (?, ?) AND {where} "  # noqa: S608
            "ORDER BY draw, problem_id LIMIT ?"
        )
        last: tuple[int, str] = (-(1 << 63), "")
        while page := self._all(query, (*last, _PAGE), db=self._problems):
            for _, _, seq in page:
                row = self._one("SELECT payload FROM problems WHERE seq = ?", (seq,), db=self._problems)
                if row is not None:
                    yield problem_of(row[0])
            last = page[-1][:2]

    def neighbours(self, problem: Problem, count: int) -> tuple[Problem, ...]:
        """The `count` admitted problems that follow in the order of draws, and from its beginning behind the last; fewer where there are fewer.

        In a shard they are those of the whole build, so that no number of shards changes who stands beside whom.
        """
        query = (
            f"SELECT payload FROM problems WHERE (draw, problem_id) %s (?, ?) AND {self._whole or self._admitted} "  # noqa: S608
            "ORDER BY draw, problem_id LIMIT ?"
        )
        place = (draw(problem.problem_id) - (1 << 63), problem.problem_id)
        found = self._all(query % ">", (*place, count), db=self._problems)
        if len(found) < count:
            found += self._all(query % "<", (*place, count - len(found)), db=self._problems)
        return tuple(problem_of(payload) for (payload,) in found)

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
            f"FROM problems LEFT JOIN touched AS t USING (problem_id) WHERE {self._admitted} "
            "GROUP BY shard HAVING lacking > 0 ORDER BY shard"
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


def _count(db: sqlite3.Connection, table: str) -> int:
    return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608 - fixed names
