"""The strategies side by side: how many answers are right with what each keeps, how many points that is, and what it cost."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from tracemill.schemas.rows import Mean, Summary


def summary(
    traces: pl.LazyFrame,  # noqa: ARG001 - the choices stand in a table of their own
    *,
    tables: Mapping[str, pl.LazyFrame],
    strategies: Sequence[str],
    evaluate: int,
    m: int,
    allocation: str,
    curve: Sequence[float],
) -> Summary:
    """A row a strategy, every problem weighing the same, with intervals over problems; the reports stand in the note."""
    choices = tables["choices"].select(
        "strategy", "n_kept", "correct", "total", "fresh_correct", "fresh_total", "rollouts", "guard_empty"
    )
    found = choices.collect(engine="streaming").partition_by("strategy", as_dict=True)
    rows = [_row(name, found[name,], evaluate) for name in strategies if (name,) in found]
    return Summary(
        title="Strategies",
        rows=rows,
        note=" ".join(
            [_note(evaluate), *_redundancy(tables, m, allocation), *_paradoxes(tables), *_curve(tables, curve)]
        ),
    )


def _row(name: str, choices: pl.DataFrame, evaluate: int) -> dict[str, Any]:
    part = "fresh_" if evaluate else ""
    accuracy = 100 * choices[f"{part}correct"] / choices[f"{part}total"]
    return {
        "strategy": name,
        "problems": choices.height,
        "accuracy %": _mean(accuracy, most=100),
        "KPs": _mean(choices["n_kept"].cast(pl.Float64)),
        "none kept": int((choices["n_kept"] == 0).sum()),
        "rollouts": int(choices["rollouts"].sum()),
        "a problem": _mean(choices["rollouts"].cast(pl.Float64)),
    }


def _mean(values: pl.Series, most: float = math.inf) -> Mean:
    """Of values that are never below 0."""
    return Mean(float(values.sum()), float((values * values).sum()), values.len(), least=0, most=most)


def _note(evaluate: int) -> str:
    if evaluate:
        how = f"Accuracy is that of {evaluate} further draws a problem, on which no choice rests"
    else:
        how = (
            "Accuracy is that of the draws by which the strategies chose, and so too high for those that choose the highest; "
            "synth.evaluate = 8 draws some that no choice rests on"
        )
    return (
        f"Means over problems with 95 % intervals. {how}. Rollouts are those of the configurations that a strategy compares; "
        "strategies share them."
    )


def _redundancy(tables: Mapping[str, pl.LazyFrame], m: int, allocation: str) -> Iterator[str]:
    """Of the points whose removal was measured in full, how many are not missed, and how many do harm among the others.

    One sample either way is no difference: not stated in the paper; our default. The sequential allocation measures in full
    what a choice hangs on, which is no fair sample of the points.
    """
    counts = tables["subset_accuracies"].filter(pl.col("total") >= m)
    shown = counts.filter(pl.col("config") == "*").select(
        "problem_id", n=pl.col("n_kept"), all_correct=pl.col("correct"), all_total=pl.col("total")
    )
    gain = pl.col("correct") * pl.col("all_total") - pl.col("all_correct") * pl.col("total")
    sample = pl.col("total") * pl.col("all_total") // m
    points, redundant, harmful = (
        counts.join(shown, on="problem_id")
        .filter(pl.col("n_kept") == pl.col("n") - 1)
        .select(points=pl.len(), redundant=(gain >= -sample).sum(), harmful=(gain > sample).sum())
        .collect(engine="streaming")
        .row(0)
    )
    aside = (
        ' (they are those that the choice hangs on most; allocation = "fixed" measures all)'
        if allocation == "sequential"
        else ""
    )
    if points:
        yield (
            f"Of {points} points whose removal from all was measured in full, {redundant} are not missed ({redundant / points:.0%}) "
            f"and {harmful} ({harmful / points:.0%}) cost right answers beside the others{aside}."
        )


def _paradoxes(tables: Mapping[str, pl.LazyFrame]) -> Iterator[str]:
    """By rule and number of points left out: how often they are missed more together than one by one, and by how much then."""
    single = pl.col("single_correct") / pl.col("single_total")
    drop = 100 * (single - pl.col("joint_correct") / pl.col("joint_total"))
    found = (
        tables["paradox"]
        .group_by("rule", "m")
        .agg(pl.len(), pl.col("violation").sum().alias("violated"), drop.filter("violation").mean().alias("drop"))
        .sort("rule", "m")
        .collect(engine="streaming")
    )
    for (rule,), group in found.partition_by("rule", as_dict=True, maintain_order=True).items():
        parts = [
            f"{m} points: {violated} of {count}" + (f" (mean drop {drop:.1f} points of 100)" if violated else "")
            for _, m, count, violated, drop in group.iter_rows()
        ]
        yield f"Left out by {rule}, and missed more together than one by one: {'; '.join(parts)}."


def _curve(tables: Mapping[str, pl.LazyFrame], asked: Sequence[float]) -> Iterator[str]:
    """Accuracy by the share of the solution that is given, every problem weighing the same; and how many have no curve."""
    if not asked:
        return
    accuracy = (100 * pl.col("correct") / pl.col("total")).mean()
    found = (
        tables["curve"]
        .group_by("share")
        .agg(accuracy.alias("accuracy"), pl.len())
        .sort("share")
        .collect(engine="streaming")
    )
    problems = tables["choices"].select(pl.col("problem_id").n_unique()).collect(engine="streaming").item()
    drawn = int(found["len"][0]) if found.height else 0
    if drawn:
        shares = ", ".join(f"{share}: {right:.1f} %" for share, right, _ in found.iter_rows())
        yield f"Right by the share of a solution that is given: {shares} ({_problems(drawn)})."
    if left := problems - drawn:
        has = "it has" if left == 1 else "they have"
        yield f"No curve for {_problems(left)}: {has} no solution that verifies."


def _problems(number: int) -> str:
    return f"{number:,} problem{'s' * (number != 1)}"
