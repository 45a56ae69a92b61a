"""Keep what reaches an answer, right or wrong."""

import polars as pl

from tracemill.schemas.plugins import reject

NEEDS = ("answer", "finish_reason", "n_tokens")


def answered() -> pl.Expr:
    """Keep a trace in which a final answer was found."""
    found = pl.col("answer").fill_null("").str.strip_chars() != ""
    return reject(~found, "unanswered", finish_reason=pl.col("finish_reason"), n_tokens=pl.col("n_tokens"))
