"""A problem's hints as `tracemill explain` draws them: the points with who keeps them, and right answers by what was shown."""

from collections.abc import Iterator, Mapping
from typing import Any

_WIDTH = 60
_BAR = 32
_LISTED = 30
"""Configurations at the top of the list; below them come only those that a strategy keeps."""


def picture(found: Mapping[str, Any]) -> Iterator[str]:
    """Lines of plain text for what `tracemill explain --json` prints; none for a problem without points."""
    tables = found["tables"]
    points, choices = tables.get("knowledge_points", []), tables.get("choices", [])
    if not points:
        return
    for number, choice in enumerate(choices):
        flags = ", ".join(flag for flag in ("guard_empty", "all_zero", "saturated", "truncated") if choice[flag])
        yield f"{'| ' * number}{choice['strategy']}" + (f"  ({flags})" if flags else "")
    for point in sorted(points, key=lambda point: point["number"]):
        marks = " ".join("x" if point["place"] in choice["kept_kp_index"] else "." for choice in choices)
        place = "-" if point["place"] is None else point["place"]
        yield f"{marks}  {place:>2}  {_short(point['text'])}{_note(point)}"
    yield from _accuracies(tables.get("subset_accuracies", []), sum(point["fate"] == "kept" for point in points))


def _note(point: Mapping[str, Any]) -> str:
    notes = [] if point["fate"] == "kept" else [point["fate"]]
    notes += sorted({finding["rule"] for finding in point["findings"]})
    return f"  [{', '.join(notes)}]" if notes else ""


def _short(text: str) -> str:
    plain = " ".join(text.replace("**Knowledge Point**:", "").split())
    return plain if len(plain) <= _WIDTH else f"{plain[: _WIDTH - 3]}..."


def _accuracies(rows: list[Mapping[str, Any]], n: int) -> Iterator[str]:
    """One line a configuration, the best first."""
    ordered = sorted(rows, key=lambda row: (-row["correct"] / max(1, row["total"]), row["n_kept"], row["config"]))
    listed = [row for at, row in enumerate(ordered) if at < _LISTED or row["kept_by"]]
    for row in listed:
        bar = "#" * round(_BAR * row["correct"] / max(1, row["total"]))
        kept_by = f"  {', '.join(row['kept_by'])}" if row["kept_by"] else ""
        yield f"{_shown(row, n):<16} {row['correct']:>4}/{row['total']:<4} {bar:<{_BAR}}{kept_by}".rstrip()
    if left := len(ordered) - len(listed):
        yield f"and {left:,} more; --json has all"


def _shown(row: Mapping[str, Any], n: int) -> str:
    """The kept places, or those left out where these are fewer and the kept ones make a long line."""
    config = str(row["config"])
    kept = {"": "none", "*": "all"}.get(config, config)
    if len(kept) <= _WIDTH // 2:
        return kept
    out = sorted(set(range(n)) - set(map(int, kept.split(","))))
    return f"all but {','.join(map(str, out))}" if len(out) < row["n_kept"] else kept
