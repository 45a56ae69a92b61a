"""Reads a whole journal and says what is damaged, without changing anything: for `tracemill fsck`."""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tracemill.schemas.errors import TracemillError
from tracemill.synth.journal.files import SUFFIX, is_sealed
from tracemill.synth.journal.segment import Segment


@dataclass(frozen=True, slots=True)
class Checked:
    """One segment: how many entries it holds, and what is wrong with it, where anything is."""

    path: Path
    entries: int
    fault: str = ""


def check(folder: Path) -> Iterator[Checked]:
    """Every segment of the journal in `folder`: SQLite's own integrity check, and the checksum of every entry.

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
            yield Checked(file, segment.count(), segment.integrity() or _first_bad(segment))
        except (TracemillError, sqlite3.Error) as error:
            yield Checked(file, 0, str(error))
        finally:
            segment.close()


def _first_bad(segment: Segment) -> str:
    bad = list(segment.damaged_entries())
    return f"{len(bad):,} entries fail their checksum; the first is {bad[0]}" if bad else ""
