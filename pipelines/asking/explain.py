"""`tracemill explain REF ID`: the life of a row, from its source to the files that hold it.

    ID ──found in rows, traces, problems, rejected, samples──▶ its problem ──▶ everything that a version holds about that problem

Tables are read lazily: of each, the rows of one problem.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from tracemill.pipelines.asking.pictures import picture
from tracemill.pipelines.asking.reasons import as_data, columns_of
from tracemill.pipelines.versions.dataset import Dataset
from tracemill.pipelines.versions.parents import ancestors
from tracemill.schemas.errors import RecipeError

SCHEMA = 1
PREFIX = 6
"""So many characters of an id are enough where they leave no doubt."""
LISTED = 10
"""So many ids an error lists."""
NAMED_BY = 20

_COMMON = ("rows", "traces", "rejected", "problems", "samples")
_PLACES = (
    ("problem", "problems"),
    ("problem", "rejected"),
    ("trace", "rows"),
    ("trace", "traces"),
    ("trace", "rejected"),
)
_FIRST = ("problem", "trace", "key")
"""What an id names where it names several things."""
_KEY = re.compile(r"[0-9a-f]{6,64}")


@dataclass(frozen=True, slots=True, order=True)
class _Hit:
    """Something that an id names."""

    kind: str
    """problem, trace (a row too), key, or the name of a table of the method's own"""
    id: str
    problem_id: str


def explain(dataset: Dataset, wanted: str) -> dict[str, Any]:
    """What a version holds about a row, a problem or a request, as plain data, in the order in which it happened."""
    hit = _find(dataset, wanted)
    manifest = dataset.manifest()
    problem = next(iter(_rows(dataset, "problems", pl.col("problem_id") == hit.problem_id)), None)
    traces = _traces(dataset, hit.problem_id)
    samples = _samples(dataset, hit, traces)
    rows = _rows(dataset, "rows", _of_problem(dataset, hit.problem_id))
    folded = "traces" in dataset.tables()
    ids = [trace["id"] for trace in traces] + [row["id"] for row in rows if folded]
    life = {
        "schema": SCHEMA,
        "ref": str(dataset),
        "asked": {"kind": hit.kind, "id": hit.id},
        "problem_id": hit.problem_id,
        "source": (source := _source(manifest, problem, traces)),
        "parents": ancestors(dataset, hit.problem_id, problem["question"] if problem else None, source["name"]),
        "made_by": _made_by(manifest, samples, traces),
        "problem": problem,
        "refused": [_evident(row) for row in _down(dataset, hit.problem_id) if row["id"] is None],
        "samples": samples,
        "samples_table": "samples" in dataset.tables(),
        "traces": traces,
        "folded": folded,
        "rows": rows,
        "tables": dict(_mentions(dataset, hit.problem_id, ids)),
        "named_by": _named_by(dataset, ids),
        "views": dict(_views(dataset, hit.problem_id, ids)),
    }
    return {**life, "picture": list(picture(dataset, life))}


# ---- what the id names


def _find(dataset: Dataset, wanted: str) -> _Hit:
    if exact := _hits(dataset, wanted, whole=True):
        return min(exact, key=lambda hit: (*_FIRST, hit.kind).index(hit.kind))
    found = _hits(dataset, wanted) if len(wanted) >= PREFIX else []
    if not found:
        raise RecipeError(_unknown(dataset, wanted))
    if len(found) == 1:
        return found[0]
    problems = [hit for hit in found if hit.kind == "problem"]
    if len(problems) == 1 and {hit.problem_id for hit in found} == {problems[0].id}:
        return problems[0]
    names = sorted({hit.id for hit in (problems if len(problems) > 1 else found)})
    more = f" and more, {len(names):,} or over" if len(names) > LISTED else ""
    raise RecipeError(f"{wanted!r} could be {', '.join(names[:LISTED])}{more} in {dataset}; write more of it")


def _hits(dataset: Dataset, wanted: str, *, whole: bool = False) -> list[_Hit]:
    """What an id or its beginning names: at most some hundreds, enough to know that there are several."""

    def named(column: str) -> pl.Expr:
        name = pl.col(column)
        return (name == wanted) if whole else name.str.starts_with(wanted)

    found: set[_Hit] = set()
    for kind, table in _PLACES:
        column = "problem_id" if kind == "problem" else "id"
        frame = columns_of(dataset, table, {"id": pl.String, "problem_id": pl.String})
        if (kind, table) == ("problem", "rejected"):
            frame = frame.filter(pl.col("id").is_null())  # those that a source lost are in no other table
        found |= {_Hit(kind, *_both(row[column], row["problem_id"])) for row in _head(frame.filter(named(column)))}
    for table in _own_tables(dataset):
        frame = columns_of(dataset, table, {"id": pl.String, "problem_id": pl.String})
        found |= {_Hit(table, row["id"], row["problem_id"]) for row in _head(frame.filter(named("id")))}
    known = {hit.id for hit in found if hit.kind == "problem"}
    found = {hit for hit in found if hit.kind != "trace" or hit.id not in known}  # a folded row bears its problem's id
    if _KEY.fullmatch(wanted):
        found |= {
            _Hit("key", r["key"], r["problem_id"])
            for frame in _keyed(dataset, wanted)
            for r in _head(frame.filter(named("key")))
        }
    return sorted(found)


