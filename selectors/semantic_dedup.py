"""Near-duplicates by meaning, all of them: every pair at or above a cosine is found, and the way it was is certified.

    ids in a stated order ──▶ a row stays unless a row that stayed before it is near ──▶ duplicates, components, near_pairs, certificate

Rows of equal vectors are one row in the search, so a group of 50,000 copies makes no pairs.
"""

import logging
from typing import Any, Literal

import numpy as np
import polars as pl

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.plugins import Embedder
from tracemill.schemas.rows import Selection
from tracemill.selectors.meaning import Meaning, check_vectors, meaning_of, with_verdicts
from tracemill.selectors.near import MOST_PAIRS, Floats, Ints, components, distinct, greedy, memory_of, near_pairs
from tracemill.selectors.shares import place

REACH = "table"
NEEDS = ("id", "reasoning", "content", "n_tokens")

THRESHOLD = 0.9
SHOWN = 6

Order = Literal["id", "longest", "shortest"]

PAIR = {"id": pl.String, "near_id": pl.String, "similarity": pl.Float64}
DUPLICATE = {
    "id": pl.String,
    "removed_by": pl.String,
    "similarity": pl.Float64,
    "identical": pl.Boolean,
    "component": pl.String,
}
COMPONENT = {"component": pl.String, "id": pl.String, "selected": pl.Boolean, "size": pl.Int64}

_log = logging.getLogger(__name__)


def check(
    *,
    threshold: float,
    floor: float | None,
    by: str | None,
    order: Order,
    vectors: str | None,
    text: str,
    chunks: int,
    most_pairs: int,
    **_: object,
) -> None:
    """Raise ValueError for options that cannot work."""
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold = {threshold}: a cosine above 0 and up to 1; 0.9 takes close paraphrases")
    if floor is not None and not 0 < floor <= threshold:
        raise ValueError(f"floor = {floor}: above 0 and up to threshold = {threshold}; near_pairs holds pairs from there up")
    if by is not None and order != "id":
        raise ValueError(f"by = {by!r} and order = {order!r}: give one of them")
    if most_pairs < 1:
        raise ValueError(f"most_pairs = {most_pairs}: at least 1")
    check_vectors(vectors, text, chunks)


def semantic_dedup(
    traces: pl.LazyFrame,
    *,
    engine: Embedder | None = None,
    threshold: float = THRESHOLD,
    floor: float | None = None,
    order: Order = "id",
    by: str | None = None,
    text: str = "output",
    chunks: int = 1,
    vectors: str | None = None,
    most_pairs: int = MOST_PAIRS,
) -> Selection:
    """Take rows in a stated order, each unless its cosine to one that was taken is at or above `threshold`.

    The order is that of `id`s, the `longest` or `shortest` first (by `n_tokens`), or that of a column: `by = "-reward"` has the
    largest first, and rows without a value come last. A row that is not taken never keeps another one out. What is compared is
    `text`, a column or `output` (reasoning and content), as the recipe's `[embedder]` sees it: its head, or `chunks` windows
    spread over it; or `vectors`, a column of lists of numbers. A row without text, or whose vector is zero or not finite,
    is taken and flagged.

    Rows get `embedded_share`, the share of the text's tokens that the encoder read, and `vector_flag`. Tables: `duplicates`,
    a row that was not taken a line; `components`, the rows of all groups that pairs join; `near_pairs`, the pairs at or above
    `floor` (`threshold` unless given), from which `rethreshold` decides anew without a search, rows of equal vectors standing for
    one another; `certificate`, what was compared, what was ruled out by which bound, and the margin for rounding.
    """
    options = {"text": text, "chunks": chunks, "vectors": vectors, "most_pairs": most_pairs}
    check(threshold=threshold, floor=floor, order=order, by=by, **options)  # type: ignore[arg-type]
    column = {"id": (), "longest": ("-n_tokens",), "shortest": ("n_tokens",)}[order] if by is None else (by,)
    first = place("semantic_dedup", traces, column or ("id",), 0).alias("rank")
    ranked = traces.with_columns(first)
    said = meaning_of(
        "semantic_dedup", ranked, engine, text=text, vectors=vectors, chunks=chunks, columns=("rank",)
    )
    found = _found(said, threshold if floor is None else floor, most_pairs)
    decided = _decided(said, found, threshold)
    rows = with_verdicts(
        traces,
        decided.select("id", "embedded_share", "vector_flag", "reason", "removed_by", "similarity"),
        removed_by=pl.col("removed_by"),
        similarity=pl.col("similarity"),
        threshold=threshold,
    ).drop("removed_by", "similarity")
    return Selection(rows=rows, tables=_tables(decided, found, threshold))


class _Found:
    """The pairs of a pool at or above a floor, between rows of different vectors, by places in the pool."""

    def __init__(self, ids: pl.Series, first: Ints, second: Ints, cosine: Floats, twin: Ints, certificate: dict[str, Any]):
        self.ids, self.first, self.second, self.cosine = ids, first, second, cosine
        self.twin = twin
        """For each row the first in order that has its very vector: itself where there is none before it."""
        self.certificate = certificate


