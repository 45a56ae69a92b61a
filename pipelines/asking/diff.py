"""`tracemill diff REF REF`: which rows were added, removed and changed between two versions, why, and what shifted.

    rows of A ─┐ a hash of each column ┌─ added ─┐
               ├───── join on id ──────┼ removed ┼──▶ reasons.py: why, from manifests and tables ──▶ one document of plain data
    rows of B ─┘                       └ changed ┘

Values are compared by 64-bit hashes, a column at a time, so that texts are read once and never held; columns that only one
version has are listed and make no row a changed one. What is wide is read again for the few rows that are shown.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from tracemill.pipelines.asking.reasons import CHANGES, differences, evidence_of, why
from tracemill.pipelines.asking.shifts import shifts
from tracemill.pipelines.versions.dataset import Dataset

SCHEMA = 1
TIED = "__"
"""Before the hash of a column, so that it is never taken for a column of the dataset."""


def diff(a: Dataset, b: Dataset, *, examples: int = 10) -> dict[str, Any]:
    """All that is said of two versions, as plain data; its keys are a contract, docs/operations.md names them."""
    manifests = a.manifest(), b.manifest()
    frames, only = _alike(a.scan(), b.scan())
    compared, sizes = _compared(frames)
    recipe = differences(*manifests)
    reasons = why(compared, (a, b), manifests, recipe)
    counts = {change: int((compared["change"] == change).sum()) for change in CHANGES}
    return {
        "schema": SCHEMA,
        "a": _about(a, manifests[0], sizes[0]),
        "b": _about(b, manifests[1], sizes[1]),
        "identical": a.path == b.path or manifests[0]["digest"] == manifests[1]["digest"],
        "rows": {**counts, "same": sizes[0] - counts["removed"] - counts["changed"]},
        "columns": {"only_a": only[0], "only_b": only[1], "changed": _column_counts(compared)},
        "recipe": recipe,
        "reasons": _counted(reasons),
        "examples": _examples(reasons, (a, b), frames, examples),
        "shifts": shifts((a, b), manifests),
    }


def _about(dataset: Dataset, manifest: Mapping[str, Any], rows: int) -> dict[str, Any]:
    return {
        "ref": str(dataset),
        "name": dataset.name,
        "version": dataset.version,
        "created": manifest["created"],
        "complete": manifest["complete"],
        "rows": rows,
    }


def _alike(a: pl.LazyFrame, b: pl.LazyFrame) -> tuple[tuple[pl.LazyFrame, pl.LazyFrame], tuple[list[str], list[str]]]:
    """Both with the columns that both have, in the types that hold the values of either; and the names of the others."""
    left, right = a.collect_schema(), b.collect_schema()
    common = {name: _either(left[name], right[name]) for name in left if name in right}
    casts = [pl.col(name).cast(kind) for name, kind in common.items()]
    only = [name for name in left if name not in right], [name for name in right if name not in left]
    return (a.select(casts), b.select(casts)), only


def _either(a: pl.DataType, b: pl.DataType) -> pl.DataType:
    """A type for the values of two: turns of a conversation have more fields where some turn of the dataset holds more."""
    if a == b:
        return a
    if isinstance(a, pl.List) and isinstance(b, pl.List):
        return pl.List(_either(_instance(a.inner), _instance(b.inner)))
    if isinstance(a, pl.Struct) and isinstance(b, pl.Struct):
        mine, theirs = ({field.name: _instance(field.dtype) for field in kind.fields} for kind in (a, b))
        return pl.Struct(
            {name: _either(mine.get(name, kind), theirs.get(name, kind)) for name, kind in {**mine, **theirs}.items()}
        )
    if a.is_integer() and b.is_integer():
        return pl.Int64()
    if a.is_numeric() and b.is_numeric():
        return pl.Float64()
    return a if isinstance(b, pl.Null) else b if isinstance(a, pl.Null) else pl.String()


def _instance(kind: Any) -> pl.DataType:
    made: pl.DataType = kind() if isinstance(kind, type) else kind
    return made


def _compared(frames: Sequence[pl.LazyFrame]) -> tuple[pl.DataFrame, tuple[int, int]]:
    """`change`, `id`, `problem_id` and `columns` of every row that is not the same in both, by id; and the numbers of rows."""
    names = [name for name in frames[0].collect_schema().names() if name != "id"]
    hashes = [pl.col(name).hash().alias(f"{TIED}{name}") for name in names]
    a, b = (frame.select("id", *hashes).collect(engine="streaming") for frame in frames)
    sizes = a.height, b.height
    differs = pl.any_horizontal(pl.lit(value=False), *(_differs(name) for name in names))
    changed = a.join(b, on="id", suffix=f"{TIED}b", maintain_order="left").filter(differs)
    changed = changed.select(
        pl.lit("changed").alias("change"),
        "id",
        pl.concat_list([pl.when(_differs(name)).then(pl.lit(name)) for name in names])
        .list.drop_nulls()
        .alias("columns")
        if names
        else pl.lit([], pl.List(pl.String)).alias("columns"),
    )
    nothing = pl.lit([], pl.List(pl.String)).alias("columns")
    ids = a.select("id"), b.select("id")
    del a, b
    gone = ids[0].join(ids[1], on="id", how="anti").select(pl.lit("removed").alias("change"), "id", nothing)
    new = ids[1].join(ids[0], on="id", how="anti").select(pl.lit("added").alias("change"), "id", nothing)
    found = pl.concat([new, gone, changed])
    return found.with_columns(pl.lit(None, pl.String).alias("problem_id")).pipe(_with_problems, frames), sizes


def _differs(name: str) -> pl.Expr:
    return pl.col(f"{TIED}{name}") != pl.col(f"{TIED}{name}{TIED}b")


def _with_problems(found: pl.DataFrame, frames: Sequence[pl.LazyFrame]) -> pl.DataFrame:
    """Which problem each row belongs to: by its column, or where there is none by the id."""
    if all("problem_id" in frame.collect_schema() for frame in frames) and found.height:
        wanted = found.lazy().select("id")
        known = pl.concat([frame.select("id", "problem_id").join(wanted, on="id", how="semi") for frame in frames])
        known = known.unique("id", keep="last")
        found = found.drop("problem_id").join(known.collect(engine="streaming"), on="id", how="left")
    named = pl.coalesce("problem_id", pl.col("id").str.replace(r"/[^/]*$", ""))
    return found.select("change", "id", named.alias("problem_id"), "columns").sort("change", "id")


def _column_counts(compared: pl.DataFrame) -> dict[str, int]:
    """In how many changed rows each column differs, most first."""
    counts = compared.select(pl.col("columns").explode(empty_as_null=False)).drop_nulls().group_by("columns").len()
    return dict(counts.sort(["len", "columns"], descending=[True, False]).iter_rows())


def _counted(reasons: pl.DataFrame) -> list[dict[str, Any]]:
    return (
        reasons.group_by("change", "reason", "detail")
        .agg(pl.len().alias("rows"))
        .sort(["rows", "change", "reason", "detail"], descending=[True, False, False, False])
        .to_dicts()
    )


def _examples(
    reasons: pl.DataFrame, versions: Sequence[Dataset], frames: Sequence[pl.LazyFrame], n: int
) -> dict[str, list[dict[str, Any]]]:
    """The first rows of each kind by id, with what is known of them."""
    shown = {change: reasons.filter(pl.col("change") == change).head(n).to_dicts() for change in CHANGES}
    where = {"added": versions[0], "removed": versions[1]}
    for change, dataset in where.items():
        evidence = evidence_of(dataset, [row["id"] for row in shown[change]])
        for row in shown[change]:
            del row["columns"]
            row["evidence"] = evidence.get(row["id"])
    wanted = [row["id"] for row in shown["changed"]]
    a, b = (_rows_of(frame, wanted) for frame in frames)
    for row in shown["changed"]:
        before, after = a[row["id"]], b[row["id"]]
        row["values"] = {name: {"a": before[name], "b": after[name]} for name in row.pop("columns")}
    return {change: [_without_change(row) for row in rows] for change, rows in shown.items()}


def _without_change(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "change"}


def _rows_of(frame: pl.LazyFrame, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    wanted = list(ids)
    rows = frame.filter(pl.col("id").is_in(wanted)).collect(engine="streaming").to_dicts() if wanted else []
    return {row["id"]: row for row in rows}
