"""Labelled steps in trainers' layouts: what stands in each, from trees that are written down here."""

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.trees import QUESTION, Spec, grown, node_rows, problem
from tracemill.pipelines.export import export, lengths
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import parse_recipe
from tracemill.schemas.tables import PROBLEMS, ROWS, declared
from tracemill.schemas.views import hrm, omega_pairs, rest, step_pairs, trl_prm
from tracemill.synth.step_tree.rows import ROW_COLUMNS, ROW_TABLES, Rules, outcome_of
from tracemill.synth.step_tree.tables import TABLES
from tracemill.synth.step_tree.tree import Node, walk

Row = dict[str, Any]
Tables = dict[str, pl.LazyFrame]

ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
TREE: Spec = {
    "Three times eight is twenty-four.": {
        "Twenty-four less sixteen is eight.": "correct",
        "So it is forty, all in all, as added up.": "wrong",
    },
    "Let us guess: perhaps it is a hundred?": {"a hundred": {"it is": "wrong"}, "ninety-nine": "wrong"},
}
GOOD, BAD = TREE
RIGHT, OFF = TREE[GOOD]


def frame(columns: pa.Schema, rows: list[Row]) -> pl.LazyFrame:
    filled = [{name: row.get(name) for name in columns.names} for row in rows]
    return pl.DataFrame(pa.Table.from_pylist(filled, columns)).lazy()


def tables(*roots: Node, **labels: Any) -> Tables:
    """The tables of a version with these trees, problems p1, p2, ...; `labels` by step in place of those of the counts."""
    made = {name: list[Row]() for name in ("rows", "problems", "nodes", *ROW_TABLES)}
    for number, root in enumerate(roots, start=1):
        name = f"p{number}"
        outcome = outcome_of(problem(name), root, rules=Rules(), prompt=(), model="m")
        made["problems"].append({"problem_id": name, "question": QUESTION, "prompt": ASKED})
        made["nodes"] += node_rows(root, name, **labels)
        made["rows"] += [{"id": t.id, "problem_id": name, **t.columns, "n_tokens": 1} for t in outcome.traces]
        for table, rows in outcome.tables.items():
            made[table] += [{"problem_id": name, **row} for row in rows]
    own = {"nodes": TABLES["nodes"], **ROW_TABLES}
    schemas = {name: declared({"problem_id": str, **columns}, where=name) for name, columns in own.items()}
    schemas |= {"problems": PROBLEMS, "rows": pa.schema([*ROWS, *declared(ROW_COLUMNS, where="rows")])}
    return {name: frame(schemas[name], rows) for name, rows in made.items()}


def read(view: pl.LazyFrame) -> list[Row]:
    return view.collect(engine="streaming").to_dicts()


def ways(found: list[Row]) -> list[tuple[list[str], list[bool]]]:
    return [(row["completions"], row["labels"]) for row in found]


def test_hrm_has_input_and_label_and_can_be_one_split_alone():
    version = tables(grown(TREE), grown({"a": "correct", "b": "wrong"}))
    found = read(hrm(version))
    assert list(found[0]) == ["input", "label", "split", "problem_id"]
    assert len(found) == version["rows"].collect().height
    assert all("# Step 1" in row["input"] for row in found)
    split = found[0]["split"]
    other = {"train": "test", "test": "train"}[split]
    assert read(hrm(version, split=split)) == found
    assert read(hrm(version, split=other)) == []


def test_hrm_leaves_out_steps_behind_which_nothing_was_decided():
    version = tables(grown({"a": "undecided", "b": "undecided"}), grown({"a": "undecided", "b": "wrong"}))
    assert version["rows"].filter(pl.col("label") == 0).collect().height == 4
    assert [row["problem_id"] for row in read(hrm(version))] == ["p2"]


def test_hrm_needs_rows_of_steps():
    with pytest.raises(RecipeError, match="needs rows of the methods step_tree or human_steps"):
        hrm({"rows": pl.LazyFrame({"id": ["a"]})})


