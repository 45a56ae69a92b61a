"""Trees that a source brings, by `tracemill curate`: their rows, and every way in which nodes make no tree."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracemill.pipelines.build import build
from tracemill.pipelines.store import Dataset, Store
from tracemill.schemas.recipe import parse_recipe
from tracemill.synth.given_tree import NoTree, check, read_tree
from tracemill.synth.step_tree.tree import walk

Row = dict[str, Any]


def node(name: Any, parent: Any = None, step: Any = "so", **more: Any) -> Row:
    return {"id": name, "parent_id": parent, "step": step, **more}


TREE = [
    node("A", None, "A"),
    node("A1", "A", "A1", leaf_kind="correct"),
    node("A2", "A", "A2", leaf_kind="wrong"),
    node("B", None, "B"),
    node("B1", "B", "B1", leaf_kind="wrong"),
    node("B2", "B", "B2", leaf_kind="wrong"),
]
FIVE = [
    node("P", None, "P"),
    node("Q", None, "Q", leaf_kind="wrong"),
    *(node(f"c{i}", "P", f"c{i}", leaf_kind="correct" if i < 3 else "wrong") for i in range(1, 6)),
]


def curated(store: Store, folder: Path, *trees: Any, tables: Row | None = None, **options: Any) -> Dataset:
    rows = [{"id": f"p{i}", "question": f"Which is number {i}?", "nodes": nodes} for i, nodes in enumerate(trees)]
    (folder / "trees.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = {"path": str(folder / "trees.jsonl"), "steps": "nodes"}
    made = {"name": "trees", "source": source, "synth": {"use": "given_tree", **options}, **(tables or {})}
    return build(parse_recipe(made), store, given=True).dataset


def table(dataset: Dataset, name: str) -> pl.DataFrame:
    return dataset.scan(name).collect()


def test_a_given_tree_gives_the_rows_that_a_grown_one_does(store: Store, tmp_path: Path):
    dataset = curated(store, tmp_path, TREE, pair_edits=1, tables={"views": {"hrm": True, "trl-prm": True}})
    rows = table(dataset, "rows")
    assert sorted(rows.select("height", "granularity", "label").iter_rows()) == [
        (1, "single", 0.0),
        (1, "single", 0.5),
        (2, "pair", 0.0),
        (2, "pair", 1.0),
        (2, "single", 0.0),
        (2, "single", 1.0),
    ]
    nodes = table(dataset, "nodes")
    ids = dict(nodes.select("given_id", "label_soft").drop_nulls("given_id").iter_rows())
    assert ids == {"A": 0.5, "A1": 1.0, "A2": 0.0, "B": 0.0, "B1": 0.0, "B2": 0.0}
    assert table(dataset, "values").height == 6
    assert table(dataset, "pairs")["margin"].to_list() == [1.0, 2.0]
    assert pl.read_parquet(dataset.path / "views" / "trl-prm" / "*.parquet").height == 3
    assert "Rows of given trees" in (dataset.path / "README.md").read_text(encoding="utf-8")


def test_compression_works_on_it_and_counts_may_be_of_rollouts(store: Store, tmp_path: Path):
    moved = table(curated(store, tmp_path, FIVE, hnc_rate=1.0), "rows").filter(pl.col("view") == "hnc")
    [step] = moved.filter(pl.col("merged_node_ids").list.len() > 0)["current_steps"].to_list()
    assert step[0].startswith("P\nc")
    rolled = [node("a", None, "a", n_correct=3, n_total=8, n_undecided=1), node("b", "a", "b", n_correct=0, n_total=4)]
    rows = table(curated(store, tmp_path, rolled, counted="rollouts", hnc=False), "rows")
    counts = rows.filter(pl.col("granularity") == "single").select("n_correct", "n_leaves", "n_undecided", "label_hard")
    assert sorted(counts.iter_rows()) == [(0, 4, 0, 0), (3, 8, 1, 1)]


def test_the_nodes_of_a_version_are_such_a_tree(store: Store, tmp_path: Path):
    first = table(curated(store, tmp_path, TREE), "nodes")
    again = table(curated(store, tmp_path, first.select("id", "parent_id", "step", "leaf_kind").to_dicts()), "nodes")
    shared = ["node_id", "parent_id", "step", "n_correct", "n_total", "label_hard"]
    assert again.select(shared).equals(first.select(shared))
    assert again["given_id"][0] == "p0/n000000"


def test_order_says_nothing_and_numbers_may_be_ids():
    numbered = [node(i, (i - 1) // 2 if i else None, f"s{i}", leaf_kind="wrong" if i > 2 else None) for i in range(7)]
    root, _ = read_tree(numbered, "leaves")
    turned, _ = read_tree(list(reversed(numbered)), "leaves")
    assert {tuple(n.steps()) for n in walk(root)} == {tuple(n.steps()) for n in walk(turned)}
    with_question, _ = read_tree([node("q", None, None), node("a", "q", "a", leaf_kind="wrong")], "leaves")
    assert [n.step for n in walk(with_question)] == ["", "a"]


@pytest.mark.parametrize(
    ("nodes", "reason", "evidence"),
    [
        ([node("a", "b"), node("b", "a")], "cycle", {"ids": ["a", "b"]}),
        ([*TREE, node("x", "x")], "cycle", {"ids": ["x"]}),
        ([*TREE, node("w", "z"), node("x", "z"), node("y", "x"), node("z", "y")], "cycle", {"ids": ["z", "y", "x"]}),
        ([node("a", "gone")], "unknown_parent", {"id": "a", "parent_id": "gone"}),
        ([node("a"), node("a")], "duplicate_node", {"id": "a", "place": 1}),
        ([node(1), node("1")], "duplicate_node", {"id": "1", "place": 1}),
        ([node(None)], "no_id", {"place": 0}),
        ([node("a", leaf_kind="wrong"), node("b", "a", " ")], "no_text", {"place": 1, "id": "b"}),
        ([node("a", None, ""), node("b", None, None)], "several_questions", {"nodes": 2}),
        ([node("a", leaf_kind="right")], "no_such_leaf_kind", None),
        ([node("a", leaf_kind=["wrong"])], "no_such_leaf_kind", None),
        ([node("a")], "no_leaf_kind", None),
        (["a"], "wrong_type", {"place": 0, "found": "str", "wanted": "an object"}),
        ([node({"a": 1})], "wrong_type", None),
        ([node("a", True)], "wrong_type", None),
        ([node("a", None, 7)], "wrong_type", {"place": 0, "column": "step", "found": "int", "wanted": "text"}),
        ([node("a", leaf_kind="wrong", mult=-1)], "wrong_type", None),
        ([node("a", leaf_kind="wrong", mult=1 << 63)], "wrong_type", None),
        ([node("a", mult=1 << 40), node("b", "a", mult=1 << 40, leaf_kind="wrong")], "too_many_leaves", None),
        ([node("a", leaf_kind="correct"), node("b", "a", leaf_kind="wrong")], "leaf_kind_of_inner_node", {
            "id": "a", "leaf_kind": "correct"}),
        ([node(i, i - 1 if i else None, leaf_kind="wrong") for i in range(1200)], "too_deep", {"at_most": 1000}),
        ([], "too_small", None),
        ([node("q", None, "")], "too_small", None),
    ],
)  # fmt: skip
def test_nodes_that_make_no_tree_turn_their_problem_down_and_no_other(
    nodes: Any, reason: str, evidence: Row | None, store: Store, tmp_path: Path
):
    dataset = curated(store, tmp_path, nodes, TREE)
    [(problem_id, found, why)] = table(dataset, "rejected").select("problem_id", "reason", "evidence").rows()
    assert (problem_id, found) == ("p0", reason)
    assert evidence is None or json.loads(why) == evidence
    assert set(table(dataset, "rows")["problem_id"]) == {"p1"}


@pytest.mark.parametrize(
    "counts", [{"n_correct": 3, "n_total": 2}, {"n_correct": 1, "n_undecided": 2, "n_total": 2}, {"n_correct": 1}]
)
def test_counts_that_do_not_fit_together_are_no_counts(counts: Row):
    with pytest.raises(NoTree, match="counts_do_not_fit"):
        read_tree([node("a", **counts)], "rollouts")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(parents=st.lists(st.none() | st.integers(0, 9), max_size=10))
def test_whatever_the_parents_are_it_is_a_tree_or_says_why_not(parents: list[int | None]):
    nodes = [node(i, parent, leaf_kind=None if i in parents else "wrong") for i, parent in enumerate(parents)]
    if any(parent is not None and parent >= len(parents) for parent in parents):
        assert fault_of(nodes).reason == "unknown_parent"
    elif all(ends_well(parents, i) for i in range(len(parents))):
        root, ids = read_tree(nodes, "leaves")
        assert sum(1 for _ in walk(root)) == len(nodes) + 1
        assert sorted(ids.values()) == sorted(str(i) for i in range(len(nodes)))
    else:
        fault = fault_of(nodes)
        assert fault.reason == "cycle"
        ring = [int(name) for name in fault.evidence["ids"]]
        assert all(parents[at] == up for at, up in zip(ring, [*ring[1:], ring[0]], strict=True))


def fault_of(nodes: list[Row]) -> NoTree:
    with pytest.raises(NoTree) as caught:
        read_tree(nodes, "leaves")
    return caught.value


def ends_well(parents: list[int | None], start: int) -> bool:
    """Whether the way up from a node ends within as many steps as there are nodes."""
    at: int | None = start
    for _ in parents:
        at = None if at is None else parents[at]
    return at is None


def test_options_are_those_of_step_tree_and_checked_alike():
    from tracemill.pipelines.recipes import catalog
    from tracemill.schemas.recipe import Step

    options = dict(catalog.find("synth", Step(use="given_tree")).options)
    grown = catalog.find("synth", Step(use="step_tree")).options
    assert {name: grown[name] for name in options if name != "counted"} == {
        name: value for name, value in options.items() if name != "counted"
    }
    with pytest.raises(ValueError, match="per_height = 0: at least 1"):
        check(**{**options, "per_height": 0})
