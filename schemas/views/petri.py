"""Petri-net traces as MedVerse publishes them, as plain chains, and a step a row."""

import polars as pl

from tracemill.schemas.views.tables import Tables, chosen

_TURNS = pl.col("messages").list.eval(
    pl.struct(pl.element().struct.field("role"), pl.element().struct.field("content"))
)


def medverse(tables: Tables) -> pl.LazyFrame:
    """`id` and `messages`: the assistant's turn is plan, execution and conclusion in MedVerse's tags.

    Its twelve tags are meant as special tokens of the tokenizer: `SPECIAL_TOKENS` of synth/petri_trace/text.py lists them.
    """
    return chosen(tables).sort("id").select("id", _TURNS.alias("messages"))


def petri_linear(tables: Tables) -> pl.LazyFrame:
    r"""`id` and `messages` without tags: the texts of the steps one after the other, then the answer in \boxed{} where there is one.

    Steps stand in the order of their numbers, which is topological and the same wherever the net is built.
    """
    steps = pl.col("steps").list.eval(pl.element().sort_by(pl.element().struct.field("n")))
    texts = steps.list.eval(pl.element().struct.field("text")).list.join("\n\n")
    answer = pl.concat_str(pl.lit("\n\nThe final answer is \\boxed{"), pl.col("answer"), pl.lit("}.")).fill_null("")
    said = pl.struct(pl.lit("assistant").alias("role"), pl.concat_str(texts, answer).alias("content"))
    before = _TURNS.list.slice(0, _TURNS.list.len().cast(pl.Int64) - 1)
    return chosen(tables).sort("id").select("id", pl.concat_list(before, pl.concat_list(said)).alias("messages"))


def petri_dag(tables: Tables) -> pl.LazyFrame:
    """A step a row: id, problem_id, n, left, right, deps, level (its frontier, from 1), text, n_tokens."""
    rows = chosen(tables).select("id", "problem_id", "steps", "level").explode("steps", "level")
    return (
        rows.select("id", "problem_id", pl.col("level").struct.field("value").alias("level"), "steps")
        .unnest("steps")
        .sort("id", "n")
        .select("id", "problem_id", "n", "left", "right", "deps", "level", "text", "n_tokens")
    )
