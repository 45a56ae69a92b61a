"""Which rows stay when others are near them, whole numbers only: greedy choice, equal rows, groups. No selector stands here."""

import numpy as np
import numpy.typing as npt

from tracemill.schemas.plugins import FloatArray

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

CHUNK = 4096


class Picked:
    """Some rows of a table in the place of a table of their own: it is not copied."""

    def __init__(self, table: FloatArray, rows: Ints) -> None:
        self.table, self.rows = table, rows
        self.shape = (len(rows), table.shape[1])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, places: slice | Ints) -> FloatArray:
        return np.asarray(self.table[self.rows[places]])


Rows = FloatArray | Picked


def decide(n: int, first: Ints, second: Ints, cosine: Floats, twin: Ints, rank: Ints) -> tuple[Bools, Ints, Floats]:
    """`greedy` where equal rows stand for one another: `twin` [n] is for each row the one that the pairs speak of.

    Of equal rows the first in `rank` takes part; the others go with it: by it where it is kept, else by what it went by.
    """
    order = np.lexsort((rank, twin))
    groups, at = np.unique(twin[order], return_index=True)
    leader = np.arange(n)
    leader[groups] = order[at]
    own = leader[twin]
    kept, by, similarity = greedy(n, leader[first], leader[second], cosine, rank)
    copy = own != np.arange(n)
    stays = kept[own]
    by = np.where(copy, np.where(stays, own, by[own]), by)
    similarity = np.where(copy, np.where(stays, 1.0, similarity[own]), similarity)
    return kept & ~copy, by, similarity


def greedy(n: int, first: Ints, second: Ints, cosine: Floats, rank: Ints) -> tuple[Bools, Ints, Floats]:
    """Which of `n` rows are kept when they come in the order of `rank` and one stays unless a kept one is near it.

    The pairs are all that count as near. Also, for each row that is not kept, the nearest kept row before it (ties: the earlier one)
    and their cosine; -1 and nan for the others. A row that is not kept never keeps another one out.
    """
    later = np.where(rank[first] > rank[second], first, second)
    earlier = first + second - later
    kept, open_ = np.ones(n, np.bool_), np.zeros(n, np.bool_)
    open_[later] = True  # a row with no near one before it stays
    left_l, left_e = later, earlier
    while len(left_l):
        sure = ~open_
        out = np.unique(left_l[sure[left_e]])
        kept[out], open_[out] = False, False
        live = open_[left_l] & (kept[left_e])
        left_l, left_e = left_l[live], left_e[live]
        stays = open_.copy()
        stays[left_l] = False  # still has an open one before it
        open_[stays] = False
    by, similarity = np.full(n, -1, np.int64), np.full(n, np.nan)
    counts = ~kept[later] & kept[earlier]
    found = np.flatnonzero(counts)
    found = found[np.lexsort((rank[earlier[found]], -cosine[found], later[found]))]
    rows, at = np.unique(later[found], return_index=True)
    by[rows], similarity[rows] = earlier[found[at]], cosine[found[at]]
    return kept, by, similarity


def components(n: int, first: Ints, second: Ints) -> Ints:
    """For each row the smallest row that it is joined with by a chain of pairs."""
    parent = np.arange(n)
    while True:
        low = np.minimum(parent[first], parent[second])
        before = parent.copy()
        np.minimum.at(parent, parent[first], low)
        np.minimum.at(parent, parent[second], low)
        while not np.array_equal(parent, parent[parent]):
            parent = parent[parent]
        if np.array_equal(before, parent):
            return parent


def distinct(vectors: FloatArray, rank: Ints, rows: Ints | None = None) -> tuple[Ints, Ints]:
    """Rows that are the first, by `rank`, with their very numbers; and for each row the place of its own among these.

    Of all rows of `vectors`, or of `rows` [n]; rows and ranks are then counted among these.
    """
    picked = vectors if rows is None else Picked(vectors, rows)
    n, d = picked.shape
    weights = np.random.default_rng(0).integers(1, 1 << 62, (d, 2), np.uint64) * 2 + 1
    marks = np.empty((n, 2), np.uint64)
    for start in range(0, n, CHUNK):
        bits = np.ascontiguousarray(picked[start : start + CHUNK], np.float32).view(np.uint32).astype(np.uint64)
        marks[start : start + CHUNK] = bits @ weights
    order = np.lexsort((rank, marks[:, 1], marks[:, 0]))
    sorted_ = marks[order]
    new = np.ones(n, np.bool_)
    new[1:] = (sorted_[1:] != sorted_[:-1]).any(axis=1)
    first = order[np.flatnonzero(new)[np.cumsum(new) - 1]]
    for start in range(
        0, n, CHUNK
    ):  # marks that are equal by chance part nothing that is equal, and join nothing that is not
        own_rows = order[start : start + CHUNK]
        other = (picked[own_rows] != picked[first[start : start + CHUNK]]).any(axis=1)
        first[start : start + CHUNK][other] = own_rows[other]
    found, twin = np.unique(first, return_inverse=True)
    own = np.empty(n, np.int64)
    own[order] = twin
    return found, own
