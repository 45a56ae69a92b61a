"""A map of rows by their meaning: a sample of them embedded anew, and the plane in which their vectors lie widest (PCA).

Versions keep no vectors. What a build embedded stands in the store's folder of vectors, so an encoder that the recipe used has read most
texts already. What lies close in the plane may be far apart in the other dimensions; that two rows are near is decided by cosine.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tracemill.pipelines.asking.reasons import columns_of
from tracemill.pipelines.report.blocks import Block, Figure, Section, Text, table
from tracemill.pipelines.report.charts import Bars, Cloud
from tracemill.pipelines.report.facts import Facts, Similar, table_of
from tracemill.pipelines.store import Store
from tracemill.pipelines.versions.dataset import Dataset
from tracemill.schemas.recipe import EmbedderTable
from tracemill.selectors.meaning import text_of
from tracemill.synth.embed import Embedder, open_embedder

SAMPLE = 1000
"""Rows on a map, those in groups of near ones included."""
OF_COMPONENTS = 400
SHOWN = 6
"""Groups with a colour and a mark of their own, the largest."""
CHARACTERS = 20_000
"""Of a text; an encoder reads a small part of that."""


def opened(store: Store, name: str) -> Embedder:
    """The encoder in a folder; RecipeError where it is none, or sentence-transformers is not installed."""
    path = Path(name).expanduser()
    table_ = EmbedderTable(name=str(path.absolute()) if path.exists() else name)
    return open_embedder(table_, runtime=store.engines_folder, cache=store.vectors_folder)


def map_section(dataset: Dataset, facts: Facts, embedder: Embedder | None) -> Section:
    """What is near what: found by a selector where one looked, and drawn where an encoder is at hand."""
    blocks: list[Block] = list(_found(facts.similar)) if facts.similar else []
    if embedder is not None:
        blocks += _drawn(dataset, embedder)
    else:
        command = f"tracemill report {dataset} --embedder FOLDER"
        blocks.append(
            Text(
                "how",
                "A map of the rows by their meaning needs a sentence encoder, such as all-MiniLM-L6-v2, in a folder:",
                command,
            )
        )
    return Section("map", "Rows that are near each other", blocks)


def _found(similar: Similar) -> Iterable[Block]:
    if similar.similarities:
        yield Figure(
            Bars(
                name="similar",
                title="How near the rows that were not taken are",
                said=f"Rows by cosine to the row that stayed: {sum(count for _, count in similar.similarities):,} of them.",
                x="cosine to the row that stayed",
                y="rows",
                labels=tuple(label for label, _ in similar.similarities),
                series=(("", tuple(count for _, count in similar.similarities)),),
            )
        )
    if similar.sizes:
        yield Figure(
            Bars(
                name="components",
                title="Groups of near rows",
                said=f"{similar.components:,} groups that chains of near pairs join, of {similar.rows:,} rows in all, by size.",
                x="rows in the group",
                y="groups",
                labels=tuple(label for label, _ in similar.sizes),
                series=(("", tuple(count for _, count in similar.sizes)),),
            )
        )


def _drawn(dataset: Dataset, embedder: Embedder) -> Iterable[Block]:
    groups = _groups(dataset)
    texts = _texts(dataset, groups)
    if len(texts) < 3:
        yield Text("few", "Fewer than three rows have a text: there is no plane to draw.")
        return
    vectors = embedder.embed(texts.values(), chunks=_how(dataset)[1]).vectors
    plane, explained = principal_plane(np.asarray(vectors, np.float64))
    at = dict(zip(texts, plane, strict=True))
    rows = table(
        ("group", "rows drawn", "some of them"), [(name, len(ids), ", ".join(ids[:5])) for name, ids in groups.items()]
    )
    inside = {one for ids in groups.values() for one in ids}
    clouds = [("other rows", [at[one] for one in texts if one not in inside])]
    clouds += [(name, [at[one] for one in ids if one in at]) for name, ids in groups.items()]
    first, second = (f"{100 * part:.0f} %" for part in explained)
    yield Figure(
        Cloud(
            name="map",
            title="Rows by meaning",
            said=f"{len(texts):,} rows as points of a plane, {len(inside & at.keys()):,} of them in groups of near rows, which have marks of their own.",
            x=f"first direction, {first} of the spread",
            y=f"second direction, {second}",
            groups=tuple((name, tuple(points)) for name, points in clouds),
            rows=rows,
        ),
        f"Vectors of {embedder.name} ({embedder.revision}) in the plane where they lie widest; points that touch need not be near.",
    )


def _groups(dataset: Dataset) -> dict[str, list[str]]:
    """Ids by group, the largest groups first and as many as fit; what is beyond the first few is one group."""
    wanted = {"component": pl.String, "id": pl.String, "size": pl.Int64}
    frame = columns_of(dataset, "components", wanted)
    ranked = (
        frame.sort("size", "component", "id", descending=[True, False, False])
        .head(OF_COMPONENTS)
        .collect(engine="streaming")
    )
    found: dict[str, list[str]] = {}
    for component, one, size in ranked.iter_rows():
        name = f"{component} ({size:,})"
        found.setdefault(name if len(found) < SHOWN - 1 or name in found else "smaller groups", []).append(one)
    return found


def _how(dataset: Dataset) -> tuple[str, int]:
    """The text and the number of windows that `semantic_dedup` compared, or its defaults."""
    steps: Sequence[Mapping[str, Any]] = dataset.manifest().get("identity", {}).get("select") or ()
    options: Mapping[str, Any] = next(
        (step.get("options", {}) for step in steps if step.get("use") == "semantic_dedup"), {}
    )
    return str(options.get("text", "output")), int(options.get("chunks", 1))


def _texts(dataset: Dataset, groups: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The texts of the rows in groups, and of others that lie evenly in the order of the ids; by id."""
    inside = [one for ids in groups.values() for one in ids]
    name, text = table_of(dataset), _how(dataset)[0]
    frame, total = dataset.scan(name), dataset.manifest()["tables"][name]["rows"]
    step = max(1, total // max(1, SAMPLE - len(inside)))
    schema = frame.collect_schema()
    if not {"id", *((text,) if text != "output" else ("reasoning", "content"))} <= set(schema):
        return {}
    picked = frame.with_row_index("at").filter((pl.col("at") % step == 0) | pl.col("id").is_in(inside))
    chosen = picked.select("id", text_of("report", schema, text).str.slice(0, CHARACTERS).alias("text")).collect(
        engine="streaming"
    )
    known = dict(chosen.iter_rows())
    parts = ["reasoning", "content"] if text == "output" else [text]
    gone = (
        columns_of(dataset, "rejected", {"id": pl.String, "row": pl.String})
        .filter(pl.col("id").is_in([one for one in inside if one not in known]))
        .select(
            "id",
            pl.concat_str(
                [pl.col("row").str.json_path_match(f"$.{part}") for part in parts], separator="\n", ignore_nulls=True
            )
            .str.slice(0, CHARACTERS)
            .alias("text"),
        )
        .collect(engine="streaming")
    )
    known |= dict(gone.iter_rows())
    return {one: known[one] for one in sorted(known) if known[one]}


def principal_plane(vectors: np.ndarray) -> tuple[list[tuple[float, float]], tuple[float, float]]:
    """Coordinates in the two directions of the widest spread, and the share of the spread that lies in each.

    Hotelling 1933. A direction points to where its largest part is positive, so that equal vectors give equal pictures; rounded to three digits.
    """
    centred = vectors - vectors.mean(axis=0)
    spread, directions = np.linalg.eigh(centred.T @ centred)
    two = directions[:, [-1, -2]]
    two = two * np.sign(two[np.abs(two).argmax(axis=0), [0, 1]])
    points = np.round(centred @ two, 3) + 0.0
    total = float(spread.sum()) or 1.0
    return [(float(x), float(y)) for x, y in points], (float(spread[-1]) / total, float(spread[-2]) / total)
