"""The filters under `[[source.keep]]`, which turn problems down before a token is spent on them.

Rows of JSON lines need not all have the same columns: a column that any problem of the source has is null where another
lacks it, and one that none has is the recipe's fault, found before the first problem is taken up.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import polars as pl

from tracemill.pipelines.plan import Plan
from tracemill.pipelines.reading.benchmarks import identity_of_benchmarks
from tracemill.pipelines.recipes.foresee import recipes_fault
from tracemill.pipelines.running import outcomes
from tracemill.pipelines.running.spool import Spool
from tracemill.schemas.rows import Problem


class ProblemFilters:
    """The problem filters of a plan, ready for the problems of a spool."""

    def __init__(self, plan: Plan, spool: Spool) -> None:
        """Look over the columns of all problems that have filters, and try the filters on them."""
        self._plan, self._spool = plan, spool
        self._schemas = _schemas(plan, spool) if any(plan.keeps) else {}
        self._keeps = [[(plugin.name, plugin.call()) for plugin in keeps] for keeps in plan.keeps]
        self._marks = {index: _mark(plan, index, schema) for index, schema in self._schemas.items()}
        for index, schema in self._schemas.items():
            for name, keep in self._keeps[index]:
                with recipes_fault(_place(index, name)):
                    pl.DataFrame(schema=schema).select(keep)

    def outcome_key(self, problem: Problem) -> str:
        """What an outcome in the spool is good for: this problem and those beside it, under this synthesis and these filters."""
        count = self._plan.neighbours
        beside = self._spool.neighbours(problem, count) if count else ()
        return f"{self._plan.outcome_key(problem, beside)}{self._marks.get(problem.source_index, '')}"

    def verdict(self, problem: Problem) -> tuple[str, Mapping[str, str]] | None:
        """The first filter that turns a problem down, with its reason and evidence; None where it is kept."""
        index = problem.source_index
        for name, keep in self._keeps[index]:
            columns = outcomes.problem_columns(problem)
            frame = pl.DataFrame([columns], schema=self._schemas[index], strict=False)
            with recipes_fault(_place(index, name)):
                why = frame.select(keep.alias("why")).item()
            if why is not None:
                return name, why
        return None

    def kept(self, problems: Sequence[Problem]) -> list[bool]:
        """Of problems of one source, which its filters keep: many at once, for who has to know before any is worked on."""
        index = problems[0].source_index
        frame = pl.DataFrame(
            list(map(outcomes.problem_columns, problems)), schema=self._schemas.get(index), strict=False
        )
        kept = pl.Series("kept", [True]).new_from_index(0, len(problems))
        for name, keep in self._keeps[index]:
            with recipes_fault(_place(index, name)):
                kept &= frame.with_columns(keep.alias("_why"))["_why"].is_null()
        return kept.to_list()


def _place(index: int, name: str) -> str:
    return f"source.{index}.keep: {name}"


def _mark(plan: Plan, index: int, schema: Mapping[str, Any]) -> str:
    """Hash of the filters of one source, the types of the columns they see, and the benchmarks that they look for."""
    keeps = plan.keeps[index]
    steps: list[Any] = [[plugin.name, plugin.options, plugin.code] for plugin in keeps]
    if plan.benchmarks is not None and any(plugin.takes("benchmarks") for plugin in keeps):
        steps.append(identity_of_benchmarks(plan.benchmarks, plan.recipe.benchmarks))
    types = {name: str(dtype) for name, dtype in schema.items()}
    return hashlib.sha256(msgspec.json.encode([steps, types], order="sorted")).hexdigest()


def _schemas(plan: Plan, spool: Spool) -> dict[int, dict[str, Any]]:
    """The columns that problem filters see, by source."""
    found: dict[int, dict[str, set[type]]] = {}
    for problem in spool.problems(left_out_too=True):  # types must not hang on what a mix or a shard takes
        if plan.keeps[problem.source_index]:
            columns = found.setdefault(problem.source_index, {})
            for name, value in outcomes.problem_columns(problem).items():
                columns.setdefault(name, set()).add(type(value))
    return {index: {name: _dtype(name, kinds) for name, kinds in columns.items()} for index, columns in found.items()}


def _dtype(name: str, kinds: set[type]) -> Any:
    """The type of a column by what stands in it; words among numbers make all of them text."""
    match kinds - {type(None)}:
        case _ if name in outcomes.OWN_COLUMNS:
            return pl.String
        case found if not found:
            return pl.Null
        case found if found == {bool}:
            return pl.Boolean
        case found if found == {int}:
            return pl.Int64
        case found if found <= {int, float}:
            return pl.Float64
        case _:
            return pl.String
