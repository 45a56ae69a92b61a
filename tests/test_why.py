"""`tracemill why`: what a build would sample, and the field that is the reason, before it is built."""

import asyncio
import json
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.conftest import PROBLEMS, solve
from tracemill.pipelines.asking.costs import Cost, Lengths
from tracemill.pipelines.asking.why import why
from tracemill.pipelines.asking.why_screens import why_lines
from tracemill.pipelines.build import build
from tracemill.pipelines.cli import app
from tracemill.pipelines.scale.shard_work import locked_work
from tracemill.pipelines.store import Store
from tracemill.schemas.recipe import Recipe, parse_recipe
from tracemill.schemas.request import Request

Make = Callable[..., Recipe]
MODEL = {"name": "scripted-solver", "max_tokens": 64}


@pytest.fixture
def store(memory_folder: Path) -> Store:
    return Store(memory_folder / "store")


def fields_of(facts: Mapping[str, Any]) -> list[list[str]]:
    return [[change["field"] for change in group["changes"]] for group in facts["groups"]]


def made_by(recipe: Recipe, store: Store, reply: Callable[[Request], str] = solve) -> tuple[int, int]:
    meter = build(recipe, store, reply=reply).tally.meter
    return meter.samples_new, meter.samples_replayed


def test_of_an_unchanged_recipe_nothing_would_be_sampled(recipe: Make, store: Store) -> None:
    build(recipe(), store, reply=solve)
    facts = why(recipe(), store)
    assert facts["problems"] == {"total": 20, "spool": 20, "journal": 0, "sampled": 0, "turned_down": 0}
    assert facts["requests"] == {"answered": 80, "new": 0, "new_estimated": 0, "not_followed": 0}
    assert facts["recipe"]["differs"] == []
    assert "nothing would be sampled" in list(why_lines(facts))


