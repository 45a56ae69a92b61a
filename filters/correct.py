"""Keep what the verifier found equal to the gold."""

import polars as pl

from tracemill.schemas.plugins import reject

NEEDS = ("correct", "answer", "gold", "verdict")


def correct() -> pl.Expr:
    """Keep a trace whose final answer equals the gold.

    The others are told apart, because they mean different things: `wrong` is the model's fault, `undecided` is an answer
    that was not found or a check that did not finish.
    """
    right = pl.col("correct")
    shown = {"answer": pl.col("answer"), "gold": pl.col("gold"), "verdict": pl.col("verdict")}
    return pl.coalesce(reject(right.is_null(), "undecided", **shown), reject(~right, "wrong", **shown))
