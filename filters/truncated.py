"""Drop what was cut off."""

import polars as pl

from tracemill.schemas.plugins import reject

NEEDS = ("finish_reason", "n_tokens")


def truncated() -> pl.Expr:
    """Drop a trace that ran into the token limit, even where it had reached its answer: its end would be learnt as an end.

    Given traces count as whole; where nobody knows how a trace ended, it goes too, with its evidence.
    """
    ended = {"finish_reason": pl.col("finish_reason"), "n_tokens": pl.col("n_tokens")}
    return reject(pl.col("finish_reason") == "length", "truncated", **ended)
