"""Comparing versions: every row that came, went or changed is counted once, with the reason that manifests and tables give."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from tests.conftest import PROBLEMS, solve
from tracemill.pipelines.asking.diff import _alike, _compared, diff
from tracemill.pipelines.asking.diff_screens import as_json, diff_lines, diff_page
from tracemill.pipelines.asking.reasons import CHANGES, REASONS
from tracemill.pipelines.build import build
from tracemill.pipelines.cli import app
from tracemill.pipelines.store import Dataset, Store
from tracemill.schemas.errors import RequestRefused
from tracemill.schemas.recipe import Recipe, parse_recipe
from tracemill.schemas.request import Completion, Request

Make = Callable[..., Recipe]
Build = Callable[..., Dataset]
SEEDED = {"name": "scripted-solver", "max_tokens": 64, "seed": 1}
ALL: dict[str, Any] = {"select": []}
"""Every right trace is a row: three of four draws of each problem, 60 rows."""


@pytest.fixture
def built(recipe: Make, store: Store) -> Build:
    """Builds the sums with some tables of the recipe replaced."""

    def run(reply: Any = solve, **changes: Any) -> Dataset:
        return build(recipe(**{**ALL, **changes}), store, reply=reply).dataset

    return run


def compare(a: Dataset, b: Dataset, **options: Any) -> dict[str, Any]:
    """The difference, after what holds of any: nothing is counted twice, or not at all, or without a reason."""
    facts = diff(a, b, **options)
    rows = [dataset.scan().collect().height for dataset in (a, b)]
    counts = facts["rows"]
    assert rows == [counts["same"] + counts["changed"] + counts[name] for name in ("removed", "added")]
    for change in CHANGES:
        assert sum(line["rows"] for line in facts["reasons"] if line["change"] == change) == counts[change]
    assert {line["reason"] for line in facts["reasons"]} <= set(REASONS)
    json.loads(as_json(facts), parse_constant=pytest.fail)
    assert list(diff_lines(facts))
    return facts


def reasons(facts: dict[str, Any]) -> dict[tuple[str, str, str], int]:
    return {(line["change"], line["reason"], line["detail"]): line["rows"] for line in facts["reasons"]}


def one_reason(change: str, reason: str, detail: str, rows: int) -> dict[tuple[str, str, str], int]:
    return {(change, reason, detail): rows}


# ---- reasons


def test_a_new_filter_is_why_rows_are_gone(built: Build):
    a = built()
    b = built(filters=[{"use": "correct"}, {"use": "length", "at_most": 3}])
    too_long = a.scan().filter(pl.col("n_tokens") > 3).collect().height
    facts = compare(a, b)
    assert 0 < too_long < 60
    assert reasons(facts) == one_reason("removed", "filter changed", "filter:length too_long", too_long)
    assert facts["recipe"][0]["path"] == "filters.length"
    assert facts["recipe"][0]["a"] is None
    assert facts["examples"]["removed"][0]["evidence"]["at_most"] == 3
    assert reasons(compare(b, a)) == one_reason("added", "filter changed", "filter:length too_long", too_long)


def test_an_option_of_a_filter_that_changed_is_named(built: Build):
    a, b = (built(filters=[{"use": "correct"}, {"use": "length", "at_most": n}]) for n in (4, 3))
    of_four = a.scan().filter(pl.col("n_tokens") == 4).collect().height
    facts = compare(a, b)
    assert reasons(facts) == one_reason("removed", "filter changed", "filter:length too_long", of_four)
    assert facts["recipe"] == [{"path": "filters.length.at_most", "a": 4, "b": 3}]


def test_more_draws_are_more_rows_by_the_method(built: Build):
    a, b = (built(synth={"use": "sample", "n": n}) for n in (4, 6))
    facts = compare(a, b)
    assert reasons(facts) == one_reason("added", "method changed", "synth.n", 20)
    assert facts["recipe"] == [{"path": "synth.n", "a": 4, "b": 6}]
    assert reasons(compare(b, a)) == one_reason("removed", "method changed", "synth.n", 20)


def test_a_selector_that_did_not_change_chose_otherwise_among_other_traces(built: Build):
    keep = [{"use": "keep", "k": 1}]
    a, b = (built(synth={"use": "sample", "n": n}, select=keep) for n in (4, 6))
    facts = compare(a, b)
    swapped = facts["rows"]["added"]
    assert 0 < swapped < 20
    assert reasons(facts) == {
        ("added", "method changed", "synth.n"): swapped,
        ("removed", "selected otherwise", "select:keep not_shortest"): swapped,
    }
    assert facts["examples"]["removed"][0]["evidence"]["chosen"]


def test_a_selector_that_changed_is_named(built: Build):
    a, b = (built(select=[{"use": "keep", "k": k}]) for k in (1, 2))
    assert reasons(compare(a, b)) == one_reason("added", "selector changed", "select:keep not_shortest", 20)
    gone = reasons(compare(b, a))
    assert gone == one_reason("removed", "selector changed", "select:keep not_shortest", 20)


def test_another_seed_is_sampled_anew_and_the_part_of_the_recipe_is_named(built: Build):
    a, b = built(), built(model=SEEDED)
    facts = compare(a, b)
    assert reasons(facts) == one_reason("changed", "sampled anew", "models.solver.seed", 60)
    assert facts["columns"]["changed"]["key"] == 60
    first = facts["examples"]["changed"][0]
    assert first["id"] == a.scan().select("id").first().collect().item()
    assert first["values"]["key"]["a"] != first["values"]["key"]["b"]


def test_another_prompt_is_sampled_anew(built: Build):
    facts = compare(built(), built(synth={"use": "sample", "n": 4, "prompt": "{question} Box it: \\boxed{}."}))
    assert reasons(facts) == one_reason("changed", "sampled anew", "synth.prompt", 60)


def test_another_extraction_of_answers_changes_verdicts(built: Build):
    def bare(request: Request) -> str:
        return solve(request) if request.index != 1 else str(PROBLEMS[int(request.problem_id[1:])]["answer"])

    a, b = (built(bare, verify={"extract": how}) for how in ("boxed", "last_number"))
    facts = compare(a, b)
    assert reasons(facts) == one_reason("added", "verification changed", "undecided: no_answer -> equal", 20)
    assert {"path": "verify.extract", "a": "boxed", "b": "last_number"} in facts["recipe"]
    assert [line["path"] for line in facts["recipe"]].count("verifier.extract") == 0


def test_each_change_of_the_source_is_told_apart(built: Build, problems: Path):
    a = built()
    rows = [dict(row) for row in PROBLEMS]
    del rows[3]
    rows.append({"id": "p40", "question": "What is 40 + 1?", "answer": "41", "difficulty": "1"})
    rows[0]["question"] = "How much is 0 + 0?"
    rows[1]["answer"] = "77"
    rows[2]["difficulty"] = "9"
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    facts = compare(a, built())
    assert reasons(facts) == {
        ("removed", "source changed", "the problem is gone"): 3,
        ("added", "source changed", "the problem is new"): 3,
        ("changed", "source changed", "question"): 3,
        ("removed", "source changed", "gold"): 3,
        ("changed", "source changed", "difficulty"): 3,
    }
    assert "source.0.sha256" in [line["path"] for line in facts["recipe"]]


def test_a_licence_that_changed_changes_every_row_and_is_called_that(built: Build, problems: Path):
    facts = compare(built(), built(source={"path": str(problems), "licence": "MIT"}))
    assert reasons(facts) == one_reason("changed", "source changed", "licence", 60)
    assert facts["columns"]["changed"] == {"licence": 60}


def test_a_problem_that_the_source_can_no_longer_give_is_told_with_its_fault(built: Build, problems: Path):
    a = built()
    problems.write_text(problems.read_text(encoding="utf-8").replace('"What is 4 + 1?"', "null"), encoding="utf-8")
    [(change, reason, detail)] = reasons(compare(a, built()))
    assert (change, reason) == ("removed", "source changed")
    assert detail.startswith("source ")


def test_a_problem_filter_that_is_new_is_a_filter_that_changed(built: Build, problems: Path):
    keep = [{"use": "where", "sql": "difficulty = '1'"}]
    a = built()
    b = built(source={"path": str(problems), "licence": "CC0-1.0", "keep": keep})
    facts = compare(a, b)
    [(change, reason, detail)] = reasons(facts)
    assert (change, reason, detail.split(" ")[0]) == ("removed", "filter changed", "problem_filter")
    assert facts["rows"]["removed"] == 3 * sum(row["difficulty"] != "1" for row in PROBLEMS)


def test_problems_that_a_partial_version_did_not_reach_are_not_called_new(built: Build):
    whole = built()
    part = built(budget={"tokens": 60})
    assert not part.manifest()["complete"]
    facts = compare(part, whole)
    reached = part.scan("problems").collect().height
    assert reasons(facts) == one_reason("added", "not reached", "the first version is partial", 3 * (20 - reached))
    assert [line["detail"] for line in compare(whole, part)["reasons"]] == ["the second version is partial"]


def test_a_problem_that_failed_in_one_version_is_told(built: Build, store: Store, recipe: Make, tmp_path: Path):
    def refuses(request: Request) -> str:
        if request.problem_id == "p07":
            raise RequestRefused("too long for this server")
        return solve(request)

    failed = build(recipe(**ALL), Store(tmp_path / "other"), reply=refuses).dataset
    facts = compare(failed, built())
    [(change, reason, detail)] = reasons(facts)
    assert (change, reason, facts["rows"]["added"]) == ("added", "problem failed", 3)
    assert "too long for this server" in detail


def test_a_given_trace_that_changed_is_a_change_of_the_source(store: Store, tmp_path: Path):
    def given(text: str) -> Dataset:
        rows = [{**row, "solution": rf"so \boxed{{{row['answer']}}}"} for row in PROBLEMS]
        rows[5]["solution"] = text
        (tmp_path / "given.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = {"path": str(tmp_path / "given.jsonl"), "response": "solution"}
        table = {"name": "given", "source": source, "filters": [{"use": "correct"}]}
        return build(parse_recipe(table), store, given=True).dataset

    a, b, wrong = given(r"so \boxed{7}"), given(r"well \boxed{7}"), given(r"so \boxed{8}")
    assert reasons(compare(a, b)) == one_reason("changed", "source changed", "response", 1)
    assert reasons(compare(a, wrong)) == one_reason("removed", "source changed", "response", 1)


# ---- shapes that differ


def chain(request: Request) -> Completion:
    assert request.adapter is not None
    length = 10 + int(float(request.adapter.scale) * 10) + request.rng_seed % 3
    right = (request.problem_id, request.adapter.scale) != ("q2", "0.6")
    text = "so " * (length - 1) + rf"\boxed{{{7 if right else 0}}}"
    return Completion(text=text, finish_reason="stop", n_tokens=length, counted="words")


@pytest.fixture
def mixed(store: Store, tmp_path: Path) -> Build:
    source = tmp_path / "three.jsonl"
    source.write_text(
        "".join(json.dumps({"id": q, "question": f"{q}?", "answer": "7"}) + "\n" for q in ("q1", "q2", "q3"))
    )

    def run(seed: int = 0, **options: Any) -> Dataset:
        table = {
            "name": "three",
            "source": {"path": str(source)},
            "model": {"name": "base", "max_tokens": 600, "seed": seed},
            "engine": {"kind": "scripted"},
            "synth": {"use": "mixchain", "start": "base", "end": "reasoner", **options},
        }
        return build(parse_recipe(table), store, reply=chain).dataset

    return run


def test_folded_rows_have_the_reason_of_the_traces_that_they_are_made_of(mixed: Build):
    strict, lenient = mixed(filter_mode="per_question"), mixed(filter_mode="flag_only")
    facts = compare(strict, lenient)
    assert facts["rows"]["added"] == 1
    assert facts["examples"]["added"][0]["id"] == "q2"
    assert reasons(facts)["added", "method changed", "method not_all_correct"] == 1
    assert facts["shifts"]["over"] == {"a": "traces", "b": "traces"}
    anew = compare(lenient, mixed(seed=1, filter_mode="flag_only"))
    assert reasons(anew) == one_reason("changed", "sampled anew", "models.solver.seed", 3)


def test_a_folded_row_that_lost_one_of_its_chains_says_which_stage_took_it(mixed: Build):
    facts = compare(mixed(filter_mode="flag_only"), mixed(filter_mode="per_solution"))
    assert facts["rows"]["changed"] >= 1
    by_id = {row["id"]: row for row in facts["examples"]["changed"]}
    assert by_id["q2"]["reason"] == "method changed"
    assert by_id["q2"]["detail"].startswith("method ")


def test_versions_of_different_shapes_and_methods_are_compared_all_the_same(mixed: Build, built: Build):
    wide, long = mixed(), mixed(layout="long")
    facts = compare(wide, long)
    assert (facts["rows"]["removed"], facts["rows"]["same"]) == (3, 0)
    assert {line["reason"] for line in facts["reasons"]} == {"method changed"}
    other = compare(long, built())
    assert other["rows"]["added"] == 60
    assert {line["reason"] for line in other["reasons"]} == {"source changed"}


def test_a_version_without_samples_is_compared_like_any_other(built: Build):
    a = built(samples=False)
    b = built(samples=False, model=SEEDED)
    assert reasons(compare(a, b)) == one_reason("changed", "sampled anew", "models.solver.seed", 60)
    same = compare(a, built())
    assert same["rows"] == {"added": 0, "removed": 0, "changed": 0, "same": 60}
    assert not same["identical"]
    assert "all 60 rows are the same in both" in "\n".join(diff_lines(same))


def test_columns_of_one_version_alone_are_listed_and_make_no_row_a_changed_one(built: Build):
    facts = compare(built(), built(select=[{"use": "select2reason", "percent": 100}]))
    assert facts["rows"]["changed"] == 0
    assert "rank_j" in facts["columns"]["only_b"]
    assert "they make no row a changed one" in "\n".join(diff_lines(facts))


def test_a_version_beside_itself_is_said_to_be_one(built: Build):
    facts = compare(a := built(), a)
    assert facts["identical"]
    assert list(diff_lines(facts))[-1] == "the two are one version: nothing differs"
    assert "The two are one version" in diff_page(facts)


# ---- what counts as a change

TURN = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (pl.Series(["a"]), pl.Series(["b"])),
        (pl.Series([""]), pl.Series([None], dtype=pl.String)),
        (pl.Series([True]), pl.Series([None], dtype=pl.Boolean)),
        (pl.Series([0]), pl.Series([None], dtype=pl.Int64)),
        (pl.Series([0.1 + 0.2]), pl.Series([0.3])),
        (pl.Series([float("nan")]), pl.Series([None], dtype=pl.Float64)),
        (pl.Series([[1, 2]]), pl.Series([[2, 1]])),
        (pl.Series([[]], dtype=pl.List(pl.Int64)), pl.Series([None], dtype=pl.List(pl.Int64))),
        (pl.Series([[None]], dtype=pl.List(pl.Int64)), pl.Series([[]], dtype=pl.List(pl.Int64))),
        (pl.Series([["ab", "c"]]), pl.Series([["a", "bc"]])),
        (
            pl.Series([[{"role": "a", "content": "b"}]], dtype=TURN),
            pl.Series([[{"role": "b", "content": "a"}]], dtype=TURN),
        ),
        (
            pl.Series([[{"role": "a", "content": ""}]], dtype=TURN),
            pl.Series([[{"role": "a", "content": None}]], dtype=TURN),
        ),
    ],
)
def test_any_other_value_is_a_change_and_an_equal_one_is_none(before: pl.Series, after: pl.Series):
    def changed(a: pl.Series, b: pl.Series) -> list[str]:
        frames = [pl.DataFrame({"id": ["x/1"], "value": values}).lazy() for values in (a, b)]
        return _compared(_alike(*frames)[0])[0]["change"].to_list()

    assert changed(before, after) == ["changed"]
    assert changed(before, before) == changed(after, after) == []


def test_turns_that_hold_more_fields_elsewhere_in_the_dataset_are_the_same_turns():
    wide = pl.List(pl.Struct({"role": pl.String, "content": pl.String, "name": pl.String}))
    turns = [[{"role": "user", "content": "hi"}]]
    frames = [
        pl.DataFrame({"id": ["x/1"], "n": pl.Series([1], dtype=kind), "messages": pl.Series(turns, dtype=shape)}).lazy()
        for shape, kind in ((TURN, pl.Int32), (wide, pl.Int64))
    ]
    assert _compared(_alike(*frames)[0])[0].is_empty()


# ---- shifts


def test_shifts_are_counted_before_and_after(built: Build):
    a, b = built(filters=[]), built()
    facts = compare(a, b)["shifts"]
    shown = {line["value"]: (line["rows"]["a"], line["rows"]["b"]) for line in facts["correct"]}
    assert shown == {"right": (60, 60), "wrong": (20, 0)}
    right = next(line for line in facts["correct"] if line["value"] == "right")
    assert right["share"] == {"a": 0.75, "b": 1.0, "change": 0.25}
    tokens = [dataset.scan().select("n_tokens").collect()["n_tokens"] for dataset in (a, b)]
    assert facts["n_tokens"]["mean"]["change"] == pytest.approx(tokens[1].mean() - tokens[0].mean())  # type: ignore[operator]
    assert facts["n_tokens"]["median"] == {
        "a": tokens[0].median(), "b": tokens[1].median(), "change": tokens[1].median() - tokens[0].median(),  # type: ignore[operator]
    }  # fmt: skip
    of_two = sum(row["difficulty"] == "2" for row in PROBLEMS)
    two = next(line for line in facts["difficulty"] if line["value"] == "2")
    assert two["rows"] == {"a": 4 * of_two, "b": 3 * of_two}
    assert facts["samples"] == [
        {
            "role": "solver",
            "total": {"a": 80, "b": 80},
            "correct": {"a": 0.75, "b": 0.75, "change": 0.0},
            "truncated": {"a": 0.0, "b": 0.0, "change": 0.0},
        }
    ]


def test_a_version_without_rows_has_no_lengths_and_no_shares(built: Build):
    facts = compare(built(), built(filters=[{"use": "length", "at_most": 1}]))
    assert facts["rows"]["removed"] == 60
    assert facts["shifts"]["n_tokens"]["mean"]["b"] is None
    assert facts["shifts"]["source"][0]["share"]["b"] is None


# ---- what is shown

HOSTILE = "<script>alert(1)</script><img src=http://evil.example/x>\x1b[31m"


def hostile(request: Request) -> str:
    return HOSTILE + str(request.run_seed) + solve(request)


def test_the_page_holds_no_markup_of_a_model_and_asks_no_network(built: Build):
    page = diff_page(compare(built(hostile), built(hostile, model=SEEDED)))
    assert "&lt;script&gt;alert(1)" in page
    assert not re.search(r"<(script|img|link|iframe|a)\b", page)
    assert re.findall(r"https?://\S+", re.sub(r"&lt;.*?&gt;", "", page)) == []
    assert "default-src &#x27;none&#x27;" in page
    assert page.count("<details>") == 10


def test_the_screen_shows_no_control_characters_of_a_model(built: Build):
    text = "\n".join(diff_lines(compare(built(hostile), built(hostile, model=SEEDED))))
    assert "\x1b" not in text
    assert "\\x1b[31m" in text


def test_examples_are_the_first_by_id_and_as_many_as_asked(built: Build):
    a, b = built(), built(model=SEEDED)
    ids = a.scan().select("id").collect()["id"].to_list()
    assert [row["id"] for row in compare(a, b, examples=3)["examples"]["changed"]] == ids[:3]
    assert compare(a, b, examples=0)["examples"] == {change: [] for change in CHANGES}


# ---- the command


@pytest.fixture
def run(store: Store) -> Callable[..., Any]:
    def invoke(*args: str, code: int = 0) -> Any:
        result = CliRunner().invoke(app, [*args, "--store", str(store.root)])
        assert result.exit_code == code, result.output
        return result

    return invoke


def test_the_document_of_json_is_one_line_and_keeps_its_keys(built: Build, run: Callable[..., Any]):
    a, b = built(), built(model=SEEDED)
    result = run("diff", str(a), str(b), "--json")
    [line] = result.stdout.splitlines()
    facts = json.loads(line)
    assert list(facts) == [
        "schema", "a", "b", "identical", "rows", "columns", "recipe", "reasons", "examples", "shifts",
    ]  # fmt: skip
    assert (facts["a"]["ref"], facts["b"]["ref"], facts["rows"]["changed"]) == (str(a), str(b), 60)
    assert run("diff", str(a), str(b), "--json").stdout == result.stdout


def test_the_command_prints_reasons_and_writes_the_page(built: Build, run: Callable[..., Any], tmp_path: Path):
    a, b = built(), built(model=SEEDED)
    said = run("diff", str(a), str(b), "-n", "1", "--html", str(tmp_path / "page.html")).stdout
    assert re.search(r"60\s+changed\s+sampled anew\s+models\.solver\.seed", said)
    assert said.count("- key: ") == 1
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_wrong_input_to_diff_says_what_to_type(built: Build, run: Callable[..., Any], tmp_path: Path):
    a = built()
    assert "did you mean 'sums'" in run("diff", "sums", "sms", code=2).stderr
    assert "has no version" in run("diff", str(a), "sums@ffffffff", code=2).stderr
    assert "the two are one version" in run("diff", "sums", "sums").stdout
    assert "--html" in run("diff", "sums", "sums", "--html", str(tmp_path / "no" / "page.html"), code=2).stderr
    failed = run("diff", "sums", "sms", "--json", code=2)
    assert json.loads(failed.stdout)["exit_code"] == 2
