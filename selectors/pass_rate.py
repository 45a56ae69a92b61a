"""Keep the problems that are neither too easy nor too hard for the model that tried them."""

from fractions import Fraction

import polars as pl

from tracemill.schemas.rows import Selection

REACH = "group"
GROUP = ("problem_id",)
NEEDS = ("problem_id", "correct")

COUNTS = ("problem_correct", "problem_total", "problem_undecided")
"""Counts over all that was sampled for a problem, before filters; where they are missing, the rows at hand are counted."""
DECIMALS = 9
_CORRECT, _TOTAL, _UNDECIDED = ("_rate_correct", "_rate_total", "_rate_undecided")


def check(*, at_least: float, at_most: float) -> None:
    """Raise ValueError for a band that cannot be met, or not exactly."""
    for name, bound in (("at_least", at_least), ("at_most", at_most)):
        if not 0 <= bound <= 1:
            raise ValueError(f"{name} = {bound}: a pass rate lies between 0 and 1")
        if 10**DECIMALS % exact(bound).denominator:
            raise ValueError(f"{name} = {bound}: at most {DECIMALS} decimals, so that whole numbers can decide")
    if at_least > at_most:
        raise ValueError(f"at_least = {at_least} is above at_most = {at_most}: nothing would be kept")


def exact(bound: float) -> Fraction:
    """The number as it was written: 0.1 is a tenth, not the float beside it."""
    return Fraction(str(bound))


def pass_rate(
    traces: pl.LazyFrame,
    *,
    engine: object = None,  # noqa: ARG001 - every selector has it; this one asks no model
    at_least: float = 0.0,
    at_most: float = 1.0,
) -> Selection:
    """Keep all traces of a problem whose share of correct samples is `at_least` to `at_most`, both ends inside.

    The share is of everything that was sampled for the problem, whatever the filters dropped since. An undecided sample
    counts among the total and not among the correct. The comparison is one of whole numbers.
    """
    check(at_least=at_least, at_most=at_most)
    low, high = exact(at_least), exact(at_most)
    counted = traces.with_columns(*_counts(traces))
    correct, total = pl.col(_CORRECT), pl.col(_TOTAL)
    reason = (
        pl.when((total > 0).not_().fill_null(value=True) | correct.is_null())
        .then(pl.lit("not_sampled"))
        .when(correct * low.denominator < total * low.numerator)
        .then(pl.lit("too_hard"))
        .when(correct * high.denominator > total * high.numerator)
        .then(pl.lit("too_easy"))
        .otherwise(None)
    )
    shown = pl.struct(
        correct.alias("correct"),
        total.alias("total"),
        pl.col(_UNDECIDED).alias("undecided"),
        pl.lit(at_least).alias("at_least"),
        pl.lit(at_most).alias("at_most"),
    ).struct.json_encode()
    rows = counted.with_columns(reason.alias("reason")).with_columns(
        pl.col("reason").is_null().alias("selected"),
        pl.when(pl.col("reason").is_not_null()).then(shown).alias("evidence"),
    )
    return Selection(rows=rows.drop(_CORRECT, _TOTAL, _UNDECIDED))


def _counts(traces: pl.LazyFrame) -> list[pl.Expr]:
    names = (_CORRECT, _TOTAL, _UNDECIDED)
    if set(COUNTS) <= set(traces.collect_schema().names()):
        counts = [pl.col(name) for name in COUNTS]
    else:
        verdict = pl.col("correct")
        counts = [count.over(GROUP) for count in (verdict.sum(), pl.len(), verdict.null_count())]
    return [count.cast(pl.Int64).alias(name) for count, name in zip(counts, names, strict=True)]
