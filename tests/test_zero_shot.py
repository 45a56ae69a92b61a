"""Weights between two models, built for real: passes over the problems, what they leave, and what a kill in one of them costs."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tracemill.pipelines.build import build
from tracemill.pipelines.store import Store
from tracemill.schemas.errors import Interrupted, TooManyFailures
from tracemill.schemas.recipe import Recipe, load_recipe
from tracemill.schemas.request import Completion, Request, TokenScores
from tracemill.synth.backends.scripted import Scripted
from tracemill.synth.weights import levels

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).resolve().parent.parent
RECIPE = f"""
name = "zero-shot"
[source]
path = "{ROOT / "data/problems/arith.jsonl"}"
limit = 12
[model]
name = "tiny-reasoner"
max_tokens = 300
dtype = "float32"
[engine]
kind = "hf"
[synth]
use = "mixchain"
end = "tiny-reasoner-slow"
alphas = [0.2, 0.8]
prompt = '''## Question
{{question}}
## Task
Solve.'''
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Recipe]:
    """Makes a recipe between the small model and its slow sister; overrides as on the command line."""
    file = tmp_path / "zero-shot.toml"
    file.write_text(RECIPE, encoding="utf-8")
    return lambda *overrides: load_recipe(file, overrides)


Make = Callable[..., Recipe]


def needs_transformers() -> None:
    pytest.importorskip("transformers", reason="needs the extra hf")
    pytest.importorskip("peft", reason="needs the extra hf")


def test_chains_grow_with_alpha_between_two_models_and_nothing_is_left_behind(recipe: Make, store: Store):
    needs_transformers()
    built = build(recipe(), store)
    meter = built.tally.meter
    assert (meter.samples_new, meter.samples_replayed) == (24, 0)
    traces = built.dataset.scan("traces").collect()
    tokens = dict(traces.group_by("alpha").agg(pl.col("n_tokens").sum()).iter_rows())
    assert tokens[0.8] > 1.5 * tokens[0.2]
    samples = built.dataset.scan("samples").collect()
    assert set(samples["adapter"]) == {"tiny-reasoner..tiny-reasoner-slow"}
    assert set(samples["scale"]) == {"0.2", "0.8"}
    assert samples["seed"].n_unique() == 24, "no two requests share a stream"
    assert list((store.engines_folder / "merged").iterdir()) == []
    asked = built.dataset.manifest()["models"]["solver"]["asked"]
    assert [level["scale"] for level in asked["levels"]] == ["0.2", "0.8"]
    again = build(recipe(), store)
    assert again.tally.meter.samples_new == 0
    assert again.dataset.version == built.dataset.version


def test_a_build_killed_between_two_passes_keeps_what_the_first_drew(recipe: Make, store: Store, tmp_path: Path):
    needs_transformers()
    whole = build(recipe(), Store(tmp_path / "calm"))
    command = [sys.executable, "-m", "tracemill.pipelines.cli", "build", str(tmp_path / "zero-shot.toml")]
    with subprocess.Popen(
        [*command, "--store", str(store.root)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        merged, deadline = store.engines_folder / "merged", time.monotonic() + 200
        while not list(merged.glob("*-0.8")) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        process.kill()
    assert list(merged.glob("*-0.8")), "killed with the second weights on the disk"
    resumed = build(recipe(), store)
    assert resumed.tally.meter.samples_replayed >= 12
    assert resumed.tally.meter.samples_new <= 12
    assert resumed.dataset.version == whole.dataset.version
    assert list(merged.iterdir()) == [], "what the killed build left is gone"


@pytest.mark.vllm
@pytest.mark.timeout(600)
def test_vllm_runs_on_merged_weights_and_says_what_transformers_says(recipe: Make, store: Store, tmp_path: Path):
    needs_transformers()
    pytest.importorskip("vllm", reason="needs vLLM: make demo installs its CPU build")
    one = ("synth.alphas=[0.4]", 'engine={kind="vllm"}')
    mine = build(recipe(*one), store).dataset.scan("samples").collect()
    theirs = build(recipe("synth.alphas=[0.4]"), Store(tmp_path / "hf")).dataset.scan("samples").collect()
    assert mine.height == 12
    assert mine.select("key", "token_ids").equals(theirs.select("key", "token_ids"))


# ---- the passes themselves, on a script in the place of the engines


class Level(Scripted):
    """Answers for one alpha, and takes note of when it was started and closed."""

    log: list[str]
    name: str

    async def start(self) -> None:
        self.log.append(f"start {self.name}")

    async def complete(self, request: Request) -> Completion:
        await asyncio.sleep(0)
        return await super().complete(request)

    async def score(self, request: Request) -> TokenScores:
        raise AssertionError("nobody scores here")

    async def close(self) -> None:
        self.log.append(f"close {self.name}")


@pytest.fixture
def scripted_levels(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Request], str]], list[str]]:
    """Puts a script in the place of every merged model."""

    def put(reply: Callable[[Request], str]) -> list[str]:
        log: list[str] = []

        def merged(line: Any, alpha: str, folder: Path, open_backend: Any) -> Level:
            level = Level(reply)
            level.log, level.name = log, alpha
            return level

        monkeypatch.setattr("tracemill.synth.models.Merged", merged)
        return log

    return put


