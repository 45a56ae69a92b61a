"""The columns of traces and of the method's own tables, and the fold of the traces into one row a problem.

Names are those of KnowRL's released files (arXiv:2604.12627): kp_list, css_kept_kp_index, css_selected_kps.
"""

from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from tracemill.schemas.tables import declared

_COUNT = pa.struct([("correct", pa.int64()), ("total", pa.int64()), ("undecided", pa.int64())])
_FINDING = pa.struct(
    [("rule", pa.string()), ("weight", pa.string()), ("revision", pa.int64()), ("evidence", pa.string())]
)
_PARADOX = {
    "rule": str,
    "m": int,
    "removed": list[int],
    "joint_correct": int,
    "joint_total": int,
    "single_correct": int,
    "single_total": int,
    "violation": bool,
}
_SEGMENT = {"share": str, "characters": int, "correct": int, "total": int, "undecided": int}
_CHOICE = pa.struct([("strategy", pa.string()), ("kept_kp_index", pa.list_(pa.int64()))])

OF_THE_PROBLEM = {
    "status": str,
    "kp_list": list[str],
    "n_kp": int,
    "strategy": str,
    "kept_kp_index": list[int],
    "selected_kps": list[str],
    "hint_correct": int,
    "hint_total": int,
    "hint_undecided": int,
    "acc_table": pa.list_(pa.struct([("key", pa.string()), ("value", _COUNT)])),
    "h_set": list[int],
    "n_set": list[int],
    "c_set": list[int],
    "guard_empty": bool,
    "all_zero": bool,
    "saturated": bool,
    "css_truncated": bool,
    "paradox": pa.list_(pa.struct(declared(_PARADOX, where="paradox"))),
    "curve": pa.list_(pa.struct(declared(_SEGMENT, where="curve"))),
    "leak_report": pa.list_(pa.struct([("kp", pa.int64()), *_FINDING])),
    "solution_from": str,
    "decoding": pa.struct(
        [
            ("temperature", pa.float64()),  # null: the model's own
            ("top_p", pa.float64()),
            ("m", pa.int64()),
            ("allocation", pa.string()),
        ]
    ),
}
"""Equal in all traces of a problem, and in its row."""
COLUMNS = {"draw": int, **OF_THE_PROBLEM, "choices": pa.list_(_CHOICE)}
"""The columns of its traces beyond the common ones."""

TABLES = {
    "subset_accuracies": {
        "config": str,
        "n_kept": int,
        "correct": int,
        "total": int,
        "undecided": int,
        "kept_by": list[str],
        "runs": pa.list_(_COUNT),
    },
    "choices": {
        "strategy": str,
        "kept_kp_index": list[int],
        "n_kept": int,
        "correct": int,
        "total": int,
        "undecided": int,
        "fresh_correct": int,
        "fresh_total": int,
        "fresh_undecided": int,
        "rollouts": int,
        "guard_empty": bool,
        "all_zero": bool,
        "saturated": bool,
        "truncated": bool,
    },
    "knowledge_points": {
        "id": str,
        "number": int,
        "place": int,
        "fate": str,
        "revision": int,
        "same_as": int,
        "text": str,
        "findings": pa.list_(_FINDING),
    },
    "paradox": _PARADOX,
    "curve": _SEGMENT,
}
"""The method's own tables: draws by configuration, what each strategy keeps, what became of every point, and two reports."""

_COMMON = ("question", "gold", "model", "source", "licence", "difficulty")


def fold(traces: pl.LazyFrame, *, strategies: Sequence[str]) -> pl.LazyFrame:
    """One row a problem: the prompt with its hints, and what each strategy keeps in the released columns."""
    turns = pl.col("messages")
    before = turns.list.slice(0, (turns.list.len().cast(pl.Int64) - 1).clip(lower_bound=0))
    rows = traces.group_by("problem_id").agg(
        pl.col("problem_id").first().alias("id"),
        before.first().alias("prompt"),
        *(pl.col(name).first() for name in (*_COMMON, *OF_THE_PROBLEM, "choices")),
    )
    return rows.with_columns(kept for name in strategies for kept in _kept(name)).drop("choices")


def _kept(strategy: str) -> list[pl.Expr]:
    """The two released columns of a strategy."""
    index = (
        pl.col("choices")
        .list.filter(pl.element().struct.field("strategy") == strategy)
        .list.first()
        .struct.field("kept_kp_index")
    )
    return [
        index.alias(f"{strategy}_kept_kp_index"),
        pl.col("kp_list").list.gather(index).alias(f"{strategy}_selected_kps"),
    ]
