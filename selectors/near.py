"""All pairs of vectors at or above a cosine, none left out: what is not compared is ruled out by a bound. No selector stands here.

    vectors ──rotate──▶ heads, a few numbers a row whose products are never below the cosines
            ──cells──▶ a row is held against a cell only where the triangle inequality lets the cell hold a neighbour of it
            ──tiles──▶ products of heads; what reaches the floor is a candidate
            ──check──▶ candidates, in float64

Three bounds, each with a margin for the rounding of the numbers it is computed from:

- heads: in a rotated basis x.y = head + tail, and a group g of tail coordinates adds at most |x_g| |y_g| (Cauchy-Schwarz). With the
  group norms as coordinates a head is again a unit vector, so the next two hold for heads too.
- ball: all members of a cell lie within an angle of its centre; a row further away than that and the floor's angle has no neighbour there.
- border: a member is no nearer to the centre of the row's own cell than to that of its own; a row further from that border than the floor's
  angle has no neighbour beyond it.

The rotation and the cells only decide how much is ruled out, never what is found.
"""

import math
import os
import secrets
import shutil
import threading
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.plugins import FloatArray, Workers
from tracemill.selectors.keeping import Rows
from tracemill.selectors.tiles import Heads, Tiles, down, heads_of

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Found = tuple[Ints, Ints, Floats]
"""Pairs by their places in the order of the search, with their cosines."""

SMALL = 4096
"""So few rows are held against each other without cells."""
CELLS_PER_ROOT = 2.0
"""Cells for each square root of the rows."""
ROUNDS = 4
SAMPLE_PER_CELL = 48
BITS_SHARE = 8
"""The table of which row may have neighbours in which cell has a bit each, and at most one byte for so many of the vectors'."""
WORTH = 0.6
"""Cells are used where a sample says that they leave no more than this share of the pairs; without them blocks are larger."""
CHUNK = 4096
CHECKED_AT_ONCE = 1024
ROUNDED_FIRST = 1e-4
"""Products in float32 of unit vectors up to 100,000 long lie this near to the true ones; what they leave open float64 decides."""
DECIMALS = 12
"""Cosines are rounded to so many decimals before they are compared with a threshold: the rest is rounding."""
SPREAD_FROM = 20_000
"""Fewer rows are searched before other processes have begun."""
BLOCKS_EACH = 16
"""Blocks for each thread of a cluster: few enough to be sent, enough that nobody waits long for the last."""
MOST_PAIRS = 100_000_000
SURE = 5e-5
"""The margin of products with centres in float32, over what heads are off: worst case for 256 numbers."""


@dataclass(frozen=True)
class Near:
    """Pairs first < second with their cosines, sorted; and what was done to find all of them."""

    first: Ints
    second: Ints
    cosine: Floats
    certificate: dict[str, Any]


def near_pairs(vectors: Rows, floor: float, *, most: int = MOST_PAIRS, workers: Workers | None = None) -> Near:
    """All pairs of rows of `vectors` [n, d] whose cosine, rounded to 12 decimals, is at least `floor`.

    Rows are finite, nonzero, and better distinct: equal ones are a pair each. RecipeError where more than `most` pairs are found.
    With `workers` these multiply and check, a block of cells at a time, from files in their folder.
    """
    n, d = vectors.shape
    heads = heads_of(vectors, floor)
    search = _Search(vectors, heads, floor, most)
    pairs = search.run(workers)
    order = np.lexsort((pairs[1], pairs[0]))
    first, second, cosine = (part[order] for part in pairs)
    total = n * (n - 1) // 2
    certificate = {
        "rows": n,
        "dimensions": d,
        "floor": floor,
        "pairs": total,
        "ruled_out_by_cells": total - search.tiled,
        "ruled_out_by_heads": search.tiled - search.candidates,
        "checked": search.candidates,
        "found": len(first),
        "cells": search.cells,
        "head_dimensions": heads.size,
        "head_type": heads.dtype,
        "margin": heads.margin,
    }
    return Near(first, second, cosine, certificate)


