"""How two versions differ as a whole: lengths, difficulty, sources, correctness, finish reasons, before and after."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from tracemill.pipelines.asking.reasons import columns_of
from tracemill.pipelines.versions.dataset import Dataset

_SEEN = {
    "n_tokens": pl.Int64,
    "correct": pl.Boolean,
    "difficulty": pl.String,
    "source": pl.String,
    "finish_reason": pl.String,
    "tokenizer": pl.String,
}
_LENGTHS = {
    "mean": pl.col("n_tokens").mean(),
    "median": pl.col("n_tokens").median(),
    "p90": pl.col("n_tokens").quantile(0.9, "nearest"),
    "total": pl.col("n_tokens").sum().cast(pl.Float64),
}
_VERDICT = (
    pl.when("correct")
    .then(pl.lit("right"))
    .when(~pl.col("correct"))
    .then(pl.lit("wrong"))
    .otherwise(pl.lit("undecided"))
)


def shifts(versions: Sequence[Dataset], manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Over the chosen traces: `rows`, or `traces` where those are folded. Every change is b minus a."""
    tables = ["traces" if "traces" in version.tables() else "rows" for version in versions]
    seen = [
        columns_of(v, table, _SEEN).with_columns(_VERDICT.alias("verdict"))
        for v, table in zip(versions, tables, strict=True)
    ]
    a, b = (frame.select(**_LENGTHS).collect(engine="streaming").row(0, named=True) for frame in seen)
    return {
        "over": {"a": tables[0], "b": tables[1]},
        "n_tokens": {name: _shift(a[name], b[name]) for name in _LENGTHS},
        "correct": _shares(seen, "verdict"),
        "difficulty": _shares(seen, "difficulty"),
        "source": _shares(seen, "source"),
        "finish_reason": _shares(seen, "finish_reason"),
        "tokenizer": _shares(seen, "tokenizer"),
        "samples": _samples(manifests),
    }


def _shift(a: float | None, b: float | None) -> dict[str, float | None]:
    return {"a": a, "b": b, "change": None if a is None or b is None else b - a}


def _shares(frames: Sequence[pl.LazyFrame], column: str) -> list[dict[str, Any]]:
    """How many traces have each value, and which share of all; in the order of the values, numbers as numbers."""
    a, b = (dict(frame.group_by(column).len().collect(engine="streaming").iter_rows()) for frame in frames)
    totals = sum(a.values()), sum(b.values())
    lines = []
    for value in sorted({*a, *b}, key=_by_value):
        share_a, share_b = (
            counts.get(value, 0) / total if total else None for counts, total in zip((a, b), totals, strict=True)
        )
        count = {"a": a.get(value, 0), "b": b.get(value, 0)}
        lines.append({"value": value, "rows": count, "share": _shift(share_a, share_b)})
    return lines


def _by_value(value: str | None) -> tuple[int, float, str]:
    if value is None:
        return 2, 0.0, ""
    try:
        return 0, float(value), value
    except ValueError:
        return 1, 0.0, value


def _samples(manifests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of all samples of a role, chosen or not, which share was right and which was cut off."""
    a, b = ({str(count["role"]): count for count in manifest.get("roles", ())} for manifest in manifests)
    return [
        {
            "role": role,
            "total": {"a": a.get(role, {}).get("total", 0), "b": b.get(role, {}).get("total", 0)},
            **{
                name: _shift(*(_share(counts.get(role), name) for counts in (a, b)))
                for name in ("correct", "truncated")
            },
        }
        for role in sorted({*a, *b})
    ]


def _share(counts: Mapping[str, Any] | None, name: str) -> float | None:
    return counts[name] / counts["total"] if counts and counts["total"] else None
