"""What OpenRLHF 0.11 reads; the flags of its command line name the columns."""

from typing import Literal

import polars as pl

from tracemill.schemas.views.tables import Tables, checkable, chosen, tools_of


def openrlhf(tables: Tables, *, form: Literal["sft", "rl"] = "sft") -> pl.LazyFrame:
    """Conversations for OpenRLHF: `input` and `output` to learn from, or with `form = "rl"` prompts with checkable answers.

    `sft` has the chosen traces, for `--data.input_key input --data.output_key output`. `rl` has the columns `prompt`, `label`
    (the gold) and `datasource`, which its evaluations go by, for `--data.input_key prompt --data.label_key label`. Both need
    `--data.apply_chat_template`. OpenRLHF shows no tools to a template, so the column `tools` is for others.
    """
    if form == "rl":
        problems = checkable(tables)
        gold, source = pl.col("gold").alias("label"), pl.col("source").alias("datasource")
        return problems.select("prompt", gold, source, *tools_of(problems), "problem_id")
    rows = chosen(tables).sort("id")
    turns = pl.col("messages")
    before = turns.list.slice(0, (turns.list.len().cast(pl.Int64) - 1).clip(lower_bound=0))
    return rows.select(before.alias("input"), turns.list.tail(1).alias("output"), *tools_of(rows))
