"""The length dial in numbers: at each alpha how long the chains are and how many are right, and which levels are worth having."""

from fractions import Fraction
from typing import Any

import polars as pl

from tracemill.schemas.rows import Mean, Share, Summary
from tracemill.synth.mixchain.lengths import acu


def summary(traces: pl.LazyFrame, *, direction: str, params_billions: float | None) -> Summary:
    """A row an alpha, of all chains that were drawn, whatever became of them.

    `frontier` marks the levels that no other beats: none is as short or shorter with a larger share of right chains, or shorter
    with as large a share. Undecided and truncated chains count as chains and never as right.
    """
    tokens = pl.col("n_tokens").cast(pl.Int64)
    levels = (
        traces.filter(pl.col("solution_index") > 0)
        .group_by("alpha")
        .agg(
            pl.len().alias("chains"),
            tokens.sum().alias("tokens"),
            (tokens * tokens).sum().alias("squares"),
            pl.col("correct").fill_null(value=False).sum().cast(pl.Int64).alias("correct"),
            pl.col("correct").null_count().alias("undecided"),
            (pl.col("finish_reason") == "length").sum().alias("truncated"),
        )
        .sort("alpha")
        .collect(engine="streaming")
        .to_dicts()
    )
    rows = [
        {
            "alpha": f"{level['alpha']:g}",
            "chains": level["chains"],
            "mean tokens": Mean(level["tokens"], level["squares"], level["chains"]),
            "correct": Share(level["correct"], level["chains"]),
            "undecided": level["undecided"],
            "truncated": level["truncated"],
            **_acu(level, params_billions),
            "frontier": "yes" if not any(_beats(other, level) for other in levels) else "",
        }
        for level in levels
    ]
    return Summary(title="Length by alpha", rows=rows, note=_note(levels, direction))


def _acu(level: dict[str, Any], params_billions: float | None) -> dict[str, str]:
    if params_billions is None or not level["tokens"]:
        return {}
    percent, mean = 100 * level["correct"] / level["chains"], level["tokens"] / level["chains"]
    return {"ACU": f"{acu(percent, params_billions, mean):.3f}"}


def _beats(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether one level is as good in length and in right chains, and better in one of the two: decided on whole numbers."""
    (shorter, righter), (longer, worse) = _point(one), _point(other)
    return shorter <= longer and righter >= worse and (shorter, righter) != (longer, worse)


def _point(level: dict[str, Any]) -> tuple[Fraction, Fraction]:
    """Mean tokens and share of right chains."""
    return Fraction(level["tokens"], level["chains"]), Fraction(level["correct"], level["chains"])


def _note(levels: list[dict[str, Any]], direction: str) -> str:
    """What a reader has to know; also where the lengths go the other way than the recipe says."""
    text = "Means and shares with 95 % intervals; every chain that was drawn counts, whatever became of it."
    if len(levels) < 2:
        return text
    first, last = _point(levels[0])[0], _point(levels[-1])[0]
    if first != last and (last > first) != (direction == "short_to_long"):
        text += f" The recipe says direction = {direction}, and the lengths go the other way."
    return text
