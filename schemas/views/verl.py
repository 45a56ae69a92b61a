"""What verl 0.9 reads."""

import polars as pl

from tracemill.schemas.views.tables import Tables, checkable, tools_of


def verl(
    tables: Tables, *, data_source: str | None = None, ability: str = "math", split: str = "train"
) -> pl.LazyFrame:
    """Prompts with checkable answers in verl's columns.

    `data_source` chooses verl's reward function; it is the source's name unless given, and verl knows such as
    `openai/gsm8k`. `split` is what `extra_info` says, where `index` counts the rows.
    """
    name = pl.col("source") if data_source is None else pl.lit(data_source)
    problems = checkable(tables)
    return problems.with_row_index("index").select(
        name.alias("data_source"),
        "prompt",
        *tools_of(problems),
        pl.lit(ability).alias("ability"),
        pl.struct(pl.lit("rule").alias("style"), pl.col("gold").alias("ground_truth")).alias("reward_model"),
        pl.struct(pl.lit(split).alias("split"), pl.col("index").cast(pl.Int64), "problem_id").alias("extra_info"),
    )
