"""The published columns of MixChain, and a chain a row."""

from typing import Literal

import polars as pl

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.views.tables import Tables, chosen, table


def mixchain_wide(tables: Tables) -> pl.LazyFrame:
    """The columns of horseee/MixChain-Z-PRM12K, for as many levels as there are.

    question, answer (the worked solution, where the source has one), target (the final answer), solution_0 (the worked
    solution again), solution_1 .., solution_1_token .., correct_1 ..
    """
    rows = table(tables, "rows")
    if "solution_1" not in (names := rows.collect_schema().names()):
        raise RecipeError("this format needs rows of the method mixchain with layout = 'wide'; rows have no solution_1")
    count = sum(name.startswith("solution_") and name[9:].isdecimal() for name in names)
    levels = range(1, count)
    return rows.sort("id").select(
        *("question", "answer", "target", "solution_0"),
        *(f"solution_{k}" for k in levels),
        *(f"solution_{k}_token" for k in levels),
        *(f"correct_{k}" for k in levels),
    )


def mixchain_long(
    tables: Tables, *, stage_order: Literal["mean_length", "index"] = "mean_length", training: bool = False
) -> pl.LazyFrame:
    """One row a chain: problem_id, question, solution, solution_index, alpha, beta, stage, n_tokens, target.

    `beta` is the strength at which CoT-Valve++ applies its adapter to the chain. `stage` is when CoT-Valve+P trains on it, 0
    first: the longest column first, by `mean_length` over the dataset, ties by index, or by `index` as in the published sets.
    `training` leaves out what nobody trains on: chains that are not right, and second copies of one text.
    """
    chains = chosen(tables)
    if "solution_index" not in chains.collect_schema().names():
        raise RecipeError("this format needs traces of the method mixchain; these have no solution_index")
    length = pl.col("n_tokens").mean() if stage_order == "mean_length" else pl.col("solution_index").first()
    stages = (
        chains.group_by("solution_index")
        .agg(length.alias("length"))
        .sort("length", "solution_index", descending=True)
        .with_row_index("stage")
        .select("solution_index", pl.col("stage").cast(pl.Int64))
    )
    if training:
        # not by `dup_of`: the first of two equal chains may have been turned down since
        text = pl.col("messages").list.last().struct.field("content")
        first = pl.col("solution_index") == pl.col("solution_index").min().over("problem_id", text)
        chains = chains.filter(pl.col("correct")).filter(first)
    return (
        chains.join(stages, on="solution_index")
        .sort("problem_id", "solution_index")
        .select(
            *("problem_id", "question"),
            pl.col("messages").list.last().struct.field("content").alias("solution"),
            *("solution_index", "alpha", "beta", "stage", "n_tokens"),
            pl.col("gold").alias("target"),
        )
    )
