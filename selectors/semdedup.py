"""SemDeDup: near-duplicates within clusters of meaning, as the published code removes them.

Spherical k-means; in each cluster rows stand in an order, and one goes when its cosine to an earlier one is above 1 - eps.
Abbas et al. 2023 (arXiv:2303.09540); what the paper leaves open is as in its released code. Pairs in two clusters are not
seen: `semantic_dedup` finds all.
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from tracemill.schemas.plugins import Embedder, FloatArray
from tracemill.schemas.rows import Selection, draw
from tracemill.selectors.meaning import Meaning, check_vectors, meaning_of, with_verdicts
from tracemill.selectors.near import cosines

REACH = "table"
NEEDS = ("id", "reasoning", "content")
MEANING = {
    "embedded_share": "The share of the text's tokens that the encoder read.",
    "vector_flag": "`no_text`, `zero_vector` or `not_finite` where the row has no direction to compare.",
    "cluster_id": "The cluster that the row is in.",
    "dist_to_centroid": "One less the cosine with the centre of its cluster.",
    "max_sim_to_earlier": "The largest cosine with a row of its cluster that comes before it.",
    "semdedup.order": "Its place in its cluster: earlier rows are kept.",
    "semdedup.nearest_earlier_id": "The row before it that is most like it.",
    "semdedup.removed": "Whether it was removed as a near duplicate of that one.",
    "semdedup.eps": "Rows nearer than this are near duplicates.",
    "semdedup.keep_rule": "Which rows come first: `hard` (far from the centre), `easy` or `random`.",
    "sweep.eps": "A distance below which rows would be near duplicates.",
    "sweep.kept": "Rows that it would keep.",
    "sweep.pool": "Of so many.",
    "sweep.share": "The share.",
}
MEANING |= {f"semdedup.{name}": MEANING[name] for name in ("cluster_id", "dist_to_centroid", "max_sim_to_earlier")}
"""What its columns mean, for cards."""

# the released code: 100 iterations, seed 1234, 50,000 clusters for 440 million rows
ITERATIONS = 100
SEED = 1234
PER_CLUSTER = 8800
EPS = 0.05
"""Not stated for text; our default. The share that it keeps of a pool is in the table `sweep`, beside that of others."""
SWEEP = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2)

SHOWN = 6
"""Distances that are equal so far are ties: the rest is rounding of float32."""
BLOCK = 2048

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Keep = Literal["hard", "easy", "random"]
Against = Literal["all", "kept"]

MEMBER = {
    "id": pl.String,
    "cluster_id": pl.Int64,
    "dist_to_centroid": pl.Float64,
    "order": pl.Int64,
    "max_sim_to_earlier": pl.Float64,
    "nearest_earlier_id": pl.String,
    "removed": pl.Boolean,
    "eps": pl.Float64,
    "keep_rule": pl.String,
}


def check(
    *, eps: float, n_clusters: int | None, iterations: int, vectors: str | None, text: str, chunks: int, **_: object
) -> None:
    """Raise ValueError for options that cannot work."""
    if not 0 <= eps < 1:
        raise ValueError(f"eps = {eps}: from 0 up to 1; a row goes when its cosine to an earlier one is above 1 - eps")
    if n_clusters is not None and n_clusters < 1:
        raise ValueError(f"n_clusters = {n_clusters}: at least one")
    if iterations < 1:
        raise ValueError(f"iterations = {iterations}: at least one")
    check_vectors(vectors, text, chunks)


def semdedup(
    traces: pl.LazyFrame,
    *,
    engine: Embedder | None = None,
    eps: float = EPS,
    n_clusters: int | None = None,
    keep: Keep = "hard",
    against: Against = "all",
    iterations: int = ITERATIONS,
    seed: int = SEED,
    text: str = "output",
    chunks: int = 1,
    vectors: str | None = None,
) -> Selection:
    """Take of each cluster the rows whose cosine to every earlier one is at most 1 - `eps`.

    `keep` orders a cluster: `hard` has the farthest from its centroid first, `easy` the nearest, `random` goes by lot; ties by id.
    `against = "all"` compares with all earlier rows, those that are not taken among them, as published: chains collapse. With
    `"kept"` only rows that are taken keep others out. `n_clusters` is one for each 8,800 rows unless given. Texts and
    vectors are named as for `semantic_dedup`; a row without a direction is taken and flagged, and has no cluster.

    Rows get `embedded_share`, `vector_flag`, `cluster_id`, `dist_to_centroid` (1 - cosine) and `max_sim_to_earlier`. Tables: `semdedup`, a line a
    row with its `order` in the cluster and the nearest earlier row (of those that count); `sweep`, the share of the pool that other eps
    would keep, with the same clusters.
    """
    check(eps=eps, n_clusters=n_clusters, iterations=iterations, vectors=vectors, text=text, chunks=chunks)
    said = meaning_of("semdedup", traces, engine, text=text, vectors=vectors, chunks=chunks)
    places = np.flatnonzero(said.usable)
    unit = _unit(said.vectors[places])
    count = n_clusters or max(1, round(len(places) / PER_CLUSTER))
    home, centroids = spherical_kmeans(unit, min(count, max(1, len(places))), iterations=iterations, seed=seed)
    members = [
        _Cluster(said, places[home == c], unit[home == c], centroids[c], keep, seed, c) for c in range(len(centroids))
    ]
    table = pl.concat([pl.DataFrame(schema=MEMBER), *(m.table(eps, keep, against) for m in members)])
    decided = said.frame.join(table, on="id", how="left", maintain_order="left").with_columns(
        pl.when(pl.col("removed")).then(pl.lit("near_duplicate")).alias("reason")
    )
    rows = with_verdicts(
        traces,
        decided.drop("order", "removed", "eps", "keep_rule"),
        removed_by=pl.col("nearest_earlier_id"),
        similarity=pl.col("max_sim_to_earlier"),
        eps=eps,
        cluster_id=pl.col("cluster_id"),
    ).drop("nearest_earlier_id")
    sweep = _sweep(members, len(said.frame), sorted({*SWEEP, eps}), against)
    return Selection(rows=rows, tables={"semdedup": table.lazy(), "sweep": sweep.lazy()})


def _unit(rows: FloatArray) -> FloatArray:
    """`rows` divided by their lengths, in place."""
    for start in range(0, len(rows), BLOCK):
        some = np.asarray(rows[start : start + BLOCK], np.float64)
        rows[start : start + BLOCK] = some / np.linalg.norm(some, axis=1, keepdims=True)
    return rows


class _Cluster:
    """The members of one cluster in their order."""

    def __init__(
        self, said: Meaning, places: Ints, unit: FloatArray, centroid: FloatArray, keep: Keep, seed: int, number: int
    ) -> None:
        ids = said.frame["id"].gather(places)
        away = 1.0 - np.round(np.asarray(unit, np.float64) @ np.asarray(centroid, np.float64), SHOWN)
        lots = [draw(f"{seed}|{row_id}") for row_id in ids] if keep == "random" else [0] * len(ids)
        value = {"hard": -away, "easy": away, "random": np.array(lots, np.uint64)}[keep]
        order = np.lexsort((np.arange(len(ids)), value))  # the pool stands in the order of its ids
        self.number, self.ids, self.away, self.unit = number, ids.gather(order), away[order], unit[order]

    def table(self, eps: float, keep: Keep, against: Against) -> pl.DataFrame:
        best, by, removed = self.compared(eps, against)
        n = len(self.ids)
        return pl.DataFrame(
            {
                "id": self.ids,
                "cluster_id": [self.number] * n,
                "dist_to_centroid": self.away.round(SHOWN),
                "order": np.arange(n),
                "max_sim_to_earlier": pl.Series(best.round(SHOWN)).fill_nan(None),
                "nearest_earlier_id": [self.ids[int(i)] if i >= 0 else None for i in by],
                "removed": removed,
                "eps": [eps] * n,
                "keep_rule": [keep] * n,
            },
            schema=MEMBER,
        )

    def compared(self, eps: float, against: Against) -> tuple[Floats, Ints, npt.NDArray[np.bool_]]:
        """For each member the largest cosine to an earlier one that counts (nan: there is none), whose it is, and whether it goes.

        Blocks of cosines in float32 find the nearest; float64 decides.
        """
        n = len(self.ids)
        best, by = np.full(n, -np.inf), np.full(n, -1, np.int64)
        removed = np.zeros(n, np.bool_)
        for start in range(0, n, BLOCK):
            block = self.unit[start : start + BLOCK]
            rows = np.arange(start, start + len(block))
            for low in range(0, start, BLOCK):
                counts = np.flatnonzero(~removed[low : low + BLOCK]) if against == "kept" else np.arange(BLOCK)
                _raise(best, by, rows, low + counts, block @ self.unit[low + counts].T)
            own = block @ block.T
            if against == "all":
                own[np.triu_indices(len(block))] = -np.inf
                _raise(best, by, rows, rows, own)
                removed[rows] = self._goes(rows, by, best, eps)
            else:
                for i, row in enumerate(rows):
                    counts = np.flatnonzero(~removed[start:row])
                    _raise(best, by, rows[i : i + 1], start + counts, own[i : i + 1, counts])
                    removed[row] = self._goes(rows[i : i + 1], by, best, eps)[0]
        best[by < 0] = np.nan
        return best, by, removed

    def _goes(self, rows: Ints, by: Ints, best: Floats, eps: float) -> npt.NDArray[np.bool_]:
        has = by[rows] >= 0
        best[rows[has]] = cosines(self.unit[rows[has]], self.unit[by[rows[has]]])
        return has & (best[rows] > 1 - eps)


def _raise(best: Floats, by: Ints, rows: Ints, others: Ints, cosine: FloatArray) -> None:
    """Take up a larger cosine to one of `others`; of equal ones the earlier stays."""
    if not len(others):
        return
    at = cosine.argmax(axis=1)
    value = cosine[np.arange(len(rows)), at]
    more = value > best[rows]
    best[rows[more]], by[rows[more]] = value[more], others[at[more]]


def _sweep(members: list[_Cluster], pool: int, eps: list[float], against: Against) -> pl.DataFrame:
    lines = []
    known = [m.compared(0.0, "all")[0] for m in members] if against == "all" else []
    for value in eps:
        if against == "all":
            removed = sum(int((best > 1 - value).sum()) for best in known)
        else:
            removed = sum(int(m.compared(value, against)[2].sum()) for m in members)
        lines.append(
            {"eps": value, "kept": pool - removed, "pool": pool, "share": (pool - removed) / pool if pool else None}
        )
    return pl.DataFrame(lines, schema={"eps": pl.Float64, "kept": pl.Int64, "pool": pl.Int64, "share": pl.Float64})


def spherical_kmeans(unit: FloatArray, count: int, *, iterations: int, seed: int) -> tuple[Ints, FloatArray]:
    """The cluster of each of `unit` [n, d], and unit centroids [count, d]; ties go to the smaller number.

    It begins at `count` rows drawn by `seed` and ends when no row moves, or after `iterations`. A cluster that loses all its rows keeps
    its centroid.
    """
    if not len(unit):
        return np.empty(0, np.int64), np.empty((0, unit.shape[1]), np.float32)
    lots: Any = [draw(f"{seed}|{row}") for row in range(len(unit))]
    centroids = unit[np.sort(np.argsort(np.array(lots, np.uint64), kind="stable")[:count])].copy()
    home = np.full(len(unit), -1, np.int64)
    for _ in range(iterations):
        before, home = home, _nearest(unit, centroids)
        if np.array_equal(before, home):
            break
        order = np.argsort(home, kind="stable")
        full, starts = np.unique(home[order], return_index=True)
        sums = np.add.reduceat(np.asarray(unit[order], np.float64), starts, axis=0)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centroids[full] = np.where(norms > 0, sums / np.where(norms > 0, norms, 1), centroids[full])
    return home, centroids


def _nearest(unit: FloatArray, centroids: FloatArray) -> Ints:
    """By cosine to six decimals, so that the last bits of a product do not move a row."""
    parts = [np.argmax((unit[s : s + BLOCK] @ centroids.T).round(SHOWN), axis=1) for s in range(0, len(unit), BLOCK)]
    return np.asarray(np.concatenate(parts), np.int64)
