"""Steps that people rated, by `tracemill curate`: PRM800K's rows in HRM's form, what is turned down, and the published file."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tracemill.pipelines.asking.explain import explain
from tracemill.pipelines.build import build
from tracemill.pipelines.export import export
from tracemill.pipelines.plan import resolve
from tracemill.pipelines.store import Dataset, Store
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import Recipe, load_recipe, parse_recipe
from tracemill.synth.human_steps import check

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("TRACEMILL_TEST_DATA", ROOT.parent / "shared" / "data")) / "prm800k"

Row = dict[str, Any]


def candidate(text: Any, rating: Any) -> Row:
    return {"text": text, "rating": rating, "flagged": False}


def step(*completions: Any, chosen: Any = None, human: str | None = None) -> Row:
    written = None if human is None else {"text": human, "rating": None, "source": "human", "flagged": False}
    return {"completions": list(completions), "chosen_completion": chosen, "human_completion": written}


SOLUTION = [
    step(candidate("Let x be the number.", 1), candidate("Guess.", -1), candidate("Well.", 0), chosen=0),
    step(candidate("x + 2 = 3", -1), candidate("x + 3 = 3", None), human="x + 2 = 4"),
    step(candidate("So x = 2.", 1), candidate("So x = 6.", -1), chosen=0),
]


def recipe(folder: Path, *solutions: Any, tables: Row | None = None, **options: Any) -> Recipe:
    """A recipe over problems p0, p1, ... with these given steps."""
    rows = [
        {"name": f"p{i}", "question": {"problem": f"Which number is number {i}?"}, "label": {"steps": steps}}
        for i, steps in enumerate(solutions)
    ]
    (folder / "rated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = {"path": str(folder / "rated.jsonl"), "id": "name", "question": "question.problem", "steps": "label.steps"}
    return parse_recipe(
        {"name": "rated", "source": source, "synth": {"use": "human_steps", **options}, **(tables or {})}
    )


def curated(store: Store, folder: Path, *solutions: Any, **options: Any) -> Dataset:
    return build(recipe(folder, *solutions, **options), store, given=True).dataset


def table(dataset: Dataset, name: str) -> pl.DataFrame:
    return dataset.scan(name).collect()


def shown(dataset: Dataset) -> dict[str, tuple[list[str], list[str], float]]:
    columns = ("id", "previous_steps", "current_steps", "label")
    return {id_: (before, now, label) for id_, before, now, label in table(dataset, "rows").select(columns).iter_rows()}


def down(dataset: Dataset) -> list[tuple[str | None, str]]:
    return table(dataset, "rejected").select("id", "reason").rows()


def evidence(dataset: Dataset, reason: str) -> Row:
    found: Row = json.loads(table(dataset, "rejected").filter(pl.col("reason") == reason)["evidence"][0])
    return found


def test_each_rated_candidate_is_a_row_and_from_the_second_step_on_one_more_with_the_step_before(
    store: Store, tmp_path: Path
):
    dataset = curated(store, tmp_path, SOLUTION)
    assert shown(dataset) == {
        "p0/s000-c00-single": ([], ["Let x be the number."], 1.0),
        "p0/s000-c01-single": ([], ["Guess."], 0.0),
        "p0/s001-c00-single": (["Let x be the number."], ["x + 2 = 3"], 0.0),
        "p0/s001-c00-pair": ([], ["Let x be the number.", "x + 2 = 3"], 0.0),
        "p0/s002-c00-single": (["Let x be the number.", "x + 2 = 4"], ["So x = 2."], 1.0),
        "p0/s002-c00-pair": (["Let x be the number."], ["x + 2 = 4", "So x = 2."], 1.0),
        "p0/s002-c01-single": (["Let x be the number.", "x + 2 = 4"], ["So x = 6."], 0.0),
        "p0/s002-c01-pair": (["Let x be the number."], ["x + 2 = 4", "So x = 6."], 0.0),
    }
    assert down(dataset) == [("p0/s000-c02-single", "neutral"), ("p0/s001-c01-single", "unrated")]


def test_a_bad_step_and_the_one_that_puts_it_right_are_together_good(store: Store, tmp_path: Path):
    wrong_way = [step(candidate("x is 3.", -1), chosen=0), step(candidate("No: x is 2.", 1), chosen=0)]
    rows = shown(curated(store, tmp_path, wrong_way))
    assert rows["p0/s001-c00-pair"] == ([], ["x is 3.", "No: x is 2."], 1.0)
    assert rows["p0/s000-c00-single"][2] == 0.0
    assert "p0/s001-c00-pair" not in shown(curated(store, tmp_path, wrong_way, coarse=False))


def test_no_row_claims_a_right_answer_and_every_row_says_how_it_was_rated(store: Store, tmp_path: Path):
    rows = table(curated(store, tmp_path, SOLUTION), "rows")
    assert rows["correct"].null_count() == rows.height
    assert set(rows["verdict"]) == {"undecided: inner_step"}
    assert rows.select((pl.col("rating") == 1) == (pl.col("label") == 1.0)).to_series().all()
    assert set(rows["finish_reason"]) == {"given"}


def test_rows_that_are_too_long_and_second_copies_are_turned_down(store: Store, tmp_path: Path):
    long = [
        step(
            candidate("so " * 90, 1),
            candidate("Short.", 1),
            candidate(" Short. ", 1),
            candidate("Short.", -1),
            chosen=1,
        )
    ]
    dataset = curated(store, tmp_path, long, at_most=80)
    assert down(dataset) == [("p0/s000-c00-single", "too_long"), ("p0/s000-c02-single", "duplicate")]
    assert evidence(dataset, "too_long") == {"tokens": 109, "at_most": 80}
    assert evidence(dataset, "duplicate") == {"of": "p0/s000-c01-single"}
    assert sorted(row[2] for row in shown(dataset).values()) == [0.0, 1.0], "one input with two labels stays twice"


def test_copies_of_another_problem_are_turned_down_by_distinct(store: Store, tmp_path: Path):
    rows = [{"name": f"p{i}", "question": {"problem": "Which?"}, "label": {"steps": SOLUTION[:1]}} for i in range(2)]
    once = recipe(tmp_path, tables={"select": [{"use": "distinct", "by": ["input", "label"]}]})
    (tmp_path / "rated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    dataset = build(once, store, given=True).dataset
    assert list(shown(dataset)) == ["p0/s000-c00-single", "p0/s000-c01-single"]
    copies = table(dataset, "rejected").filter(pl.col("stage") == "select:distinct")
    assert dict(copies.select("id", "evidence").iter_rows()) == {
        f"p1/s000-c0{i}-single": json.dumps({"of": f"p0/s000-c0{i}-single"}, separators=(",", ":")) for i in (0, 1)
    }


@pytest.mark.parametrize(
    ("steps", "reason", "expected", "rows"),
    [
        ([], "no_steps", {}, 0),
        ([{"completions": None, "chosen_completion": None}], "no_completions", {"step": 0, "found": "NoneType"}, 0),
        (["text"], "wrong_type", {"step": 0, "found": "str", "steps_after": 0}, 0),
        ([step(candidate(None, 1), candidate("b", 1), chosen=1)], "no_text", {"step": 0, "completion": 0, "found": "NoneType"}, 1),
        ([step(candidate("  ", 1), candidate("b", 1), chosen=1)], "no_text", {"step": 0, "completion": 0, "found": "str"}, 1),
        ([step(7, candidate("b", 1), chosen=1)], "no_text", {"step": 0, "completion": 0, "found": "NoneType"}, 1),
        ([step(candidate("a", 5), candidate("b", 1), chosen=1)], "no_rating_of_the_scale", {"step": 0, "completion": 0, "rating": 5, "allowed": [1, 0, -1]}, 1),
        ([step(candidate("a", True), chosen=0)], "no_rating_of_the_scale", {"step": 0, "completion": 0, "rating": True, "allowed": [1, 0, -1]}, 0),
        ([step(candidate("a", 1), chosen=3), step(candidate("b", 1))], "no_such_completion", {"step": 0, "chosen": 3, "completions": [0]}, 1),
        ([step(candidate("a", 1)), step(candidate("b", 1))], "no_chosen_completion", {"step": 0, "steps_after": 1}, 1),
        ([step(candidate("a", 1), human=" "), step(candidate("b", 1))], "no_chosen_completion", {"step": 0, "steps_after": 1}, 1),
    ],
)  # fmt: skip
def test_what_is_wrong_with_given_steps_is_said_and_costs_no_other_step_or_problem(
    steps: Any, reason: str, expected: Row, rows: int, store: Store, tmp_path: Path
):
    dataset = curated(store, tmp_path, steps, SOLUTION)
    assert evidence(dataset, reason) == expected
    ids = list(shown(dataset))
    assert len([id_ for id_ in ids if id_.startswith("p0/")]) == rows
    assert len([id_ for id_ in ids if id_.startswith("p1/")]) == 8


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ({"steps": None}, "missing_steps"),
        ({}, "missing_steps"),
        ({"steps": {"a": 1}}, "wrong_type"),
        ({"steps": "[]"}, "wrong_type"),
    ],
)
def test_a_row_whose_steps_are_no_list_is_refused_at_the_source(label: Row, reason: str, store: Store, tmp_path: Path):
    made = recipe(tmp_path, SOLUTION)
    with (tmp_path / "rated.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"name": "odd", "question": {"problem": "What?"}, "label": label}) + "\n")
    dataset = build(made, store, given=True).dataset
    assert table(dataset, "rejected").filter(pl.col("stage") == "source").select("problem_id", "reason").rows() == [
        ("odd", reason)
    ]
    assert len(shown(dataset)) == 8


def test_the_place_of_the_chosen_one_is_a_whole_number_however_it_is_written(store: Store, tmp_path: Path):
    two = candidate("first", 1), candidate("second", 1)
    dataset = curated(
        store, tmp_path, *([step(*two, chosen=chosen), step(*two, chosen=0)] for chosen in (1.0, True, 0.5))
    )
    assert [before for before, now, _ in shown(dataset).values() if len(before) == len(now) == 1] == [["second"]] * 2
    turned_down = table(dataset, "rejected").filter(pl.col("reason") == "no_such_completion")
    assert turned_down["problem_id"].to_list() == ["p1", "p2"]


def test_numbers_that_no_table_could_hold_do_not_stop_the_source(store: Store, tmp_path: Path):
    huge = [{**step(candidate("a", 1), candidate("b", 10**30), chosen=0), "time": 10**30}]
    assert list(shown(curated(store, tmp_path, huge))) == ["p0/s000-c00-single"]


def test_the_tree_of_candidates_is_a_table_that_can_be_walked_drawn_and_exported(store: Store, tmp_path: Path):
    dataset = curated(store, tmp_path, SOLUTION)
    nodes = table(dataset, "nodes")
    assert nodes.filter(pl.col("parent_id").is_null())["node_id"].to_list() == ["question"]
    hard = dict(nodes.select("node_id", "label_hard").iter_rows())
    assert hard == {
        "question": None, "s000-c00": 1, "s000-c01": 0, "s000-c02": None, "s001-c00": 0, "s001-c01": None, "s001-human": None,
        "s002-c00": 1, "s002-c01": 0,
    }  # fmt: skip
    picture = explain(dataset, "p0/s002-c01")["picture"]
    assert picture[0] == "question  Which number is number 0?"
    assert [line.split()[1] for line in picture[1:]] == ["s000-c00", "s001-human", "s002-c01"]
    out = pl.read_parquet(export(dataset.path, "trl-prm", tmp_path / "prm") / "*.parquet")
    assert out.select("completions", "labels").rows() == [
        (["Let x be the number."], [True]),
        (["Guess."], [False]),
        (["Let x be the number.", "x + 2 = 3"], [True, False]),
    ]


def test_tokens_are_counted_by_the_tokenizer_that_the_recipe_names(store: Store, tmp_path: Path):
    words = table(curated(store, tmp_path, SOLUTION), "rows")
    assert set(words["tokenizer"]) == {"words"}
    tiny = ROOT / "data" / "models" / "tiny-reasoner"
    named = {"model": {"name": "m", "max_tokens": 8, "tokenizer": str(tiny)}, "engine": {"kind": "scripted"}}
    tokens = table(curated(store, tmp_path, SOLUTION, tables=named), "rows")
    assert tokens["tokenizer"].null_count() == 0
    assert set(tokens["tokenizer"]) != {"words"}
    assert tokens["n_tokens"].sum() > words["n_tokens"].sum()


def test_the_card_counts_ratings_and_not_answers(store: Store, tmp_path: Path):
    dataset = curated(store, tmp_path, SOLUTION)
    card = (dataset.path / "README.md").read_text(encoding="utf-8")
    assert "Steps rated by people" in card
    assert "A label is what a person said of the last step shown." in card


@pytest.mark.parametrize(
    ("options", "message"),
    [({"at_most": 0}, "at_most = 0: tokens"), ({"test_share": 1.5}, "test_share = 1.5: a share")],
)
def test_options_that_cannot_work_say_what_would(options: Row, message: str):
    with pytest.raises(ValueError, match=message):
        check(**{"at_most": 1, "test_share": 0.2, **options})


def test_curate_and_build_send_each_other_what_they_do_not_do(tmp_path: Path):
    rated = recipe(tmp_path, SOLUTION)
    with pytest.raises(
        RecipeError, match="human_steps samples nothing, it takes what the source brings: use `tracemill curate`"
    ):
        resolve(rated, runtime=tmp_path)
    source = {"path": "x.jsonl", "response": "r"}
    samples = parse_recipe({"name": "x", "source": source, "synth": {"use": "sample"}})
    with pytest.raises(RecipeError, match="and sample samples; take \\[synth\\] out, or use `tracemill build`"):
        resolve(samples, given=True, runtime=tmp_path)
    without = parse_recipe({"name": "x", "source": {"path": "x.jsonl"}, "synth": {"use": "human_steps"}})
    with pytest.raises(RecipeError, match=r"human_steps needs source\.0\.steps"):
        resolve(without, given=True, runtime=tmp_path)


@pytest.mark.skipif(
    not DATA.is_dir(), reason=f"PRM800K is not at {DATA}; set TRACEMILL_TEST_DATA to the folder that holds prm800k/"
)
def test_the_published_test_file_gives_the_rows_that_can_be_counted_in_it(store: Store):
    """106 solutions, 5,192 candidates; 852 rows are of solutions that stand in the file twice."""
    file = DATA / "phase1_test.jsonl"
    rated = load_recipe(ROOT / "data" / "recipes" / "prm800k.toml", [f"source.0.path={file}"])
    dataset = build(rated, store, given=True).dataset
    rows, rejected = table(dataset, "rows"), table(dataset, "rejected")
    assert dict(rejected.group_by("reason").len().iter_rows()) == {
        "neutral": 867,
        "unrated": 110,
        "no_completions": 1,
        "duplicate": 852,
    }
    counts = rows.group_by("granularity", "label_hard").len()
    assert {(kind, label): count for kind, label, count in counts.iter_rows()} == {
        ("single", 1): 2086,
        ("single", 0): 1698,
        ("pair", 1): 1969,
        ("pair", 0): 1670,
    }
    assert dict(rows.group_by("split").len().iter_rows()) == {"train": 6308, "test": 1115}
    assert rows.height == 7423
    ours = rows.select(
        "question", pl.concat_list("previous_steps", "current_steps"), "granularity", "label_hard"
    ).rows()
    assert Counter((question, tuple(steps), kind, label) for question, steps, kind, label in ours) == Counter(
        by_hand(file)
    )
    assert rows.group_by("question").agg(pl.col("split").n_unique())["split"].max() == 1


def by_hand(file: Path) -> set[tuple[str, tuple[str, ...], str, int]]:
    """Question, steps, what is shown of them, and label, of each row that the published file makes."""
    found = set()
    for line in file.read_text(encoding="utf-8").splitlines():
        solution = json.loads(line)
        before: list[str] = []
        for each in solution["label"]["steps"]:
            for one in each["completions"] or ():
                if one["rating"] in (1, -1):
                    steps = (*before, one["text"].strip())
                    kinds = ("single", "pair") if before else ("single",)
                    found |= {(solution["question"]["problem"], steps, kind, max(one["rating"], 0)) for kind in kinds}
            chosen, written = each["chosen_completion"], each["human_completion"]
            if chosen is not None:
                before.append(each["completions"][chosen]["text"].strip())
            elif written is not None:
                before.append(written["text"].strip())
    return found
