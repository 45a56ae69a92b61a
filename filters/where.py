"""Keep rows for which a condition in SQL holds: `sql = "difficulty IN ('1', '2') AND n_tokens < 900"`."""

import re
from collections.abc import Collection
from functools import partial

import polars as pl
from polars.exceptions import PolarsError, SQLInterfaceError, SQLSyntaxError

from tracemill.schemas.errors import RecipeError

VERDICT = pl.Struct({"reason": pl.String, "evidence": pl.String})
SHOWN_CHARACTERS = 200
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*")
_ACROSS_ROWS = re.compile(
    r"\b(?:(over|avg|corr|count|covar\w*|first|last|listagg|max|median|min|quantile\w*|std\w*|string_agg|array_agg|sum|"
    r"unnest|var\w*|row_number)\s*\(|(select|from|union)\b)",
    re.IGNORECASE,
)


def where(*, sql: str) -> pl.Expr:
    """Keep a row for which `sql`, a condition over its columns in the SQL of polars, is true.

    Traces show their columns and those of the scores; problems show theirs and the other columns of the source. A
    condition is about one row: aggregates, windows and subqueries are refused. A row is turned down as `not_met`, as
    `unknown` where a null leaves it open, or as `not_computable` where its values do not fit (a CAST of a word, say).
    """
    outside_quotes = _QUOTED.sub(" ", sql)
    if found := _ACROSS_ROWS.search(outside_quotes):
        word = (found[1] or found[2]).upper()
        raise ValueError(f"sql = {sql!r}: {word} looks across rows, a filter sees one; a selector can do it")
    try:
        pl.sql_expr(sql)
    except (SQLInterfaceError, SQLSyntaxError) as error:
        raise ValueError(f"sql = {sql!r} is not a condition in SQL: {error}") from None
    except PolarsError:
        pass  # it parses; the rest needs the types of columns, which are known when rows are there
    return pl.struct(pl.all()).map_batches(partial(_judge, sql), return_dtype=VERDICT, is_elementwise=True)


def reads(columns: Collection[str], *, sql: str) -> set[str]:
    """Those of `columns` that the condition speaks of: its expression takes all of a row, so that cannot be seen from outside."""
    return {name for name in columns if _mentions(sql, name)}


def _judge(sql: str, rows: pl.Series) -> pl.Series:
    frame = rows.struct.unnest()
    _check_columns(sql, frame)
    met, faults = _evaluate(sql, frame)
    condition = pl.Series(met, dtype=pl.Boolean)
    shown = pl.DataFrame({"sql": [sql] * frame.height, "error": faults}, schema={"sql": pl.String, "error": pl.String})
    shown = shown.with_columns(frame.select(*_mentioned(sql, frame)).get_columns())
    reason = (
        pl.when(pl.col("error").is_not_null())
        .then(pl.lit("not_computable"))
        .when(condition.is_null())
        .then(pl.lit("unknown"))
        .otherwise(pl.lit("not_met"))
    )
    verdict = pl.struct(reason=reason, evidence=pl.struct(shown.columns).struct.json_encode())
    return shown.select(pl.when(~condition.fill_null(value=False)).then(verdict)).to_series().cast(VERDICT)


def _check_columns(sql: str, frame: pl.DataFrame) -> None:
    """Raise RecipeError for what is wrong with every row: a column that is not there, types that never compare."""
    try:
        result = _run(sql, frame.clear())
    except PolarsError as error:
        message = str(error).splitlines()[0].partition("; valid columns: ")[0]
        columns = ", ".join(f"{name} ({dtype})" for name, dtype in frame.schema.items())
        raise RecipeError(f"where: sql = {sql!r}: {message}; the columns are: {columns}") from None
    if result.dtype not in (pl.Boolean, pl.Null):
        raise RecipeError(f"where: sql = {sql!r} is a {result.dtype}, not a condition; compare it with something")


def _evaluate(sql: str, frame: pl.DataFrame) -> tuple[list[bool | None], list[str | None]]:
    """For every row, whether the condition is met, and why it cannot be computed; bad rows are found by halving."""
    try:
        met = _run(sql, frame).to_list()
    except PolarsError as error:
        if frame.height == 1:
            return [None], [str(error).splitlines()[0]]
        middle = frame.height // 2
        left, right = _evaluate(sql, frame[:middle]), _evaluate(sql, frame[middle:])
        return left[0] + right[0], left[1] + right[1]
    if len(met) == 1:  # a constant condition comes back once
        met *= frame.height
    return met, [None] * len(met)


def _run(sql: str, frame: pl.DataFrame) -> pl.Series:
    # the line end closes a trailing comment
    return frame.lazy().sql(f"SELECT ({sql}\n) FROM self").collect().to_series()  # noqa: S608 - the recipe's own words


def _mentions(sql: str, name: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", sql) is not None


def _mentioned(sql: str, frame: pl.DataFrame) -> list[pl.Expr]:
    """The columns that the condition may speak of, as a person can read them."""
    exprs = []
    for name, dtype in frame.schema.items():
        if name in ("sql", "error") or not _mentions(sql, name):
            continue
        if dtype == pl.String:
            exprs.append(pl.col(name).str.head(SHOWN_CHARACTERS))
        elif dtype.is_integer() or dtype.is_float() or dtype in (pl.Boolean, pl.Null):
            exprs.append(pl.col(name))
        elif dtype.is_temporal() or dtype in (pl.Categorical, pl.Enum):
            exprs.append(pl.col(name).cast(pl.String, strict=False))
    return exprs
