"""All that was ever asked about a problem, as a journal keeps it: what a request that is not there can be compared with.

Of every request 16 bytes are in memory (its problem and where it stands); the rest is read when its problem is looked at. A
thousand settings and some prompts are kept at hand.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from tracemill.synth.journal.asked import Row, hash_of
from tracemill.synth.journal.folder import Folder
from tracemill.synth.journal.segment import AT_ONCE

_PLACE = 40
"""Bits of a place that are the id within a segment."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """A request that was answered: its key, its row, and `age`, by which later ones are larger."""

    key: str
    row: Row
    age: int


class History:
    """The requests of a journal's folder, by problem. The folder is not written to while this lives."""

    def __init__(self, folder: Folder) -> None:
        self._segments = folder.segments()
        problems, places = [], []
        for number, segment in enumerate(self._segments):
            found = np.fromiter(segment.asked_ids(), dtype=[("problem", "<i8"), ("id", "<i8")])
            problems.append(found["problem"])
            places.append(found["id"] + (number << _PLACE))
        joined = np.concatenate([*problems, np.empty(0, "<i8")])
        order = np.argsort(joined, kind="stable")
        self._problems = joined[order]
        self._places = np.concatenate([*places, np.empty(0, "<i8")])[order]
        self.unknown = sum(segment.count() for segment in self._segments if not segment.keeps_requests)
        """Answers and verdicts of an older format, of which nobody knows what was asked."""
        self.part = lru_cache(4096)(self._part)

    def __len__(self) -> int:
        return len(self._problems)

    def of(self, problem_id: str) -> list[Earlier]:
        """The requests of a problem, oldest first."""
        wanted = hash_of(problem_id.encode())
        first, last = np.searchsorted(self._problems, wanted, "left"), np.searchsorted(self._problems, wanted, "right")
        return list(self._read(self._places[first:last].tolist()))

    def _read(self, places: list[int]) -> Iterator[Earlier]:
        mask = (1 << _PLACE) - 1
        for number, segment in enumerate(self._segments):
            here = [place & mask for place in places if place >> _PLACE == number]
            for start in range(0, len(here), AT_ONCE):
                for key, row, id_ in segment.asked(here[start : start + AT_ONCE]):
                    yield Earlier(key.hex(), row, (number << _PLACE) + id_)

    def _part(self, hash_: int) -> Any:
        for segment in self._segments:
            try:
                return segment.part(hash_)
            except KeyError:
                continue
        raise KeyError(hash_)
