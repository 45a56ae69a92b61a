"""Near-duplicates by meaning, all of them: every pair at or above a cosine is found, and the way it was is certified.

    ids in a stated order ──▶ a row stays unless a row that stayed before it is near ──▶ duplicates, components, near_pairs, certificate

Rows of equal vectors are one row in the search, so a group of 50,000 copies makes no pairs.
"""

import logging
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.plugins import Embedder, Workers
from tracemill.schemas.rows import Selection
from tracemill.selectors.keeping import Floats, Ints, Picked, components, decide, distinct
from tracemill.selectors.meaning import Meaning, check_vectors, meaning_of, with_verdicts
from tracemill.selectors.near import MOST_PAIRS, memory_of, near_pairs
from tracemill.selectors.shares import place

REACH = "table"
NEEDS = ("id", "reasoning", "content", "n_tokens")
MEANING = {
    "embedded_share": "The share of the text's tokens that the encoder read.",
    "vector_flag": "`no_text`, `zero_vector` or `not_finite` where the row has no direction to compare.",
    "duplicates.removed_by": "The row that was taken in its place.",
    "duplicates.similarity": "Their cosine.",
    "duplicates.identical": "Whether both have the very same vector.",
    "duplicates.component": "The smallest id of all rows that chains of near pairs join.",
    "components.component": "The smallest id of all rows that chains of near pairs join.",
    "components.selected": "Whether the row was taken.",
    "components.size": "Rows of the component.",
    "near_pairs.near_id": "A row that is near it.",
    "near_pairs.similarity": "Their cosine.",
    "near_pairs.identical": "Whether both have the very same vector.",
}
"""What its columns mean, for cards."""

THRESHOLD = 0.9
SHOWN = 6

Order = Literal["id", "longest", "shortest"]

PAIR = {"id": pl.String, "near_id": pl.String, "similarity": pl.Float64, "identical": pl.Boolean}
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
        raise ValueError(
            f"floor = {floor}: above 0 and up to threshold = {threshold}; near_pairs holds pairs from there up"
        )
    if by is not None and order != "id":
        raise ValueError(f"by = {by!r} and order = {order!r}: give one of them")
    if most_pairs < 1:
        raise ValueError(f"most_pairs = {most_pairs}: at least 1")
    check_vectors(vectors, text, chunks)