def _own_tables(dataset: Dataset) -> list[str]:
    """Tables of the method's and the selectors' own."""
    return [table for table in dataset.tables() if table not in _COMMON]


def _keyed(dataset: Dataset, wanted: str) -> Iterator[pl.LazyFrame]:
    """Where requests are named. Without a table of samples the rejected ones are only in the text of their rows."""
    for table in ("samples", "rows", "traces"):
        yield columns_of(dataset, table, {"key": pl.String, "problem_id": pl.String})
    if "samples" not in dataset.tables():
        down = columns_of(dataset, "rejected", {"problem_id": pl.String, "row": pl.String})
        down = down.filter(pl.col("row").str.contains(f'"key":"{wanted}', literal=True))
        yield down.select("problem_id", pl.col("row").str.json_path_match("$.key").alias("key"))


def _both(name: str, problem_id: str | None) -> tuple[str, str]:
    return name, problem_id if problem_id is not None else name.rpartition("/")[0] or name


def _head(frame: pl.LazyFrame) -> list[dict[str, Any]]:
    return frame.head(500).collect(engine="streaming").to_dicts()


def _unknown(dataset: Dataset, wanted: str) -> str:
    near = _near(dataset, wanted)
    hint = f"; near it: {', '.join(near)}" if near else ""
    short = f"; of a longer id, write {PREFIX} characters or more" if len(wanted) < PREFIX else ""
    manifest = dataset.manifest()
    partial = "" if manifest["complete"] else f"; the version is partial: {manifest.get('why_partial')}"
    return f"{dataset} holds no row, trace, problem or request {wanted!r}{hint}{short}{partial}; searched: {_searched(dataset)}"


def _searched(dataset: Dataset) -> str:
    tables = dataset.manifest()["tables"]
    return ", ".join(f"{name} ({tables[name]['rows']:,})" for name in _COMMON if name in tables)


