"""Chains folded into one row a question, in the columns of the published MixChain-Z sets and more.

Published: question, answer (the worked solution), target (the final answer), solution_0 (the worked solution again), solution_k,
solution_k_token, correct_k, by alpha ascending. Columns are never sorted by length: an index is a level of alpha, whatever
the length of what came out.
"""

import polars as pl

from tracemill.schemas.levels import canonical_scales

OF_THE_QUESTION = ("question", "source", "licence", "difficulty", "direction", "length_monotone")


def fold(traces: pl.LazyFrame, *, alphas: tuple[float, ...]) -> pl.LazyFrame:
    """One row a problem; the columns of a chain that was turned down are null."""
    question = [pl.col(name).drop_nulls().first() for name in OF_THE_QUESTION]
    reference = _text().filter(pl.col("solution_index") == 0).first()
    zero = [
        pl.col(name).filter(pl.col("solution_index") == 0).first().alias(f"{name}_0")
        for name in ("length_rank", "beta")
    ]
    drawn = [column for index in range(1, len(canonical_scales(alphas)) + 1) for column in _columns(index)]
    return traces.group_by("problem_id").agg(
        pl.col("problem_id").first().alias("id"),
        *question,
        reference.alias("answer"),
        pl.col("gold").first().alias("target"),
        reference.alias("solution_0"),
        *zero,
        *drawn,
        pl.col("model").filter(pl.col("solution_index") > 0).first(),
        pl.col("tokenizer").filter(pl.col("solution_index") > 0).first().alias("tokenizer_id"),
    )


def _columns(index: int) -> list[pl.Expr]:
    names = {
        "solution": _text(),
        "solution_token": pl.col("n_tokens"),
        **{name: pl.col(name) for name in ("correct", "alpha", "origin", "finish_reason", "length_rank", "beta")},
    }
    return [
        value.filter(pl.col("solution_index") == index).first().alias(_name(name, index))
        for name, value in names.items()
    ]


def _name(name: str, index: int) -> str:
    return f"solution_{index}_token" if name == "solution_token" else f"{name}_{index}"


def _text() -> pl.Expr:
    """The chain as it was written, thoughts and answer."""
    return pl.col("messages").list.last().struct.field("content")
