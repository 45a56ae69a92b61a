"""As many tokens of each kind as the kind with the fewest has: thinking replies and short ones, one to one by what is learnt of them."""

import polars as pl

from tracemill.schemas.rows import Selection
from tracemill.selectors.budget import MEANING as OF_BUDGETS
from tracemill.selectors.budget import budget
from tracemill.selectors.shares import require

REACH = "table"
NEEDS = ("id", "n_tokens")
MEANING = OF_BUDGETS
"""What the columns of its table mean, for cards."""


def check(*, by: tuple[str, ...], **_: object) -> None:
    """Raise ValueError for options that cannot work."""
    if not by:
        raise ValueError("by = []: name the columns whose values are to weigh the same, such as ['mode']")


def balance(
    traces: pl.LazyFrame,
    *,
    engine: object = None,  # noqa: ARG001 - every selector has it; this one asks no model
    by: tuple[str, ...],
    order: tuple[str, ...] = (),
    seed: int = 0,
) -> Selection:
    """Take rows of every value of the columns `by` until each has as many tokens (`n_tokens`) as the one with the fewest.

    Rows come by lot, or by the columns of `order`, a `-` in front for the largest first; one that would be too many is passed over,
    and whatever still fits is taken. A row of unknown length is never taken; where all of one value are so, no other has a token to give.

    Table `budgets`, as that of `budget`: for each value (JSON text) its `rows`, those `taken`, the `tokens` of the least, `used` and `left`.
    """
    check(by=by)
    require("balance", traces, "n_tokens", *by)
    size = pl.col("n_tokens").cast(pl.Int64).fill_null(0).clip(lower_bound=0).sum()
    sums = traces.group_by(by).agg(size.alias("_balance")).collect()["_balance"]
    return budget(traces, tokens=max(1, min(sums.to_list(), default=1)), rule="greedy", per=by, order=order, seed=seed)
