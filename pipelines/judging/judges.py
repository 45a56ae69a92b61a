"""Whose word decides about rows: the one place that says what a judge-filtered version is.

[[score]] p_true ──column p_true──▶ [[filters]] where "p_true >= 0.5"        judged: rows were turned down by what a model said
[[score]] critic ──column critic──▶ [[select]] standardize ──w──▶ budget by w  judged, by way of a column made of it
[[score]] judge_difficulty, and nobody reads p1                              not judged: a column is information
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from tracemill.pipelines.recipes.catalog import Plugin
from tracemill.pipelines.recipes.foresee import COUNTED, trace_types
from tracemill.schemas.plugins import Embedded
from tracemill.schemas.tables import polars_types

if TYPE_CHECKING:
    from tracemill.pipelines.plan import Plan

DECISION = ("id", "selected", "reason", "evidence")


@dataclass(frozen=True, slots=True)
class Judge:
    """A plug-in that asks a model, and the steps that decide by what it said."""

    plugin: Plugin
    kind: str
    """`score` or `method`."""
    roles: tuple[str, ...]
    by: tuple[str, ...]
    """Such as `filter:where`; of a method `method`: it decides by itself."""


def judges_of(plan: "Plan") -> list[Judge]:
    """The plug-ins whose model's answers turn rows of this recipe down, or are in its rows as the method's labels.

    That is a score that asks a model, a reward model too, where a filter or a selector reads one of its columns, directly or by a column
    that a selector made of it; and a method that asks for a role `judge`, or whose function `judges` names roles.
    """
    found = [Judge(plan.method, "method", roles, ("method",)) for roles in [_judges_of_method(plan.method)] if roles]
    for score in plan.scores:
        roles = roles_asked(score)
        if roles and (by := tuple(readers(plan, score))):
            found.append(Judge(score, "score", roles, by))
    return found


def roles_asked(plugin: Plugin) -> tuple[str, ...]:
    """The roles whose models a plug-in asks, by its options."""
    return tuple(plugin.needs())


def readers(plan: "Plan", score: Plugin) -> Iterator[str]:
    """The filters and selectors that decide by a column of `score`."""
    columns = own_columns(score)
    for plugin in plan.filters:
        if columns is None or read_by_filter(plan, plugin) & columns:
            yield f"filter:{plugin.name}"
    known = _known(plan)
    known.update(dict.fromkeys(COUNTED, pl.Int64()))
    for plugin in plan.selectors:
        decides, made = _read_by_selector(plan, plugin, known)
        if columns is None or decides is None or decides & columns:
            yield f"select:{plugin.name}"
        if columns is not None:
            columns = columns | {name for name, reads in made.items() if reads & columns}
        known.update(dict.fromkeys(made, pl.Null()))


def own_columns(score: Plugin) -> frozenset[str] | None:
    """The columns that a score declares; None where it does not, and any step might read one."""
    declared = score.columns()
    return None if declared is None else frozenset(declared)


def read_by_filter(plan: "Plan", plugin: Plugin) -> frozenset[str]:
    """The columns that a filter decides by: as its file's `reads` says, else as its expression is seen to read them."""
    known = _known(plan)
    if (declare := plugin.about("reads", None)) is not None:
        return frozenset(plugin.ask(declare, known))
    watched = _Watched(pl.Schema(known))
    try:
        watched.table().select(plugin.call().alias("verdict")).collect()
    except Exception:  # noqa: BLE001 - of a column that nobody declares; the build itself says what
        return frozenset(plugin.call().meta.root_names())
    return watched.taken()


def _known(plan: "Plan") -> dict[str, pl.DataType]:
    return {**trace_types(), **polars_types(plan.columns)}


def _judges_of_method(method: Plugin) -> tuple[str, ...]:
    declare = method.about("judges", None)
    if declare is not None:
        return tuple(method.ask(declare))
    return tuple(role for role in roles_asked(method) if role == "judge")


def _read_by_selector(
    plan: "Plan", selector: Plugin, known: Mapping[str, pl.DataType]
) -> tuple[frozenset[str] | None, dict[str, frozenset[str]]]:
    """Which columns a selector decides by, and which each column that it adds is made of, observed on a table without rows.

    What cannot be observed may read anything: None.
    """
    watched = _Watched(pl.Schema(known))
    handed = {"engine": _NoTexts()} if plan.embedder is not None and selector.takes("engine") else {}
    made: dict[str, frozenset[str]] = {}
    try:
        rows = selector.call(watched.table(), **handed).rows
        at_once = watched.taken()  # collected within: whatever comes of it may be made of that
        rows.select(DECISION).collect()
        decides = at_once | watched.taken()
        for name in rows.collect_schema().names():
            if name not in known and name not in DECISION:
                rows.select(name).collect()
                made[name] = at_once | watched.taken()
    except Exception:  # noqa: BLE001 - without rows or columns that nobody declares anything may go wrong; the build itself says what
        return None, {}
    return decides, made


class _Watched:
    """A table without rows that notes which of its columns are read."""

    def __init__(self, schema: pl.Schema) -> None:
        self._schema, self._seen = schema, set[str]()

    def table(self) -> pl.LazyFrame:
        from polars.io.plugins import register_io_source

        return register_io_source(self._read, schema=self._schema)

    def taken(self) -> frozenset[str]:
        """What was read since this was asked last."""
        seen, self._seen = frozenset(self._seen), set()
        return seen

    def _read(
        self, columns: Sequence[str] | None, predicate: pl.Expr | None, _rows: int | None, _batch: int | None
    ) -> Iterator[pl.DataFrame]:
        wanted: Iterable[str] = self._schema.names() if columns is None else columns
        self._seen.update(wanted, predicate.meta.root_names() if predicate is not None else ())
        yield pl.DataFrame(schema=self._schema).select(wanted)


class _NoTexts:
    """The encoder of a selector that has nothing to read."""

    identity = "nothing"

    def embed(self, texts: Iterable[str], *, chunks: int = 1) -> Embedded:
        count = len(list(texts)) * chunks
        return Embedded(np.zeros((count, 1), np.float32), np.zeros(count, np.int64), np.zeros(count, np.int64))


def plain_judges(judges: Iterable[Judge], calibrated: Iterable[Plugin]) -> list[dict[str, Any]]:
    """For a manifest: who decided, by whose word, and whether that was measured."""
    known = {id(plugin) for plugin in calibrated}  # two scores of a recipe may have one name
    return [
        {"use": j.plugin.name, "kind": j.kind, "roles": [*j.roles], "by": [*j.by], "calibrated": id(j.plugin) in known}
        for j in judges
    ]
