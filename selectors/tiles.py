"""Heads, a few numbers a row whose products bound cosines from above, and the products of blocks of them. No selector stands here.

torch multiplies: on a GPU where there is one, on CPUs with AMX in bfloat16, else in float32. What a type rounds away is part of the margin.
"""

import json
import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.plugins import FloatArray
from tracemill.selectors.keeping import Rows

Ints = npt.NDArray[np.int64]

SIZES = (64, 96, 128, 192, 256)
GROUPS = 8
"""How many of a head's numbers are norms of what it leaves out."""
PROBE = 2048
BASIS_ROWS = 8192
CHUNK = 1024
CHECK_COST = 200_000
"""What checking a candidate costs, in products of one number."""
UNIT32, UNIT16 = 2.0**-24, 2.0**-9
"""How far rounding moves a number, relative to it."""


class Heads:
    """The heads of all rows, and how far a product of two may lie below the cosine of their rows."""

    WIDEST = SIZES[-1]

    def __init__(self, table: Any, inverse: npt.NDArray[np.float64], off: float, dtype: str) -> None:
        self.table, self.inverse, self.dtype = table, inverse, dtype
        self.off = off
        """How far, at most, a row stands from the unit vector that it would be without any rounding."""
        size = table.shape[1]
        summed = 2 * (size + 2) * UNIT32 + (2 * UNIT16 if dtype == "bfloat16" else 0.0)
        self.margin = 2 * off + off * off + summed
        self.n, self.size = table.shape

    def rows(self, start: int, end: int) -> FloatArray:
        """Rows in float32, as they are stored."""
        return np.asarray(self.table[start:end].float().numpy())

    def picked(self, rows: Ints) -> FloatArray:
        """Copies of some rows in float32."""
        return np.array(self.table[rows].float().numpy())

    def save(self, folder: Path) -> None:
        """Write the heads to a folder, their bits as whole numbers: numpy has no bfloat16."""
        import torch

        whole = self.table.view(torch.int16 if self.dtype == "bfloat16" else torch.int32)
        np.save(folder / "heads.npy", whole.numpy(), allow_pickle=False)
        np.save(folder / "inverse.npy", self.inverse, allow_pickle=False)
        (folder / "heads.json").write_text(json.dumps({"off": self.off, "dtype": self.dtype}))

    @classmethod
    def opened(cls, folder: Path) -> "Heads":
        """The heads that `save` wrote, mapped."""
        import torch

        facts = json.loads((folder / "heads.json").read_text())
        whole = torch.from_numpy(np.load(folder / "heads.npy", mmap_mode="c"))
        inverse = np.load(folder / "inverse.npy")
        return cls(whole.view(getattr(torch, facts["dtype"])), inverse, facts["off"], facts["dtype"])

    def reorder(self, order: Ints) -> None:
        """Put row `order[i]` in place i, a column at a time so that no second table is needed."""
        import torch

        places = torch.from_numpy(order)
        for start in range(0, self.size, 8):
            self.table[:, start : start + 8] = self.table[:, start : start + 8].index_select(0, places)


def heads_of(vectors: Rows, floor: float) -> Heads:
    """The heads of `vectors` [n, d], of the size that makes the least work."""
    if find_spec("torch") is None:
        raise RecipeError("comparing vectors needs torch; install it with: pip install 'tracemill[embed]'")
    n, d = vectors.shape
    inverse = np.concatenate([_inverse(vectors[s : s + CHUNK]) for s in range(0, n, CHUNK)] or [np.empty(0)])
    dtype = head_type()
    size, basis = d, None
    if d > SIZES[0]:
        basis = _basis(vectors, inverse)
        size = _size(vectors, inverse, basis, floor, d)
    return _filled(vectors, inverse, basis if size < d else None, size, dtype)


def _filled(vectors: Rows, inverse: npt.NDArray[np.float64], basis: Any, size: int, dtype: str) -> Heads:
    import torch

    n, d = vectors.shape
    table = torch.empty((n, size), dtype=getattr(torch, dtype))
    lost = 0.0
    for start in range(0, n, CHUNK):
        heads = _heads(vectors[start : start + CHUNK], inverse[start : start + CHUNK], basis, size)
        made = torch.from_numpy(heads)
        table[start : start + CHUNK] = made
        if dtype != "float32":
            off = (table[start : start + CHUNK].double() - made.double()).norm(dim=1)
            lost = max(lost, float(off.max()))
    rotated = 0.0 if basis is None else 2 * (d + 2) * UNIT32 * math.sqrt(d)  # worst case, of the basis as well
    return Heads(table, inverse, lost + rotated + 4 * UNIT32, dtype)


def _inverse(rows: FloatArray) -> npt.NDArray[np.float64]:
    return np.asarray(1.0 / np.linalg.norm(np.asarray(rows, np.float64), axis=1), np.float64)


