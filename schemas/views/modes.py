"""Pairs of replies between thinking modes and within one, as preference trainers read them."""

from typing import Literal

import polars as pl

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.views.tables import Tables, answer, table


def mode_pairs(tables: Tables, *, kind: Literal["inter", "intra", "both"] = "both") -> pl.LazyFrame:
    """`prompt`, `chosen`, `rejected` as conversations, with `pair_kind`, both modes, both scores and the problem.

    Replies follow the prompt as the model was shown it: where its template opens a thought, they begin inside it.
    """
    if "pairs" not in tables or "rejected_mode" not in table(tables, "pairs").collect_schema().names():
        raise RecipeError("this format needs the pairs of mode_advantage or hybrid_mode_mix; this version has none")
    pairs = table(tables, "pairs")
    wanted = pairs if kind == "both" else pairs.filter(pl.col("pair_kind") == kind)
    prompts = table(tables, "problems").select("problem_id", "prompt")
    return wanted.join(prompts, on="problem_id", how="left").sort("id").select(
        "prompt", answer("chosen").alias("chosen"), answer("rejected").alias("rejected"), "pair_kind", "mode", "rejected_mode",
        "chosen_score", "rejected_score", "problem_id",
    )  # fmt: skip
