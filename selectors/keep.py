"""Keep the best few traces of every problem: the shortest, the longest, the most central, or any."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal

import polars as pl

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.rows import Selection, draw

REACH = "group"
GROUP = ("problem_id",)
"""Rows that must be seen together; the option `per` replaces it."""
NEEDS = ("id", "problem_id", "correct", "answer", "gold", "verdict", "n_tokens", "content")

Preference = Literal["shortest", "longest", "random", "central"]
NOT_CHOSEN = {"shortest": "not_shortest", "longest": "not_longest", "random": "not_drawn", "central": "not_central"}
SHINGLE = 3
UNKNOWN_LENGTH = 2**62

_CANDIDATE, _ORDER, _RANK, _OF, _CHOSEN = ("_keep_candidate", "_keep_order", "_keep_rank", "_keep_of", "_keep_chosen")


def check(*, k: int, per: tuple[str, ...], **_: Any) -> None:
    """Raise ValueError for options that cannot work."""
    if k < 1:
        raise ValueError(f"k = {k}: keep at least one trace a problem")
    if not per:
        raise ValueError("per = []: name the columns whose values make a group, such as ['problem_id']")


def keep(
    traces: pl.LazyFrame,
    *,
    engine: object = None,  # noqa: ARG001 - every selector has it; this one asks no model
    k: int = 1,
    prefer: Preference = "shortest",
    correct_only: bool = True,
    per: tuple[str, ...] = GROUP,
    seed: int = 0,
) -> Selection:
    """Choose up to `k` traces of each group of equal `per`, correct ones only unless told otherwise.

    `shortest` and `longest` go by tokens; a trace of unknown length comes last in both. `random` is drawn from `seed` and the
    id, so that a trace keeps its number whatever stands beside it. `central` prefers the trace whose words are most like
    those of the other candidates: the highest mean Jaccard similarity of its sets of three words in a row, exactly. Ties
    go to the smaller id.
    """
    check(k=k, per=per)
    if absent := set(per) - set(traces.collect_schema().names()):
        raise RecipeError(f"keep: per = {list(per)}: the traces have no column {sorted(absent)}")
    candidate = pl.col("correct").fill_null(value=False) if correct_only else pl.lit(value=True)
    ordered = _ordered(traces.with_columns(candidate.alias(_CANDIDATE)), prefer, per, seed)
    ranked = ordered.with_columns(
        pl.int_range(1, pl.len() + 1).over(per, order_by=[~pl.col(_CANDIDATE), _ORDER, "id"]).alias(_RANK),
        pl.col(_CANDIDATE).sum().over(per).alias(_OF),
    ).with_columns((pl.col(_CANDIDATE) & (pl.col(_RANK) <= k)).alias("selected"))
    chosen = ranked.filter("selected").group_by(per).agg(pl.struct("id", "n_tokens").sort_by(_RANK).alias(_CHOSEN))
    rows = ranked.join(chosen, on=per, how="left", nulls_equal=True, maintain_order="left")
    return Selection(rows=rows.with_columns(*_why_not(prefer, k)).drop(_CANDIDATE, _ORDER, _RANK, _OF, _CHOSEN))


def _ordered(traces: pl.LazyFrame, prefer: Preference, per: tuple[str, ...], seed: int) -> pl.LazyFrame:
    """The traces with the number that candidates are taken by, smallest first."""
    if prefer == "central":
        groups = traces.filter(_CANDIDATE).group_by(per).agg("id", "content")
        places = groups.select(
            "id", pl.col("content").map_batches(_all_places, return_dtype=pl.List(pl.Int64), is_elementwise=True)
        ).explode("id", "content")
        return traces.join(
            places.rename({"content": _ORDER}), on="id", how="left", nulls_equal=True, maintain_order="left"
        )
    order = {
        "shortest": pl.col("n_tokens").fill_null(UNKNOWN_LENGTH),
        "longest": (-pl.col("n_tokens")).fill_null(UNKNOWN_LENGTH),
        "random": pl.col("id").map_batches(_lots(seed), return_dtype=pl.UInt64, is_elementwise=True),
    }[prefer]
    return traces.with_columns(order.alias(_ORDER))


def _why_not(prefer: Preference, k: int) -> tuple[pl.Expr, pl.Expr]:
    """`reason` and `evidence`, null where a row is selected."""
    verdict = pl.struct("answer", "gold", "verdict").struct.json_encode()
    place = pl.struct(
        pl.col(_RANK).alias("rank"),
        pl.col(_OF).alias("of"),
        pl.lit(k).alias("k"),
        "n_tokens",
        pl.col(_CHOSEN).alias("chosen"),
    ).struct.json_encode()
    reason = (
        pl.when(pl.col("selected"))
        .then(None)
        .when(pl.col(_CANDIDATE))
        .then(pl.lit(NOT_CHOSEN[prefer]))
        .when(pl.col("correct").is_null())
        .then(pl.lit("undecided"))
        .otherwise(pl.lit("wrong"))
    )
    evidence = pl.when(pl.col("selected")).then(None).when(pl.col(_CANDIDATE)).then(place).otherwise(verdict)
    return reason.alias("reason"), evidence.alias("evidence")


def _lots(seed: int) -> Any:
    """A function from ids to their lots."""
    return lambda ids: pl.Series([draw(f"{seed}|{row_id}") for row_id in ids], dtype=pl.UInt64)


def _all_places(groups: pl.Series) -> pl.Series:
    return pl.Series([places_by_likeness(list(texts)) for texts in groups], dtype=pl.List(pl.Int64))


def places_by_likeness(texts: Sequence[str | None]) -> list[int]:
    """The place of each text, 0 for the one most like the others; equal likeness is an equal place.

    Similarities are fractions, so that two texts exactly as central as each other tie.
    """
    sets = [_shingles(text or "") for text in texts]
    likeness = [Fraction(0)] * len(sets)
    for i, left in enumerate(sets):
        for j in range(i):
            shared = len(left & sets[j])
            similarity = Fraction(shared, len(left) + len(sets[j]) - shared)
            likeness[i] += similarity
            likeness[j] += similarity
    places = {value: place for place, value in enumerate(sorted(set(likeness), reverse=True))}
    return [places[value] for value in likeness]


def _shingles(text: str) -> set[tuple[str, ...]]:
    """Every three words in a row; a text of fewer words is one shingle, so no set is empty."""
    words = text.split()
    return {tuple(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))}
