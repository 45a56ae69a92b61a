"""CISC: the answer of a problem by a vote in which a confident trace weighs more, beside the plain majority.

    w_i = exp(c_i / T) / sum_j exp(c_j / T)        the answer: the largest sum of w_i over the traces that gave it

Taubenfeld et al. 2025 (arXiv:2502.06233). Weights are whole millionths, so sums are the same in any order and equal is equal.
"""

import math
from typing import Literal

import polars as pl

from tracemill.schemas.rows import Selection
from tracemill.selectors.shares import place_by, ratio, require, verdict

REACH = "group"
GROUP = ("problem_id",)
NEEDS = ("id", "problem_id", "answer", "gold", "correct", "n_tokens")
MEANING = {
    "weight": "The trace's share of its problem's vote.",
    "answer_mass": "The share of its answer.",
    "votes.n": "Traces of the problem.",
    "votes.n_answers": "Different answers among them.",
    "votes.T": "The temperature of the weights.",
    "votes.vote": "`confidence`, or `majority` where no trace that votes has one.",
    "votes.masses": "The answers with their traces and their share of the vote, the winner first.",
    "votes.sc_answer": "The answer that most traces gave.",
    "votes.gold": "The reference answer; null where the source has none.",
    "votes.sc_correct": "Whether that is right; null means undecided.",
    "votes.cisc_answer": "The answer with the largest share.",
    "votes.cisc_correct": "Whether that is right; null means undecided.",
    "votes.wqd_pairs": "Pairs of a right and a wrong trace of the problem.",
    "votes.wqd_halves": "Those in which the right one is the more confident, in halves: a tie counts one, a win two.",
}
"""What its columns mean, for cards."""

UNIT = 1_000_000
"""The weight of a problem's most confident trace before the weights are made to add up to one. Coarse on purpose: the last bits of
an exponential differ from machine to machine, a millionth does not."""

_CLASS, _C, _UNITS, _SUM = ("_cisc_class", "_cisc_confidence", "_cisc_units", "_cisc_sum")
_MASS, _WON, _PLACE, _FIRST = ("_cisc_mass", "_cisc_won", "_cisc_place", "_cisc_first")
_BY_CLASS = ("problem_id", _CLASS)


def check(*, temperature: float, **_: object) -> None:
    """Raise ValueError for options that cannot work."""
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(
            f"temperature = {temperature}: a number above 0; a large one is plain majority, a small one the most confident trace"
        )


def cisc(
    traces: pl.LazyFrame,
    *,
    engine: object = None,  # noqa: ARG001 - every selector has it; confidences stand in a column
    confidence: str,
    temperature: float = 1.0,
    take: Literal["best", "all"] = "best",
) -> Selection:
    """Choose, of each problem, the answer with the largest share of the confidence vote: its `best` trace, or `all` of them.

    Answers vote as text, with white space collapsed and in lower case. A trace without an answer weighs like any other, for a
    class that never wins; where no trace has one, none is chosen. Equal classes: more traces, then the higher best confidence,
    then the smaller text. The best trace is the most confident, then the shortest, then the smaller id. A trace without a
    confidence has no weight; where no trace of a problem has any, all weigh the same. Temperature 1 untuned can be worse than
    the majority: tune it on problems put aside.

    Rows get `weight` and `answer_mass`. Table `votes`, one row a problem: `n`, `n_answers`, `T`, `vote` (confidence, or majority
    where there is no confidence), `masses`, the plain majority `sc_answer` (ties to the smaller text) and `cisc_answer` with
    whether they are right, and the pairs of a right and a wrong trace: `wqd_pairs`, and `wqd_halves`, two for each pair in
    which the right one is the more confident and one for a tie.
    """
    check(temperature=temperature)
    require("cisc", traces, confidence, *NEEDS)
    weighed = _weighed(traces, confidence, temperature)
    classes = _classes(weighed)
    winners = classes.filter(pl.col("place") == 0).select("problem_id", pl.col(_CLASS).alias(_WON))
    masses = classes.select(*_BY_CLASS, pl.col("mass").alias(_MASS), pl.col("all_units").alias(_SUM))
    joined = weighed.join(winners, on="problem_id", how="left", maintain_order="left").join(
        masses, on=_BY_CLASS, how="left", nulls_equal=True, maintain_order="left"
    )
    ranked = joined.with_columns(
        ratio(pl.col(_UNITS), pl.col(_SUM)).alias("weight"),
        pl.col(_MASS).alias("answer_mass"),
        place_by([pl.col(_C), pl.col("n_tokens")], [True, False]).alias(_PLACE),
    ).with_columns((pl.col(_PLACE) == pl.col(_PLACE).min().over(_BY_CLASS)).alias(_FIRST))
    lost = pl.col(_CLASS) != pl.col(_WON)
    reason = (
        pl.when(pl.col(_CLASS).is_null())
        .then(pl.lit("no_answer"))
        .when(lost)
        .then(pl.lit("outvoted"))
        .when(~pl.col(_FIRST) & (take == "best"))
        .then(pl.lit("not_representative"))
    )
    evidence = {
        "answer": pl.col("answer"),
        "mass": pl.col("answer_mass"),
        "winner": pl.col(_WON),
        "weight": pl.col("weight"),
    }
    rows = ranked.with_columns(*verdict(reason, **evidence)).drop(_CLASS, _C, _UNITS, _SUM, _MASS, _WON, _PLACE, _FIRST)
    votes = _votes(classes, temperature).join(wqd(traces, confidence=confidence), on="problem_id", how="left")
    return Selection(rows=rows, tables={"votes": votes})


