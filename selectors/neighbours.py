"""Rows that say what an item says in other words: all pairs of a row and an item at or above a cosine. No selector stands here."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.plugins import Embedder
from tracemill.selectors.meaning import meaning_of

PRODUCTS = 1 << 23
"""Products that are in memory at a time."""
ROUNDED_FIRST = 1e-4
"""Products in float32 of unit vectors lie this near to the true ones; what they leave open float64 decides."""
DECIMALS = 6
NEIGHBOUR = {"id": pl.String, "item": pl.UInt32, "score": pl.Float64}


def neighbours(
    name: str, traces: pl.LazyFrame, engine: Embedder | None, items: Sequence[str], *, column: str, floor: float
) -> pl.DataFrame:
    """`id`, `item` (its place in `items`) and `score` (the cosine, to 6 decimals) of all pairs at or above `floor`.

    Of rows and items the head is read, as much as the encoder takes at once. What has no text is near nothing.
    """
    said = meaning_of(name, traces, engine, text=column, vectors=None, chunks=1)
    if engine is None or said.frame.is_empty() or not items:
        return pl.DataFrame(schema=NEIGHBOUR)
    theirs = engine.embed(items, chunks=1).vectors
    if theirs.shape[1] != said.vectors.shape[1]:
        raise RecipeError(
            f"{name}: vectors of {said.vectors.shape[1]} and of {theirs.shape[1]} numbers; one encoder has one size"
        )
    step = max(1, PRODUCTS // len(items))
    found = [
        _near(said.vectors[start : start + step], theirs, floor, start) for start in range(0, len(said.frame), step)
    ]
    row, item, score = (np.concatenate(part) for part in zip(*found, strict=True))
    pairs = pl.DataFrame({"id": said.frame["id"].gather(row), "item": item, "score": score}, schema_overrides=NEIGHBOUR)
    return pairs.cast(NEIGHBOUR)  # type: ignore[arg-type]


def _near(rows: np.ndarray, items: np.ndarray, floor: float, start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    row, item = np.nonzero(rows @ items.T >= floor - ROUNDED_FIRST)
    exact = np.empty(len(row), np.float64)
    for at in range(0, len(row), 1 << 14):
        some = slice(at, at + (1 << 14))
        exact[some] = np.einsum("ij,ij->i", rows[row[some]].astype(np.float64), items[item[some]].astype(np.float64))
    exact = np.round(exact, DECIMALS)
    keep = exact >= floor
    return row[keep] + start, item[keep], exact[keep]
