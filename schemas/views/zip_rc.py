"""ZIP-RC's labels (arXiv:2512.01457): a class for each token of a rollout, of how it ends and how much is still to come.

    class = length bin + bins * reward state        300 tokens left, right: bin 1, state 1, class 1 + 8 = 9

A label follows from place, length and reward, so rows of the method `reward_remaining_labels` keep those, and labels are made here.
"""

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from math import ceil

import polars as pl

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.rows import draw
from tracemill.schemas.views.tables import Tables, chosen

EDGES = (0, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
"""Of the bins of remaining tokens, each up to the next edge and the last one without an end; as in the released code."""
MOST = 64
"""Labelled tokens of a rollout, so that long ones do not decide what is likely; not stated in the paper."""


def label(remaining: int, reward: Fraction | float, *, states: int = 2, edges: Sequence[int] = EDGES) -> int:
    """The class of a token with `remaining` after it: `states` rewards evenly from 0 to 1, the nearest one, the lower of two."""
    length_bin = min(bisect_right(edges, remaining), len(edges) - 1) - 1
    within = min(max(Fraction(reward), Fraction(0)), Fraction(1))
    state = ceil(within * (states - 1) - Fraction(1, 2))
    return length_bin + (len(edges) - 1) * state


def zip_rc(tables: Tables, *, most: int = MOST) -> pl.LazyFrame:
    """One row a rollout: `input_ids`, the `positions` in it that have a label, their `labels`, and what these were made of.

    At most `most` positions a rollout, evenly over the response from a start that its id draws; 0 labels every token of it.
    """
    if most < 0:
        raise RecipeError(f"most = {most}: so many labelled tokens of each rollout, or 0 for all of them")
    rows = chosen(tables)
    if "last_class" not in rows.collect_schema().names():
        raise RecipeError("this format needs rows of the method reward_remaining_labels; these have no last_class")
    first = rows.select(pl.col("length_edges")).head(1).collect()["length_edges"].to_list()
    edges = first[0] if first else EDGES
    total = pl.col("input_ids").list.len().cast(pl.Int64) - pl.col("prompt_len")
    narrow = rows.select("id", "prompt_len", "last_class", total=total).with_columns(
        count=pl.min_horizontal("total", pl.lit(most)) if most else pl.col("total"),
        start=pl.struct("id", "total").map_elements(lambda row: draw(row["id"]) % row["total"], return_dtype=pl.Int64),
    )
    place = (pl.col("number") * pl.col("total") + pl.col("start")) // pl.col("count")
    remaining = pl.col("total") - 1 - pl.col("place")
    length_bin = pl.sum_horizontal([(remaining >= edge).cast(pl.Int64) for edge in edges[1:-1]])
    labelled = (
        narrow.with_columns(number=pl.int_ranges(0, pl.col("count")))
        .explode("number")
        .with_columns(place=place)
        .group_by("id", maintain_order=True)
        # the last token has 0 after it, so its class is that of its state alone
        .agg(positions=pl.col("prompt_len") + pl.col("place"), labels=length_bin + pl.col("last_class"))
    )
    kept = rows.select("id", "input_ids", "prompt_len", "finished", "reward", "value", "length_edges", "reward_values")
    return kept.join(labelled, on="id", how="left").sort("id")
