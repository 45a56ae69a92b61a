"""Traces as vectors: of a text, by the recipe's encoder, or given in a column. No selector stands here."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.mapped import room
from tracemill.schemas.plugins import Embedder, FloatArray
from tracemill.selectors.shares import anew, require

OUTPUT = "output"
"""In place of a column: the reasoning and the content, one after the other."""
WITHOUT, BROKEN, ZERO = "no_text", "not_finite", "zero_vector"
"""Why a row has no direction, in the column `vector_flag`."""
SLICE = 4096

COLUMNS = {"embedded_share": pl.Float64, "vector_flag": pl.String}

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Meaning:
    """The rows of a pool in the order of their ids, and what is known of each."""

    frame: pl.DataFrame
    """`id`, the columns asked for, `embedded_share` and `vector_flag`."""
    vectors: FloatArray
    """[n, d], as they came."""
    usable: Bools
    """[n], whether a row has a direction: its numbers are finite and not all zero."""
    embedder_id: str | None
    """Whose vectors; None where they were given."""


def check_vectors(vectors: str | None, text: str, chunks: int) -> None:
    """Raise ValueError for options about vectors that cannot work."""
    if chunks < 1:
        raise ValueError(f"chunks = {chunks}: 1 embeds the head of a text, 8 up to eight windows spread over it")
    if vectors is not None and (text != OUTPUT or chunks != 1):
        raise ValueError(
            f"vectors = {vectors!r}: nothing is embedded where vectors are given; leave out text and chunks"
        )


def meaning_of(
    name: str,
    traces: pl.LazyFrame,
    engine: Embedder | None,
    *,
    text: str,
    vectors: str | None,
    chunks: int,
    columns: tuple[str, ...] = (),
) -> Meaning:
    """The vectors of `traces`, of their `text` (a column, or `output`) or in the column `vectors`; RecipeError says what is missing."""
    check_vectors(vectors, text, chunks)
    schema = require(name, traces, "id", *columns)
    ordered = traces.sort("id")
    frame = ordered.select("id", *columns).collect()
    if vectors is not None:
        require(name, traces, vectors)
        if not isinstance(dtype := schema[vectors], pl.List | pl.Array) or not dtype.inner.is_numeric():
            raise RecipeError(f"{name}: vectors = {vectors!r} names a column of {dtype}; vectors are lists of numbers")
        lists = ordered.select(pl.col(vectors).cast(pl.List(pl.Float32)))
        matrix, flags = _given(name, lists, frame["id"])
        shares = pl.Series([None] * len(frame), dtype=pl.Float64)
        return _made(frame, matrix, flags, shares, None)
    if engine is None:
        raise RecipeError(
            f"{name} compares texts by their meaning and the recipe names no encoder; add [embedder] with name = "
            "'sentence-transformers/all-MiniLM-L6-v2', or give vectors of your own: vectors = 'column'"
        )
    said = ordered.select(text_of(name, schema, text).alias("text"))
    if frame.is_empty():
        return _made(frame, np.zeros((0, 1), np.float32), [], pl.Series([], dtype=pl.Float64), engine.identity)
    found = engine.embed(streamed(said), chunks=chunks)
    flags = [WITHOUT if not tokens else None for tokens in found.tokens.tolist()]
    share = found.covered / np.maximum(found.tokens, 1)
    shares = pl.Series(np.where(found.tokens > 0, share, np.nan)).fill_nan(None)
    return _made(frame, found.vectors, flags, shares, engine.identity)


def text_of(name: str, schema: pl.Schema, text: str) -> pl.Expr:
    """The text of a row that `text` names, empty where there is none; RecipeError where it names no text."""
    if text == OUTPUT and OUTPUT not in schema:
        return pl.concat_str("reasoning", "content", separator="\n", ignore_nulls=True)
    if text not in schema:
        raise RecipeError(f"{name}: text = {text!r} is no column; name one of text, such as question, or 'output'")
    if schema[text] not in (pl.String, pl.Null):
        raise RecipeError(f"{name}: text = {text!r} is a column of {schema[text]}; only text can be embedded")
    return pl.col(text).cast(pl.String).fill_null("")


def streamed(texts: pl.LazyFrame) -> Iterator[str]:
    """The texts one after the other; they go through a file, so that they are never in memory all at once."""
    for some in _slices(texts):
        yield from (str(text) for text in some.to_pylist())


def _slices(column: pl.LazyFrame) -> Iterator[Any]:
    """A column some rows at a time, from a file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "column.arrow"
        column.sink_ipc(file, compat_level=pl.CompatLevel.oldest())
        with pa.memory_map(str(file)) as mapped:
            reader = pa.ipc.open_file(mapped)
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                for start in range(0, batch.num_rows, SLICE):
                    yield batch.column(0).slice(start, SLICE)


def _given(name: str, vectors: pl.LazyFrame, ids: pl.Series) -> tuple[FloatArray, list[str | None]]:
    """The matrix of a column of lists; a list that is null or empty is a row without a direction."""
    [column] = vectors.collect_schema().names()
    lengths = vectors.select(pl.col(column).list.len().fill_null(0)).collect().to_series().to_numpy()
    there = lengths > 0
    sizes = np.unique(lengths[there])
    if len(sizes) > 1:
        odd = ids[int(np.flatnonzero(there & (lengths != lengths[there][0]))[0])]
        raise RecipeError(
            f"{name}: vectors of {', '.join(map(str, sizes))} numbers in one column {column!r} (row {odd}, for one); "
            "all need the same dimension"
        )
    size = int(sizes[0]) if len(sizes) else 1
    matrix = room(len(lengths), size)
    start = 0
    for some in _slices(vectors):
        part = slice(start, start := start + len(some))
        numbers = np.asarray(some.filter(pa.array(there[part])).flatten().to_numpy(zero_copy_only=False), np.float32)
        matrix[part][there[part]] = numbers.reshape(-1, size)  # a null among numbers is nan
    return matrix, [None if full else WITHOUT for full in there]


def _made(
    frame: pl.DataFrame, matrix: FloatArray, flags: list[str | None], shares: pl.Series, embedder: str | None
) -> Meaning:
    finite, nonzero = np.ones(len(matrix), np.bool_), np.ones(len(matrix), np.bool_)
    for start in range(0, len(matrix), SLICE):
        some = matrix[start : start + SLICE]
        finite[start : start + SLICE] = np.isfinite(some).all(axis=1)
        nonzero[start : start + SLICE] = (some != 0).any(axis=1)
    usable = finite & nonzero
    said = [
        flag or (None if ok else ZERO if whole else BROKEN)
        for flag, ok, whole in zip(flags, usable, finite, strict=True)
    ]
    known = frame.with_columns(
        shares.cast(pl.Float64).alias("embedded_share"), pl.Series("vector_flag", said, dtype=pl.String)
    )
    return Meaning(known, matrix, usable, embedder)


def with_verdicts(traces: pl.LazyFrame, verdicts: pl.DataFrame, **evidence: Any) -> pl.LazyFrame:
    """`traces` with the columns of `verdicts` (by `id`), its `reason` turned into selected, reason and evidence."""
    shown = pl.struct(
        (value if isinstance(value, pl.Expr) else pl.lit(value)).alias(key) for key, value in evidence.items()
    ).struct.json_encode()
    decided = verdicts.with_columns(
        pl.col("reason").is_null().alias("selected"),
        pl.when(pl.col("reason").is_not_null()).then(shown).alias("evidence"),
    )
    return anew(traces, decided.lazy())
