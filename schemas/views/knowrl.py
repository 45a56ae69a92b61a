r"""The released columns of KnowRL (arXiv:2604.12627): problems with knowledge points, and which of them to show.

{"dataset": "AIME24", "prompt": [{"content": "...", "role": "user"}], "reward_model": {"ground_truth": "\\boxed{236}", "style": "rule"},
 "kp_list": ["**Knowledge Point**: ...", ...], "css_kept_kp_index": [0, 3], "css_selected_kps": [...], "cbrs_kept_kp_index": [], ...}
"""

from typing import Literal

import polars as pl

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.views.tables import Tables, table

_INDEX, _POINTS = "_kept_kp_index", "_selected_kps"


def knowrl(tables: Tables, *, form: Literal["evaluation", "training"] = "evaluation") -> pl.LazyFrame:
    """Problems as KnowRL released them: for evaluation the bare question and every strategy's points, for training the hinted prompt.

    `evaluation` has `dataset` (the source), `prompt`, `reward_model`, `kp_list`, and `*_kept_kp_index` and `*_selected_kps` of each
    strategy of the recipe. `training` has the prompt with the hints in it, `reward_model`, `kp_list`, `kept_kp_index`.
    """
    rows = table(tables, "rows")
    names = rows.collect_schema().names()
    if "kp_list" not in names or "kept_kp_index" not in names:
        raise RecipeError("this format needs rows of the method hints; these have no kp_list and kept_kp_index")
    boxed = pl.concat_str(pl.lit("\\boxed{"), pl.col("gold"), pl.lit("}"))
    gold = pl.when(pl.col("gold").str.contains("\\boxed", literal=True)).then("gold").otherwise(boxed)
    reward = pl.struct(gold.alias("ground_truth"), pl.lit("rule").alias("style")).alias("reward_model")
    dataset = pl.col("source").alias("dataset")
    if form == "training":
        return rows.sort("id").select(dataset, "prompt", reward, "kp_list", "kept_kp_index")
    question = pl.struct(pl.col("question").alias("content"), pl.lit("user").alias("role"))
    strategies = [name.removesuffix(_INDEX) for name in names if name.endswith(_INDEX)]
    kept = [f"{name}{column}" for name in strategies for column in (_INDEX, _POINTS)]
    return rows.sort("id").select(dataset, pl.concat_list(question).alias("prompt"), reward, "kp_list", *kept)