Put = Callable[[Callable[[Request], str]], list[str]]


def right(request: Request) -> str:
    return r"\boxed{1}"


def test_weights_are_loaded_one_after_another_each_once(recipe: Make, store: Store, scripted_levels: Put):
    log = scripted_levels(right)
    built = build(recipe("synth.alphas=[0.2,0.5,0.8]"), store)
    starts = [line for line in log if line.startswith("start")]
    assert starts == ["start 0.2", "start 0.5", "start 0.8"]
    assert log.index("close 0.2") < log.index("start 0.5") < log.index("close 0.5") < log.index("start 0.8")
    assert built.tally.meter.samples_new == 36
    assert built.tally.meter.samples_replayed == 0


def test_a_problem_that_fails_in_one_pass_is_counted_once_and_not_tried_again(
    recipe: Make, store: Store, scripted_levels: Put
):
    asked: list[tuple[str, str]] = []

    def reply(request: Request) -> str:
        assert request.adapter is not None
        asked.append((request.problem_id, request.adapter.scale))
        if request.problem_id == "arith-0-0003":
            raise ValueError("broken on purpose")
        return right(request)

    scripted_levels(reply)
    built = build(recipe(), store)
    assert built.tally.failed == 1
    assert built.dataset.manifest()["problems"]["failed"] == 1
    assert [scale for problem, scale in asked if problem == "arith-0-0003"] == ["0.2"]
    assert built.tally.meter.samples_new == 22


def test_a_run_in_which_every_problem_fails_in_the_first_pass_commits_nothing(
    recipe: Make, store: Store, scripted_levels: Put
):
    def reply(request: Request) -> str:
        raise ValueError("broken on purpose")

    scripted_levels(reply)
    with pytest.raises(TooManyFailures, match="all 12 problems failed"):
        build(recipe(), store)
    assert store.list() == []


def test_a_replay_starts_no_engine(recipe: Make, store: Store, scripted_levels: Put):
    log = scripted_levels(right)
    first = build(recipe(), store)
    log.clear()
    again = build(recipe("filters=[{use='correct'}]"), store)
    assert [line for line in log if line.startswith("start")] == []
    assert again.tally.meter.samples_new == 0
    assert again.tally.meter.samples_replayed == first.tally.meter.samples_new


def test_what_is_done_can_be_committed_before_the_last_pass(recipe: Make, store: Store, scripted_levels: Put):
    def until_the_second(request: Request) -> str:
        if request.adapter is not None and request.adapter.scale == "0.8":
            raise KeyboardInterrupt
        return right(request)

    scripted_levels(until_the_second)
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        build(recipe(), store)
    scripted_levels(right)
    partial = build(recipe("tolerate=0"), store, partial=True)
    assert partial.why_partial is not None
    assert partial.dataset.manifest()["complete"] is False
    whole = build(recipe(), store)
    assert (whole.tally.meter.samples_new, whole.tally.meter.samples_replayed) == (12, 12)


def test_leftovers_of_processes_that_are_gone_are_swept_and_those_of_others_stay(tmp_path: Path):
    for name in (f"{2**22 + 1}-a-0.2", f".{2**22 + 1}-a-0.4-1", "1-a-0.2"):
        (tmp_path / name).mkdir()
    levels._sweep(tmp_path)
    assert [left.name for left in tmp_path.iterdir()] == ["1-a-0.2"]
