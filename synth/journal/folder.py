"""One view over all segments of a journal: whose is whose, what a crash left, and what is merged away."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tracemill.schemas.errors import DiskFull, RecipeError
from tracemill.synth.journal.asked import Row, fields_of, key_of
from tracemill.synth.journal.files import (
    MERGING,
    OWN,
    SUFFIX,
    FileLock,
    alone,
    is_sealed,
    refuse_remote,
    remove,
    size,
    sync_folder,
    unique_name,
    wal,
)
from tracemill.synth.journal.merge import Merge, choose
from tracemill.synth.journal.segment import Entry, Segment, explained


class Folder:
    """All segments as one: lookups see every one of them, appends go to a segment of this process.

    `lookup` may be called from several threads, `append` from one.
    """

    def __init__(self, path: Path | None, mark: str = "", *, housekeeping: bool = True) -> None:
        self._path = path
        self._mark = mark
        self._housekeeping = housekeeping
        self._turn = threading.Lock()  # connections are used by one thread at a time
        self._own: Segment | None = None
        self._lock: FileLock | None = None
        self._readers: list[Segment] = []
        self._merge: Merge | None = None
        if path is None:
            self._own = Segment(None, "append")
            self._readers = [self._own]
            return
        refuse_remote(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / "lock").touch()
        except OSError as error:
            raise RecipeError(
                f"the journal cannot be written in {path}: {error}. Make the folder writable, or name another store "
                "with TRACEMILL_STORE"
            ) from error
        self._open(path)

    def _open(self, path: Path) -> None:
        with alone(path):
            for stray in path.glob(f"*{OWN}"):  # killed before its segment was there
                if not stray.with_suffix(SUFFIX).exists():
                    stray.unlink()
            try:
                for file in sorted(path.glob(f"*{SUFFIX}")):
                    if segment := _open_segment(file):
                        self._readers.append(segment)
                self._drop_replaced()
            except BaseException:
                self._close_readers()
                raise
        self._tidy(path)

    def _tidy(self, path: Path) -> None:
        """Begin to merge, in a thread, where there is anything to merge and none is at it."""
        if not self._housekeeping:
            return
        sealed = [s.path for s in self._readers if s.mode == "sealed" and s.path is not None]
        if self._merge is not None and self._merge.busy:
            return
        if choose(sealed) or any(path.glob(f"*{MERGING}")):
            self._merge = Merge(path, self._swap)

    def seal(self) -> None:
        """End the own segment: it never changes again, and what is appended next begins another. For the appending thread."""
        own, lock, path = self._own, self._lock, self._path
        if own is None or own.path is None or lock is None or path is None:
            return
        self._own = self._lock = None
        with alone(path), self._turn:
            for reader in [reader for reader in self._readers if reader.path == own.path]:
                self._readers.remove(reader)
                reader.close()
            try:
                _seal(own, own.path)
            finally:
                lock.release()
                if own.path.exists():
                    self._readers.append(Segment(own.path, "sealed" if is_sealed(own.path) else "live"))

    def tidy(self) -> None:
        """Merge what was sealed since the journal was opened, where that is worth it."""
        if self._path is not None:
            with self._turn:
                self._tidy(self._path)

    def _drop_replaced(self) -> None:
        """Finish a merge that was killed between its rename and the removal of what it had merged."""
        replaced = {name for segment in self._readers for name in segment.sources()}
        for segment in list(self._readers):
            if segment.path is not None and segment.path.name in replaced and segment.mode == "sealed":
                self._readers.remove(segment)
                segment.close()
                remove(segment.path)

    def lookup(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """What is stored, checksum and all, for those of the keys that any segment has."""
        found: dict[bytes, bytes] = {}
        with self._turn:
            for segment in self._readers:
                for key, stored in segment.lookup(keys).items():
                    if key not in found or stored < found[key]:
                        found[key] = stored
        return found

    def asked_for(self, keys: Sequence[bytes]) -> dict[bytes, dict[str, Any]]:
        """All fields of the requests with these keys, where a segment keeps them; proven by their key."""
        found: dict[bytes, dict[str, Any]] = {}
        with self._turn:
            for segment in self._readers:
                for key, row in segment.asked_for(keys).items():
                    fields = None if key in found else whole(segment, row)
                    if fields is not None and key_of(fields) == key.hex():
                        found[key] = fields
        return found

    def segments(self) -> list[Segment]:
        """The segments that are open, oldest first. For one thread, with housekeeping off and nobody appending."""
        return sorted(self._readers, key=lambda segment: segment.name)

    def append(self, entries: Sequence[Entry]) -> None:
        """Durable when this returns. Raises DiskFull, after which nothing of `entries` is there."""
        if self._path is None:
            with self._turn:
                self._readers[0].append(entries)
            return
        own = self._own or self._create(self._path)
        own.append(entries)

    def _create(self, folder: Path) -> Segment:
        file = folder / f"{unique_name(self._mark)}{SUFFIX}"
        with explained(f"journal segment {file}"), alone(folder):
            lock = FileLock.take(file.with_suffix(OWN))
            try:
                own = Segment(file, "append")
                sync_folder(folder)
                reader = Segment(file, "live")
            except BaseException:
                remove(file)
                if lock is not None:
                    lock.release()
                raise
        self._lock, self._own = lock, own
        with self._turn:
            self._readers.append(reader)
        return own

    def _swap(self, sources: Sequence[Path], merged: Path) -> None:
        """Put what a merge wrote in the place of what it read; called with the merge still holding its lock."""
        with alone(merged.parent), self._turn:
            segment = Segment(merged.with_suffix(MERGING), "sealed")
            segment.close()  # it opens: only now may it replace anything
            merged.with_suffix(MERGING).rename(merged)
            sync_folder(merged.parent)
            replaced = [s for s in self._readers if s.path in set(sources)]
            self._readers = [s for s in self._readers if s not in replaced] + [Segment(merged, "sealed")]
            for source in replaced:
                source.close()
            for path in sources:
                remove(path)

    def measure(self) -> tuple[int, int, int]:
        """Entries, bytes on disk, segments."""
        with self._turn:
            entries = sum(segment.count() for segment in self._readers)
            files = [segment.path for segment in self._readers if segment.path is not None]
        return entries, sum(size(file) for path in files for file in (path, wal(path))), len(files)

    def close(self) -> None:
        """Stop merging, close every file, seal the own segment or remove it where nothing was written."""
        if self._merge is not None:
            self._merge.stop()
        self._close_readers()
        own, lock, self._own, self._lock = self._own, self._lock, None, None
        if own is None or own.path is None or lock is None:
            return
        with alone(own.path.parent):
            try:
                _seal(own, own.path)
            except DiskFull:
                pass  # all is in the WAL; the next to open the journal brings it home
            finally:
                lock.release()

    def _close_readers(self) -> None:
        with self._turn:
            for segment in self._readers:
                segment.close()
            self._readers.clear()


def recover(folder: Path) -> None:
    """Seal what killed processes left in a journal that this process has not opened."""
    with explained(f"the journal in {folder}"), alone(folder):
        for file in sorted(folder.glob(f"*{SUFFIX}")):
            if segment := _open_segment(file):
                segment.close()


def whole(segment: Segment, row: Row) -> dict[str, Any] | None:
    """All fields of a request that a segment keeps; None where a part is missing or damaged."""
    try:
        return fields_of(row, segment.part)
    except (KeyError, RecipeError):
        return None


def _open_segment(file: Path) -> Segment | None:
    if not is_sealed(file):
        lock = FileLock.take(file.with_suffix(OWN))
        if lock is not None:
            try:
                _recover(file)
            except DiskFull:
                pass  # readable from its WAL all the same
            finally:
                lock.release()
    if not file.exists():
        return None
    return Segment(file, "sealed" if is_sealed(file) else "live")


def _recover(file: Path) -> None:
    """Seal what a killed process left: every transaction in the WAL that is whole."""
    _seal(Segment(file, "append"), file)


def _seal(segment: Segment, file: Path) -> None:
    try:
        segment.checkpoint()
        empty = segment.count() == 0
    finally:
        segment.close()
    if empty:
        remove(file)
    elif size(wal(file)) == 0:  # else another process was reading; the next to open the journal tries again
        file.with_suffix(OWN).unlink(missing_ok=True)