def test_stepwise_supervision_goes_down_to_the_first_bad_step_or_to_the_end():
    version = tables(grown(TREE))
    found = read(trl_prm(version))
    assert list(found[0]) == ["prompt", "completions", "labels", "problem_id"]
    assert {row["prompt"] for row in found} == {QUESTION}
    assert ways(found) == [([GOOD, RIGHT], [True, True]), ([GOOD, OFF], [True, False]), ([BAD], [False])]
    assert ways(read(trl_prm(version, after_error=True))) == [
        ([GOOD, RIGHT], [True, True]),
        ([GOOD, OFF], [True, False]),
        ([BAD, "a hundred", "it is"], [False, False, False]),
        ([BAD, "ninety-nine"], [False, False]),
    ]


def test_a_step_whose_label_is_open_cuts_its_way_before_it():
    root = grown(TREE)
    assert ways(read(trl_prm(tables(root, **{GOOD: None})))) == [([BAD], [False])]
    assert ways(read(trl_prm(tables(root, **{OFF: None})))) == [
        ([GOOD], [True]),
        ([GOOD, RIGHT], [True, True]),
        ([BAD], [False]),
    ]
    open_below = tables(root, **{"a hundred": None, "ninety-nine": None})
    assert ([BAD], [False]) in ways(read(trl_prm(open_below, after_error=True)))


def test_a_tree_of_one_node_gives_no_way():
    empty = tables(grown({}))
    for view in (trl_prm, rest, omega_pairs, step_pairs, hrm):
        assert read(view(empty)) == [], view.__name__
    both = tables(grown({}), grown(TREE))
    assert {row["problem_id"] for row in read(trl_prm(both))} == {"p2"}


def test_labels_are_booleans_and_steps_texts_in_the_file(tmp_path: Path):
    out = export(version(tmp_path, grown(TREE)), "trl-prm", tmp_path / "out")
    schema = pq.read_schema(out / "train-00000-of-00001.parquet")
    kinds = {name: schema.field(name).type for name in schema.names}
    assert kinds["labels"].value_type == pa.bool_()
    assert pa.types.is_large_string(kinds["completions"].value_type) or pa.types.is_string_view(
        kinds["completions"].value_type
    )


def test_sibling_pairs_are_whole_conversations_or_bare_steps():
    version = tables(grown(TREE))
    first, second = read(step_pairs(version))
    assert first["prompt"] == second["prompt"] == ASKED
    assert first["chosen"] == [{"role": "assistant", "content": GOOD}]
    assert first["rejected"] == [{"role": "assistant", "content": BAD}]
    assert second["chosen"] == [{"role": "assistant", "content": f"{GOOD}\n{RIGHT}"}]
    assert second["rejected"] == [{"role": "assistant", "content": f"{GOOD}\n{OFF}"}]
    assert (first["margin"], second["margin"]) == (1.0, 2.0)
    bare = read(step_pairs(version, form="text"))
    assert [(row["prompt"], row["chosen"], row["rejected"]) for row in bare] == [
        (QUESTION, GOOD, BAD),
        (f"{QUESTION}\n\n{GOOD}", RIGHT, OFF),
    ]


def test_values_stand_beside_the_steps_up_to_theirs():
    found = {tuple(row["steps"]): row for row in read(rest(tables(grown(TREE))))}
    assert len(found) == 7
    assert found[GOOD, RIGHT]["value"] == 1.0
    assert (found[GOOD, OFF]["value"], found[GOOD, OFF]["m"], found[GOOD, OFF]["r"]) == (0.25, 1, 1)
    assert found[BAD, "a hundred", "it is"]["value"] == 0.0
    assert {row["prompt"] for row in found.values()} == {QUESTION}


def test_the_target_of_two_siblings_is_the_chance_that_the_first_is_better():
    root = Node(step="")
    for number, correct in enumerate((6, 2, 2)):
        root.add(Node(step="abc"[number], name=f"n{number}", n_correct=correct, n_total=8))
    root.add(Node(step="not counted", name="n9"))
    found = read(omega_pairs(tables(root)))
    assert [(row["first"], row["second"], row["target"]) for row in found] == [("a", "b", 0.75), ("a", "c", 0.75)]
    tied = read(omega_pairs(tables(root), ties=True))
    assert [(row["first"], row["second"], row["target"]) for row in tied][2] == ("b", "c", 0.5)
    deep = read(omega_pairs(tables(grown(TREE))))
    assert [(row["prefix"], row["target"]) for row in deep] == [([], 0.75), ([GOOD], 1.0)]