def memory_of(n: int, d: int) -> dict[str, int]:
    """Bytes that a search over n rows of d numbers needs at most, its pairs aside (16 bytes each, and as much again to sort them)."""
    cells = _cells(n, d)
    return {
        "vectors_mapped": n * d * 4,
        "heads": n * min(d, Heads.WIDEST) * 4,
        "cells": cells * (n // 8 + 1) + n * 16 + 2 * CHUNK * max(cells, d) * 8,
        "tiles": _threads() * (Tiles.ROWS * max(Tiles.ROWS, 4 * d) + CHECKED_AT_ONCE * d * 24),
    }


def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cells(n: int, d: int) -> int:
    if n <= SMALL:
        return 1
    return max(1, min(int(CELLS_PER_ROOT * math.sqrt(n)), n * d * 4 // BITS_SHARE // (n // 8 + 1)))


class _Search:
    """One search; counts are whole numbers that no order of threads changes."""

    def __init__(self, vectors: Rows, heads: Heads, floor: float, most: int) -> None:
        self.vectors, self.heads, self.floor, self.most = vectors, heads, floor, most
        self.cosine = floor - heads.margin
        self.n = len(vectors)
        self.cells = _cells(*vectors.shape)
        self.tiled = self.candidates = self.found = 0
        self._lock = threading.Lock()

    def run(self, workers: Workers | None) -> Found:
        heads = self.heads
        centres = _centres(heads, self.cells) if self.cells > 1 else None
        self.reach: npt.NDArray[np.uint8] | None = None
        if centres is not None and self._kept_by_cells(centres) <= WORTH:
            home = _nearest(heads, centres)
            self.order = np.argsort(home, kind="stable")
            self.starts = np.searchsorted(home[self.order], np.arange(self.cells + 1))
            heads.reorder(self.order)
            self.reach = self._reach(centres, home[self.order])
        else:
            self.order, self.starts = np.arange(self.n), np.array([*range(0, self.n, Tiles.ROWS), self.n])
            self.cells = 0
        first, second, cosine = _joined(
            self._here() if workers is None or self.n < SPREAD_FROM else self._there(workers)
        )
        a, b = self.order[first], self.order[second]
        return np.minimum(a, b), np.maximum(a, b), cosine

    def _here(self) -> Iterator[Found]:
        tiles = Tiles(self.heads, down(self.cosine, self.heads.dtype))
        with tiles.workers(_threads()) as pool:
            yield from pool.map(lambda cell: self.cell(tiles, cell), range(len(self.starts) - 1))

    def _there(self, workers: Workers) -> Iterator[Found]:
        """The cells by `workers`, from files that they map: what is sent is the numbers of cells, and pairs."""
        folder = workers.folder / f"near-{secrets.token_hex(4)}"
        folder.mkdir()
        try:
            self.save(folder)
            call = partial(_cells_there, folder, self.floor, self.cosine, self.most)
            for pairs, (tiled, candidates, found) in workers.each(call, self._blocks(workers.count)):
                self._count(tiled, candidates, found)
                yield pairs
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _blocks(self, workers: int) -> Iterator[tuple[int, int]]:
        """Cells from and to, so that each block is about the same work: later cells are held against more rows."""
        if len(self.starts) < 2:
            return
        work = np.cumsum(np.diff(self.starts) * (self.starts[:-1] + np.diff(self.starts) / 2 + 1))
        share = max(float(work[-1]) / (workers * BLOCKS_EACH), 1.0)
        ends = np.flatnonzero(np.diff(np.floor(work / share), append=np.inf)) + 1
        yield from zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)

    def save(self, folder: Path) -> None:
        """Write all that `opened` needs, so that it can be mapped."""
        table = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float32, self.vectors.shape)  # type: ignore[no-untyped-call]
        for start in range(0, self.n, CHUNK):
            table[start : start + CHUNK] = self.vectors[start : start + CHUNK]
        table.flush()
        np.save(folder / "order.npy", self.order, allow_pickle=False)
        np.save(folder / "starts.npy", self.starts, allow_pickle=False)
        self.heads.save(folder)
        if self.reach is not None:
            np.save(folder / "reach.npy", self.reach, allow_pickle=False)

    @classmethod
    def opened(cls, folder: Path, floor: float, cosine: float, most: int) -> "_Search":
        """A search that another process saved, its tables mapped."""
        vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        search = cls(vectors, Heads.opened(folder), floor, most)
        search.cosine = cosine
        search.order, search.starts = np.load(folder / "order.npy"), np.load(folder / "starts.npy")
        reach = folder / "reach.npy"
        search.reach = np.load(reach, mmap_mode="r") if reach.exists() else None
        return search

    def _kept_by_cells(self, centres: FloatArray) -> float:
        """The share of pairs that cells would leave, on a sample: it decides about the way and not about what is found."""
        rows = self.heads.picked(np.sort(np.random.default_rng(1).choice(self.n, min(self.n, CHUNK), replace=False)))
        near = rows @ centres.T
        home = near.argmax(axis=1)
        ball, border = self._bounds(near[np.arange(len(rows)), home], home, centres)
        may = self._may(near, home, ball, border)
        return float((may * np.bincount(home, minlength=len(centres))).sum() / len(rows) ** 2)

    def _bounds(self, own: FloatArray, home: Ints, centres: FloatArray) -> tuple[FloatArray, FloatArray]:
        """How near a row is at least to each cell [c], and to each cell on the other side of its own one's border [c, c]."""
        nearness = np.ones(len(centres), np.float32)
        np.minimum.at(nearness, home, own)
        sure, cosine = self.heads.off + SURE, max(self.cosine, 0.0)
        angle = np.arccos(np.clip(nearness - sure, -1, 1)) + math.acos(cosine)
        ball = np.where(angle < math.pi, np.cos(np.minimum(angle, math.pi)), -2.0) - sure
        apart = np.sqrt(np.maximum(0, 2 - 2 * (centres @ centres.T)))
        # twice for the row, twice for the members, whose cells were told apart with the same error
        border = apart * math.sqrt(1 - cosine * cosine) + 4 * sure
        return np.asarray(ball, np.float32), np.asarray(border, np.float32)

    @staticmethod
    def _may(near: FloatArray, home: Ints, ball: FloatArray, border: FloatArray) -> npt.NDArray[np.bool_]:
        """Whether a row [n] may have a neighbour in a cell [c], from its products with the centres."""
        own = near[np.arange(len(near)), home]
        return np.asarray((near >= ball) & (own[:, None] - near <= border[home]))

    def _reach(self, centres: FloatArray, home: Ints) -> npt.NDArray[np.uint8]:
        """Bits [cells, n / 8]: whether a row may have a neighbour in a cell, by ball and border."""
        own = [
            np.einsum("ij,ij->i", self.heads.rows(s, s + CHUNK), centres[home[s : s + CHUNK]])
            for s in range(0, self.n, CHUNK)
        ]
        ball, border = self._bounds(np.concatenate(own), home, centres)
        bits = np.empty((self.cells, self.n // 8 + 1), np.uint8)
        for start in range(0, self.n, CHUNK):  # CHUNK is a multiple of 8
            rows = self.heads.rows(start, start + CHUNK)
            may = self._may(rows @ centres.T, home[start : start + CHUNK], ball, border)
            packed = np.packbits(may, axis=0)
            bits[:, start // 8 : start // 8 + len(packed)] = packed.T
        return bits

    def cell(self, tiles: Tiles, cell: int) -> Found:
        """Pairs of a row of this cell and one that stands before it in the order."""
        start, end = int(self.starts[cell]), int(self.starts[cell + 1])
        parts = [self._checked(tiles.within(start, end), (end - start) * (end - start - 1) // 2)]
        if self.reach is None:
            parts.append(self._checked(tiles.before(start, end), start * (end - start)))
        elif start and end > start:
            earlier = np.flatnonzero(np.unpackbits(self.reach[cell, : start // 8 + 1], count=start))
            parts.append(self._checked(tiles.between(earlier, start, end), len(earlier) * (end - start)))
        return _joined(parts)

    def _checked(self, candidates: Iterator[tuple[Ints, Ints]], tiled: int) -> Found:
        first: list[Ints] = [np.empty(0, np.int64)]
        second: list[Ints] = [np.empty(0, np.int64)]
        cosine: list[Floats] = [np.empty(0)]
        seen = found = 0
        for a, b in _gathered(candidates):
            seen += len(a)
            for start in range(0, len(a), CHECKED_AT_ONCE):
                some_a, some_b = a[start : start + CHECKED_AT_ONCE], b[start : start + CHECKED_AT_ONCE]
                exact, near = self._cosines(self.order[some_a], self.order[some_b])
                first.append(some_a[near])
                second.append(some_b[near])
                cosine.append(exact)
                found += len(exact)
            self._not_too_many(found)
        self._count(tiled, seen, found)
        return np.concatenate(first), np.concatenate(second), np.concatenate(cosine)

    def counting(self) -> "_Search":
        """The same search, counting from nothing."""
        other = copy(self)
        other.tiled = other.candidates = other.found = 0
        return other

    def _count(self, tiled: int, candidates: int, found: int) -> None:
        self._not_too_many(found)
        with self._lock:
            self.tiled += tiled
            self.candidates += candidates
            self.found += found

    def _not_too_many(self, more: int) -> None:
        if self.found + more > self.most:
            raise RecipeError(
                f"more than {self.most:,} pairs at or above {self.floor}; take a higher threshold, or raise most_pairs "
                "(16 bytes each)"
            )

    def _cosines(self, a: Ints, b: Ints) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """The cosines at or above the floor, and which pairs have them."""
        x, y = self.vectors[a], self.vectors[b]
        scale = self.heads.inverse[a] * self.heads.inverse[b]
        near = np.einsum("ij,ij->i", x, y) * scale >= self.floor - ROUNDED_FIRST
        exact = cosines(x[near], y[near])
        enough = exact >= self.floor
        near[near] = enough
        return exact[enough], near


def _joined(parts: Iterable[Found]) -> Found:
    none = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    first, second, cosine = (np.concatenate(part) for part in zip(none, *parts, strict=True))
    return first, second, cosine


@lru_cache(maxsize=1)
def _opened(folder: Path, floor: float, cosine: float, most: int) -> tuple[_Search, Tiles]:
    search = _Search.opened(folder, floor, cosine, most)
    return search, Tiles(search.heads, down(cosine, search.heads.dtype))


def _cells_there(
    folder: Path, floor: float, cosine: float, most: int, cells: tuple[int, int]
) -> tuple[Found, tuple[int, int, int]]:
    """In a worker, which makes a call on each of its threads: the pairs of some cells, and what was counted."""
    import torch

    search, tiles = _opened(folder, floor, cosine, most)
    torch.set_num_threads(1)
    mine = search.counting()
    pairs = _joined([mine.cell(tiles, cell) for cell in range(*cells)])
    return pairs, (mine.tiled, mine.candidates, mine.found)


def _gathered(parts: Iterator[tuple[Ints, Ints]]) -> Iterator[tuple[Ints, Ints]]:
    """The same candidates, so many at once as are checked at once."""
    held: list[tuple[Ints, Ints]] = []
    count = 0
    for part in parts:
        held.append(part)
        count += len(part[0])
        if count >= CHECKED_AT_ONCE:
            yield np.concatenate([a for a, _ in held]), np.concatenate([b for _, b in held])
            held, count = [], 0
    if held:
        yield np.concatenate([a for a, _ in held]), np.concatenate([b for _, b in held])


def cosines(x: FloatArray, y: FloatArray) -> Floats:
    """Cosines of rows, in float64, rounded to 12 decimals so that a threshold is met or not and never nearly."""
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    norms = np.sqrt(np.einsum("ij,ij->i", a, a) * np.einsum("ij,ij->i", b, b))
    return np.asarray(np.round(np.einsum("ij,ij->i", a, b) / norms, DECIMALS))


def _centres(heads: Heads, cells: int) -> FloatArray:
    """Unit vectors [cells, k] that a few rounds of spherical k-means on a sample end in."""
    rng = np.random.default_rng(0)
    picked = np.sort(rng.choice(heads.n, min(heads.n, cells * SAMPLE_PER_CELL), replace=False))
    sample = heads.picked(picked)
    centres = sample[np.sort(rng.choice(len(sample), cells, replace=False))]
    for _ in range(ROUNDS):
        home = np.concatenate(
            [np.argmax(sample[s : s + CHUNK] @ centres.T, axis=1) for s in range(0, len(sample), CHUNK)]
        )
        order = np.argsort(home, kind="stable")
        full, starts = np.unique(home[order], return_index=True)
        sums = np.add.reduceat(sample[order], starts, axis=0)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centres[full] = np.where(norms > SURE, sums / np.maximum(norms, SURE), centres[full])
    return centres


def _nearest(heads: Heads, centres: FloatArray) -> Ints:
    parts = [np.argmax(heads.rows(s, s + CHUNK) @ centres.T, axis=1) for s in range(0, heads.n, CHUNK)]
    return np.asarray(np.concatenate(parts), np.int64)
