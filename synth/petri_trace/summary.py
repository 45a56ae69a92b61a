"""What nets a dataset has: how many steps, how wide, how much faster side by side, and where the gold came up too early."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from tracemill.schemas.rows import Mean, Share, Summary


def summary(traces: pl.LazyFrame) -> Summary:
    """A row for each shape, of all nets that were made, whatever became of them."""
    steps = pl.col("steps").list.len().cast(pl.Int64)
    named = {
        "steps": steps,
        "depth": pl.col("depth"),
        "parallelism": pl.col("parallelism"),
        "speed-up": pl.col("speed_up"),
    }
    moments = [
        part
        for name, value in named.items()
        for part in (value.sum().alias(f"{name} sum"), (value * value).sum().alias(f"{name} squares"))
    ]
    found = (
        traces.group_by("shape")
        .agg(
            pl.len().alias("nets"),
            pl.col("width").max(),
            *moments,
            (pl.col("eligible") == 2).sum().cast(pl.Int64).alias("eligible"),
            pl.col("linear").sum().cast(pl.Int64),
            (pl.col("n_leaks") > 0).sum().cast(pl.Int64).alias("leaking"),
            pl.col("n_regenerations").sum().alias("regenerations"),
        )
        .sort("shape")
        .collect(engine="streaming")
        .to_dicts()
    )
    rows = [
        {
            "shape": row["shape"],
            "nets": row["nets"],
            **{name: Mean(row[f"{name} sum"], row[f"{name} squares"], row["nets"]) for name in named},
            "widest": row["width"],
            "eligible": Share(row["eligible"], row["nets"]),
            "gold before the end": Share(row["leaking"], row["nets"]),
            "rounds again": row["regenerations"],
        }
        for row in found
    ]
    return Summary(title="Nets by shape", rows=rows, note=_note(found))


def _note(found: Sequence[Mapping[str, Any]]) -> str:
    nets = sum(row["nets"] for row in found)
    linear = sum(row["linear"] for row in found)
    return (
        f"{linear} of {nets} nets are linear: nothing in them runs at the same time. Parallelism is steps over frontiers; speed-up is "
        "tokens of all steps over those of the critical path; a net is eligible once plan, execution and conclusion passed."
    )