CHANGES: dict[str, tuple[dict[str, Any], list[list[str]]]] = {
    "temperature": ({"model": {**MODEL, "temperature": 0.8}}, [["sampling.temperature"]]),
    "max_tokens": ({"model": {**MODEL, "max_tokens": 32}}, [["sampling.max_tokens"]]),
    "seed": ({"model": {**MODEL, "seed": 1}}, [["run_seed"]]),
    "revision": ({"model": {**MODEL, "revision": "v2"}}, [["model.revision"]]),
    "dtype": ({"model": {**MODEL, "dtype": "bfloat16"}}, [["model.dtype"]]),
    "system": ({"model": {**MODEL, "system": "Be brief."}}, [["prompt"]]),
    "two at once": ({"model": {**MODEL, "temperature": 0.8, "seed": 3}}, [["run_seed", "sampling.temperature"]]),
    "prompt": ({"synth": {"use": "sample", "n": 4, "prompt": "{question} Answer: "}}, [["prompt"]]),
    "more draws": ({"synth": {"use": "sample", "n": 6}}, [["draws"]]),
    "fewer draws": ({"synth": {"use": "sample", "n": 2}}, []),
    "filters": ({"filters": []}, []),
    "verify": ({"verify": {"extract": "last_number"}}, []),
    "engine": ({"engine": {"kind": "scripted", "at_once": 3}}, []),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_it_says_is_what_the_build_then_does(recipe: Make, store: Store, change: str) -> None:
    build(recipe(), store, reply=solve)
    changes, named = CHANGES[change]
    facts = why(recipe(**changes), store)
    assert fields_of(facts) == named
    assert (facts["requests"]["new"], facts["requests"]["answered"]) == made_by(recipe(**changes), store)
    assert facts["requests"]["new_estimated"] == 0


def test_the_values_of_a_field_are_told_with_the_number_of_requests_and_problems(recipe: Make, store: Store) -> None:
    build(recipe(model={**MODEL, "temperature": 0.7}), store, reply=solve)
    facts = why(recipe(model={**MODEL, "temperature": 0.8}), store)
    (group,) = facts["groups"]
    assert group["changes"] == [{"field": "sampling.temperature", "was": 0.7, "now": 0.8}]
    assert (group["requests"], group["problems"]) == (80, 20)
    told = "\n".join(why_lines(facts))
    assert "sampling.temperature 0.7 -> 0.8: 80 requests of 20 problems, about " in told
    assert "models.solver.temperature 0.7 -> 0.8" in told  # since the version: the key of the recipe
    assert " tokens/s of sums@" in told


def test_the_cost_is_that_of_the_samples_they_are_like(recipe: Make, store: Store) -> None:
    drawn = build(recipe(), store, reply=solve).tally.meter.tokens_new
    tokens = why(recipe(model={**MODEL, "seed": 1}), store)["tokens"]
    assert tokens["expected"] == drawn
    assert tokens["low"] < drawn < tokens["high"]
    again = build(recipe(model={**MODEL, "seed": 1}), store, reply=solve).tally.meter.tokens_new
    assert tokens["low"] <= again <= tokens["high"]


def test_of_what_was_never_sampled_only_the_limit_is_known(recipe: Make, store: Store) -> None:
    facts = why(recipe(), store)
    assert fields_of(facts) == [["problem"]]
    assert facts["tokens"] == {"low": 0, "expected": None, "high": 80 * 64}
    assert facts["recipe"] is facts["cost"] is None
    assert any("at most 5,120 tokens" in line for line in why_lines(facts))


def test_a_changed_question_and_a_new_one_are_told_apart(recipe: Make, store: Store, problems: Path) -> None:
    build(recipe(), store, reply=solve)
    rows = [dict(row) for row in PROBLEMS]
    rows[3]["question"] = "What is 3 + 0, really?"
    rows[5]["answer"] = "5"  # another gold is another verdict, and no new request
    rows.append({"id": "p20", "question": "What is 20 + 2?", "answer": "22", "difficulty": "2"})
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    facts = why(recipe(), store)
    assert {
        tuple(fields): group["requests"] for fields, group in zip(fields_of(facts), facts["groups"], strict=True)
    } == {
        ("problem text",): 4,
        ("problem",): 4,
    }
    assert facts["problems"] == {"total": 21, "spool": 18, "journal": 1, "sampled": 2, "turned_down": 0}
    assert facts["tokens"]["expected"] is not None  # the new problem's: as many as others took
    assert made_by(recipe(), store) == (8, 76)


def test_without_the_spool_everything_comes_from_the_journal(recipe: Make, store: Store) -> None:
    build(recipe(), store, reply=solve)
    shutil.rmtree(store.root / ".work")
    facts = why(recipe(), store)
    assert (facts["problems"]["spool"], facts["problems"]["journal"]) == (0, 20)
    assert facts["requests"] == {"answered": 80, "new": 0, "new_estimated": 0, "not_followed": 0}


def test_looking_changes_nothing_and_needs_no_lock(recipe: Make, store: Store) -> None:
    def bytes_of() -> dict[str, bytes]:
        found = {str(p.relative_to(store.root)): p.read_bytes() for p in store.root.rglob("*") if p.is_file()}
        return {name: data for name, data in found.items() if not name.endswith(("-shm", "-wal"))}

    build(recipe(), store, reply=solve)
    before = bytes_of()
    with locked_work(store.work_folder("sums"), "sums"):
        before[".work/sums/lock"] = (store.root / ".work/sums/lock").read_bytes()
        facts = why(recipe(model={**MODEL, "seed": 9}, verify={"extract": "last_number"}), store)
        assert bytes_of() == before
    assert facts["requests"]["new"] == 80
    assert made_by(recipe(), store) == (0, 80)


TWO_ROUNDS = '''
from tracemill.schemas.rows import Outcome, Trace
from tracemill.synth.engine import together


async def two_rounds(problem, engine, *, n: int = 2) -> Outcome:
    """Draw, and go on from every draw whose text has an even number of words: 2 more each."""
    first = await engine.sample(problem.question, n=n, scope="first")
    even = [(i, c.text) for i, c in enumerate(first) if len(c.text.split()) % 2 == 0]
    await together(engine.sample(problem.question, n=2, scope="second", salt=str(i), prefix=text) for i, text in even)
    prompt = engine.conversation(problem.question)
    name = engine.model_name()
    traces = [Trace.of(problem, c, name=f"t{i}", prompt=prompt, model=name) for i, c in enumerate(first)]
    return Outcome(traces=traces)
'''


@pytest.fixture
def adaptive(tmp_path: Path, recipe: Make) -> Make:
    (tmp_path / "two_rounds.py").write_text(TWO_ROUNDS, encoding="utf-8")

    def make(n: int = 2, **changes: Any) -> Recipe:
        synth = {"use": f"{tmp_path / 'two_rounds.py'}:two_rounds", "n": n}
        return recipe(**{"synth": synth, "filters": [], "select": [], **changes})

    return make


def test_what_depends_on_an_answer_nobody_has_is_an_estimate_and_marked(adaptive: Make, store: Store) -> None:
    first, _ = made_by(adaptive(), store)
    assert 40 < first < 120
    facts = why(adaptive(model={**MODEL, "seed": 1}), store)
    requests = facts["requests"]
    assert requests["new"] == 40  # two draws of each problem are sure
    assert requests["new_estimated"] == first - 40  # the rest as if the answers were as they were
    assert fields_of(facts)[0] == ["run_seed"]
    assert any("an estimate" in note for note in facts["notes"])
    assert "(estimate)" in "\n".join(why_lines(facts))


def test_of_a_new_problem_what_follows_is_told_by_what_others_took(
    adaptive: Make, store: Store, problems: Path
) -> None:
    per_problem = made_by(adaptive(), store)[0] / 20
    with problems.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"id": "p20", "question": "What is 20 + 2?", "answer": "22"}) + "\n")
    facts = why(adaptive(), store)
    assert facts["requests"]["new"] == 2
    assert facts["requests"]["not_followed"] == round(per_problem - 2)
    assert any("known up to their first unanswered request only" in note for note in facts["notes"])