def wqd(traces: pl.LazyFrame, *, confidence: str) -> pl.LazyFrame:
    """Within-question discrimination: how often a right trace is more confident than a wrong one of the same problem.

    One row a problem: `wqd_pairs` pairs, `wqd_halves` two for each pair in the right order and one for a tie, by ranks and not
    pair by pair. The measure is sum(wqd_halves) / (2 * sum(wqd_pairs)); a problem without both kinds adds nothing. Undecided
    traces and those without a confidence are left out.
    """
    known = traces.select("problem_id", "correct", _confidence(confidence).alias(_C)).drop_nulls(["correct", _C])
    twice = (2 * pl.col(_C).rank("average")).cast(pl.Int64)
    counted = (
        known.with_columns(twice.over("problem_id").alias("twice"))
        .group_by("problem_id")
        .agg(
            pl.col("correct").sum().cast(pl.Int64).alias("right"),
            (~pl.col("correct")).sum().cast(pl.Int64).alias("wrong"),
            pl.col("twice").filter("correct").sum().alias("ranks"),
        )
    )
    right, wrong = pl.col("right"), pl.col("wrong")
    both = (right > 0) & (wrong > 0)
    found = counted.select(
        "problem_id",
        (right * wrong).alias("wqd_pairs"),
        pl.when(both).then(pl.col("ranks") - right * (right + 1)).otherwise(0).alias("wqd_halves"),
    )
    problems = traces.select("problem_id").unique()
    return problems.join(found, on="problem_id", how="left").with_columns(
        pl.col("wqd_pairs", "wqd_halves").fill_null(0)
    )


def _confidence(column: str) -> pl.Expr:
    value = pl.col(column).cast(pl.Float64)
    return pl.when(value.is_finite()).then(value)


def _weighed(traces: pl.LazyFrame, confidence: str, temperature: float) -> pl.LazyFrame:
    """The traces with their class and their weight in whole units."""
    text = pl.col("answer").str.replace_all(r"\s+", " ").str.strip_chars().str.to_lowercase()
    known = traces.with_columns(pl.when(text != "").then(text).alias(_CLASS), _confidence(confidence).alias(_C))
    below = ratio(pl.col(_C) - pl.col(_C).max().over("problem_id"), temperature)
    units = (below.exp() * UNIT).round().cast(pl.Int64)
    alike = pl.when(pl.col(_C).max().over("problem_id").is_null()).then(1).otherwise(0)
    return known.with_columns(pl.coalesce(units, alike.cast(pl.Int64)).alias(_UNITS))


def _classes(weighed: pl.LazyFrame) -> pl.LazyFrame:
    """One row an answer of a problem: units, members, whether right, and its `place`, 0 for the winner."""
    classes = weighed.group_by(_BY_CLASS).agg(
        pl.col(_UNITS).sum().alias("units"),
        pl.len().cast(pl.Int64).alias("members"),
        pl.col(_C).max().alias("surest"),
        pl.col(_C).count().cast(pl.Int64).alias("sure"),
        pl.col("correct").max().alias("right"),
        pl.col("gold").min(),
    )
    silent, text = pl.col(_CLASS).is_null(), pl.col(_CLASS)
    by_mass = [silent, -pl.col("units"), -pl.col("members"), -pl.col("surest"), text]
    all_units = pl.col("units").sum().over("problem_id")
    return (
        classes.with_columns(all_units.alias("all_units"), ratio(pl.col("units"), all_units).alias("mass"))
        .sort("problem_id", silent, -pl.col("members"), text, nulls_last=True)
        .with_columns(pl.int_range(pl.len()).over("problem_id").alias("count_place"))
        .sort("problem_id", *by_mass, nulls_last=True)
        .with_columns(pl.int_range(pl.len()).over("problem_id").alias("place"))
    )


def _votes(classes: pl.LazyFrame, temperature: float) -> pl.LazyFrame:
    """One row a problem; the classes come in the order of their places."""
    by_count, by_mass = pl.col("count_place") == 0, pl.col("place") == 0
    return classes.group_by("problem_id", maintain_order=True).agg(
        pl.col("members").sum().alias("n"),
        pl.col(_CLASS).count().cast(pl.Int64).alias("n_answers"),
        pl.lit(temperature).alias("T"),
        pl.when(pl.col("sure").sum() > 0).then(pl.lit("confidence")).otherwise(pl.lit("majority")).alias("vote"),
        pl.struct(pl.col(_CLASS).alias("answer"), "members", "mass").alias("masses"),
        pl.col(_CLASS).filter(by_count).first().alias("sc_answer"),
        pl.col("right").filter(by_count).first().alias("sc_correct"),
        pl.col(_CLASS).filter(by_mass).first().alias("cisc_answer"),
        pl.col("right").filter(by_mass).first().alias("cisc_correct"),
        pl.col("gold").min(),
    )
