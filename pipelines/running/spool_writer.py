"""The spool's SQLite: its tables, its transactions, and the thread that writes outcomes in groups."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from tracemill.schemas.errors import DiskFull
from tracemill.synth.journal.segment import FULL_CODES

VERSION = 1
_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE problems (
  seq INTEGER PRIMARY KEY,      -- order in the sources
  draw INTEGER NOT NULL, problem_id TEXT NOT NULL,
  twin BLOB NOT NULL,           -- equal for ids that differ in spelling only
  content BLOB NOT NULL,        -- equal for rows that say the same
  source INTEGER NOT NULL, file TEXT NOT NULL, row_number INTEGER NOT NULL,
  payload BLOB NOT NULL
);
CREATE TABLE source_rejections (seq INTEGER PRIMARY KEY, payload BLOB NOT NULL);
CREATE TABLE outcomes (problem_id TEXT PRIMARY KEY, key TEXT NOT NULL, payload BLOB NOT NULL);
CREATE TABLE touched (problem_id TEXT PRIMARY KEY) WITHOUT ROWID;   -- problems with an outcome of this run
"""
_SMALL = 512
_zstd = pa.Codec("zstd", compression_level=3)


def pack(data: bytes) -> bytes:
    """Bytes as they are stored: a tag, then the bytes, compressed where that pays."""
    if len(data) < _SMALL:
        return b"\0" + data
    return b"\1" + len(data).to_bytes(8, "big") + _zstd.compress(data, asbytes=True)


def unpack(stored: bytes) -> bytes:
    if stored[0] == 0:
        return stored[1:]
    return bytes(_zstd.decompress(stored[9:], int.from_bytes(stored[1:9], "big"), asbytes=True))


def connect(path: Path) -> sqlite3.Connection:
    """Open the file with its tables; one that is no spool of this version is removed and begun anew."""
    if path.exists() and not current(path):
        for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
            file.unlink(missing_ok=True)
    # any thread may use a connection, one at a time: the callers hold locks
    db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    with disk_errors(path):
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(
            "PRAGMA synchronous = NORMAL"
        )  # a power cut may lose the last outcomes, which the journal makes again
        db.execute("PRAGMA cache_size = -16384")
        db.execute("PRAGMA journal_size_limit = 67108864")
        if _version(db) != VERSION:
            db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
    return db


def in_memory() -> sqlite3.Connection:
    """An empty spool that no file holds."""
    db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    db.executescript(_TABLES)
    return db


def current(path: Path) -> bool:
    """Whether a file is a spool of this version."""
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as db:
        try:
            return _version(db) == VERSION
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorname not in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
                raise
            return False


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """A full disk as what it is, instead of as a fault of the database."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode not in FULL_CODES:
            raise
        raise DiskFull(f"{path}: the disk is full; make room and run again, nothing is lost") from error


class OutcomeWriter:
    """Commits outcomes in groups from a thread of its own: what arrives during one commit is the next group.

    It owns the only connection that writes; `transaction` lends it out.
    """

    def __init__(self, path: Path, queue_bytes: int) -> None:
        self._path, self._queue_bytes = path, queue_bytes
        self._db = connect(path)
        self._writing = threading.Lock()
        self._changed = threading.Condition()
        self._next: dict[str, tuple[str, bytes] | None] = {}  # None: only touched
        self._group: dict[str, tuple[str, bytes] | None] = {}
        self._bytes = 0
        self._failure: BaseException | None = None
        self._closing = False
        self._turn: asyncio.Lock | None = None
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of the block or nothing of it."""
        with self._writing, disk_errors(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                # SQLite has rolled back by itself where the disk was full
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def adopt(self, path: Path) -> None:
        """Copy the outcomes of another spool, in place of those of the same problems."""
        with self._writing, disk_errors(self._path):
            self._db.execute("ATTACH ? AS other", (str(path),))
            try:
                self._db.execute(
                    "INSERT OR REPLACE INTO main.outcomes SELECT problem_id, key, payload FROM other.outcomes"
                )
            finally:
                self._db.execute("DETACH other")

    def waiting(self, problem_id: str) -> tuple[str, bytes] | None:
        """The outcome of a problem that is not on disk yet."""
        with self._changed:
            return self._next.get(problem_id) or self._group.get(problem_id)

    def touch(self, problem_id: str) -> None:
        with self._changed:
            self._raise_failure()
            self._next.setdefault(problem_id, None)
            self._changed.notify_all()

    async def put(self, problem_id: str, key: str, payload: bytes) -> None:
        while not self._try_put(problem_id, key, payload):
            # only the first of all that wait looks again and again
            if self._turn is None:
                self._turn = asyncio.Lock()
            async with self._turn:
                while not self._peek_room(payload):  # noqa: ASYNC110 - the room is made by a thread
                    await asyncio.sleep(0.002)

    def flush(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None or not (self._next or self._group))
            self._raise_failure()

    def close(self) -> None:
        try:
            if not self._closing:
                self.flush()
        finally:
            with self._changed:
                self._closing = True
                self._changed.notify_all()
            self._thread.join()
            self._db.close()

    def _room(self, payload: bytes) -> bool:
        """Room, or a reason not to wait for it. What is larger than the whole queue goes through it alone."""
        return self._failure is not None or not self._bytes or self._bytes + len(payload) <= self._queue_bytes

    def _peek_room(self, payload: bytes) -> bool:
        with self._changed:
            return self._room(payload)

    def _try_put(self, problem_id: str, key: str, payload: bytes) -> bool:
        with self._changed:
            if room := self._room(payload):
                self._add(problem_id, key, payload)
            return room

    def _add(self, problem_id: str, key: str, payload: bytes) -> None:
        self._raise_failure()
        replaced = self._next.get(problem_id)
        self._bytes += len(payload) - (len(replaced[1]) if replaced else 0)
        self._next[problem_id] = (key, payload)
        self._changed.notify_all()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._next or self._closing)
                if not self._next or self._failure:
                    return
                self._group, self._next = self._next, {}
            try:
                self._commit()
            except BaseException as failure:  # noqa: BLE001 - raised again by the next put, flush or close
                with self._changed:
                    self._failure = failure
                    self._changed.notify_all()
                return
            with self._changed:
                self._bytes -= sum(len(outcome[1]) for outcome in self._group.values() if outcome)
                self._group = {}
                self._changed.notify_all()

    def _commit(self) -> None:
        packed = [(problem_id, put[0], pack(put[1])) for problem_id, put in self._group.items() if put]
        with self.transaction() as db:
            db.executemany("INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?)", packed)
            db.executemany("INSERT OR IGNORE INTO touched VALUES (?)", [(problem_id,) for problem_id in self._group])
