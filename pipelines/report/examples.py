"""Step trees and Petri nets of a version, a few of them: chosen by what they show and by their ids, the same ones every time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import polars as pl

from tracemill.pipelines.asking.reasons import columns_of
from tracemill.pipelines.drawings import net_svg, tree_svg
from tracemill.pipelines.report.blocks import Block, Drawing, Section, Text, table
from tracemill.pipelines.report.facts import table_of
from tracemill.pipelines.versions.dataset import Dataset

TREES, NETS = 3, 4
NODES = range(4, 41)
"""Steps of a tree that is good to look at."""
MOST = 60
"""Nodes of a tree, or steps of a net, that are drawn."""
CHARACTERS = 400
"""Of a step."""
LARGEST = 300_000
"""Characters of a picture; one that has more is left out."""


def examples_of(dataset: Dataset) -> list[Section]:
    """A section of trees and one of nets, as far as the version has them."""
    return [
        Section("trees", "Step trees", list(_trees(dataset)), _OF_TREES),
        Section("nets", "Petri nets", list(_nets(dataset)), _OF_NETS),
    ]


_OF_TREES = (
    "Each step with the right ones of what was drawn from it, their share and its interval: a disc is a good step, "
    "a square a bad one, a hollow diamond one that is open. Trees with right and wrong ends and few "
    "enough steps to look at come first, by the id of their problem."
)
_OF_NETS = "A box is a step, a rounded one what it needs or finds out. Steps of a frontier can be written at the same time; the critical path is what has to be written one after the other. One net of each shape, that with the smallest id."


def _trees(dataset: Dataset) -> Iterator[Block]:
    wanted = {"problem_id": pl.String, "outcome": pl.String, "n_nodes": pl.Int64}
    frame = columns_of(dataset, "trees", wanted)
    told = (pl.col("outcome") == "ok").fill_null(value=False)
    small = pl.col("n_nodes").is_between(NODES.start, NODES.stop).fill_null(value=False)
    first = frame.sort(~told, ~small, "problem_id").head(TREES).collect(engine="streaming")["problem_id"].to_list()
    if not first or "nodes" not in dataset.tables():
        return
    nodes = (
        dataset.scan("nodes")
        .filter(pl.col("problem_id").is_in(first))
        .with_columns(pl.col("step").str.slice(0, CHARACTERS))
    )
    found = nodes.sort("problem_id", "id").collect(engine="streaming").partition_by("problem_id", as_dict=True)
    for name in first:
        rows = found[name,].to_dicts() if (name,) in found else []
        if rows:
            yield _drawing(f"tree-{name}", f"The tree of {name}", partial(tree_svg, rows, most=MOST), _tree_table(rows))


def _tree_table(rows: Sequence[Mapping[str, Any]]) -> Any:
    head = ("node", "height", "right", "drawn", "interval", "label", "step")
    labels = {1: "good", 0: "bad", None: "open"}
    return table(
        head,
        [
            (
                row.get("node_id") or row["id"],
                row.get("height"),
                row.get("n_correct"),
                row.get("n_total"),
                "" if row.get("low") is None else f"{row['low']:.2f} to {row['high']:.2f}",
                labels.get(row.get("label_hard"), ""),
                row.get("step") or "",
            )
            for row in rows[:MOST]
        ],
    )


def _nets(dataset: Dataset) -> Iterator[Block]:
    name = table_of(dataset)
    schema = dataset.scan(name).collect_schema()
    if not {"id", "shape", "steps"} <= set(schema):
        return
    chosen = dataset.scan(name).select("id", "shape").group_by("shape").agg(pl.len(), pl.col("id").min())
    ids = chosen.sort("len", "shape", descending=[True, False]).head(NETS).collect(engine="streaming")["id"].to_list()
    rows = (
        dataset.scan(name)
        .filter(pl.col("id").is_in(ids))
        .select("id", "shape", "steps")
        .collect(engine="streaming")
        .to_dicts()
    )
    for row in sorted(rows, key=lambda row: ids.index(row["id"])):
        head = ("step", "after", "tokens", "from", "to", "text")
        steps = [
            (
                s["n"],
                ", ".join(map(str, s["deps"])),
                s["n_tokens"],
                ", ".join(s["left"]),
                s["right"],
                (s["text"] or "")[:CHARACTERS],
            )
            for s in (row["steps"] or ())[:MOST]
        ]
        title = f"{row['id']}, {row['shape']}"
        yield _drawing(f"net-{row['shape']}", title, partial(net_svg, row, most=MOST), table(head, steps))


def _drawing(key: str, title: str, draw: Callable[[], str], said: Any) -> Block:
    """The picture, or why there is none: whatever was done to a table, the rest of the report is made."""
    try:
        picture = draw()
    except ValueError as error:
        return Text(key, f"{title} cannot be drawn: {error}")
    if len(picture) > LARGEST:
        return Text(key, f"{title} is too large to be drawn here.")
    return Drawing(key, title, picture, "", said)
