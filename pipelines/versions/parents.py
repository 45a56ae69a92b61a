"""Versions that a version was made from: its sources with `ref = "name@version"`, and the rows of theirs that its problems were.

arith-long@9c1f row p07 ──problem p07──▶ source ref arith@77ab, table rows ──column id──▶ row p07/solve-0002 ──▶ its own source ...
"""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from tracemill.pipelines.store import Store
from tracemill.pipelines.versions.dataset import Dataset, find_version, parse_ref
from tracemill.pipelines.versions.manifest import ParentFacts, SourceFacts, licences
from tracemill.schemas.errors import RecipeError, TracemillError
from tracemill.schemas.recipe import Source

DEPTH = 20
"""Generations that are followed; versions cannot descend from themselves, so more would be a damaged manifest."""
ROWS = 5
"""Rows of a parent that are told, where its column of ids does not decide on one."""


def with_parents(facts: Sequence[SourceFacts], sources: Sequence[Source], store: Store) -> list[SourceFacts]:
    """Each source that is a version of the store with that version, and with its licences beside what the recipe states."""
    return [_with_parent(fact, source, store) for fact, source in zip(facts, sources, strict=True)]


def _with_parent(facts: SourceFacts, source: Source, store: Store) -> SourceFacts:
    if source.ref is None:
        return facts
    parent = store.open(source.ref)
    theirs = licences(parent.manifest())
    of_rows = source.licence == "unknown" and facts["licences"] != ["unknown"]  # its rows brought theirs along
    rolled = list(facts["licences"]) if of_rows else sorted({*facts["licences"], *theirs})
    told = ParentFacts(ref=str(parent), table=parse_ref(source.ref).table or "rows", licences=theirs)
    return {**facts, "licence": ", ".join(rolled), "licences": rolled, "parent": told}


def ancestors(dataset: Dataset, problem_id: str, question: str | None, source: str | None) -> list[dict[str, Any]]:
    """The rows of other versions that a problem was, its parent first; each with what it rests on itself.

    A version that is not in this store is named and not followed; `rows` is null then.
    """
    found: list[dict[str, Any]] = []
    while len(found) < DEPTH:
        manifest = dataset.manifest()
        place = _place(manifest, source)
        if place is None:
            break
        facts, recipe = place
        parent = facts["parent"]
        try:
            dataset = find_version(dataset.path.parent.parent, parse_ref(parent["ref"]))
            rows = _rows(dataset, parent["table"], recipe, problem_id, question)
        except TracemillError as error:
            found.append({**parent, "rows": None, "why": str(error)})
            break
        found.append({**parent, "rows": rows, "sources": [_told(s) for s in dataset.manifest().get("sources", ())]})
        if len(rows) != 1:
            break
        problem_id = str(rows[0]["problem_id"] or rows[0]["id"])
        question, source = rows[0]["question"], rows[0]["source"]
    return found


def _place(manifest: Mapping[str, Any], source: str | None) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """The source of this name, if it is a version, as the manifest and as the recipe have it."""
    facts = manifest.get("sources", ())
    recipe = manifest.get("recipe", {}).get("source", ())
    named = [(f, r) for f, r in zip(facts, recipe, strict=False) if source in (None, f.get("name")) and "parent" in f]
    return named[0] if len(named) == 1 else None


def _rows(
    dataset: Dataset, table: str, recipe: Mapping[str, Any], problem_id: str, question: str | None
) -> list[dict[str, Any]]:
    """The rows of a table that became this problem: by the column of ids, else by the question."""
    frame = dataset.scan(table)
    schema = frame.collect_schema()
    column, asked = recipe.get("id") or "id", recipe.get("question") or "question"
    if column in schema:
        frame = frame.filter(pl.col(column).cast(pl.String) == problem_id)
    elif asked in schema and question is not None:
        frame = frame.filter(pl.col(asked) == question)
    else:
        raise RecipeError(f"{dataset}/{table} has neither a column {column!r} nor {asked!r} to find the row by")
    names = ("id", "problem_id", "question", "source", "licence", "key")
    here = [pl.col(n).cast(pl.String) if n in schema else pl.lit(None, pl.String).alias(n) for n in names]
    return frame.select(here).head(ROWS).collect(engine="streaming").to_dicts()


def _told(source: Mapping[str, Any]) -> dict[str, Any]:
    return {name: source.get(name) for name in ("name", "sha256", "licence")}
