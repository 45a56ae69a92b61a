"""Pictures of what methods say of a whole dataset: by the columns of their summary, so that a summary which changes is still a table."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tracemill.pipelines.report.blocks import Block, Figure
from tracemill.pipelines.report.charts import Bars, Chart, Point, Points, best


def method_blocks(summary: Mapping[str, Any]) -> Iterator[Block]:
    """Charts of the summaries that are known; none of others."""
    for chart, note in method_charts(summary):
        yield Figure(chart, note)


def method_charts(summary: Mapping[str, Any]) -> Iterator[tuple[Chart, str]]:
    """Each with a sentence that says how to read it."""
    rows = summary["rows"]
    if _all_have(rows, "alpha", "mean tokens", "correct"):
        yield (
            _frontier(
                "frontier",
                "alpha",
                "mean tokens",
                [_point(str(row["alpha"]), row["mean tokens"], row["correct"]) for row in rows],
            ),
            "Every chain that was drawn counts. On the dashed line no other alpha is as short and as often right.",
        )
    if _all_have(rows, "strategy", "accuracy %", "KPs"):
        yield (
            _frontier(
                "strategies",
                "strategy",
                "knowledge points",
                [_point(str(row["strategy"]), row["KPs"], row["accuracy %"], 100) for row in rows],
            ),
            "On the dashed line no other strategy shows as few points and is as often right.",
        )
        yield _costs(rows), "Draws that a strategy compares; strategies share them."
    if _all_have(rows, "height", "steps", "hard 1", "hard 0"):
        yield _labels(rows), "Steps of all trees; what is neither good nor bad is open."
    if _all_have(rows, "shape", "nets", "steps", "depth"):
        yield _shapes(rows), ""


def _all_have(rows: Sequence[Mapping[str, Any]], *names: str) -> bool:
    return bool(rows) and all(name in row for row in rows for name in names)


def _point(label: str, x: Mapping[str, Any], y: Mapping[str, Any], scale: float = 1) -> Point | None:
    if x["mean"] is None or y["mean"] is None:
        return None
    ends = (x["mean"], y["mean"] / scale, x["low"], x["high"], y["low"] / scale, y["high"] / scale)
    return Point(label, *ends)


def _frontier(name: str, what: str, x: str, found: Sequence[Point | None]) -> Points:
    points = best([point for point in found if point is not None])
    told = "; ".join(f"{point.label}: {point.x:,.1f} {x}, {point.y:.0%} right" for point in points)
    return Points(
        name=name,
        title=f"Right answers against {x}, by {what}",
        said=f"A point with its intervals for each {what}. {told}.",
        x=x,
        y="right",
        points=points,
        mark="frontier",
    )


def _costs(rows: Sequence[Mapping[str, Any]]) -> Bars:
    return Bars(
        name="costs",
        title="What a strategy costs",
        said="Bars of draws: " + "; ".join(f"{row['strategy']}: {row['rollouts']:,}" for row in rows) + ".",
        x="strategy",
        y="draws",
        labels=tuple(str(row["strategy"]) for row in rows),
        series=(("", tuple(int(row["rollouts"]) for row in rows)),),
        across=True,
    )


def _labels(rows: Sequence[Mapping[str, Any]]) -> Bars:
    good, bad = (tuple(int(row[name]) for row in rows) for name in ("hard 1", "hard 0"))
    unknown = tuple(int(row["steps"]) - g - b for row, g, b in zip(rows, good, bad, strict=True))
    return Bars(
        name="labels",
        title="Labels of steps by height",
        said=f"A bar for each of {len(rows)} heights, divided into good, bad and open steps: {sum(good):,}, {sum(bad):,} and {sum(unknown):,} in all.",
        x="height: steps from the question",
        y="steps",
        labels=tuple(str(row["height"]) for row in rows),
        series=(("good", good), ("bad", bad), ("open", unknown)),
    )


def _shapes(rows: Sequence[Mapping[str, Any]]) -> Bars:
    return Bars(
        name="shapes",
        title="Nets by shape",
        said="; ".join(f"{row['shape']}: {row['nets']:,} nets" for row in rows) + ".",
        x="shape",
        y="nets",
        labels=tuple(str(row["shape"]) for row in rows),
        series=(("", tuple(int(row["nets"]) for row in rows)),),
        across=True,
    )
