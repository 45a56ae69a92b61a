"""The life of a row: any of its names finds it, everything is told in order, and what is not there is said to be missing."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from tests.conftest import PROBLEMS, solve
from tracemill.pipelines.asking.explain import explain
from tracemill.pipelines.asking.explain_screens import explain_lines
from tracemill.pipelines.build import build
from tracemill.pipelines.cli import app
from tracemill.pipelines.store import Dataset, Store
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import Recipe, parse_recipe
from tracemill.schemas.request import Completion, Request

Make = Callable[..., Recipe]
Build = Callable[..., Dataset]


@pytest.fixture
def built(recipe: Make, store: Store) -> Build:
    """Builds the sums, of each problem the shortest right trace, with some tables of the recipe replaced."""

    def run(reply: Any = solve, **changes: Any) -> Dataset:
        return build(recipe(**changes), store, reply=reply).dataset

    return run


def told(life: dict[str, Any]) -> str:
    return "\n".join(explain_lines(life))


def first_row(dataset: Dataset) -> dict[str, Any]:
    return dataset.scan().head(1).collect().to_dicts()[0]


# ---- the life


def test_a_life_is_told_from_source_to_row(built: Build):
    dataset = built(views={"trl-grpo": True, "trl-sft": True})
    row = first_row(dataset)
    life = explain(dataset, row["id"])
    assert life["source"]["name"] == "problems.jsonl"
    assert life["source"]["licence"] == "CC0-1.0"
    assert life["problem"]["outcome"] == "chosen"
    assert life["problem"]["roles"] == [{"role": "solver", "correct": 3, "total": 4, "undecided": 0, "truncated": 0}]
    assert [sample["traces"] for sample in life["samples"]] == [[f"p00/solve-{i:04}"] for i in range(4)]
    assert [trace["id"] for trace in life["traces"]] == [f"p00/solve-{i:04}" for i in range(4)]
    fates = {trace["id"]: (trace["stage"], trace["reason"]) for trace in life["traces"]}
    assert fates["p00/solve-0000"] == ("filter:correct", "wrong")
    assert fates[row["id"]] == (None, None)
    assert sorted(fates.values(), key=str).count(("select:keep", "not_shortest")) == 2
    assert life["rows"] == [row]
    assert life["views"] == {"trl-grpo": 1, "trl-sft": None}
    text = told(life)
    titles = re.findall(r"^[a-z][a-z ]*$", text, re.MULTILINE)
    assert titles == ["source", "made by", "problem", "drawn", "traces", "rows", "views"]
    assert f"-> {row['id']}  chosen" in text
    assert '{"answer": "1000", "gold": "0", "verdict": "different"}' in text


def test_a_trace_that_was_turned_down_is_explained_with_its_evidence(built: Build):
    life = explain(built(), "p05/solve-0000")
    assert life["asked"] == {"kind": "trace", "id": "p05/solve-0000"}
    trace = life["traces"][0]
    assert (trace["chosen"], trace["stage"], trace["evidence"]["answer"]) == (False, "filter:correct", "1000")
    assert trace["row"]["content"] == life["samples"][0]["text"]
    assert "-> p05/solve-0000  turned down at filter:correct: wrong" in told(life)


def test_a_problem_of_which_no_row_came_says_so(built: Build):
    life = explain(built(lambda _: r"so \boxed{999}"), "p07")
    assert life["rows"] == []
    assert life["problem"]["outcome"] == "none_chosen"
    assert "none: no row of this version came of it" in told(life)


def test_a_row_that_the_source_lost_is_explained_though_it_is_no_problem(built: Build, problems: Path):
    problems.write_text(problems.read_text(encoding="utf-8").replace('"What is 4 + 1?"', "null"), encoding="utf-8")
    life = explain(built(), "p04")
    assert (life["problem"], life["traces"], life["samples"]) == (None, [], [])
    assert life["refused"][0]["stage"] == "source"
    text = told(life)
    assert "is no problem of this version" in text
    assert "turned down at source: " in text


def test_every_name_of_a_row_leads_to_the_same_life(built: Build):
    dataset = built()
    row = first_row(dataset)
    lives = [explain(dataset, name) for name in (row["id"], row["problem_id"], row["key"], row["key"][:8])]
    assert [life["asked"]["kind"] for life in lives] == ["trace", "problem", "key", "key"]
    for life in lives:
        assert {**life, "asked": None} == {**lives[0], "asked": None}
    assert f"-> {row['id']}  chosen" in told(lives[3])
    assert "->" not in told(lives[1])


def test_a_request_is_found_without_a_table_of_samples_also_where_its_trace_was_turned_down(built: Build):
    dataset = built(samples=False)
    down = json.loads(dataset.scan("rejected").select("row").first().collect().item())
    life = explain(dataset, down["key"][:10])
    assert life["asked"] == {"kind": "key", "id": down["key"]}
    assert life["problem_id"] == down["problem_id"]
    assert "no table of samples" in told(life)
    assert f"-> {down['id']}  turned down" in told(life)


def test_a_row_that_beat_rows_of_other_problems_lists_them(built: Build):
    dataset = built(select=[{"use": "keep", "k": 1, "per": ["difficulty"]}])
    row = first_row(dataset)
    life = explain(dataset, row["id"])
    assert life["named_by"]
    assert {other["stage"] for other in life["named_by"]} == {"select:keep"}
    assert row["problem_id"] not in {other["problem_id"] for other in life["named_by"]}
    assert "turned down because of it" in told(life)


def chain(request: Request) -> Completion:
    assert request.adapter is not None
    length = 10 + int(float(request.adapter.scale) * 10)
    text = "so " * (length - 1) + r"\boxed{7}"
    return Completion(text=text, finish_reason="stop", n_tokens=length, counted="words")


@pytest.fixture
def mixed(store: Store, tmp_path: Path) -> Build:
    source = tmp_path / "three.jsonl"
    rows = [{"id": q, "question": f"{q}?", "answer": "7"} for q in ("q1", "q2", "q3")]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(select: Any = (), **options: Any) -> Dataset:
        table = {
            "name": "three",
            "source": {"path": str(source)},
            "model": {"name": "base", "max_tokens": 600},
            "engine": {"kind": "scripted"},
            "synth": {"use": "mixchain", "start": "base", "end": "reasoner", **options},
            "select": list(select),
        }
        return build(parse_recipe(table), store, reply=chain).dataset

    return run


def test_a_folded_row_is_shown_with_the_traces_it_is_made_of(mixed: Build):
    life = explain(mixed(), "q2")
    assert life["folded"]
    assert [row["id"] for row in life["rows"]] == ["q2"]
    assert len(life["traces"]) == 4
    parts = ", ".join(trace["id"] for trace in life["traces"])
    assert f"folded from {parts}" in told(life)
    assert {(s["adapter"], s["scale"]) for s in life["samples"]} == {
        ("base..reasoner", scale) for scale in ("0.2", "0.4", "0.6", "0.8")
    }
    assert "base..reasoner@0.2" in told(life)


def test_tables_of_selectors_that_mention_a_trace_are_shown(mixed: Build):
    dataset = mixed(layout="long", select=[{"use": "length_dial"}])
    trace = first_row(dataset)["id"]
    life = explain(dataset, trace)
    pairs = dataset.scan("pairs").filter(pl.col("problem_id") == "q1").collect()
    assert life["tables"]["pairs"] == pairs.to_dicts()
    assert "tables that mention it" in told(life)


# ---- names that find nothing, or too much


def test_a_beginning_that_several_ids_share_lists_them(built: Build):
    dataset = built()
    with pytest.raises(RecipeError, match=r"'p05/solve' could be p05/solve-0000, p05/solve-0001, .*; write more of it"):
        explain(dataset, "p05/solve")
    assert explain(dataset, "p05/solve-0003")["problem_id"] == "p05"


def test_a_beginning_of_many_problems_names_problems_and_not_their_traces(store: Store, tmp_path: Path):
    source = tmp_path / "long.jsonl"
    rows = [{**row, "id": f"problem-{i:02}", "solution": r"\boxed{1}"} for i, row in enumerate(PROBLEMS)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = {"name": "long", "source": {"path": str(source), "response": "solution"}}
    dataset = build(parse_recipe(table), store, given=True).dataset
    with pytest.raises(RecipeError) as error:
        explain(dataset, "problem-")
    assert "problem-00, problem-01" in str(error.value)
    assert "and more, 20 or over" in str(error.value)
    assert "/" not in str(error.value).partition(" in long@")[0]
    with pytest.raises(RecipeError, match="'problem-1' could be problem-10"):
        explain(dataset, "problem-1")
    assert explain(dataset, "problem-07/")["asked"]["kind"] == "trace"
    assert explain(dataset, "problem-07")["asked"]["kind"] == "problem"


@pytest.mark.parametrize("name", ["p05/solve-0009", "p5", "", "zz", "0" * 64, "p05/", "p%", "(["])
def test_an_unknown_id_says_what_was_searched(built: Build, name: str):
    with pytest.raises(RecipeError) as error:
        explain(built(), name)
    assert f"holds no row, trace, problem or request {name!r}" in str(error.value)
    assert "searched: rows (20), rejected (60), problems (20), samples (80)" in str(error.value)


def test_an_id_that_is_nearly_right_is_answered_with_ids_like_it(built: Build):
    with pytest.raises(RecipeError, match=r"near it: .*p05/solve-000[0-3]"):
        explain(built(), "p05/solve-0009")


def test_an_id_of_another_dataset_is_unknown_here(built: Build, mixed: Build):
    mixed()
    with pytest.raises(RecipeError, match=r"sums@\w+ holds no row"):
        explain(built(), "q1/a0.2")


def test_a_partial_version_says_that_it_may_not_have_reached_the_row(built: Build):
    dataset = built(budget={"tokens": 60})
    there = set(dataset.scan("problems").select("problem_id").collect()["problem_id"])
    missing = next(row["id"] for row in PROBLEMS if row["id"] not in there)
    with pytest.raises(RecipeError, match=r"the version is partial: .*budget"):
        explain(dataset, missing)


# ---- the command


def test_the_screen_shows_no_control_characters_of_a_model(built: Build):
    text = told(explain(built(lambda r: "\x1b[31m\x07" + solve(r) + "\\boxed{\x1b[2J}"), "p03"))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    assert "\\x1b[2J" in text


def test_the_command_tells_the_life_and_json_has_whole_texts(built: Build, store: Store):
    dataset = built()
    row = first_row(dataset)

    def run(*args: str, code: int = 0) -> Any:
        result = CliRunner().invoke(app, ["explain", *args, "--store", str(store.root)])
        assert result.exit_code == code, result.output
        return result

    assert run("sums", row["id"]).stdout.splitlines()[0] == f"{dataset}  trace {row['id']}"
    life = json.loads(run(str(dataset), row["id"], "--json").stdout)
    assert list(life) == [
        "schema", "ref", "asked", "problem_id", "source", "parents", "made_by", "problem", "refused", "samples", "samples_table",
        "traces", "folded", "rows", "tables", "named_by", "views", "picture",
    ]  # fmt: skip
    assert life["rows"][0]["messages"] == row["messages"]
    assert "did you mean 'sums'" in run("sms", row["id"], code=2).stderr
    failed = run("sums", "nothing", "--json", code=2)
    assert json.loads(failed.stdout)["exit_code"] == 2


# ---- tables of the method's own, and its picture

TREE = """
from tracemill.schemas.rows import Outcome, Trace