def _near(dataset: Dataset, wanted: str) -> list[str]:
    """Ids that look like it, from among some that begin as it does."""
    for length in dict.fromkeys((len(wanted) - 1, len(wanted) * 3 // 4, len(wanted) // 2, len(wanted) // 4, 0)):
        hits = _hits(dataset, wanted[: max(length, 0)])
        if close := difflib.get_close_matches(wanted, {hit.id for hit in hits}, n=3, cutoff=0.5):
            return close
    return []


# ---- what the version holds about its problem


def _of_problem(dataset: Dataset, problem_id: str, table: str = "rows") -> pl.Expr:
    if "problem_id" in dataset.scan(table).collect_schema():
        return pl.col("problem_id") == problem_id
    return pl.col("id").str.replace(r"/[^/]*$", "") == problem_id


def _rows(dataset: Dataset, table: str, holds: pl.Expr) -> list[dict[str, Any]]:
    if table not in dataset.tables():
        return []
    return dataset.scan(table).filter(holds).collect(engine="streaming").to_dicts()


def _down(dataset: Dataset, problem_id: str) -> list[dict[str, Any]]:
    return _rows(dataset, "rejected", pl.col("problem_id") == problem_id)


def _evident(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "evidence": as_data(row["evidence"]), "row": as_data(row["row"])}


def _traces(dataset: Dataset, problem_id: str) -> list[dict[str, Any]]:
    """Every trace of the problem, chosen or not, by id: `row` is the trace as it was."""
    table = "traces" if "traces" in dataset.tables() else "rows"
    chosen = [
        {"id": row["id"], "chosen": True, "stage": None, "reason": None, "evidence": None, "row": row}
        for row in _rows(dataset, table, _of_problem(dataset, problem_id, table))
    ]
    down = [
        {"id": r["id"], "chosen": False, "stage": r["stage"], "reason": r["reason"], **_as_dict(r)}
        for r in map(_evident, _down(dataset, problem_id))
        if r["id"] is not None
    ]
    return sorted([*chosen, *down], key=lambda trace: str(trace["id"]))


def _as_dict(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"evidence": row["evidence"], "row": row["row"] if isinstance(row["row"], Mapping) else {}}


def _samples(dataset: Dataset, hit: _Hit, traces: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What was drawn for the problem, in the order of the traces that came of it; what no trace is made of comes last."""
    made: dict[str, list[str]] = {}
    for trace in traces:
        made.setdefault(str(trace["row"].get("key")), []).append(trace["id"])
    drawn = _rows(dataset, "samples", pl.col("problem_id") == hit.problem_id)
    samples = [
        {
            **{name: value for name, value in sample.items() if name != "token_ids"},
            "traces": made.get(sample["key"], []),
        }
        for sample in drawn
    ]
    return sorted(samples, key=lambda s: (s["role"], not s["traces"], s["traces"], s["key"]))


def _source(
    manifest: Mapping[str, Any], problem: Mapping[str, Any] | None, traces: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """The source by its name, and the licence that the recipe states for it."""
    name = problem["source"] if problem is not None else None
    sources = manifest.get("sources", [])
    if name is None and len(sources) == 1:
        name = sources[0]["name"]
    of_rows = {str(t["row"]["licence"]) for t in traces if t["row"].get("licence") is not None}
    stated = of_rows or {str(source["licence"]) for source in sources if source["name"] == name}
    hashes = [source["sha256"] for source in sources if source["name"] == name]
    return {"name": name, "licence": ", ".join(sorted(stated)) or None, "sha256": hashes}


def _made_by(
    manifest: Mapping[str, Any], samples: Sequence[Mapping[str, Any]], traces: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What answered, as far as this problem was asked of it: model and engine by role; code and determinism of the whole."""
    models, engines = manifest.get("models", {}), manifest.get("engines", {})
    asked = {sample["role"] for sample in samples}
    if not samples and any(trace["row"].get("key") is not None for trace in traces):
        asked = set(models)  # the version has no table of samples, and traces do not name the role
    roles = {
        role: {
            "model": models[role]["name"],
            "revision": models[role]["revision"],
            "verified": models[role]["verified"],
            "levels": [level["revision"] for level in (models[role].get("asked") or {}).get("levels", ())],
            "seed": (models[role].get("asked") or {}).get("seed"),
            "engine": engines.get(role, {}).get("engine"),
            "engine_version": _version(engines.get(role, {})),
        }
        for role in models
        if role in asked
    }
    code = {
        "tracemill": manifest.get("tracemill"),
        "code": manifest.get("code"),
        "plugins": manifest.get("plugins", {}),
    }
    return {"roles": roles, **code, "determinism": (manifest.get("determinism") or {}).get("level")}


def _version(engine: Mapping[str, Any]) -> Any:
    """An engine's own version, or those that servers gave."""
    return engine.get("version") or (", ".join(map(str, engine.get("server_versions", ()))) or None)


def _mentions(dataset: Dataset, problem_id: str, ids: Sequence[str]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Rows of the method's and the selectors' own tables that name the problem or a trace of it, in any column of text."""
    names = {problem_id, *ids}
    for table in _own_tables(dataset):
        schema = dataset.scan(table).collect_schema()
        texts = [name for name, kind in schema.items() if kind == pl.String]
        lists = [name for name, kind in schema.items() if kind == pl.List(pl.String)]
        here = [pl.col(name).is_in(names) for name in texts]
        here += [pl.col(name).list.eval(pl.element().is_in(names)).list.any() for name in lists]
        if here and (found := _rows(dataset, table, pl.any_horizontal(here))):
            yield table, found


def _named_by(dataset: Dataset, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Rows turned down with one of these ids in their evidence, such as its copies; those of the same problem left out."""
    if not ids or "rejected" not in dataset.tables():
        return []
    quoted = [f'"{name}"' for name in ids]
    named = pl.col("evidence").str.contains_any(quoted) & ~pl.col("id").is_in(list(ids)).fill_null(value=False)
    found = dataset.scan("rejected").filter(named).select("id", "problem_id", "stage", "reason", "evidence")
    rows = found.head(NAMED_BY).collect(engine="streaming").to_dicts()
    return [{**row, "evidence": as_data(row["evidence"])} for row in rows]


def _views(dataset: Dataset, problem_id: str, ids: Sequence[str]) -> Iterator[tuple[str, int | None]]:
    """How many rows of each view are of this problem; null where a view has no column of ids to tell by."""
    for folder in sorted(dataset.path.glob("views/*")):
        files = sorted(folder.glob("*.parquet"))
        if not files:
            continue
        frame = pl.scan_parquet(files)
        columns = frame.collect_schema()
        by = [name for name in ("problem_id", "qid", "id") if columns.get(name) == pl.String]
        if not by:
            yield folder.name, None
            continue
        here = pl.any_horizontal(pl.col(name).is_in([problem_id, *ids]) for name in by)
        yield folder.name, frame.filter(here).select(pl.len()).collect(engine="streaming").item()
