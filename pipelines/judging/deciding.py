"""What a recipe decides about a planted case: its very filters, on the columns that its very score makes of the case."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from tracemill.pipelines.judging.cases import Case, Cases
from tracemill.pipelines.judging.judges import own_columns, read_by_filter
from tracemill.pipelines.recipes.catalog import Plugin
from tracemill.pipelines.recipes.foresee import recipes_fault, trace_types
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import suggest
from tracemill.schemas.tables import polars_types

if TYPE_CHECKING:
    from tracemill.pipelines.plan import Plan


def deciding_filters(plan: "Plan", score: Plugin) -> list[Plugin]:
    """The filters that read a column of `score`."""
    columns = own_columns(score) or frozenset()
    return [plugin for plugin in plan.filters if read_by_filter(plan, plugin) & columns]


def scores_needed(plan: "Plan", score: Plugin) -> list[Plugin]:
    """`score`, the others whose columns its filters read beside, and those before them that ask no model, which cost nothing."""
    read = frozenset[str]().union(*(read_by_filter(plan, plugin) for plugin in deciding_filters(plan, score)))
    wanted = [s is score or bool((own_columns(s) or frozenset()) & read) for s in plan.scores]
    last = max(place for place, take in enumerate(wanted) if take)
    return [s for place, s in enumerate(plan.scores[: last + 1]) if wanted[place] or not s.needs()]


def check_decided(plan: "Plan") -> None:
    """Raise RecipeError where nothing decides about the cases of a score: known before the first token."""
    for cases in plan.calibrations:
        if cases.kind == "method":
            if not cases.sided:
                raise RecipeError(f'{cases.plugin.name}: cases of a method expect "good" or "bad"')
            continue
        columns = own_columns(cases.plugin)
        if columns is None:
            raise RecipeError(
                f"{cases.plugin.name}: it is calibrated by its columns; declare them in COLUMNS of its file"
            )
        if cases.sided and not deciding_filters(plan, cases.plugin):
            one = min(columns, default="column")
            raise RecipeError(
                f"{cases.plugin.name}: its cases are good or bad, and no filter decides by one of its columns "
                f"({', '.join(sorted(columns))}); add [[filters]] that does, or say what columns ought to hold: "
                f'expected = {{"{one}": [0.5, 1]}}'
            )
        for case in cases.all:
            for column in case.wanted.keys() - columns:
                raise RecipeError(
                    f"{cases.plugin.name}: case {case.name} expects {column!r}, which it does not make{suggest(column, columns)}"
                )


def judged(plan: "Plan", cases: Cases, rows: Sequence[Mapping[str, Any] | None]) -> list[bool | None]:
    """For each case whether it was taken for what it is (`wanted`), or kept by the filters (good or bad); None: undecided.

    Undecided is a case without a row, and one where a column is null that decides: the reply could not be read.
    """
    if not cases.sided:
        return [None if row is None else _as_wanted(row, case) for case, row in zip(cases.all, rows, strict=True)]
    filters = deciding_filters(plan, cases.plugin)
    known = [row for row in rows if row is not None]
    kept = iter(_kept(plan, filters, known))
    read = frozenset[str]().union(*(read_by_filter(plan, plugin) for plugin in filters))
    own = read & (own_columns(cases.plugin) or frozenset())
    found: list[bool | None] = []
    for row in rows:
        verdict = None if row is None else next(kept)
        unread = row is not None and any(row.get(column) is None for column in own)
        found.append(None if unread else verdict)
    return found


def check_given(plan: "Plan", cases: Cases, rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise RecipeError where a filter decides by something that a case does not say; called before a model is asked."""
    if not cases.sided:
        return
    made = {column for score in plan.scores for column in own_columns(score) or ()}
    for plugin in deciding_filters(plan, cases.plugin):
        for column in sorted(read_by_filter(plan, plugin) - made):
            lacking = [case.name for case, row in zip(cases.all, rows, strict=True) if row.get(column) is None]
            if lacking:
                said = (
                    "give it a `gold`" if column in ("correct", "answer", "gold", "verdict") else "name it in the case"
                )
                raise RecipeError(
                    f"{cases.plugin.name}: the filter {plugin.name} also reads {column!r}, which is not known of "
                    f"{len(lacking)} of {len(rows)} cases, such as {lacking[0]}; {said}, or filter by it in a step of its own"
                )


def _as_wanted(row: Mapping[str, Any], case: Case) -> bool | None:
    values = [row.get(column) for column in case.wanted]
    if any(value is None for value in values):
        return None
    return all(_fits(value, want) for value, want in zip(values, case.wanted.values(), strict=True))


def _fits(value: Any, want: Any) -> bool:
    return want[0] <= value <= want[1] if isinstance(want, list) else bool(value == want)


def _kept(plan: "Plan", filters: Sequence[Plugin], rows: Sequence[Mapping[str, Any]]) -> list[bool]:
    if not rows:
        return []
    types = {**trace_types(), **polars_types(plan.columns)}
    there = {name for row in rows for name in row}
    frame = pl.DataFrame(
        [{name: row.get(name) for name in {*types, *there}} for row in rows],
        schema_overrides=types, infer_schema_length=None,
    )  # fmt: skip
    with recipes_fault("filters"):
        down = frame.select(pl.any_horizontal(plugin.call().is_not_null() for plugin in filters))
    return [not rejected for rejected in down.to_series()]