def semantic_dedup(
    traces: pl.LazyFrame,
    *,
    engine: Embedder | None = None,
    workers: Workers | None = None,
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
    one another; `certificate`, a line: the pool, rows without a direction, of equal vectors, all pairs of the others and how many
    are near. None is missed: the manifest says under `selected` how many pairs were checked, how many each bound ruled out, with
    which margin for rounding, and in how much memory.
    """
    options = {"text": text, "chunks": chunks, "vectors": vectors, "most_pairs": most_pairs}
    check(threshold=threshold, floor=floor, order=order, by=by, **options)  # type: ignore[arg-type]
    column = {"id": (), "longest": ("-n_tokens",), "shortest": ("n_tokens",)}[order] if by is None else (by,)
    first = place("semantic_dedup", traces, column or ("id",), 0).alias("rank")
    ranked = traces.with_columns(first)
    said = meaning_of("semantic_dedup", ranked, engine, text=text, vectors=vectors, chunks=chunks, columns=("rank",))
    found = _found(said, threshold if floor is None else floor, most_pairs, workers)
    decided = _decided(said, found, threshold)
    rows = with_verdicts(
        traces,
        decided.select("id", "embedded_share", "vector_flag", "reason", "removed_by", "similarity"),
        removed_by=pl.col("removed_by"),
        similarity=pl.col("similarity"),
        threshold=threshold,
    ).drop("removed_by", "similarity")
    return Selection(rows=rows, tables=_tables(decided, found, threshold), facts=found.search)


@dataclass(frozen=True)
class _Found:
    """The pairs of a pool at or above a floor, between rows of different vectors, by places in the pool."""

    ids: pl.Series
    first: Ints
    second: Ints
    cosine: Floats
    twin: Ints
    """For each row the first in order that has its very vector: itself where there is none before it."""
    certificate: dict[str, Any]
    """The same on every machine."""
    search: dict[str, Any]
    """How it was searched, here."""


def _found(said: Meaning, floor: float, most: int, workers: Workers | None) -> _Found:
    rank = said.frame["rank"].to_numpy()
    usable = np.flatnonzero(said.usable)
    firsts, twin_of = distinct(said.vectors, rank[usable], None if len(usable) == len(rank) else usable)
    back = usable[firsts]
    one_each = said.vectors if len(back) == len(rank) else Picked(said.vectors, back)
    plan = memory_of(*one_each.shape)
    _log.info("semantic_dedup of %d vectors needs up to %d MB: %s", len(one_each), sum(plan.values()) >> 20, plan)
    pairs = near_pairs(one_each, floor, most=most, workers=workers)
    twin = np.arange(len(rank))
    twin[usable] = back[twin_of]
    certificate = {
        "embedder_id": said.embedder_id,
        "pool": len(rank),
        "without_direction": len(rank) - len(usable),
        "identical": len(usable) - len(firsts),
        "compared": len(firsts),
        "dimensions": said.vectors.shape[1],
        "floor": floor,
        "pairs": len(firsts) * (len(firsts) - 1) // 2,
        "near": len(pairs.first),
    }
    search = {**pairs.certificate, "memory": plan}
    return _Found(said.frame["id"], back[pairs.first], back[pairs.second], pairs.cosine, twin, certificate, search)


def _decided(said: Meaning, found: _Found, threshold: float) -> pl.DataFrame:
    """The pool with `reason`, `removed_by`, `similarity`, `identical` and `component` (null for a row that is near no other)."""
    n, rank = len(said.frame), said.frame["rank"].to_numpy()
    enough = found.cosine >= threshold
    first, second, cosine = found.first[enough], found.second[enough], found.cosine[enough]
    kept, by, similarity = decide(n, first, second, cosine, found.twin, rank)
    copies = found.twin != np.arange(n)
    removed = ~kept
    group = components(n, np.concatenate([first, np.flatnonzero(copies)]), np.concatenate([second, found.twin[copies]]))
    sizes = np.bincount(group, minlength=n)[group] if n else group
    ids = said.frame["id"]
    return said.frame.with_columns(
        pl.Series("reason", ["near_duplicate" if out else None for out in removed], dtype=pl.String),
        _ids(ids, by, removed, "removed_by"),
        pl.Series("similarity", similarity, dtype=pl.Float64).round(SHOWN).fill_nan(None),
        pl.Series("identical", copies & (by == found.twin)),
        _ids(ids, group, sizes > 1, "component"),
        pl.Series("size", sizes, dtype=pl.Int64),
    )


def _ids(ids: pl.Series, places: Ints, where: Any, name: str) -> pl.Series:
    chosen = ids.gather(np.where(where, places, 0)) if len(ids) else ids
    return pl.select(pl.when(pl.Series(where, dtype=pl.Boolean)).then(chosen).alias(name)).to_series().cast(pl.String)


def _tables(decided: pl.DataFrame, found: _Found, threshold: float) -> dict[str, pl.LazyFrame]:
    removed = decided.filter(pl.col("reason").is_not_null())
    grouped = decided.filter(pl.col("component").is_not_null()).with_columns(
        pl.col("reason").is_null().alias("selected")
    )
    copies = np.flatnonzero(found.twin != np.arange(len(found.twin)))
    one, other = (np.concatenate(part) for part in ((found.first, copies), (found.second, found.twin[copies])))
    pairs = pl.DataFrame(
        {
            "id": found.ids.gather(one),
            "near_id": found.ids.gather(other),
            "similarity": np.concatenate([found.cosine, np.ones(len(copies))]),
            "identical": np.arange(len(one)) >= len(found.first),
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
    if not 0 < threshold <= 1:
        raise RecipeError(f"threshold = {threshold}: a cosine above 0 and up to 1")
    n = len(ids)
    place_of = pl.DataFrame({"id": ids, "place": np.arange(n)})
    known = near_pairs.filter(pl.col("similarity") >= threshold)
    one = known.join(place_of, on="id", maintain_order="left")["place"].to_numpy()
    other = known.join(place_of, left_on="near_id", right_on="id", maintain_order="left")["place"].to_numpy()
    equal, cosine = known["identical"].to_numpy(), known["similarity"].to_numpy()
    twin = np.arange(n)
    twin[one[equal]] = other[equal]
    kept, by, similarity = decide(n, one[~equal], other[~equal], cosine[~equal], twin, np.arange(n))
    shown = pl.Series("similarity", similarity).fill_nan(None).round(SHOWN)
    return pl.DataFrame([ids.alias("id"), pl.Series("selected", kept), _ids(ids, by, ~kept, "removed_by"), shown])
