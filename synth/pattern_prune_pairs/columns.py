"""What rows hold, what it means, and what the card says of all of them."""

import polars as pl
import pyarrow as pa

from tracemill.schemas.rows import Mean, Share, Summary

SEGMENT = pa.struct(
    [
        ("text", pa.string()),
        ("label", pa.string()),
        ("n_tok", pa.int32()),
        ("kept", pa.bool_()),
        ("p_exit", pa.float32()),
        ("said", pa.string()),
    ]
)
COLUMNS = {
    "segments": pa.list_(SEGMENT),
    "exit_idx": int,
    "optimised": str,
    "original": str,
    "original_correct": bool,
    "n_tok_original": int,
    "p_before": float,
    "p_after": float,
    "tag": str,
    "trivial": bool,
    "n_dropped": int,
    "n_restored": int,
    "n_unclear": int,
}
MEANING = {
    "segments": "The thought in segments: text, the cue it begins with, its tokens, whether the optimised thought has it, the share of right "
    "answers when the thought is closed behind it (null where that was not measured), and what the auxiliary model said of it.",
    "exit_idx": "The segment, from 1, behind which the thought is closed.",
    "optimised": "The pruned reply: the chosen side of the pair, and the row's own text.",
    "original": "The reply as it was drawn: the rejected side.",
    "original_correct": "Whether the original is right.",
    "n_tok_original": "Its tokens.",
    "p_before": "Share of right answers at the exit, before anything is pruned.",
    "p_after": "The same behind the pruned thought.",
    "tag": "`shorter` where the original is right and longer, `repair` where it is wrong.",
    "trivial": "Whether the first segment is the exit.",
    "n_dropped": "Segments up to the exit that are left out.",
    "n_restored": "Segments that were to be left out and came back, because answers got worse.",
    "n_unclear": "Segments that were kept because nobody could read what the auxiliary model said.",
}


def summary(traces: pl.LazyFrame) -> Summary:
    """Pairs by their tag: how much shorter, how many at the first segment, how many segments were left out."""
    known = traces.filter(pl.col("tag").is_not_null())
    share = 1.0 - pl.col("n_tokens") / pl.col("n_tok_original")
    found = known.group_by("tag").agg(
        pairs=pl.len(),
        was=pl.col("n_tok_original").sum(),
        now=pl.col("n_tokens").sum(),
        saved=share.sum(),
        squares=(share * share).sum(),
        first=pl.col("trivial").sum(),
        exits=pl.col("exit_idx").sum(),
        segments=pl.col("segments").list.len().sum(),
        dropped=pl.col("n_dropped").sum(),
        restored=pl.col("n_restored").sum(),
        unclear=pl.col("n_unclear").sum(),
    )
    rows = [
        {
            "pairs": row["tag"],
            "number": row["pairs"],
            "tokens before": row["was"],
            "after": row["now"],
            "shorter by": Mean(row["saved"], row["squares"], row["pairs"], most=1.0),
            "segments up to the exit": Share(row["exits"], row["segments"]),
            "exit at the first": row["first"],
            "pruned": row["dropped"],
            "restored": row["restored"],
            "unclear": row["unclear"],
        }
        for row in found.sort("tag", descending=True).collect().to_dicts()
    ]
    return Summary(title="Thoughts and their pruned selves", rows=rows)