def test_what_nothing_is_known_of_is_in_no_target():
    root = Node(step="")
    for number, (correct, undecided) in enumerate(((4, 0), (0, 4), (0, 3))):
        root.add(Node(step="abc"[number], name=f"n{number}", n_correct=correct, n_total=4, n_undecided=undecided))
    found = read(omega_pairs(tables(root)))
    assert [(row["first"], row["second"], row["target"]) for row in found] == [("a", "c", 1.0)]


def test_a_step_that_some_solutions_end_with_and_others_do_not_is_no_target_with_itself():
    root = Node(step="")
    for number, (step, correct) in enumerate((("a", 4), ("a", 1), ("b", 0))):
        root.add(Node(step=step, name=f"n{number}", n_correct=correct, n_total=4))
    found = read(omega_pairs(tables(root), ties=True))
    assert [(row["first"], row["second"], row["target"]) for row in found] == [("a", "b", 1.0), ("a", "b", 0.625)]


def test_a_draw_that_gave_no_step_is_in_no_way_and_no_target():
    root = grown({"P": {"": "error"}, "Q": {"": "error", "right": "correct"}})
    assert ways(read(trl_prm(tables(root)))) == [(["P"], [False]), (["Q", "right"], [True, True])]
    assert {(row["first"], row["second"]) for row in read(omega_pairs(tables(root)))} == {("P", "Q")}


def test_trees_of_several_problems_do_not_mix():
    one, other = grown(TREE), grown({"x": {"y": "correct", "z": "wrong"}, "v": "wrong"})
    together, alone = tables(one, other), tables(one)
    for view in (trl_prm, rest, omega_pairs):
        assert [row for row in read(view(together)) if row["problem_id"] == "p1"] == read(view(alone)), view.__name__
    assert ways(read(trl_prm(together)))[-1] == (["v"], [False])


def test_a_long_way_is_read_to_its_end():
    spec: Any = "correct"
    for number in reversed(range(60)):
        spec = {f"step {number}": spec}
    [row] = read(trl_prm(tables(grown(spec))))
    assert row["completions"] == [f"step {number}" for number in range(60)]


def version(folder: Path, *roots: Node) -> Path:
    place = folder / "version"
    for name, rows in tables(*roots).items():
        (place / name).mkdir(parents=True)
        rows.collect().write_parquet(place / name / "train-00000-of-00001.parquet")
    return place


@pytest.mark.parametrize(
    ("to", "rows"), [("hrm", 8), ("trl-prm", 3), ("step-pairs", 2), ("rest", 7), ("omega-pairs", 2)]
)
def test_load_dataset_opens_each_of_them_and_the_same_export_is_the_same_bytes(tmp_path: Path, to: str, rows: int):
    import datasets

    place = version(tmp_path, grown(TREE))
    outs = [export(place, to, tmp_path / f"{number}") for number in (1, 2)]
    loaded = datasets.load_dataset(str(outs[0]), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == rows
    assert loaded.to_list() == pl.read_parquet(outs[0] / "*.parquet").to_dicts()
    first, again = ([file.read_bytes() for file in out.iterdir()] for out in outs)
    assert first == again
    assert next(iter(lengths(place, to, outs[0]))).startswith(f"rows    {rows}, from")


@pytest.mark.parametrize("name", ["hrm", "trl-prm", "step-pairs", "rest", "omega-pairs"])
def test_a_recipe_that_wants_them_of_another_method_is_refused_before_anything_is_drawn(name: str, tmp_path: Path):
    from tracemill.pipelines.plan import resolve

    recipe = parse_recipe(
        {
            "name": "x",
            "source": {"path": "x.jsonl"},
            "model": {"name": "m", "max_tokens": 8},
            "engine": {"kind": "scripted"},
            "synth": {"use": "sample"},
            "views": {name: True},
        }
    )
    with pytest.raises(RecipeError, match=f"views.{name} needs traces of the method step_tree, not of sample"):
        resolve(recipe, runtime=tmp_path)


def test_walking_the_nodes_gives_the_tree_back():
    """What a reader of the table does: parents come before their children, and ids join."""
    root = grown(TREE)
    below: dict[str | None, list[str]] = {}
    for row in tables(root)["nodes"].collect().to_dicts():
        assert row["parent_id"] is None or row["parent_id"] in {id_ for ids in below.values() for id_ in ids}
        below.setdefault(row["parent_id"], []).append(row["id"])
    assert sum(map(len, below.values())) == sum(1 for _ in walk(root))
