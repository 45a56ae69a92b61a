"""Rows in an order that you state until a budget of tokens is full."""

from typing import Literal

import numpy as np
import polars as pl

from tracemill.schemas.rows import Selection
from tracemill.selectors.shares import greedy_fills, place, require, verdict

REACH = "table"
NEEDS = ("id", "n_tokens")
MEANING = {
    "budgets.budget": "Whose budget: its group as JSON text.",
    "budgets.rows": "Rows of it.",
    "budgets.taken": "How many were taken.",
    "budgets.tokens": "The budget.",
    "budgets.used": "Tokens of the rows that were taken.",
    "budgets.left": "Tokens that are left.",
}
"""What the columns of its table mean, for cards."""

_GROUP, _PLACE, _KNOWN, _RUN, _TAKEN = (
    "_budget_group",
    "_budget_place",
    "_budget_known",
    "_budget_run",
    "_budget_taken",
)


def check(*, tokens: int, **_: object) -> None:
    """Raise ValueError for options that cannot work."""
    if tokens < 1:
        raise ValueError(f"tokens = {tokens}: a budget of at least one token")


def budget(
    traces: pl.LazyFrame,
    *,
    engine: object = None,  # noqa: ARG001 - every selector has it; this one asks no model
    tokens: int,
    rule: Literal["prefix", "greedy"] = "prefix",
    per: tuple[str, ...] = (),
    order: tuple[str, ...] = (),
    seed: int = 0,
) -> Selection:
    """Take rows while their `n_tokens` fit into `tokens`, in all or for each group of equal `per`.

    Rows come by lot, or by the columns of `order`, a `-` in front for the largest first; ties go to the smaller id. `prefix` stops
    at the first row that does not fit, `greedy` passes over it and takes whatever still fits. A row of unknown length is never
    taken and stops nothing.

    Table `budgets`: for each group (JSON text) its `rows`, those `taken`, the budget's `tokens`, those `used` and those `left`.
    """
    check(tokens=tokens)
    require("budget", traces, "n_tokens", *per)
    group = pl.struct(per) if per else pl.lit(0)
    placed = traces.with_columns(
        group.alias(_GROUP),
        place("budget", traces, order, seed).alias(_PLACE),
        (pl.col("n_tokens") >= 0).fill_null(value=False).alias(_KNOWN),
    )
    size = pl.when(_KNOWN).then(pl.col("n_tokens").cast(pl.Int64)).otherwise(0)
    if rule == "prefix":
        run = placed.with_columns(size.cum_sum().over(_GROUP, order_by=_PLACE).alias(_RUN))
        judged = run.with_columns((pl.col(_KNOWN) & (pl.col(_RUN) <= tokens)).alias(_TAKEN))
        shown = {"with_all_before": pl.col(_RUN)}
    else:
        judged = placed.join(_greedily(placed, tokens), on="id", how="left", maintain_order="left").with_columns(
            pl.col(_TAKEN).fill_null(value=False)
        )
        taken = pl.when(_TAKEN).then(size).otherwise(0)
        judged = judged.with_columns(taken.cum_sum().over(_GROUP, order_by=_PLACE).alias(_RUN))
        shown = {"taken_before": pl.col(_RUN)}
    reason = pl.when(~pl.col(_KNOWN)).then(pl.lit("unknown_length")).when(~pl.col(_TAKEN)).then(pl.lit("over_budget"))
    evidence = {"n_tokens": pl.col("n_tokens"), "place": pl.col(_PLACE), "tokens": tokens, **shown}
    rows = judged.with_columns(*verdict(reason, **evidence)).drop(_GROUP, _PLACE, _KNOWN, _RUN, _TAKEN)
    name = pl.struct(per).struct.json_encode() if per else pl.lit("{}")
    used = pl.when(_TAKEN).then(size).otherwise(0).sum()
    table = (
        judged.with_columns(name.alias("budget"))
        .group_by("budget")
        .agg(
            pl.len().cast(pl.Int64).alias("rows"),
            pl.col(_TAKEN).sum().cast(pl.Int64).alias("taken"),
            pl.lit(tokens, pl.Int64).alias("tokens"),
            used.alias("used"),
            (tokens - used).alias("left"),
        )
    )
    return Selection(rows=rows, tables={"budgets": table})


def _greedily(placed: pl.LazyFrame, tokens: int) -> pl.LazyFrame:
    """The ids of rows of known length, each with whether it is taken."""
    known = placed.filter(_KNOWN).select("id", _GROUP, _PLACE, pl.col("n_tokens").cast(pl.Int64)).collect()
    ordered = known.sort(_GROUP, _PLACE)
    starts = np.flatnonzero((ordered[_GROUP].rle_id().diff() != 0).fill_null(value=True).to_numpy())
    taken = greedy_fills(ordered["n_tokens"].to_numpy(), starts, tokens)
    return ordered.lazy().select("id", pl.Series(_TAKEN, taken, pl.Boolean))
