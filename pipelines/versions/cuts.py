"""Where a table is cut into row groups and files: at rows that say so themselves, so that a change moves few cuts.

    rows ──size, hash of the id──▶ |....|..|.....|...|      equal runs of rows lie in equal files, wherever they stand

A row begins a new row group where the SHA-256 of its id is small for its size: once in about `GROUP` bytes, by chance that
hangs on nothing but the row. Insert, remove or change rows elsewhere, and it still does. A file is one group, until the
table is long: then only rows with a yet smaller hash begin a file, so that there are never more than some hundred.
The rows and their order are what they are without cuts, and so is the name of the version.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

GROUP = 16 << 20
"""Bytes of values in a row group, on average. A change costs at most the groups it touches, and each end of it one more."""
SHORT, LONG = 4, 4
"""A group has at least a fourth of that, and at most four times as much."""
MANY = 128
"""So many files of one size; those that follow are `LARGER` times as large, so a change there costs no larger share."""
LARGER = 4
FILE = 1 << 30
"""No file is meant to be larger than that."""

Places = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Cut:
    """Before row `at` of a batch a row group ends, and with `file` a file too."""

    at: int
    file: bool


class Cutter:
    """Finds the cuts of one table, batch by batch; how the rows are batched does not matter."""

    def __init__(self, key: Sequence[str]) -> None:
        """`key` names the columns of text that tell rows apart; without any, only size cuts."""
        self._key = list(key)
        self._seen = self._group = self._file = 0
        """Bytes of the table up to this batch, and where in it the open group and the open file began."""

    def cuts(self, batch: pa.RecordBatch) -> Iterator[Cut]:
        """The cuts in a batch, in order."""
        sizes = row_bytes(batch)
        places = self._seen + np.cumsum(sizes) - sizes  # where in the table each row begins
        hashes = _hashes(batch, self._key)
        marked = np.flatnonzero(_below(hashes, sizes, GROUP))
        while (at := self._next(places, marked)) < len(places):
            place = int(places[at])
            target = file_bytes(place)
            long = place - self._file
            chosen = long >= target // SHORT and _below(hashes[at], sizes[at], target)
            file = target == GROUP or bool(chosen) or long >= target * LONG
            self._group, self._file = place, place if file else self._file
            yield Cut(at, file)
        self._seen += int(sizes.sum())

    def _next(self, places: Places, marked: Places) -> int:
        """The first marked row at which the open group is long enough, or the first row at which it is too long."""
        enough = int(np.searchsorted(places, self._group + GROUP // SHORT))
        first = int(np.searchsorted(marked, enough))
        chosen = int(marked[first]) if first < len(marked) else len(places)
        return min(chosen, int(np.searchsorted(places, self._group + GROUP * LONG)))


def file_bytes(place: int) -> int:
    """How large files are meant to be, this far into a table."""
    target = GROUP
    while place >= MANY * target and target < FILE:
        target *= LARGER
    return min(target, FILE)


def row_bytes(batch: pa.RecordBatch) -> Places:
    """The bytes of values in each row: a number of its own, whatever batch it came in."""
    sizes = np.ones(batch.num_rows, np.int64)
    for column in batch.columns:
        sizes += _bytes(column)
    return sizes


def _bytes(array: Any) -> Places:
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _bytes(array.dictionary_decode())
    if pa.types.is_struct(kind):
        total: Places = np.zeros(len(array), np.int64)
        for field in array.flatten():
            total += _bytes(field)
        return total
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = _numbers(pc.list_value_length(array))
        ends = np.cumsum(lengths)
        below = np.concatenate([[0], np.cumsum(_bytes(array.flatten()))])
        return np.asarray(4 + below[ends] - below[ends - lengths], np.int64)
    if pa.types.is_null(kind):
        return np.zeros(len(array), np.int64)
    if pa.types.is_primitive(kind):
        return np.full(len(array), max(1, kind.bit_width // 8), np.int64)
    return 4 + _numbers(pc.binary_length(array))


def _numbers(array: Any) -> Places:
    whole: Any = array.cast(pa.int64())
    numbers: Any = pc.fill_null(whole, 0)
    return np.asarray(numbers.to_numpy(zero_copy_only=False), np.int64)


def _hashes(batch: pa.RecordBatch, key: Sequence[str]) -> Hashes:
    """The first 8 bytes of SHA-256 of what tells a row apart; the largest number where nothing does."""
    if not key or batch.num_rows == 0:
        return np.full(batch.num_rows, np.iinfo(np.uint64).max, np.uint64)
    texts: Any = batch.column(key[0])
    for name in key[1:]:
        more: Any = batch.column(name)
        texts = pc.binary_join_element_wise(texts, more, "\0", null_handling="replace")
    texts = pc.fill_null(texts, "")
    sha256 = hashlib.sha256
    digests = b"".join([sha256(text).digest() for text in texts.cast(pa.binary()).to_pylist()])
    return np.frombuffer(digests, ">u8")[::4].astype(np.uint64)


def _below(hashes: Any, sizes: Any, target: int) -> Any:
    """Whether a row begins a piece of `target` bytes: with a chance in proportion to its own size."""
    share = np.minimum(sizes / (target - target // SHORT), 1.0)
    return hashes >> np.uint64(1) < (share * 2.0**63).astype(np.uint64)  # half of both: 2**64 is no uint64
