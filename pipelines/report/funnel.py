"""The way from what the sources hold to the rows of a version: at every step what went in, what came out, and why the rest did not.

rows read ─ refused ─ repeated ─▶ problems held ─ left out ─▶ problems ─ rejected, failed, none chosen ─▶ problems with a row
traces ─ turned down by method, verifier, scores, filters, selectors ─▶ chosen traces ─ folded ─▶ rows
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import polars as pl

from tracemill.pipelines.versions.dataset import Dataset

MOST_REASONS = 40
"""Reasons of a step that are told one by one, the commonest; the others are added up."""
EXAMPLES = 3
"""Of each reason, those with the smallest ids."""
WIDTH = 1200
"""Characters that are shown of the evidence, and of the row."""
_LINE = ("id", "problem_id", "evidence", "row")


@dataclass(frozen=True, slots=True)
class Example:
    """A row that was turned down. `row` is its head; `characters` says how long all of it is."""

    id: str
    evidence: str = ""
    row: str = ""
    characters: int = 0


@dataclass(frozen=True, slots=True)
class Reason:
    """Why rows did not come on, and how many."""

    name: str
    count: int
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, slots=True)
class Drop:
    """What a stage kept back, by reason, the commonest first; `others` are the reasons that are not told one by one."""

    stage: str
    count: int
    reasons: tuple[Reason, ...]
    others: int = 0
    of_others: int = 0


@dataclass(frozen=True, slots=True)
class Level:
    """So many of a unit are there at this point, and what the next stages kept back of them."""

    name: str
    unit: str
    count: int
    drops: tuple[Drop, ...] = ()

    @property
    def left(self) -> int:
        """What comes on to the next level of the same unit."""
        return self.count - sum(drop.count for drop in self.drops)


@dataclass(frozen=True, slots=True)
class Funnel:
    """The levels in order. Within a unit each level is what the one before it let through; `faults` are those where it is not."""

    levels: tuple[Level, ...]
    faults: tuple[str, ...] = field(default=())


def funnel_of(dataset: Dataset, *, examples: int = EXAMPLES) -> Funnel:
    """Count it from the tables; what the sources hold is in the manifest, and missing where an early release made it."""
    manifest = dataset.manifest()
    levels = [
        *_of_sources(dataset, manifest, examples),
        *_of_problems(dataset, examples),
        *_of_traces(dataset, manifest, examples),
    ]
    return Funnel(tuple(levels), tuple(_faults(levels)))


def _faults(levels: Sequence[Level]) -> Iterable[str]:
    for level, after in pairwise(levels):
        if level.unit == after.unit and level.left != after.count:
            yield f"{level.count:,} {level.name} less what was kept back are {level.left:,}, but there are {after.count:,} {after.name}"


# ---- the three parts


def _of_sources(dataset: Dataset, manifest: Mapping[str, Any], examples: int) -> list[Level]:
    sources = [source for source in manifest.get("sources", ()) if "read" in source]
    if not sources or len(sources) < len(manifest["sources"]):
        return []
    read, repeated, held, left = (
        sum(source[name] for source in sources) for name in ("read", "repeated", "held", "left_out")
    )
    lost = _rejected(dataset, pl.col("stage") == "source")
    refused = _drops(lost, examples, lambda _: "refused by the reader")
    twice = _plain("stands for a problem of an earlier row", repeated)
    return [
        Level("rows read", "problem", read, (*refused, *twice)),
        Level(
            "problems of the sources",
            "problem",
            held,
            (*_plain("left out by a weight or a cap", left), *_undone(manifest, held - left)),
        ),
    ]


def _undone(manifest: Mapping[str, Any], taken: int) -> tuple[Drop, ...]:
    """Of a build that was stopped, the problems that it did not come to."""
    return (
        ()
        if manifest["complete"]
        else _plain("not worked on: the build was stopped", taken - manifest["tables"]["problems"]["rows"])
    )


def _of_problems(dataset: Dataset, examples: int) -> list[Level]:
    if "problems" not in dataset.tables():
        return []
    frame = dataset.scan("problems").select(
        pl.col("outcome").fill_null("unknown").alias("stage"),
        pl.col("reason").fill_null("").alias("reason"),
        pl.col("problem_id").alias("id"),
        "problem_id",
    )
    told = _told(dataset, pl.col("id").is_null() & (pl.col("stage") != "source"), "problem_id")
    total = dataset.manifest()["tables"]["problems"]["rows"]
    drops = _drops(frame.filter(pl.col("stage") != "chosen"), examples, _OUTCOMES.get, told)
    chosen = total - sum(drop.count for drop in drops)
    return [Level("problems", "problem", total, tuple(drops)), Level("problems with a row", "problem", chosen)]


_OUTCOMES: Mapping[str, str] = {
    "rejected": "turned down as a problem",
    "failed": "could not be worked on",
    "none_chosen": "no trace was chosen",
}


def _of_traces(dataset: Dataset, manifest: Mapping[str, Any], examples: int) -> list[Level]:
    table = "traces" if "traces" in manifest["tables"] else "rows"
    chosen, rows = manifest["tables"][table]["rows"], manifest["tables"]["rows"]["rows"]
    order = {str(count["stage"]): place for place, count in enumerate(manifest.get("counts", ()))}
    drops = _drops(_rejected(dataset, pl.col("id").is_not_null()), examples, None)
    drops.sort(key=lambda drop: (_EARLY.get(drop.stage, 3), order.get(drop.stage, len(order)), drop.stage))
    total = chosen + sum(drop.count for drop in drops)
    levels = [Level("traces", "trace", total, tuple(drops)), Level("chosen traces", "trace", chosen)]
    return (
        [*levels, Level("rows, into which the chosen traces are folded", "row", rows)] if table == "traces" else levels
    )


_EARLY: Mapping[str, int] = {"method": 0, "verify": 1, "score": 2}


def _plain(stage: str, count: int) -> tuple[Drop, ...]:
    return (Drop(stage, count, ()),) if count else ()


# ---- counting


def _rejected(dataset: Dataset, which: pl.Expr) -> pl.LazyFrame:
    if "rejected" not in dataset.tables():
        return pl.LazyFrame(schema=dict.fromkeys(("stage", "reason", *_LINE), pl.String))
    return dataset.scan("rejected").filter(which)


def _told(dataset: Dataset, which: pl.Expr, by: str) -> "_Told":
    return _Told(_rejected(dataset, which), by)


@dataclass(frozen=True, slots=True)
class _Told:
    """Where the evidence of a thing stands, and the column that names it."""

    frame: pl.LazyFrame
    by: str


def _drops(frame: pl.LazyFrame, examples: int, name: Any, told: _Told | None = None) -> list[Drop]:
    """Group by stage and reason; `name` puts a stage into words, where it is not shown as it is called."""
    counted = (
        frame.select("stage", "reason", pl.coalesce("id", "problem_id").fill_null("").alias("id"))
        .group_by("stage", "reason")
        .agg(
            pl.len().alias("count"),
            pl.col("id").bottom_k(examples).alias("ids") if examples else pl.lit([], pl.List(pl.String)).alias("ids"),
        )
        .sort(pl.col("count"), "stage", "reason", descending=[True, False, False])
        .collect(engine="streaming")
    )
    stages = counted.partition_by("stage", as_dict=True, maintain_order=True)
    shown = {stage: group.head(MOST_REASONS) for (stage,), group in stages.items()}
    ids = [one for group in shown.values() for some in group["ids"].to_list() for one in some]
    lines = _lines(told or _Told(frame, "id"), ids)
    return [
        _drop((name and name(str(stage))) or str(stage), stages[stage,], group, lines) for stage, group in shown.items()
    ]


def _drop(stage: str, all_: pl.DataFrame, shown: pl.DataFrame, lines: Mapping[str, Example]) -> Drop:
    reasons = tuple(
        Reason(str(reason), count, tuple(lines.get(one, Example(one)) for one in sorted(ids)))
        for _, reason, count, ids in shown.iter_rows()
    )
    total = int(all_["count"].sum())
    return Drop(stage, total, reasons, all_.height - shown.height, total - sum(reason.count for reason in reasons))


def _lines(told: _Told, ids: Sequence[str]) -> dict[str, Example]:
    """What is shown of these rows: cut where they are read, so that a long one is never held as a whole here."""
    if not ids:
        return {}
    named = pl.coalesce(told.by, "problem_id").alias("name")
    found = (
        told.frame.filter(pl.coalesce(told.by, "problem_id").is_in(list(ids)))
        .select(
            named,
            pl.col("evidence").fill_null("").str.slice(0, WIDTH + 1),
            pl.col("row").fill_null("").str.slice(0, WIDTH + 1),
            pl.col("row").fill_null("").str.len_chars().alias("characters"),
        )
        .unique("name", keep="first", maintain_order=True)
        .collect(engine="streaming")
    )
    return {
        name: Example(name, pretty(evidence), row, characters) for name, evidence, row, characters in found.iter_rows()
    }


def pretty(text: str) -> str:
    """JSON on lines of its own; text that is none, or was cut, as it is."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return "" if value in ({}, None) else json.dumps(value, ensure_ascii=False, indent=1)
