"""Keeps the number of sealed segments small: a thread that copies many into one, beside the work.

Segments are grouped in tiers by size, each four times the one below, and a merge takes a whole tier and all smaller ones. So
an entry is copied a few times for each fourfold growth of the journal, and a large segment is not copied again for the
sake of a small one. A merge that is stopped or killed leaves a file that nobody reads and that the next one removes.
"""

import os
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tracemill.schemas.errors import TracemillError
from tracemill.synth.journal.files import MERGING, SUFFIX, FileLock, alone, remove, sealed_segments, size, unique_name
from tracemill.synth.journal.segment import COPY, COPY_ASKED, COPY_PARTS, PAGE_SIZE, create, explained, uri

KEEP = 8
"""So many sealed segments are left alone: a lookup asks each."""
FIRST_TIER = 1 << 20
MERGED = "merged"
"""Ends the name of a segment that is nobody's own; what it was made of is in its table `sources`."""
ROWS_AT_ONCE = 500
"""Between two looks at whether to stop."""

Swap = Callable[[Sequence[Path], Path], None]


class Merge:
    """Merges in a thread of its own until there is nothing to merge, or `stop`."""

    def __init__(self, folder: Path, swap: Swap) -> None:
        """`swap(sources, merged)` puts the merged file, still named `.merging`, in the place of its sources."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(folder, swap), name="journal-merge", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self, folder: Path, swap: Swap) -> None:
        try:
            while merge(folder, swap, self._stopping.is_set):
                pass
        except TracemillError:
            # No room, or a damaged segment. All sources are still there, and a lookup says what is wrong with them
            # if it matters; that the housekeeping failed is no reason to stop a run.
            return


def merge(folder: Path, swap: Swap, stopping: Callable[[], bool] = lambda: False) -> bool:
    """Merge once; False where there is nothing to do, another process is at it, or `stopping` said so."""
    with explained(f"the journal in {folder}"):
        lock = FileLock.take(folder / "merge.lock")
        if lock is None:
            return False
        target = folder / f"{unique_name(MERGED)}{SUFFIX}"
        half = target.with_suffix(MERGING)
        try:
            for left in folder.glob(f"*{MERGING}"):  # by a merge that was killed: we hold the lock
                remove(left)
            with alone(folder):
                sources = choose(sealed_segments(folder))
            if not sources or not copy(sources, half, stopping):
                return False
            swap(sources, target)
            return True
        finally:
            remove(half)
            lock.release()


def choose(segments: Iterable[Path], keep: int = KEEP) -> list[Path]:
    """What to merge: the smallest tier of at least two segments, with all that is smaller; often nothing."""
    sizes = {path: size(path) for path in segments}
    if len(sizes) <= keep:
        return []
    tiers: dict[int, list[Path]] = defaultdict(list)
    for path, bytes_ in sizes.items():
        tiers[_tier(bytes_)].append(path)
    crowded = [tier for tier, members in tiers.items() if len(members) > 1]
    if not crowded:
        return []
    return [path for path in sizes if _tier(sizes[path]) <= min(crowded)]


def copy(sources: Sequence[Path], half: Path, stopping: Callable[[], bool]) -> bool:
    """Write all entries of the sources into one file, durably; False if stopped on the way."""
    db = sqlite3.connect(half, isolation_level=None, uri=True)
    try:
        db.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA cache_size = -65536")
        create(db)
        for source in sources:
            if not _copy_one(db, source, stopping):
                return False
    finally:
        db.close()
    fd = os.open(half, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return True


def _copy_one(db: sqlite3.Connection, source: Path, stopping: Callable[[], bool]) -> bool:
    db.execute("ATTACH ? AS source", (uri(source, immutable=True),))
    try:
        (version,) = db.execute("PRAGMA source.user_version").fetchone()
        copies = (
            [("parts", COPY_PARTS), ("entries", COPY), ("entries", COPY_ASKED)] if version >= 2 else [("entries", COPY)]
        )
        for table, copied in copies:
            (last,) = db.execute(f"SELECT max(id) FROM source.{table}").fetchone()  # noqa: S608 - fixed names
            for first in range(1, (last or 0) + 1, ROWS_AT_ONCE):
                if stopping():
                    return False
                db.execute(copied, (first, first + ROWS_AT_ONCE - 1))
        # of a merged source its own sources too, so that the names tell all that a segment holds
        db.execute("INSERT INTO main.sources (name) SELECT name FROM source.sources UNION SELECT ?", (source.name,))
        return True
    finally:
        db.execute("DETACH source")


def _tier(bytes_: int) -> int:
    return (bytes_ // FIRST_TIER).bit_length() // 2
