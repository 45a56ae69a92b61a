"""Filters and selectors tried on tables without rows: what does not fit their columns is known before the first token.

Columns that nobody declares cannot be foreseen: those of a method or a score without COLUMNS.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import polars as pl

from tracemill.schemas.errors import RecipeError, TracemillError
from tracemill.schemas.rows import Selection
from tracemill.schemas.tables import ROWS, polars_types

if TYPE_CHECKING:
    from tracemill.pipelines.plan import Plan
    from tracemill.pipelines.recipes.catalog import Plugin

COUNTED = {"problem_correct": pl.Int64, "problem_total": pl.Int64, "problem_undecided": pl.Int64}
"""What selectors see beside the columns of the traces."""
VERDICT = {"reason", "evidence"}
_NOISE = "\n\nThis error occurred"


def check_steps(plan: "Plan") -> None:
    """Raise a RecipeError for a filter or selector that names columns which no trace will have, or has the wrong form."""
    known = plan.all_declared
    traces = pl.DataFrame(schema={**trace_types(), **polars_types(plan.columns)})
    for plugin in plan.filters:
        _try_filter(plugin, traces, all_known=known)
    seen = traces.with_columns(pl.DataFrame(schema=COUNTED)).lazy()
    for plugin in plan.selectors:
        if (added := _try_selector(plugin, seen, plan.engine_of(plugin), all_known=known)) is None:
            return
        seen = seen.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in added.items())


@cache
def trace_types() -> pl.Schema:
    """The common columns of traces, as polars types them."""
    return polars_types(ROWS)


def _try_filter(plugin: "Plugin", traces: pl.DataFrame, *, all_known: bool) -> None:
    verdict = plugin.call()
    if not isinstance(verdict, pl.Expr):
        raise RecipeError(f"{plugin.name} returns {type(verdict).__name__}; a filter returns a polars expression")
    try:
        with recipes_fault(plugin.name):
            dtype = traces.select(verdict.alias("verdict")).schema["verdict"]
    except RecipeError:
        if all_known:
            raise
        return
    if dtype != pl.Null and not (isinstance(dtype, pl.Struct) and {field.name for field in dtype.fields} == VERDICT):
        raise RecipeError(
            f"{plugin.name} gives {dtype}; a filter gives null where a row is kept, else struct(reason, evidence): "
            "write it with `reject` of tracemill.schemas.plugins"
        )


def _try_selector(
    plugin: "Plugin", traces: pl.LazyFrame, engine: Mapping[str, Any], *, all_known: bool
) -> dict[str, pl.DataType] | None:
    """The columns that a selector adds; None where that cannot be told."""
    try:
        with recipes_fault(plugin.name):
            selection = plugin.call(traces, **engine)
            schema = selection.rows.collect_schema() if isinstance(selection, Selection) else None
    except RecipeError:
        if all_known:
            raise
        return None
    if schema is None:
        raise RecipeError(f"{plugin.name} returns {type(selection).__name__}; a selector returns a Selection")
    if missing := {"id", "selected", *VERDICT} - set(schema):
        raise RecipeError(f"{plugin.name} leaves out the columns {sorted(missing)} of a selection")
    before = {*traces.collect_schema().names(), "selected", *VERDICT}
    return {name: dtype for name, dtype in schema.items() if name not in before}


@contextmanager
def recipes_fault(name: str) -> Iterator[None]:
    """What polars cannot do with a step's expression is the recipe's fault: columns, types or options that do not fit."""
    try:
        yield
    except (RecipeError, pl.exceptions.PolarsError) as error:
        text = str(error).partition(_NOISE)[0]  # polars goes on with the whole expression
        shown = text if isinstance(error, RecipeError) else f"{name}: {text}"
        raise RecipeError(shown) from error
    except (TracemillError, OSError):
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise RecipeError(f"{name} raises {said}; what was sampled is kept: mend it and run again") from error
