"""Labelled steps in the layouts that process reward models and value models are trained from.

`hrm` reads the rows of step_tree and human_steps; the others read the method's own tables, where a solution is the way from a node
up to the question.
"""

from typing import Literal

import polars as pl

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.views.tables import Tables, answer, chosen, table

ID = pl.concat_str("problem_id", pl.lit("/"), "node_id")
"""Of a node, as the table `nodes` has it."""
BETWEEN = "\n"
"""What stands between the steps of a solution."""


def hrm(tables: Tables, *, split: Literal["train", "test", "all"] = "all") -> pl.LazyFrame:
    """`input` and `label` of HRM's released trainer, which regresses the one on the other; `split` and `problem_id` follow.

    Rows of steps behind which no answer could be decided are left out: their label says nothing.
    """
    rows = chosen(tables)
    if "granularity" not in rows.collect_schema().names():
        raise RecipeError("this format needs rows of the methods step_tree or human_steps; these have no granularity")
    if split != "all":
        rows = rows.filter(pl.col("split") == split)
    decided = (pl.col("n_undecided") < pl.col("n_leaves")).fill_null(value=True)
    return rows.filter(decided).sort("id").select("input", "label", "split", "problem_id")


def trl_prm(tables: Tables, *, after_error: bool = False) -> pl.LazyFrame:
    """Stepwise supervision as TRL reads it up to 1.13: `prompt`, `completions` (the steps), `labels` (true: good).

    One row for each way from the question down to an end of the tree, or to the first bad step; `after_error` goes on behind it. A
    step whose label is open cuts the way before it. What is the same then stands there once.
    """
    nodes = _steps(tables)
    inner = nodes.select(id="parent_id").drop_nulls()
    ends = nodes.join(inner, on="id", how="anti").select("id", "problem_id")
    label = pl.element()
    stops = pl.col("labels").list.eval(
        label.is_null() | (pl.lit(value=not after_error) & (label == 0)).fill_null(value=False)
    )
    first = stops.list.arg_max()
    whole = pl.col("labels").list.len()
    bad = pl.col("labels").list.get(first, null_on_oob=True).eq(0).fill_null(value=False)
    kept = pl.when(stops.list.any()).then(first + bad.cast(pl.UInt32)).otherwise(whole)
    return (
        _with_ways(ends, nodes)
        .with_columns(kept.alias("kept"))
        .filter(pl.col("kept") > 0)
        .select(
            "problem_id",
            pl.col("ids").list.get(pl.col("kept").cast(pl.Int64) - 1).alias("end"),
            pl.col("steps").list.head(pl.col("kept")).alias("completions"),
            pl.col("labels").list.head(pl.col("kept")).list.eval(label == 1).alias("labels"),
        )
        .unique(subset="end", keep="any")
        .join(_questions(tables), on="problem_id")
        .sort("problem_id", "end")
        .select("prompt", "completions", "labels", "problem_id")
    )


def step_pairs(tables: Tables, *, form: Literal["turns", "text"] = "turns") -> pl.LazyFrame:
    """Sibling steps, the better one known: `prompt`, `chosen`, `rejected`, with `margin`, `q_pos`, `q_neg` and `problem_id`.

    `turns`: conversations whose answers are the solution up to and with the step; what both begin with weighs nothing in a
    preference loss. `text`: the question and the steps before as one text, and the bare steps.
    """
    pairs, problems = table(tables, "pairs"), table(tables, "problems")
    before = pl.col("prefix").list.join(BETWEEN)
    follows = pl.col("prefix").list.len() > 0
    if form == "turns":
        opened = pl.when(follows).then(before + BETWEEN).otherwise(pl.lit(""))
        prompt, sides = pl.col("prompt"), [answer(opened + pl.col(side)) for side in ("pos", "neg")]
    else:
        prompt = pl.col("question") + pl.when(follows).then("\n\n" + before).otherwise(pl.lit(""))
        sides = [pl.col(side) for side in ("pos", "neg")]
    joined = pairs.join(problems.select("problem_id", "question", "prompt"), on="problem_id").with_columns(
        prompt.alias("prompt"), sides[0].alias("chosen"), sides[1].alias("rejected")
    )
    return joined.sort("problem_id", "node_id", "pos_id", "neg_id").select(
        "prompt", "chosen", "rejected", "margin", "q_pos", "q_neg", "problem_id"
    )