async def tree(problem, engine):
    [answer] = await engine.sample(problem.question, start=1)
    trace = Trace.of(problem, answer, name="t", prompt=engine.conversation(problem.question), model="m")
    return Outcome(traces=[trace], tables={"nodes": [{"id": f"{problem.problem_id}/n{i}", "height": i} for i in range(2)]})


def picture(found):
    raise SystemExit("code that a dataset names is not run")
"""


def test_a_row_of_the_methods_own_tables_is_found_by_its_id(built: Build, tmp_path: Path):
    (tmp_path / "tree.py").write_text(TREE)
    dataset = built(synth={"use": f"{tmp_path}/tree.py:tree"})
    life = explain(dataset, "p03/n1")
    assert life["asked"] == {"kind": "nodes", "id": "p03/n1"}
    assert life["problem_id"] == "p03"
    assert [row["id"] for row in life["tables"]["nodes"]] == ["p03/n0", "p03/n1"]
    assert life["picture"] == []
    assert told(life).startswith(f"{dataset}  nodes p03/n1")


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        (["a  b", "c\x1b[2Jd"], ["  a  b", "  c\\x1b[2Jd"]),
        (["long " * 200], ["  " + ("long " * 200)[:397] + "..."]),
        ([1], ["  cannot be drawn: TypeError: 'int' object is not subscriptable"]),
    ],
)
def test_a_shipped_method_draws_its_rows(
    lines: list[Any], shown: list[str], built: Build, monkeypatch: pytest.MonkeyPatch
):
    dataset = built()
    seen: list[Any] = []

    def picture(found: dict[str, Any]) -> list[str]:
        seen.append(found["asked"])
        return [line[:] for line in lines]

    monkeypatch.setattr("tracemill.synth.sample.picture", picture, raising=False)
    text = told(explain(dataset, "p01"))
    assert seen == [{"kind": "problem", "id": "p01"}]
    assert text.partition("\npicture\n")[2].splitlines()[: len(shown)] == shown
