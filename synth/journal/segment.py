"""One segment of the journal: an SQLite file of answers, and of what was asked for them, that is only ever appended to.

Inserts go to the end of a table in order of arrival; a unique index finds keys. `stored` is a CRC-32 of key and payload,
then the payload, so a flipped bit is found when it is read. Two payloads for one key: the one whose stored bytes sort first
is the winner, here, between segments and in merges, so every reader sees the same one whatever was written, copied
or merged in which order. Nothing is ever deleted, so the highest row id is the number of entries.
"""

import contextlib
import errno
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from tracemill.schemas.errors import DiskFull, RecipeError, TracemillError
from tracemill.synth.journal.asked import Asked, Row, fields_of, key_of, pack_part, unpack_part

VERSION = 2
OLDEST = 1
APPLICATION_ID = 0x744D4A31
PAGE_SIZE = 16384
"""Holds several payloads of a few KB; 4 KB pages waste up to half of theirs, and larger ones waste more at 80 KB."""
CHECKPOINT_PAGES = 2000
AT_ONCE = 128
"""Keys in one SELECT."""
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

SCHEMA = (
    "CREATE TABLE entries (id INTEGER PRIMARY KEY, key BLOB NOT NULL, stored BLOB NOT NULL)",
    "CREATE UNIQUE INDEX entries_by_key ON entries (key)",
    "CREATE TABLE asked (id INTEGER PRIMARY KEY, problem INTEGER NOT NULL, setting INTEGER NOT NULL, shown INTEGER NOT NULL, "
    "forced INTEGER, salt TEXT NOT NULL, draw INTEGER NOT NULL)",
    "CREATE TABLE parts (id INTEGER PRIMARY KEY, hash INTEGER NOT NULL, body BLOB NOT NULL)",
    "CREATE UNIQUE INDEX parts_by_hash ON parts (hash)",
    "CREATE TABLE sources (name TEXT NOT NULL)",  # the segments that were merged into this one
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)
_SMALLER_WINS = "ON CONFLICT (key) DO UPDATE SET stored = excluded.stored WHERE excluded.stored < stored"
_INSERT = f"INSERT INTO main.entries (key, stored) VALUES (?, ?) {_SMALLER_WINS}"  # noqa: S608 - constants only
COPY = (
    "INSERT INTO main.entries (key, stored) "  # noqa: S608 - constants only
    f"SELECT key, stored FROM source.entries WHERE id BETWEEN ? AND ? ORDER BY id {_SMALLER_WINS}"
)
_ASK = "INSERT OR IGNORE INTO asked SELECT id, ?, ?, ?, ?, ?, ? FROM entries WHERE key = ?"
_PART = "INSERT OR IGNORE INTO parts (hash, body) VALUES (?, ?)"
COPY_ASKED = (
    "INSERT OR IGNORE INTO main.asked SELECT mine.id, problem, setting, shown, forced, salt, draw FROM source.asked "
    "JOIN source.entries AS theirs USING (id) JOIN main.entries AS mine USING (key) WHERE theirs.id BETWEEN ? AND ?"
)
COPY_PARTS = (
    "INSERT OR IGNORE INTO main.parts (hash, body) SELECT hash, body FROM source.parts WHERE id BETWEEN ? AND ?"
)
_ASKED = "SELECT key, problem, setting, shown, forced, salt, draw, asked.id FROM asked JOIN entries USING (id)"
_SELECT = f"SELECT key, stored FROM entries WHERE key IN ({', '.join('?' * AT_ONCE)})"  # noqa: S608 - question marks
FULL_CODES = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE})
"""What SQLite says where the disk, a quota or the limit on file sizes leaves no room."""
_DAMAGED_CODES = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

PARTS_KNOWN = 1 << 16
"""Hashes of parts that a writer remembers to have written."""

Entry = tuple[bytes, bytes, Asked | None]
"""key, payload, and what was asked; None for a verdict, which answers no request."""

Mode = Literal["append", "live", "sealed"]
"""append: the one writer. live: somebody may be writing. sealed: nobody ever will again, so no locks and no WAL."""