def _basis(vectors: Rows, inverse: npt.NDArray[np.float64]) -> FloatArray:
    """An orthogonal basis [d, d], the directions in which a sample of the rows is largest first."""
    step = max(1, len(vectors) // BASIS_ROWS)
    places = np.arange(0, len(vectors), step)
    gram = np.zeros((vectors.shape[1], vectors.shape[1]), np.float64)
    for start in range(0, len(places), CHUNK):
        some = places[start : start + CHUNK]
        unit = np.asarray(vectors[some], np.float32) * inverse[some, None].astype(np.float32)
        gram += unit.T @ unit
    _, directions = np.linalg.eigh(gram)
    return np.ascontiguousarray(directions[:, ::-1], np.float32)


def _heads(rows: FloatArray, inverse: npt.NDArray[np.float64], basis: Any, size: int) -> FloatArray:
    unit = np.asarray(rows * inverse[:, None], np.float32)
    if basis is None:
        return unit
    rotated = unit @ basis
    heads = np.empty((len(rows), size), np.float32)
    plain = size - GROUPS
    heads[:, :plain] = rotated[:, :plain]
    for number, group in enumerate(np.array_split(np.arange(plain, rotated.shape[1]), GROUPS)):
        heads[:, plain + number] = np.linalg.norm(rotated[:, group], axis=1)
    return heads


def _size(vectors: Rows, inverse: npt.NDArray[np.float64], basis: FloatArray, floor: float, d: int) -> int:
    """The size of heads that makes the least work on a sample: few numbers, few candidates."""
    picked = np.sort(np.random.default_rng(0).choice(len(vectors), min(PROBE, len(vectors)), replace=False))
    costs = []
    for size in [*(s for s in SIZES if s < d), d]:
        heads = _heads(vectors[picked], inverse[picked], basis if size < d else None, size)
        near = sum(int((heads[s : s + CHUNK // 4] @ heads.T >= floor).sum()) for s in range(0, len(heads), CHUNK // 4))
        share = (near - len(heads)) / max(1, len(heads) * (len(heads) - 1))
        costs.append((size + CHECK_COST * float(share), size))
    return min(costs)[1]


def head_type() -> str:
    """What heads are stored and multiplied in: bfloat16 where a CPU multiplies it in hardware, else float32."""
    import torch

    if torch.cuda.is_available():
        return "float32"
    cpu = Path("/proc/cpuinfo")
    return "bfloat16" if cpu.is_file() and "amx_bf16" in cpu.read_text() else "float32"


def down(number: float, dtype: str) -> float:
    """The largest number of the type that is not above `number`."""
    import torch

    kind = getattr(torch, dtype)
    near = torch.tensor(number, dtype=torch.float64).to(kind)
    if float(near) > number:
        near = torch.nextafter(near, torch.tensor(-math.inf, dtype=kind))
    return float(near)


class Tiles:
    """Products of blocks of heads, and which of them reach `cosine`."""

    ROWS = 1024

    def __init__(self, heads: Heads, cosine: float) -> None:
        import torch

        self._torch, self._cosine = torch, cosine
        self._whole = torch.int16 if heads.dtype == "bfloat16" else torch.int32
        mark = torch.tensor(cosine, dtype=getattr(torch, heads.dtype))
        self._bits = int(mark.view(self._whole)) if cosine > 0 else 0
        self._own = threading.local()
        self._table = heads.table.cuda() if torch.cuda.is_available() else heads.table

    @contextmanager
    def workers(self, count: int) -> Iterator[ThreadPoolExecutor]:
        """Threads that multiply alone: many threads to a small product wait for one another more than they work."""
        before = self._torch.get_num_threads()
        try:
            with ThreadPoolExecutor(count, initializer=self._torch.set_num_threads, initargs=(1,)) as pool:
                yield pool
        finally:
            self._torch.set_num_threads(before)

    def within(self, start: int, end: int) -> Iterator[tuple[Ints, Ints]]:
        """Candidates among the rows from `start` to `end`, the earlier one first."""
        for low in range(start, end, self.ROWS):
            high = min(low + self.ROWS, end)
            for first, second in self._candidates(self._table[low:high], low, high):
                keep = first + low < second
                yield first[keep] + low, second[keep]
            if high < end:
                for at in range(high, end, self.ROWS):
                    for first, second in self._candidates(self._table[low:high], at, min(at + self.ROWS, end)):
                        yield first + low, second

    def before(self, start: int, end: int) -> Iterator[tuple[Ints, Ints]]:
        """Candidates of one of all rows before `start` and one from there to `end`."""
        for low in range(0, start, self.ROWS):
            high = min(low + self.ROWS, start)
            for first, second in self._candidates(self._table[low:high], start, end):
                yield first + low, second

    def between(self, rows: Ints, start: int, end: int) -> Iterator[tuple[Ints, Ints]]:
        """Candidates of one of `rows` and one from `start` to `end`."""
        for at in range(0, len(rows), self.ROWS):
            some = rows[at : at + self.ROWS]
            places = self._torch.from_numpy(some).to(self._table.device)
            block = self._table.index_select(0, places)
            for low in range(start, end, self.ROWS):
                for first, second in self._candidates(block, low, min(low + self.ROWS, end)):
                    yield some[first], second

    def _room(self, rows: int, columns: int) -> Any:
        """Room for products, one for each thread, used again and again: fresh memory costs more than the products."""
        if not hasattr(self._own, "room"):
            size = self.ROWS * self.ROWS
            self._own.room = self._torch.empty(size, dtype=self._table.dtype, device=self._table.device)
        return self._own.room[: rows * columns].view(rows, columns)

    def _candidates(self, block: Any, start: int, end: int) -> Iterator[tuple[Ints, Ints]]:
        """Places in `block` and rows whose product reaches the cosine; one pass over the products, and a second over rows with one."""
        other = self._table[start:end]
        products = self._room(len(block), len(other))
        self._torch.mm(block, other.T, out=products)
        # numbers above 0 stand in the order of their bits, and whole numbers are compared several times faster
        tops = products.view(self._whole).amax(1) >= self._bits if self._bits > 0 else products.amax(1) >= self._cosine
        rows = tops.nonzero().reshape(-1)
        if len(rows):
            found = (products[rows] >= self._cosine).nonzero().cpu().numpy()
            yield rows.cpu().numpy()[found[:, 0]], found[:, 1] + start
