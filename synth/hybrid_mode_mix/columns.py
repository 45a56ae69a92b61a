"""Columns and tables of hybrid_mode_mix, what they mean, and what its card says: Hybrid Accuracy."""

import polars as pl

from tracemill.schemas.rows import Share, Summary
from tracemill.synth import modes

COLUMNS = {
    "response": str,
    "mode": str,
    "domain": str,
    "split": str,
    "score": float,
    "mean_think": float,
    "mean_nothink": float,
    "label_mode": str,
}
TABLES = {
    "modes": {
        "id": str,
        "domain": str,
        "pool_mode": str,
        "label_mode": str,
        "chosen_mode": str,
        "scored_by": str,
        "mean_think": float,
        "mean_nothink": float,
        "n_think": int,
        "n_nothink": int,
        "undecided": int,
    },
    "pairs": modes.PAIR_COLUMNS,
}
MEANING = {
    "response": "The reply in its tags.",
    "mode": "`think` or `no_think`.",
    "domain": "Which pool the prompt is from.",
    "split": "`train`, or `held_out` for prompts that are answered in both modes to label them.",
    "score": "What the reply scored: 1 for right, or a reward model's number; null in training rows.",
    "mean_think": "Mean score of the problem's thinking replies, undecided ones counted as 0.",
    "mean_nothink": "The same of its others.",
    "label_mode": "The better mode of a held-out prompt: `think`, `no_think` or `unsolved`; null where nothing scores it.",
    "modes.domain": "Which pool the prompt is from.",
    "modes.pool_mode": "The mode of that pool.",
    "modes.label_mode": "As in `rows`.",
    "modes.chosen_mode": "The mode that the model chose where it was free to.",
    "modes.scored_by": "`verifier`, `reward` or null.",
    "modes.mean_think": "As in `rows`.",
    "modes.mean_nothink": "As in `rows`.",
    "modes.n_think": "Thinking replies that were scored.",
    "modes.n_nothink": "Others that were scored.",
    "modes.undecided": "Replies that are neither right nor wrong, inside these numbers.",
    **modes.PAIR_MEANING,
}


def summary(traces: pl.LazyFrame, *, tables: dict[str, pl.LazyFrame]) -> Summary:
    """Hybrid Accuracy (LHRM): how often the mode that was chosen is the better one, of held-out prompts that have one."""
    del traces
    held = tables["modes"].collect()
    labelled = held.filter(pl.col("label_mode").is_in(["think", "no_think"]))
    rows: list[dict[str, Share | str]] = []
    for who, column in (("the pools", "pool_mode"), ("the model", "chosen_mode")):
        chosen = labelled.filter(pl.col(column).is_not_null())
        hits = chosen.filter(pl.col(column) == pl.col("label_mode"))
        thinks = chosen.filter(pl.col(column) == "think").height
        if chosen.height:
            share = Share(hits.height, chosen.height)
            rows.append(
                {"mode chosen by": who, "Hybrid Accuracy": share, "chose to think": Share(thinks, chosen.height)}
            )
    counts = {name: held.filter(label_mode=name).height for name in ("think", "no_think", "unsolved")}
    unscored = held["label_mode"].null_count()
    note = f"Held-out prompts: {counts['think']} think, {counts['no_think']} no_think; left out {counts['unsolved']} unsolved, {unscored} unscored."
    return Summary(title="Hybrid Accuracy", rows=[*rows] or [{"mode chosen by": "nobody"}], note=note)