class Segment:
    """One open segment. Not thread-safe: its owner takes turns."""

    def __init__(self, path: Path | None, mode: Mode) -> None:
        """Open, or for `append` create; None is a segment in memory. Raises RecipeError for a file that is none."""
        self.path = path
        self.mode = mode
        self._written: set[int] = set()
        with explained(self.name):
            self._db = _connect(path, mode)
            try:
                self._make_ready()
            except BaseException:
                self._db.close()
                raise

    @property
    def name(self) -> str:
        return "the journal in memory" if self.path is None else f"journal segment {self.path}"

    def _make_ready(self) -> None:
        if self.mode != "append":
            _check_version(self._db, self.name)
            if self.mode == "live":
                self._db.execute("PRAGMA query_only = 1")
            self._db.execute("SELECT max(id) FROM entries").fetchone()
        elif self._db.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,):
            create(self._db)
        else:
            _check_version(self._db, self.name)
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        self.keeps_requests = version >= 2

    def lookup(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """What is stored for those of the keys that are here; a damaged entry raises RecipeError."""
        found: dict[bytes, bytes] = {}
        with explained(self.name):
            for start in range(0, len(keys), AT_ONCE):
                some = list(keys[start : start + AT_ONCE])
                some += some[:1] * (AT_ONCE - len(some))  # one statement, prepared once
                found.update(self._db.execute(_SELECT, some).fetchall())
        for key, stored in found.items():
            if stored[:4] != _checksum(key, stored[4:]):
                raise damaged(self.name, f"checksum of entry {key.hex()}")
        return found

    def append(self, entries: Iterable[Entry]) -> None:
        """Add entries in one transaction: on disk when this returns, or none of them and an error."""
        entries = list(entries)
        rows = [(key, _checksum(key, payload) + payload) for key, payload, _ in entries]
        asked = [(*what.row, key) for key, _, what in entries if what is not None]
        parts = {hash_: body for _, _, what in entries if what is not None for hash_, body in what.parts.items()}
        new = [(hash_, pack_part(body)) for hash_, body in parts.items() if hash_ not in self._written]
        with explained(self.name):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany(_INSERT, rows)
                self._db.executemany(_ASK, asked)
                self._db.executemany(_PART, new)
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # a full disk may have rolled it back already
                    self._db.execute("ROLLBACK")
                raise
        if len(self._written) > PARTS_KNOWN:
            self._written.clear()
        self._written.update(parts)

    def asked_ids(self) -> Iterator[tuple[int, int]]:
        """Hash of the problem, and id, of every request that is kept here, in order of arrival."""
        if self.keeps_requests:
            with explained(self.name):
                yield from self._db.execute("SELECT problem, id FROM asked ORDER BY id")

    def asked(self, ids: Sequence[int]) -> list[tuple[bytes, Row, int]]:
        """Key, row and id of each of the requests with these ids."""
        marks = ", ".join("?" * len(ids))
        with explained(self.name):
            found = self._db.execute(f"{_ASKED} WHERE asked.id IN ({marks}) ORDER BY asked.id", ids)
            return [(key, tuple(row), id_) for key, *row, id_ in found]

    def asked_for(self, keys: Sequence[bytes]) -> dict[bytes, Row]:
        """The rows of the requests with these keys, where they are kept here."""
        if not self.keeps_requests:
            return {}
        marks = ", ".join("?" * len(keys))
        with explained(self.name):
            found = self._db.execute(f"{_ASKED} WHERE key IN ({marks})", list(keys))
            return {key: tuple(row) for key, *row, _ in found}

    def part(self, hash_: int) -> Any:
        """The decoded body of a part; KeyError where it is not here."""
        if not self.keeps_requests:
            raise KeyError(hash_)
        with explained(self.name):
            found = self._db.execute("SELECT body FROM parts WHERE hash = ?", (hash_,)).fetchone()
        if found is None:
            raise KeyError(hash_)
        try:
            return unpack_part(found[0])
        except (ValueError, OSError) as error:
            raise damaged(self.name, f"part {hash_:x} of a request: {error}") from error

    def wrong_requests(self) -> Iterator[str]:
        """The keys of the entries whose request, put together again, has another key; every request is read."""
        if not self.keeps_requests:
            return
        part = lru_cache(4096)(self.part)
        with explained(self.name):
            for key, *row, _ in self._db.execute(f"{_ASKED} ORDER BY asked.id"):
                try:
                    good = key_of(fields_of(tuple(row), part)) == key.hex()
                except (KeyError, RecipeError):
                    good = False
                if not good:
                    yield key.hex()

    def count(self) -> int:
        with explained(self.name):
            (highest,) = self._db.execute("SELECT max(id) FROM entries").fetchone()
        return highest or 0

    def sources(self) -> list[str]:
        """File names of the segments that this one replaces."""
        with explained(self.name):
            return [name for (name,) in self._db.execute("SELECT name FROM sources")]

    def integrity(self) -> str:
        """What SQLite's own check finds; an empty text where it finds nothing."""
        with explained(self.name):
            said = [line for (line,) in self._db.execute("PRAGMA integrity_check(3)")]
        return "" if said == ["ok"] else "; ".join(said)

    def damaged_entries(self) -> Iterator[str]:
        """The keys of the entries whose checksum does not fit; every entry is read."""
        with explained(self.name):
            for key, stored in self._db.execute("SELECT key, stored FROM entries ORDER BY id"):
                if stored[:4] != _checksum(key, stored[4:]):
                    yield key.hex()

    def checkpoint(self) -> None:
        """Bring everything from the WAL into the file, as far as readers elsewhere allow."""
        with explained(self.name):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        self._db.close()


def payload_of(stored: bytes) -> bytes:
    """What was appended, without its checksum."""
    return stored[4:]


def uri(path: Path, *, immutable: bool) -> str:
    """The SQLite name of an existing file."""
    return f"file:{quote(str(path))}?" + ("mode=ro&immutable=1" if immutable else "mode=rw")


def create(db: sqlite3.Connection) -> None:
    """Make the tables of an empty segment, all or nothing."""
    db.execute("BEGIN IMMEDIATE")
    for statement in SCHEMA:
        db.execute(statement)
    db.execute("COMMIT")


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn what SQLite and the system say into an error that a person can act on."""
    try:
        yield
    except sqlite3.Error as error:
        raise _explain(what, error) from error
    except OSError as error:
        if error.errno in NO_ROOM:
            raise _full(what, str(error)) from error
        raise RecipeError(f"{what} cannot be used: {error}") from error


def damaged(what: str, how: str) -> RecipeError:
    return RecipeError(
        f"{what} is damaged ({how}). Restore the file from a copy, or move it away: what it held is then sampled again"
    )


def _explain(what: str, error: sqlite3.Error) -> TracemillError:
    code = getattr(error, "sqlite_errorcode", 0)
    if code in FULL_CODES:
        return _full(what, str(error))
    if code & 0xFF in _DAMAGED_CODES or "no such table" in str(error):
        return damaged(what, str(error))
    return RecipeError(f"{what} cannot be used: {error} ({getattr(error, 'sqlite_errorname', 'SQLITE_ERROR')})")


def _full(what: str, why: str) -> DiskFull:
    return DiskFull(f"{what}: no room left on the disk or in its quota ({why}). Make room and run again")


def _connect(path: Path | None, mode: Mode) -> sqlite3.Connection:
    if path is None:
        return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    if mode != "append":
        name = uri(path, immutable=mode == "sealed")
        return sqlite3.connect(name, uri=True, timeout=60, isolation_level=None, check_same_thread=False)
    db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
    try:
        db.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        db.execute(f"PRAGMA journal_size_limit = {2 * CHECKPOINT_PAGES * PAGE_SIZE}")
        db.execute("PRAGMA cache_size = -32768")
    except BaseException:
        db.close()
        raise
    return db


def _check_version(db: sqlite3.Connection, name: str) -> None:
    (application,) = db.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID:
        raise damaged(name, "not a segment of a journal")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if not OLDEST <= version <= VERSION:
        raise RecipeError(
            f"{name} has format {version}; this tracemill reads formats {OLDEST} to {VERSION}. "
            "Upgrade tracemill, or move the file away: what it holds is then sampled again"
        )


def _checksum(key: bytes, payload: bytes) -> bytes:
    return zlib.crc32(payload, zlib.crc32(key)).to_bytes(4, "big")
