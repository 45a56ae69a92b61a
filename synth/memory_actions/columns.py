"""Columns and tables of memory_actions, what they mean, and what its card says."""

import polars as pl

from tracemill.schemas.rows import Mean, Share, Summary

COLUMNS = {
    "traj_id": str,
    "step": int,
    "context": str,
    "target": str,
    "action": str,
    "arg": int,
    "visible_tokens": int,
    "raw_tokens": int,
    "z": str,
    "n_com": int,
    "n_exp": int,
    "n_fld": int,
    "suite": str,
}
TABLES = {
    "trajectories": {
        "id": str,
        "ops": str,
        "steps": int,
        "n_com": int,
        "n_exp": int,
        "n_fld": int,
        "suite": str,
        "outcome": str,
        "peak_visible": int,
        "peak_raw": int,
    }
}
MEANING = {
    "traj_id": "The trajectory.",
    "step": "The number of the step in it, from 0.",
    "context": "What the model was shown: the question, and the notes as they stood.",
    "target": "What it replied.",
    "action": "`commit`, `expand`, `fold` or `answer`.",
    "arg": "The note that is expanded or folded, from 1.",
    "visible_tokens": "Tokens of the context.",
    "raw_tokens": "Tokens that it would have with nothing folded.",
    "z": "The note that a commit leaves.",
    "n_com": "Commits of the whole trajectory.",
    "n_exp": "Its expands.",
    "n_fld": "Its folds.",
    "suite": "`full` where it expands and folds, else `commit_only`.",
    "trajectories.ops": "Its operations in order, such as `C1 C2 E1 F1 C3 A`.",
    "trajectories.steps": "How many there are.",
    "trajectories.outcome": "`kept`, or why not.",
    "trajectories.peak_visible": "Tokens of its longest context.",
    "trajectories.peak_raw": "Tokens that the longest would have with nothing folded.",
}


def summary(traces: pl.LazyFrame, *, tables: dict[str, pl.LazyFrame]) -> Summary:
    """What became of the trajectories, and how much less the kept ones show at a time."""
    del traces
    left = 100 * pl.col("peak_visible").cast(pl.Float64) / pl.col("peak_raw")
    stats = tables["trajectories"].group_by("outcome").agg(
        total=pl.len(), steps=pl.col("steps").cast(pl.Float64).sum(), steps2=(pl.col("steps").cast(pl.Float64) ** 2).sum(),
        full=(pl.col("suite") == "full").sum(), left=left.sum(), left2=(left * left).sum(),
    ).collect()  # fmt: skip
    drawn = int(stats["total"].sum())
    rows = [
        {
            "outcome": row["outcome"],
            "trajectories": Share(row["total"], drawn),
            "with expand and fold": row["full"],
            "mean steps": Mean(row["steps"], row["steps2"], row["total"]),
            "longest context, % of the unfolded": Mean(row["left"], row["left2"], row["total"]),
        }
        for row in stats.sort(pl.col("outcome") != "kept", -pl.col("total").cast(pl.Int64), "outcome").to_dicts()
    ]
    return Summary(title="Trajectories", rows=rows)
