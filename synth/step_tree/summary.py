"""What the labels of a whole dataset are: how many steps were labelled at each height, how many are unknown, and what it cost."""

from collections.abc import Mapping

import polars as pl

from tracemill.schemas.rows import Mean, Share, Summary

NOTE = (
    "A label says how likely the same model is to end right from a prefix; it is relative to that model and no judgement of the step: a "
    "wrong step that the model puts right later has a high one, a right step of a hard problem a low one. `unknown` are steps whose hard "
    "label is open: nothing was drawn from them, or what was drawn does not decide. Undecided answers count among all and never as right."
)


def summary(traces: pl.LazyFrame, *, tables: Mapping[str, pl.LazyFrame]) -> Summary:  # noqa: ARG001 - the nodes tell it all
    """A row a height of all trees together, those included that were turned down; then what the labels cost."""
    hard, soft = pl.col("label_hard"), pl.col("label_soft")
    counts = (
        tables["nodes"]
        .filter(pl.col("height") > 0)
        .group_by("height")
        .agg(
            pl.len().alias("steps"),
            (hard == 1).sum().alias("good"),
            (hard == 0).sum().alias("bad"),
            hard.is_null().sum().alias("unknown"),
            soft.sum().alias("total"),
            (soft * soft).sum().alias("squares"),
            soft.count().alias("soft"),
            pl.col("is_first_error").sum().alias("errors"),
        )
        .sort("height")
        .collect(engine="streaming")
    )
    rows = [
        {
            "height": str(row["height"]),
            "steps": row["steps"],
            "hard 1": row["good"],
            "hard 0": row["bad"],
            "unknown": Share(row["unknown"], row["steps"]),
            "soft, mean": Mean(row["total"], row["squares"], row["soft"]) if row["soft"] else None,
            "first errors": row["errors"],
        }
        for row in counts.iter_rows(named=True)
    ]
    return Summary(title="Labels of steps by height", rows=rows, note=f"{_cost(tables['trees'])} {NOTE}")


def _cost(trees: pl.LazyFrame) -> str:
    total = (
        trees.select(pl.col("rollouts", "tokens", "n_nodes", "n_labelled").sum(), pl.len()).collect().row(0, named=True)
    )
    labelled, stopped = (
        total["n_labelled"],
        trees.filter(pl.col("stopped").is_not_null()).select(pl.len()).collect().item(),
    )
    each = f"{total['tokens'] / labelled:.0f} tokens a label" if labelled else "no label"
    return (
        f"{total['len']:,} trees of {total['n_nodes']:,} steps, {labelled:,} of them labelled, from {total['rollouts']:,} draws and "
        f"{total['tokens']:,} tokens: {each}. {stopped:,} trees were stopped by a limit."
    )