def rest(tables: Tables) -> pl.LazyFrame:
    """ReST-MCTS* values: `prompt`, `steps` up to and with the one that is valued, `value`; then `m`, `r` and `problem_id`."""
    values = table(tables, "values")
    return (
        _with_ways(values.select("problem_id", "value", "m", "r", id=ID), table(tables, "nodes"))
        .join(_questions(tables), on="problem_id")
        .sort("problem_id", "id")
        .select("prompt", "steps", "value", "m", "r", "problem_id")
    )


def omega_pairs(tables: Tables, *, ties: bool = False) -> pl.LazyFrame:
    """OmegaPRM's pairwise targets: `prompt`, `prefix`, two `first` and `second` steps after it, `target`, and `problem_id`.

    The target is the probability that the first is the better: (1 + p - q) / 2, p and q being the shares of right solutions through
    each. Every pair of siblings of which anything is known stands there once; those with p = q only with `ties`.
    """
    nodes = _steps(tables).filter(pl.col("n_total") > pl.col("n_undecided"))
    share = pl.col("n_correct") / pl.col("n_total")
    one = nodes.select("problem_id", "parent_id", first_id="id", first="step", p=share)
    other = nodes.select("parent_id", second_id="id", second="step", q=share)
    later = (pl.col("first_id") < pl.col("second_id")) & (pl.col("first") != pl.col("second"))
    pairs = one.join(other, on="parent_id").filter(later)
    if not ties:
        pairs = pairs.filter(pl.col("p") != pl.col("q"))
    return (
        _with_ways(pairs.rename({"parent_id": "id"}), table(tables, "nodes"))
        .join(_questions(tables), on="problem_id")
        .with_columns(((1 + pl.col("p") - pl.col("q")) / 2).alias("target"))
        .sort("problem_id", "first_id", "second_id")
        .select("prompt", pl.col("steps").alias("prefix"), "first", "second", "target", "problem_id")
    )


def _questions(tables: Tables) -> pl.LazyFrame:
    return table(tables, "problems").select("problem_id", pl.col("question").alias("prompt"))


def _steps(tables: Tables) -> pl.LazyFrame:
    """The nodes that have a step: neither the question nor a draw that failed."""
    return table(tables, "nodes").filter((pl.col("height") > 0) & (pl.col("step") != ""))


def _with_ways(ends: pl.LazyFrame, nodes: pl.LazyFrame) -> pl.LazyFrame:
    """Each of these nodes with the way to it: `steps`, `labels` and `ids` of the nodes after the root, in order.

    One join for each height of the tree, which is looked up first.
    """
    highest = nodes.select(pl.col("height").max()).collect(engine="streaming").item() or 0
    above = nodes.filter(pl.col("height") > 0).select(at="id", up="parent_id", step="step", label="label_hard")
    empty = {"steps": pl.String, "labels": pl.Int64, "ids": pl.String}
    ways = ends.with_columns(
        pl.col("id").alias("at"), *(pl.lit([], pl.List(kind)).alias(name) for name, kind in empty.items())
    )
    for _ in range(highest):
        ways = ways.join(above, on="at", how="left").with_columns(
            *(
                pl.when(pl.col("up").is_null()).then(name).otherwise(pl.concat_list(value, name)).alias(name)
                for name, value in (("steps", "step"), ("labels", "label"), ("ids", "at"))
            ),
            pl.coalesce("up", "at").alias("at"),
        )
        ways = ways.drop("up", "step", "label")
    return ways.drop("at")