def _found(said: Meaning, floor: float, most: int) -> _Found:
    rank = said.frame["rank"].to_numpy()
    usable = np.flatnonzero(said.usable)
    vectors = said.vectors if len(usable) == len(said.frame) else said.vectors[usable]
    firsts, twin_of = distinct(vectors, rank[usable])
    one_each = vectors if len(firsts) == len(vectors) else vectors[firsts]
    plan = memory_of(*one_each.shape)
    _log.info("semantic_dedup of %d vectors needs up to %d MB: %s", len(one_each), sum(plan.values()) >> 20, plan)
    pairs = near_pairs(one_each, floor, most=most)
    back = usable[firsts]
    twin = np.arange(len(rank))
    twin[usable] = back[twin_of]
    certificate = {
        "embedder_id": said.embedder_id,
        "pool": len(rank),
        "without_direction": len(rank) - len(usable),
        "identical": len(usable) - len(firsts),
        **pairs.certificate,
        "recall": 1.0,
        "memory_bytes": sum(plan.values()),
    }
    return _Found(said.frame["id"], back[pairs.first], back[pairs.second], pairs.cosine, twin, certificate)


def _decided(said: Meaning, found: _Found, threshold: float) -> pl.DataFrame:
    """The pool with `reason`, `removed_by`, `similarity`, `identical` and `component` (null for a row that is near no other)."""
    n, rank = len(said.frame), said.frame["rank"].to_numpy()
    enough = found.cosine >= threshold
    first, second, cosine = found.first[enough], found.second[enough], found.cosine[enough]
    kept, by, similarity = greedy(n, first, second, cosine, rank)
    copies = found.twin != np.arange(n)
    own = kept[found.twin]
    by = np.where(copies, np.where(own, found.twin, by[found.twin]), by)
    similarity = np.where(copies, np.where(own, 1.0, similarity[found.twin]), similarity)
    removed = copies | ~kept
    group = components(n, np.concatenate([first, np.flatnonzero(copies)]), np.concatenate([second, found.twin[copies]]))
    sizes = np.bincount(group, minlength=n)[group] if n else group
    ids = said.frame["id"]
    return said.frame.with_columns(
        pl.Series("reason", ["near_duplicate" if out else None for out in removed], dtype=pl.String),
        _ids(ids, by, removed, "removed_by"),
        pl.Series("similarity", similarity, dtype=pl.Float64).round(SHOWN).fill_nan(None),
        pl.Series("identical", copies & own),
        _ids(ids, group, sizes > 1, "component"),
        pl.Series("size", sizes, dtype=pl.Int64),
    )


def _ids(ids: pl.Series, places: Ints, where: Any, name: str) -> pl.Series:
    chosen = ids.gather(np.where(where, places, 0)) if len(ids) else ids
    return pl.select(pl.when(pl.Series(where, dtype=pl.Boolean)).then(chosen).alias(name)).to_series().cast(pl.String)


def _tables(decided: pl.DataFrame, found: _Found, threshold: float) -> dict[str, pl.LazyFrame]:
    removed = decided.filter(pl.col("reason").is_not_null())
    grouped = decided.filter(pl.col("component").is_not_null()).with_columns(pl.col("reason").is_null().alias("selected"))
    copies = np.flatnonzero(found.twin != np.arange(len(found.twin)))
    one, other = (np.concatenate(part) for part in ((found.first, copies), (found.second, found.twin[copies])))
    pairs = pl.DataFrame(
        {
            "id": found.ids.gather(one),
            "near_id": found.ids.gather(other),
            "similarity": np.round(np.concatenate([found.cosine, np.ones(len(copies))]), 12),
        },
        schema=PAIR,
    )
    certificate = {**found.certificate, "threshold": threshold}
    return {
        "duplicates": removed.select(pl.col(name).cast(dtype) for name, dtype in DUPLICATE.items()).lazy(),
        "components": grouped.select(pl.col(name).cast(dtype) for name, dtype in COMPONENT.items()).lazy(),
        "near_pairs": pairs.lazy(),
        "certificate": pl.DataFrame([certificate], schema_overrides={"embedder_id": pl.String}).lazy(),
    }


def rethreshold(near_pairs: pl.DataFrame, ids: pl.Series, threshold: float) -> pl.DataFrame:
    """Decide anew from the table `near_pairs`: `id`, `selected`, `removed_by`, `similarity` for `ids` in the order they come in.

    `threshold` is not below the floor that the pairs were found for. Neither vectors nor texts are looked at.
    """
    if near_pairs.height and threshold <= 0:
        raise RecipeError(f"threshold = {threshold}: a cosine above 0 and up to 1")
    n = len(ids)
    place_of = pl.DataFrame({"id": ids, "place": np.arange(n)})
    known = near_pairs.filter(pl.col("similarity") >= threshold)
    first = known.join(place_of, on="id", maintain_order="left")["place"].to_numpy()
    second = known.join(place_of, left_on="near_id", right_on="id", maintain_order="left")["place"].to_numpy()
    kept, by, similarity = greedy(n, first, second, known["similarity"].to_numpy(), np.arange(n))
    return pl.DataFrame(
        {
            "id": ids,
            "selected": kept,
            "removed_by": _ids(ids, by, ~kept, "removed_by"),
            "similarity": pl.Series(similarity).fill_nan(None).round(SHOWN),
        }
    )
