"""Columns of gist_segments, what they mean, and what its card says."""

import polars as pl
import pyarrow as pa

from tracemill.schemas.rows import Mean, Summary

IDS = pa.list_(pa.int32())
SPANS = pa.list_(pa.struct([(name, pa.int32()) for name in ("start", "end", "gist_start", "gist_end")]))
COLUMNS = {
    "system": str,
    "thoughts": list[str],
    "n_gist": int,
    "granularity": str,
    "input_ids": IDS,
    "prompt_len": int,
    "spans": SPANS,
    "peak_tokens": int,
    "vanilla_peak": int,
    "one_thought": bool,
    "marker_names": list[str],
    "marker_ids": IDS,
}
MEANING = {
    "system": "The system prompt.",
    "thoughts": "The segments of the thought, in order.",
    "n_gist": "Gist tokens behind each.",
    "granularity": "`thought`, or `token`: so many tokens a segment.",
    "input_ids": "The whole row: prompt, thoughts with their markers, answer.",
    "prompt_len": "Tokens before the first thought.",
    "spans": "Where in it each thought and its gist tokens begin and end; the split token stands at `end`, the continue token at `gist_end`.",
    "peak_tokens": "Most tokens held at a time, split and continue tokens not counted.",
    "vanilla_peak": "The same without compression.",
    "one_thought": "Whether there is one segment only, so that nothing is gained.",
    "marker_names": "Tokens to be added to the student: split, gist, continue.",
    "marker_ids": "Their ids.",
}


def summary(traces: pl.LazyFrame) -> Summary:
    """How many thoughts the traces have, and how much less is held at a time."""
    thoughts = pl.col("thoughts").list.len().cast(pl.Float64)
    left = 100 * pl.col("peak_tokens").cast(pl.Float64) / pl.col("vanilla_peak")
    laid = traces.filter((pl.col("correct") == True) & (thoughts > 0))  # noqa: E712
    stats = laid.select(
        rows=pl.len(), one=pl.col("one_thought").sum(), thoughts=thoughts.sum(), thoughts2=(thoughts * thoughts).sum(),
        left=left.sum(), left2=(left * left).sum(),
    ).collect().row(0, named=True)  # fmt: skip
    count = stats["rows"]
    means = {
        "mean thoughts": Mean(stats["thoughts"], stats["thoughts2"], count) if count else None,
        "mean peak, % of all tokens": Mean(stats["left"], stats["left2"], count) if count else None,
    }
    row = {"right traces with a thought": count, "with one thought": stats["one"], **means}
    return Summary(title="Thoughts behind which gist tokens stand", rows=[row])
