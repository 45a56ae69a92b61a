"""Looks after a journal that no build has open: what is damaged (`tracemill fsck`), what a killed merge left (`tracemill gc`)."""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tracemill.schemas.errors import TracemillError
from tracemill.synth.journal.files import MERGING, SUFFIX, FileLock, alone, is_sealed, sealed_segments, size
from tracemill.synth.journal.files import remove as remove_segment
from tracemill.synth.journal.segment import Segment


@dataclass(frozen=True, slots=True)
class Checked:
    """One segment: how many entries it holds, and what is wrong with it, where anything is."""

    path: Path
    entries: int
    fault: str = ""


def check(folder: Path) -> Iterator[Checked]:
    """Every segment of the journal in `folder`: SQLite's own integrity check, the checksum of every entry, every request.

    Segments that a running build appends to are read as far as they go.
    """
    for file in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            segment = Segment(file, "sealed" if is_sealed(file) else "live")
        except TracemillError as error:
            if file.exists():  # else it was merged away while we looked
                yield Checked(file, 0, str(error))
            continue
        try:
            yield Checked(file, segment.count(), segment.integrity() or _first_bad(segment) or _first_wrong(segment))
        except (TracemillError, sqlite3.Error) as error:
            yield Checked(file, 0, str(error))
        finally:
            segment.close()


def _first_bad(segment: Segment) -> str:
    bad = list(segment.damaged_entries())
    return f"{len(bad):,} entries fail their checksum; the first is {bad[0]}" if bad else ""


def _first_wrong(segment: Segment) -> str:
    wrong = list(segment.wrong_requests())
    return f"{len(wrong):,} requests do not hash to their key; the first is {wrong[0]}" if wrong else ""


def leftovers(folder: Path, *, remove: bool) -> Iterator[tuple[Path, str, int]]:
    """Files that nobody will read again, why, and their bytes: halves of merges, and segments that were merged into another.

    Nothing is given while a merge runs.
    """
    merging = FileLock.take(folder / "merge.lock")
    if merging is None:
        return
    try:
        with alone(folder):
            found = [(path, "half of a merge that was killed") for path in sorted(folder.glob(f"*{MERGING}"))]
            found += [(path, "merged into another segment") for path in _replaced(folder)]
            for path, why in found:
                bytes_ = size(path)
                if remove:
                    remove_segment(path)
                yield path, why, bytes_
    finally:
        merging.release()


def _replaced(folder: Path) -> Iterator[Path]:
    sealed = {path.name: path for path in sealed_segments(folder)}
    for path in list(sealed.values()):
        try:
            segment = Segment(path, "sealed")
        except TracemillError:
            continue  # damaged: what it says of others is not to be relied on
        try:
            yield from (sealed[name] for name in segment.sources() if name in sealed)
        finally:
            segment.close()