def test_a_killed_build_is_told_as_what_it_still_owes(recipe: Make, store: Store) -> None:
    lost = recipe(engine={"kind": "scripted", "at_once": 1, "args": {"lose_after": 30}})
    with pytest.raises(Exception, match="lost"):
        build(lost, store)
    facts = why(recipe(), store)
    assert facts["requests"]["answered"] == 30
    assert facts["requests"]["new"] == 50


def test_answers_of_which_nobody_kept_the_request_are_said_to_be_there(recipe: Make, store: Store) -> None:
    build(recipe(), store, reply=solve)
    (segment,) = store.journal_folder.glob("*.sqlite")
    with sqlite3.connect(segment) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        db.executescript("DROP TABLE asked; DROP TABLE parts; PRAGMA user_version = 1;")
    db.close()
    same, other = why(recipe(), store), why(recipe(model={**MODEL, "seed": 1}), store)
    assert same["requests"]["new"] == 0
    assert fields_of(other) == [["first of its kind"]]
    assert "from a release that did not keep what was asked" in other["notes"][0]


def test_a_token_budget_is_kept_to(recipe: Make, store: Store) -> None:
    build(recipe(), store, reply=solve)
    facts = why(recipe(model={**MODEL, "seed": 1}, budget={"tokens": 20}), store)
    assert 0 < facts["requests"]["new"] < 80
    assert any(note.startswith("the build would stop early: budget.tokens") for note in facts["notes"])


def test_given_traces_need_no_model_and_nothing_of_one(store: Store, tmp_path: Path) -> None:
    rows = [{"id": "a", "question": "1 + 1?", "answer": "2", "response": r"\boxed{2}"}]
    (tmp_path / "given.jsonl").write_text(json.dumps(rows[0]) + "\n", encoding="utf-8")
    table = {"name": "given", "source": {"path": str(tmp_path / "given.jsonl"), "response": "response"}}
    facts = why(parse_recipe(table), store)
    assert facts["problems"]["journal"] == 1
    assert facts["groups"] == []


def test_the_command_prints_lines_or_one_document(problems: Path, tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text(
        f'name = "sums"\nsource.path = "{problems}"\nengine.kind = "scripted"\nsynth = {{use = "sample", n = 2}}\n'
        'model = {name = "m", max_tokens = 64}\n',
        encoding="utf-8",
    )
    run, store = CliRunner(), str(tmp_path / "store")
    lines = run.invoke(app, ["why", str(file), "--store", store])
    assert lines.exit_code == 0
    assert "40 new" in lines.output
    document = run.invoke(app, ["why", str(file), "--store", store, "--set", "synth.n=3", "--json"])
    assert json.loads(document.output)["requests"]["new"] == 60
    wrong = run.invoke(app, ["why", str(file), "--store", store, "--set", "synth.m=3"])
    assert wrong.exit_code == 2


def test_a_range_holds_the_sum_and_never_more_than_max_tokens_allow() -> None:
    known = Lengths()
    for tokens in (10, 20, 30):
        known.add(tokens)
    cost = Cost(samples=3, most=90, lengths=known)
    assert cost.tokens(Lengths()) == {"low": 12, "expected": 60, "high": 90}
    assert Cost(samples=2, most=40, open_ended=100).tokens(known) == {"low": 4, "expected": 40, "high": 40}
    assert Cost().tokens(known) == {"low": 0, "expected": 0, "high": 0}


async def test_a_look_is_not_a_build(recipe: Make, store: Store) -> None:
    build_, look = (asyncio.to_thread(call, recipe(), store) for call in (build, why))
    await build_
    assert (await look)["requests"]["new"] == 0


@pytest.mark.parametrize("manifest", ['{"schema_version": 99}', "torn"])
def test_a_version_that_this_release_cannot_read_is_compared_with_nothing(
    recipe: Make, store: Store, manifest: str
) -> None:
    path = build(recipe(), store, reply=solve).dataset.path / "manifest.json"
    path.chmod(0o600)
    path.write_text(manifest)
    facts = why(recipe(model={**MODEL, "temperature": 0.8}), store)
    assert fields_of(facts) == [["sampling.temperature"]]
    assert (facts["recipe"], facts["cost"]) == (None, None)
