"""The length dial: of each problem's chains the shortest right one, and every pair of a shorter and a longer chain, judged.

A pair teaches a model to be brief only where the shorter chain kept the answer; where it lost it, the pair is refused, and says so.
"""

import polars as pl

from tracemill.schemas.rows import Selection

REACH = "group"
GROUP = ("problem_id",)
NEEDS = ("id", "problem_id", "correct", "answer", "gold", "verdict", "n_tokens")
MEANING = {
    "pairs.short_id": "The shorter chain.",
    "pairs.long_id": "The longest right chain of the problem.",
    "pairs.short_tokens": "Tokens of the shorter chain.",
    "pairs.long_tokens": "Tokens of the longest right chain.",
    "pairs.ratio": "Short over long.",
    "pairs.accepted": "Whether the shorter chain is right: only then it is fit to be trained on.",
    "pairs.reason": "Why not: `shorter_lost_correctness` or `shorter_undecided`.",
    "pairs.dial": "Marks the pair with the chosen chain.",
}
"""What the columns of its table mean, for cards."""

_RIGHT, _DRAWN, _SHORTEST, _LONGEST = ("_dial_right", "_dial_drawn", "_dial_shortest", "_dial_longest")


def length_dial(
    traces: pl.LazyFrame,
    *,
    engine: object = None,  # noqa: ARG001 - every selector has it; this one asks no model
) -> Selection:
    """Choose the shortest right chain of each problem; ties go to the smaller id. A reference solution of the source is no chain.

    Table `pairs`: the longest right chain of a problem (`long_id`) beside each shorter chain (`short_id`), with the tokens of both
    and `ratio`, short over long. `accepted` where the shorter one is right; else `reason` is `shorter_lost_correctness`, or
    `shorter_undecided`. `dial` marks the pair with the chosen chain. A problem without a right chain, or with chains of one
    length only, has no pairs. Put it before any filter that drops wrong chains, or there is nothing to refuse.
    """
    drawn = pl.lit(value=True)
    if "origin" in traces.collect_schema().names():  # the source's own solution is no chain of the model's
        drawn = (pl.col("origin") != "ground_truth").fill_null(value=True)
    right = pl.col("correct").fill_null(value=False) & pl.col("n_tokens").is_not_null() & drawn
    marked = traces.with_columns(right.alias(_RIGHT), drawn.alias(_DRAWN))
    candidates = marked.filter(_RIGHT)
    shortest = (
        candidates.sort("n_tokens", "id")
        .group_by("problem_id")
        .agg(pl.struct("id", "n_tokens").first().alias(_SHORTEST))
    )
    longest = (
        candidates.sort("n_tokens", "id", descending=[True, False])
        .group_by("problem_id")
        .agg(pl.struct("id", "n_tokens").first().alias(_LONGEST))
    )
    seen = marked.join(shortest, on="problem_id", how="left", maintain_order="left").join(
        longest, on="problem_id", how="left", maintain_order="left"
    )
    selected = (pl.col("id") == pl.col(_SHORTEST).struct.field("id")).fill_null(value=False)
    judged = seen.with_columns(selected.alias("selected")).with_columns(*_why_not())
    return Selection(rows=judged.drop(_RIGHT, _DRAWN, _SHORTEST, _LONGEST), tables={"pairs": _pairs(seen)})


def _why_not() -> tuple[pl.Expr, pl.Expr]:
    longer = pl.struct("n_tokens", pl.col(_SHORTEST).alias("chosen")).struct.json_encode()
    verdict = pl.struct("answer", "gold", "verdict").struct.json_encode()
    selected, right = pl.col("selected"), pl.col(_RIGHT)
    undecided = pl.col("correct").is_null()
    reason = (
        pl.when(selected)
        .then(None)
        .when(~pl.col(_DRAWN))
        .then(pl.lit("reference"))
        .when(right)
        .then(pl.lit("not_shortest"))
        .when(undecided)
        .then(pl.lit("undecided"))
        .when(pl.col("correct"))
        .then(pl.lit("unknown_length"))
        .otherwise(pl.lit("wrong"))
    )
    return (
        reason.alias("reason"),
        pl.when(selected).then(None).when(right).then(longer).otherwise(verdict).alias("evidence"),
    )


def _pairs(seen: pl.LazyFrame) -> pl.LazyFrame:
    long_tokens = pl.col(_LONGEST).struct.field("n_tokens")
    reason = (
        pl.when(pl.col(_RIGHT))
        .then(None)
        .when(pl.col("correct").is_null())
        .then(pl.lit("shorter_undecided"))
        .otherwise(pl.lit("shorter_lost_correctness"))
    )
    return seen.filter(pl.col(_DRAWN) & (pl.col("n_tokens") < long_tokens)).select(
        "problem_id",
        pl.col("id").alias("short_id"),
        pl.col(_LONGEST).struct.field("id").alias("long_id"),
        pl.col("n_tokens").alias("short_tokens"),
        long_tokens.alias("long_tokens"),
        (pl.col("n_tokens") / long_tokens).alias("ratio"),
        pl.col(_RIGHT).alias("accepted"),
        reason.alias("reason"),
        (pl.col("id") == pl.col(_SHORTEST).struct.field("id")).alias("dial"),
    )
