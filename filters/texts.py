"""Texts as several filters take them: which text of a row is looked at, and how a verdict is made of what was measured.

    column = "question"     that column, of traces or, under [[source.keep]], of problems
    no column               the trace as it was written: the last turn of `messages`, thoughts and tags included

A filter of texts measures in steps that build on each other, words before n-grams before ratios. As one expression polars would
take every step again for each place that names it, so the steps are frames, and the expression is a function of a batch: in it
nothing is done a row at a time unless the filter says so. Evidence is put together for the rows that are turned down only.
"""

from collections.abc import Callable, Sequence
from functools import partial

import polars as pl

from tracemill.schemas.errors import RecipeError

VERDICT = pl.Struct({"reason": pl.String, "evidence": pl.String})
SHOWN_CHARACTERS = 200
"""Of a line or a span, in evidence."""
_PIECE_BYTES = 16 * 2**20
"""Text that is measured at a time: n-grams take some twenty times the room of their text."""

Measure = Callable[[pl.DataFrame], pl.DataFrame]
"""From `text`, never null, and the columns that were asked for to `reason`, null where a row is kept, and the evidence."""


def judge_texts(name: str, column: str | None, measure: Measure, *, also: Sequence[str] = ()) -> pl.Expr:
    """The verdict of `measure` on a text of every row; a row without one (null) is turned down as `no_text`.

    RecipeError where the column holds something else than text, on a frame without rows too: before the first token.
    """
    if column is not None and not column:
        raise ValueError("column = '': name a text column, such as 'content' or 'question'")
    text = pl.col(column) if column else pl.col("messages").list.last().struct.field("content")
    seen = pl.struct(text.alias("text"), *also)
    shown = column or "messages"
    return seen.map_batches(partial(_verdicts, name, shown, measure), return_dtype=VERDICT, is_elementwise=True)


def _verdicts(name: str, column: str, measure: Measure, rows: pl.Series) -> pl.Series:
    frame = rows.struct.unnest()
    dtype = frame.schema["text"]
    if dtype not in (pl.String, pl.Null):
        raise RecipeError(f"{name}: column {column!r} is {dtype}, not text; name a text column, such as 'content'")
    frame = frame.with_columns(pl.col("text").cast(pl.String)).with_row_index("_row")
    blank = pl.struct(pl.lit(column).alias("column")).struct.json_encode()
    said = [frame.filter(pl.col("text").is_null()).select("_row", pl.lit("no_text").alias("reason"), evidence=blank)]
    for piece in _pieces(frame.filter(pl.col("text").is_not_null())):
        found = piece.select("_row").hstack(measure(piece.drop("_row"))).filter(pl.col("reason").is_not_null())
        evidence = pl.struct(pl.lit(column).alias("column"), pl.exclude("_row", "reason")).struct.json_encode()
        said.append(found.select("_row", "reason", evidence=evidence))
    down = pl.concat(said).select("_row", verdict=pl.struct("reason", "evidence"))
    judged = frame.select("_row").join(down, on="_row", how="left", maintain_order="left")
    return judged["verdict"].cast(VERDICT).alias(rows.name)


def _pieces(frame: pl.DataFrame) -> list[pl.DataFrame]:
    """The rows in order, some at a time; none where there are none."""
    behind = pl.col("text").str.len_bytes().cast(pl.Int64).cum_sum() - pl.col("text").str.len_bytes()
    pieces = frame.with_columns((behind // _PIECE_BYTES).alias("_piece"))
    return pieces.partition_by("_piece", maintain_order=True, include_key=False) if frame.height else []


def first_reason(*rules: tuple[str, pl.Expr]) -> pl.Expr:
    """The reason of the first rule that holds; null where none does, and where a rule has nothing to go by."""
    found: list[pl.Expr] = [pl.when(holds.fill_null(value=False)).then(pl.lit(reason)) for reason, holds in rules]
    return pl.coalesce(found)
