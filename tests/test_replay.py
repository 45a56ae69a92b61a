"""`tracemill replay`: samples of a version drawn anew, and how many are the same."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.conftest import solve
from tests.loopback import Loopback
from tests.test_laws import METHODS, table_of
from tracemill.pipelines.asking.replay import replay
from tracemill.pipelines.asking.screens import show_lines
from tracemill.pipelines.asking.why import why
from tracemill.pipelines.build import build
from tracemill.pipelines.cli import app
from tracemill.pipelines.store import Store
from tracemill.pipelines.versions.dataset import Dataset
from tracemill.pipelines.versions.replays import last_replay, replay_lines
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import Recipe, parse_recipe
from tracemill.schemas.request import Request
from tracemill.synth.journal import Journal

Make = Callable[..., Recipe]
ROOT = Path(__file__).parents[1]


@pytest.fixture
def store(memory_folder: Path) -> Store:
    return Store(memory_folder / "store")


def forget_requests(store: Store) -> None:
    """Leave a journal as releases before wrote it: answers without what was asked."""
    for segment in store.journal_folder.glob("*.sqlite"):
        with sqlite3.connect(segment) as db:
            db.execute("PRAGMA journal_mode = DELETE")
            db.executescript("DROP TABLE asked; DROP TABLE parts; PRAGMA user_version = 1;")
        db.close()


def unsteady(request: Request) -> str:
    """As `solve`, but of every second draw the end is another, and of those of problem 7 the answer."""
    said = solve(request)
    if request.index % 2 == 0:
        return said
    return r"so \boxed{-1}" if request.problem_id == "p07" else f"{said} sure"


def test_an_engine_that_repeats_itself_gives_every_sample_again(recipe: Make, store: Store) -> None:
    built = build(recipe(), store, reply=solve).dataset
    before = {p: p.read_bytes() for p in built.path.rglob("*") if p.is_file()}
    with Journal(store.journal_folder) as journal:
        entries = len(journal)
    facts = replay(built, store, recipe(), sample=20, reply=solve)
    assert (facts["all"]["exact"]["same"], facts["all"]["exact"]["of"]) == (20, 20)
    assert 0.8 < facts["all"]["exact"]["low"] < facts["all"]["exact"]["high"] == 1
    assert facts["all"]["verdict"]["rate"] == 1
    assert facts["differing"] == []
    assert before == {p: p.read_bytes() for p in built.path.rglob("*") if p.is_file()}
    with Journal(store.journal_folder) as journal:
        assert len(journal) == entries


def test_one_that_does_not_is_told_by_tokens_text_place_and_verdict(recipe: Make, store: Store) -> None:
    built = build(recipe(), store, reply=solve).dataset
    facts = replay(built, store, recipe(), sample=80, reply=unsteady)
    rates = facts["all"]
    assert (rates["exact"]["same"], rates["exact"]["of"]) == (40, 80)
    assert rates["tokens"] == rates["text"] == rates["exact"]
    assert rates["exact"]["low"] == pytest.approx(0.3931, abs=1e-3)  # Wilson's interval of 40 of 80
    assert rates["verdict"]["same"] == 80 - 2  # draws 1 and 3 of p07 were right
    assert len(facts["differing"]) == 40
    by_place = {one["first_difference"] for one in facts["differing"]}
    assert by_place <= set(range(8))
    assert "40 of 80 (50.0 %, 39.3 to 60.7)" in "\n".join(replay_lines(facts))
    with Journal(store.journal_folder) as journal:
        (_, kept), *_ = journal.read([facts["differing"][0]["key"]])
        assert "sure" not in kept.text  # type: ignore[union-attr]
    assert build(recipe(), store).tally.meter.samples_new == 0


def test_the_seed_chooses_and_nothing_else(recipe: Make, store: Store) -> None:
    built = build(recipe(), store, reply=solve).dataset

    def chosen(seed: int, sample: int = 10) -> list[str]:
        facts = replay(built, store, recipe(), sample=sample, seed=seed, reply=lambda _: "another")
        return [one["key"] for one in facts["differing"]]

    assert chosen(0) == chosen(0) != chosen(1)
    assert set(chosen(0)) < set(chosen(0, 30))
    assert len(chosen(0, 1000)) == 80


def test_show_tells_the_last_replay_and_the_version_stays_as_it_is(recipe: Make, store: Store) -> None:
    built = build(recipe(), store, reply=solve).dataset
    assert last_replay(store.root, built) is None
    replay(built, store, recipe(), sample=5, reply=unsteady)
    replay(built, store, recipe(), sample=6, reply=solve)
    (line,) = [line for line in show_lines(built) if line.startswith("replayed")]
    assert "6 of 6 (100.0 %" in line
    assert "on scripted" in line
    assert [s.name for s in store.list()] == ["sums"]
    kept = store.root / ".replays" / "sums" / f"{built.version}.jsonl"
    assert len(kept.read_text().splitlines()) == 2


def test_a_version_without_a_table_of_samples_is_replayed_from_its_traces(recipe: Make, store: Store) -> None:
    built = build(recipe(samples=False), store, reply=solve).dataset
    facts = replay(built, store, recipe(samples=False), sample=1000, reply=solve)
    assert facts["all"]["exact"]["of"] == 80  # the chosen ones, and those that were turned down


@pytest.mark.parametrize("lost", ["nothing", "requests", "requests and spool", "journal and spool"])
def test_requests_that_the_journal_lacks_are_made_again_by_the_method(recipe: Make, store: Store, lost: str) -> None:
    built = build(recipe(), store, reply=solve).dataset
    if "requests" in lost:
        forget_requests(store)
    if "spool" in lost:
        shutil.rmtree(store.root / ".work")
    if "journal" in lost:
        shutil.rmtree(store.root / ".journal")
    facts = replay(built, store, recipe(), sample=15, reply=solve)
    assert facts["all"]["exact"] == {
        "same": 15,
        "of": 15,
        "rate": 1.0,
        "low": pytest.approx(0.796, abs=1e-3),
        "high": 1.0,
    }
    assert facts["not_found"] == 0


def test_what_cannot_be_asked_again_is_said(recipe: Make, store: Store, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from tracemill.schemas.rows import Outcome\n\n\nasync def own(problem, engine, *, word: str) -> Outcome:\n"
        "    await engine.sample(problem.question + word, n=2)\n    return Outcome(traces=())\n",
        encoding="utf-8",
    )
    use = f"{tmp_path / 'own.py'}:own"
    made = recipe(synth={"use": use, "word": "!"}, filters=[], select=[])
    built = build(made, store, reply=solve).dataset
    other = recipe(synth={"use": use, "word": "?"}, filters=[], select=[])
    assert replay(built, store, other, sample=4, reply=solve)["all"]["exact"]["rate"] == 1.0  # the journal knows
    forget_requests(store)
    assert replay(built, store, made, sample=4, reply=solve)["all"]["exact"]["rate"] == 1.0
    with pytest.raises(RecipeError, match=r"none of 4 samples of sums@.* can be asked again.*--recipe FILE"):
        replay(built, store, other, sample=4, reply=solve)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"revision": "v2"}, "revision was 'unverified' and is 'v2'"),
        ({"dtype": "bfloat16"}, "dtype was 'auto' and is 'bfloat16'"),
        ({"name": "another"}, "name was 'scripted-solver' and is 'another'"),
    ],
)
def test_another_model_is_refused_by_the_field_that_differs(
    recipe: Make, store: Store, model: dict[str, Any], said: str
) -> None:
    built = build(recipe(), store, reply=solve).dataset
    other = recipe(model={"name": "scripted-solver", "max_tokens": 64, **model})
    with pytest.raises(RecipeError, match=rf"models.solver is not the model that was asked: {said}"):
        replay(built, store, other, sample=3, reply=solve)


def test_nothing_to_replay_is_an_error_that_says_so(store: Store, tmp_path: Path) -> None:
    row = {"id": "a", "question": "1 + 1?", "answer": "2", "response": r"\boxed{2}"}
    (tmp_path / "given.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    given = parse_recipe({"name": "given", "source": {"path": str(tmp_path / "given.jsonl"), "response": "response"}})
    built = build(given, store, given=True).dataset
    with pytest.raises(RecipeError, match="rests on no samples that can be found"):
        replay(built, store, given, sample=3)


@pytest.mark.parametrize("method", [name for name, case in METHODS.items() if case.samples])
def test_every_method_can_be_looked_at_and_replayed(method: str, store: Store, tmp_path: Path) -> None:
    reply = METHODS[method].reply
    made = table_of(method, tmp_path)
    built = build(made, store, reply=reply)
    assert why(made, store)["groups"] == []
    facts = replay(built.dataset, store, made, sample=30, reply=reply)
    assert facts["all"]["exact"]["rate"] == 1.0
    forget_requests(store)
    made_again = replay(built.dataset, store, made, sample=30, reply=reply)
    assert made_again["all"]["exact"] == facts["all"]["exact"]
    shutil.rmtree(store.root / ".work")
    again = why(made, store)
    assert again["groups"] == []
    if method in (
        "confidence_concise",
        "offline_opd",
        "divergent_tokens",
        "code_plan",
    ):  # scores and judgements are answered, too, and one may be asked for again
        assert again["requests"]["answered"] > built.tally.meter.samples_new
    else:
        assert again["requests"]["answered"] == built.tally.meter.samples_new


COMMAND = """
name = "sums"
source.path = "problems.jsonl"
model = {name = "m", max_tokens = 64}
engine = {kind = "scripted", script = "./replies.py:reply"}
synth = {use = "sample", n = 2}
"""


def test_the_command_takes_the_versions_own_recipe_or_another_and_fails_below_a_share(
    problems: Path, tmp_path: Path
) -> None:
    (tmp_path / "r.toml").write_text(COMMAND, encoding="utf-8")
    script = tmp_path / "replies.py"
    script.write_text("def reply(request):\n    return f'so {request.index}'\n", encoding="utf-8")
    run, at = CliRunner(), ["--store", str(tmp_path / "store")]
    assert run.invoke(app, ["build", str(tmp_path / "r.toml"), *at]).exit_code == 0
    use = ["--recipe", str(tmp_path / "r.toml")]
    same = run.invoke(app, ["replay", "sums", "--sample", "8", *use, *at, "--at-least", "1", "--json"])
    assert same.exit_code == 0
    assert json.loads(same.output)["all"]["exact"]["same"] == 8
    own = run.invoke(app, ["replay", "sums", "--sample", "8", "--set", f'engine.script="{script}:reply"', *at])
    assert own.exit_code == 0, own.output
    script.write_text("def reply(request):\n    return f'so {request.index % 1}'\n", encoding="utf-8")
    other = run.invoke(app, ["replay", "sums", "--sample", "40", *use, *at, "--at-least", "0.99"])
    assert other.exit_code == 4
    assert "20 of 40 (50.0 %" in other.output
    missing = run.invoke(app, ["replay", "nothing", "--sample", "8", *use, *at])
    assert missing.exit_code == 2


async def test_a_server_is_asked_as_it_was_asked(problems: Path, store: Store) -> None:
    import asyncio

    async with Loopback() as server:
        table = {
            "name": "sums",
            "source": {"path": str(problems), "limit": 5},
            "model": {"name": "tiny", "max_tokens": 12},
            "engine": {"kind": "openai", "base_urls": [server.url]},
            "synth": {"use": "sample", "n": 2},
        }
        built = await asyncio.to_thread(build, parse_recipe(table), store)
        facts = await asyncio.to_thread(replay, built.dataset, store, parse_recipe(table), sample=6)
    assert facts["all"]["text"]["same"] == 6
    assert facts["engines"]["solver"]["engine"] == "openai"


HF: dict[str, Any] = {
    "name": "sums",
    "source": {"path": str(ROOT / "data/problems/arith.jsonl"), "limit": 2},
    "model": {"name": "tiny-reasoner", "max_tokens": 60, "dtype": "float32"},
    "engine": {"kind": "hf"},
    "synth": {"use": "sample", "n": 2, "prompt": "## Question\n{question}\n## Task\nThink carefully."},
}


def of_real_engine(kind: str, store: Store) -> tuple[Dataset, dict[str, Any]]:
    made = parse_recipe({**HF, "engine": {"kind": kind}})
    built = build(made, store).dataset
    return built, replay(built, store, made, sample=3)


@pytest.mark.timeout(180)
def test_transformers_in_float32_gives_every_token_again_and_says_so(store: Store) -> None:
    pytest.importorskip("transformers", reason="needs the extra: pip install 'tracemill[hf]'")
    built, facts = of_real_engine("hf", store)
    assert facts["all"]["tokens"]["same"] == 3
    assert built.manifest()["determinism"]["level"] == "L2"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_vllm_in_float32_gives_every_token_again(store: Store) -> None:
    pytest.importorskip("vllm", reason="needs the extra: pip install 'tracemill[vllm]'")
    built, facts = of_real_engine("vllm", store)
    assert facts["all"]["tokens"]["same"] == 3
    assert built.manifest()["determinism"]["level"] == "L1"
