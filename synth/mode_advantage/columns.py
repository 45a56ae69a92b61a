"""Columns and tables of mode_advantage, what they mean, and what its card says."""

import polars as pl

from tracemill.schemas.rows import Mean, Share, Summary
from tracemill.synth import modes

COLUMNS = {
    "mode": str,
    "forced": bool,
    "response": str,
    "n_tok": int,
    "ref_acc": float,
    "ref_len": float,
    "clip_ratio": float,
    "reward": float,
    "label_mode": str,
    "sft": bool,
}
COUNTS = (
    "right_think",
    "n_think",
    "right_nothink",
    "n_nothink",
    "undecided",
    "ref_right",
    "ref_undecided",
    "ref_total",
)
TABLES = {"modes": {"id": str, "label_mode": str, **dict.fromkeys(COUNTS, int)}, "pairs": modes.PAIR_COLUMNS}
MEANING = {
    "mode": "`think` or `nothink`.",
    "forced": "Whether the mode was forced, and not the model's choice.",
    "response": "What follows the prompt, the forced beginning included.",
    "n_tok": "Tokens that the model wrote of it.",
    "ref_acc": "Share of right ones among the thinking reference samples.",
    "ref_len": "Their mean tokens.",
    "clip_ratio": "Share of them that was cut off.",
    "reward": "What the rollout earns.",
    "label_mode": "The mode that the problem is labelled with; null where neither was ever right, or one was not drawn.",
    "sft": "Whether it is the shortest right rollout of that mode.",
    "modes.label_mode": "The problem's label.",
    "modes.undecided": "Rollouts that are neither right nor wrong.",
    **{f"modes.right_{mode}": f"Right rollouts of the mode {mode}." for mode in ("think", "nothink")},
    **{f"modes.n_{mode}": f"Rollouts of the mode {mode}, undecided ones among them." for mode in ("think", "nothink")},
    "modes.ref_right": "Right reference samples.",
    "modes.ref_undecided": "Those that are neither.",
    "modes.ref_total": "All of them.",
    **modes.PAIR_MEANING,
}


def summary(traces: pl.LazyFrame, *, tables: dict[str, pl.LazyFrame]) -> Summary:
    """Each mode: how often it is right, how long, what it earns, and how many problems are labelled with it."""
    length, reward = pl.col("n_tok").cast(pl.Float64), pl.col("reward")
    stats = {
        row["mode"]: row
        for row in traces.filter(pl.col("reward").is_not_null()).group_by("mode").agg(
            rollouts=pl.len(), right=(pl.col("correct") == True).sum(), tokens=length.sum(), tokens2=(length * length).sum(),  # noqa: E712
            rewards=reward.sum(), rewards2=(reward * reward).sum(),
        ).collect().to_dicts()
    }  # fmt: skip
    labels = dict(tables["modes"].group_by("label_mode").len().collect().rows())
    problems = sum(labels.values())
    rows = [
        {
            "mode": mode,
            "rollouts": row["rollouts"],
            "right": Share(row["right"], row["rollouts"]),
            "mean tokens": Mean(row["tokens"], row["tokens2"], row["rollouts"]),
            "mean reward": Mean(row["rewards"], row["rewards2"], row["rollouts"]),
            "problems labelled so": Share(labels.get(mode, 0), problems),
        }
        for mode, row in sorted(stats.items(), reverse=True)
    ]
    return Summary(title="Rollouts in both modes", rows=rows, note=f"{labels.get(None, 0)} problems have no label.")
