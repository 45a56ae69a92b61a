"""Flows: bare, and run by a real Prefect server and worker, which are started once and share the wait for the clock."""

import builtins
import fcntl
import json
import logging
import os
import re
import tempfile
import threading
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from typer.testing import CliRunner

from tests.prefect_server import SILENT, Prefect
from tracemill.pipelines.asking.screens import status_lines
from tracemill.pipelines.build import build
from tracemill.pipelines.cli import app
from tracemill.pipelines.recipes.shipped import read_recipe
from tracemill.pipelines.running.brake import Brake
from tracemill.pipelines.running.progress import Report
from tracemill.pipelines.running.tally import Tally
from tracemill.pipelines.store import Store
from tracemill.schemas.errors import Interrupted
from tracemill.schemas.recipe import parse_recipe

ROOT = Path(__file__).resolve().parent.parent
MIXCHAIN = ["engine.kind=scripted", "source.0.limit=20", "name=nights"]
"""`demo-mixchain` without a model."""
SLOW = ["name=slow", "engine.args.latency=1.0", "engine.at_once=16"]
"""`demo-scripted` for 100 seconds."""
TWO = """
import json, sys
from tracemill.flows.build import build

if __name__ == "__main__":  # Dask's processes import this, too
    print(json.dumps(build.fn("demo-scripted", sys.argv[1], sys.argv[2:], workers=2)))
"""
BARE = """
import json, sys, threading
from tracemill.flows.build import build
from tracemill.flows.nightly import nightly

def nights():
    said.append(nightly.fn("demo-scripted", store, few, curate=curated, to=out))


store, out, curated, *few = sys.argv[1:]
said = [build.fn("demo-scripted", store, few)]
thread = threading.Thread(target=nights)
thread.start()  # where no signal handler can be set
thread.join()
print(json.dumps(said))
"""
CURATED = """
name = "curated"
[[source]]
ref = "demo-scripted"
response = "content"
answer = "gold"
[[filters]]
use = "correct"
"""


def overrides(*lists: list[str]) -> list[str]:
    return [part for given in lists for override in given for part in ("--set", override)]


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """Where syncing costs nothing, for a database that is synced all the time."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Prefect, where this process imports it, keeps its things here and sends nothing anywhere."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**SILENT, "PREFECT_HOME": str(tmp_path_factory.mktemp("home"))}.items():
            patch.setenv(name, value)
        yield


def schedule(url: str | None, *arguments: str, code: int = 0) -> str:
    """What `tracemill schedule demo-scripted` says to somebody whose PREFECT_API_URL is this."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: url}):
        done = CliRunner().invoke(app, ["schedule", "demo-scripted", *arguments])
    assert done.exit_code == code, done.output
    return done.output


# ---- bare: no server, no run


@pytest.mark.timeout(600)
def test_bare_flows_make_the_versions_of_the_command_line_and_need_no_server(tmp_path: Path):
    prefect, few = Prefect(tmp_path), ["source.0.limit=40"]
    prefect.environment |= {"PREFECT_API_URL": "http://127.0.0.1:9/api", "TRACEMILL_STORE": str(tmp_path / "unused")}
    (tmp_path / "curated.toml").write_text(CURATED)
    out = prefect.run("-c", BARE, *(str(tmp_path / name) for name in ("store", "out", "curated.toml")), *few)
    built, nights = json.loads(out.splitlines()[-1])
    by_cli = json.loads(
        prefect.tracemill(
            *("build", "demo-scripted", "--json", "--store", str(tmp_path / "cli")), *overrides(few)
        ).splitlines()[-1]
    )
    assert {**built, "path": ""} == {**by_cli, "path": ""}
    assert nights["build"] == {**built, "samples_new": 0, "samples_replayed": built["samples_new"], "tokens_new": 0}
    assert nights["curate"]["rows"] == built["rows"]
    assert Path(nights["publish"]["to"], "manifest.json").is_file()
    assert nights["publish"]["dataset"] == f"curated@{nights['curate']['version']}"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_flow_spreads_a_build_over_workers_and_makes_the_version_of_one_process(tmp_path: Path):
    prefect, few = Prefect(tmp_path), ["source.0.limit=40"]
    (tmp_path / "two.py").write_text(TWO)
    out = prefect.run(str(tmp_path / "two.py"), str(tmp_path / "store"), *few)
    one = build(read_recipe("demo-scripted", few), Store(tmp_path / "one"))
    assert {**json.loads(out.splitlines()[-1]), "path": ""} == {**one.summary(), "path": ""}
    assert (tmp_path / "store" / ".work" / "demo-scripted" / "driver.lock").is_file()


def test_what_stands_in_a_deployment_means_the_same_in_any_folder(
    home: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    from tracemill.flows.steps import opened
    from tracemill.schemas.errors import RecipeError

    monkeypatch.delenv("TRACEMILL_STORE", raising=False)
    for store in ("", "data/store"):
        with pytest.raises(RecipeError, match=r"in a folder that it deletes afterwards.*TRACEMILL_STORE"):
            opened(store)
    monkeypatch.setenv("TRACEMILL_STORE", str(tmp_path / "store"))
    assert opened("").root == tmp_path / "store"


def test_a_lost_engine_is_tried_again_and_a_wrong_recipe_is_not(home: None):
    from prefect.states import Failed

    from tracemill.flows.steps import comes_back
    from tracemill.schemas.errors import EngineLost, HubLost, LockHeld, RecipeError

    for error, again in (
        (EngineLost("x"), True),
        (HubLost("x"), True),
        (RecipeError("x"), False),
        (LockHeld("x"), False),
    ):
        assert comes_back(None, None, Failed(data=error)) is again  # type: ignore[arg-type]


@pytest.mark.parametrize("pulls", [1, 2])
def test_a_brake_stops_a_build_in_a_thread_which_goes_on_in_the_next(tmp_path: Path, pulls: int):
    store, brake = Store(tmp_path / "store"), Brake()
    recipe = read_recipe("demo-scripted", [*SLOW, "engine.args.latency=0.2"])

    class Pulls(Report):
        every = 0.01

        def update(self, tally: Tally) -> None:
            if tally.done >= 3 and tally.signal is None:
                threading.Thread(target=lambda: [brake.pull() for _ in range(pulls)]).start()

    with ThreadPoolExecutor(1) as thread, pytest.raises(Interrupted, match=r"after \d+ of 200 problems") as stopped:
        thread.submit(build, recipe, store, report=Pulls(), brake=brake).result()
    assert stopped.value.exit_code == 143
    fast = read_recipe("demo-scripted", [*SLOW, "engine.args.latency=0.0"])
    on, anew = build(fast, store), build(fast, Store(tmp_path / "anew"))
    assert 3 * 8 <= on.tally.meter.samples_replayed < 1600
    assert on.dataset.version == anew.dataset.version


# ---- GPUs


@pytest.mark.parametrize(
    ("engines", "gpus"),
    [
        ({"solver": {"kind": "scripted"}}, 0),
        ({"solver": {"kind": "openai", "base_urls": ["http://127.0.0.1:1/v1"]}}, 0),
        ({"solver": {"kind": "vllm", "args": {"tensor_parallel_size": 2, "data_parallel_size": 3}}}, 12),
        ({"solver": {"kind": "hf"}, "judge": {"kind": "vllm"}}, 2),
        ({"solver": {"kind": "vllm"}}, 2),
    ],
)
def test_a_recipe_takes_a_token_for_each_gpu_that_its_engines_start_on(home: None, engines: Any, gpus: int):
    from tracemill.pipelines.scale.devices import gpus_of

    models = {role: {"name": "m", "max_tokens": 9} for role in ("solver", "judge")}
    table = {
        "name": "x",
        "source": {"path": "x.jsonl"},
        "synth": {"use": "sample"},
        "models": models,
        "engines": engines,
    }
    assert gpus_of(parse_recipe(table)) == gpus


def test_a_gpu_is_locked_for_one_flow_of_a_machine_and_free_when_that_is_gone(home: None, tmp_path: Path):
    from tracemill.flows.gpus import locked

    logger = logging.getLogger("test")
    with (tmp_path / "tracemill-gpu-1.lock").open("w") as other, ExitStack() as held:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert locked(["0", "1", "2"], 2, logger, held, folder=tmp_path) == ["0", "2"]
        with ExitStack() as more:
            other.close()
            assert locked(["0", "1", "2"], 1, logger, more, folder=tmp_path) == ["1"]
    with ExitStack() as held:
        assert locked(["0", "1", "2"], 3, logger, held, folder=tmp_path) == ["0", "1", "2"]


# ---- run by Prefect


@dataclass(frozen=True)
class Nights:
    """A server whose worker is at work: on a deployment that is due within minutes, and on two runs asked for."""

    server: Prefect
    wrong: str
    slow: str

    def fired(self) -> dict[str, Any] | None:
        """The run that the clock began, once it is done."""
        runs = [run for run in self.server.runs("nights") if run["auto_scheduled"] and run["state_type"] == "COMPLETED"]
        return runs[0] if runs else None


@pytest.fixture(scope="module")
def nights(memory: Path) -> Iterator[Nights]:
    with Prefect(memory) as server:
        soon = (datetime.now(UTC) + timedelta(seconds=30)).minute
        due = ",".join(
            str((soon + more) % 60) for more in (1, 3, 5)
        )  # the later ones where this machine is too busy for the first
        server.tracemill(
            *("schedule", "demo-mixchain", "--cron", f"{due} * * * *"),
            *("--store", str(server.folder / "store"), *overrides(MIXCHAIN)),
        )
        wrong = server.begin_run("nightly/nights", recipe="demo-scripted", overrides=["sinth.n=4"])
        slow = server.begin_run("nightly/nights", recipe="demo-scripted", overrides=SLOW, gpu_limit="cards")
        server.start_worker()
        yield Nights(server, wrong, slow)


@pytest.fixture(scope="module")
def prefect(nights: Nights) -> Prefect:
    return nights.server


@pytest.mark.timeout(600)
def test_a_cancelled_run_drains_gives_its_token_back_and_is_gone_on_with(nights: Nights):
    prefect, run = nights.server, nights.slow
    store = Store(prefect.folder / "store")
    prefect.until(lambda: float((prefect.artifact("slow-progress") or {"data": 0})["data"]) > 5)
    limit = prefect.ask("GET", "/v2/concurrency_limits/cards")
    assert (limit["limit"], limit["active_slots"]) == (1, 1)
    prefect.cancel(run)
    state = prefect.ended(run)
    assert state["name"] == "Cancelled"
    assert prefect.ask("GET", "/v2/concurrency_limits/cards")["active_slots"] == 0
    prefect.until(
        lambda: re.search(
            r"stopped by a signal after [1-9]\d* of 200 problems; .*run this flow again", prefect.lines(run)
        )
    )
    assert "slow: stopped, resumable" in "".join(status_lines(store, "slow"))
    fast = read_recipe("demo-scripted", [*SLOW, "engine.args.latency=0.0"])
    on, anew = build(fast, store), build(fast, Store(prefect.folder / "anew"))
    assert on.tally.meter.samples_replayed > 0 == anew.tally.meter.samples_replayed
    assert on.dataset.version == anew.dataset.version


@pytest.mark.timeout(600)
def test_a_failure_says_what_to_do_is_not_tried_again_and_nothing_is_pickled(nights: Nights):
    prefect, run = nights.server, nights.wrong
    state = prefect.ended(run)
    assert state["type"] == "FAILED"
    assert "RecipeError: " in state["message"]
    assert "did you mean 'synth'?" in state["message"]
    assert "will start" not in prefect.lines(run)  # no retry
    for file in (prefect.folder / "storage").glob("*"):
        json.loads(file.read_text())


LOSING = """
import sys
from tracemill.flows import build
build.make = build.make.with_options(retry_delay_seconds=0.1)
print(build.build("demo-scripted", sys.argv[1], ["name=losing", "model.seed=1", "engine.args.lose_after=600", "engine.at_once=8"]))
"""


@pytest.mark.timeout(600)
def test_an_engine_that_is_lost_is_tried_again_in_the_same_run_and_goes_on(prefect: Prefect):
    said = prefect.run("-c", LOSING, str(prefect.folder / "store"))
    assert "Retry 2/3 will start" in said
    assert "Retry 3/3 will start" not in said
    assert "reading problems" in said
    assert re.search(r"'samples_new': 4\d\d, 'samples_replayed': 1\d\d\d", said)


@pytest.mark.timeout(600)
def test_a_deployment_fires_by_its_schedule_and_makes_the_version_of_the_command_line(nights: Nights):
    prefect = nights.server
    run = prefect.until(nights.fired)
    assert run["created_by"]["type"] == "SCHEDULE"
    version = build(read_recipe("demo-mixchain", MIXCHAIN), Store(prefect.folder / "cli")).dataset.version
    link = prefect.artifact("nights-version")
    assert link is not None
    assert f"/store/nights/{version}" in link["data"]
    assert (prefect.folder / "store" / "nights" / version / "manifest.json").is_file()


@pytest.mark.timeout(600)
def test_a_person_sees_progress_reasons_numbers_by_alpha_and_the_lines_of_the_terminal(nights: Nights):
    prefect = nights.server
    run = prefect.until(nights.fired)
    shown = {kind: prefect.artifact(f"nights-{kind}") for kind in ("progress", "reasons", "summary")}
    assert None not in shown.values()
    progress, reasons, summary = shown.values()
    assert progress is not None
    assert (progress["type"], progress["data"]) == ("progress", 100)
    assert reasons is not None
    assert sum(row["rows"] for row in json.loads(reasons["data"])) == 20 * 4
    assert summary is not None
    assert [row["alpha"] for row in json.loads(summary["data"])] == ["0.2", "0.4", "0.6", "0.8"]
    parts = ("reading problems", "staging", "committing", "rows by stage and reason", "tracemill show nights")
    prefect.until(lambda: all(part in prefect.lines(run["id"]) for part in parts))  # they are sent every other second


@pytest.mark.timeout(600)
def test_scheduling_again_changes_the_deployment_and_removing_takes_it_away(home: None, prefect: Prefect):
    def once(*more: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        schedule(prefect.url, "--cron", "0 2 * * *", "--name", "twice", "--store", str(prefect.folder / "b"), *more)
        found = prefect.ask("POST", "/deployments/filter", {"deployments": {"name": {"any_": ["twice"]}}})
        return found, found[0]

    _, before = once()
    found, after = once("--timezone", "Europe/Berlin", "--pause", "--publish", "org/name")
    assert [one["id"] for one in found] == [before["id"]]
    [due] = after["schedules"]
    assert (due["schedule"]["timezone"], due["active"]) == ("Europe/Berlin", False)
    assert after["parameters"]["repo"] == "org/name"
    assert Path(after["parameters"]["store"]).is_absolute()
    assert (after["entrypoint"], after["pull_steps"]) == ("tracemill.flows.nightly.nightly", [])
    schedule(prefect.url, "--name", "twice", "--remove")
    assert "no deployment nightly/twice" in schedule(prefect.url, "--name", "twice", "--remove", code=2)


@pytest.mark.timeout(600)
def test_the_deployments_of_prefect_yaml_can_be_made(prefect: Prefect):
    prefect.environment["TRACEMILL_STORE"] = str(prefect.folder / "store")
    prefect.run("-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(ROOT / "prefect.yaml"))
    names = {one["name"]: one for one in prefect.ask("POST", "/deployments/filter", {})}
    assert names.keys() >= {"mixchain", "step-trees", "petri-traces", "hints", "curate", "publish", "nightly"}
    assert names["hints"]["parameters"] == {"recipe": "hints", "store": str(prefect.folder / "store")}


GOING = """
import sys
from tracemill.flows.build import build
build("demo-scripted", sys.argv[1], ["name=going", "model.seed=2", "engine.args.latency=0.25", "engine.at_once=32"])
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_build_whose_server_is_killed_in_the_middle_goes_on_and_its_version_stands(prefect: Prefect):
    """The last of this file: the server is not there any more."""
    store = prefect.folder / "store"
    with prefect.begin("going", "-c", GOING, str(store)) as flow:
        prefect.until(lambda: "problems, samples" in prefect.log("going"))
        prefect.stop("worker", SIGKILL)
        prefect.stop("server", SIGKILL)
        flow.wait(240)
    assert flow.returncode != 0  # the run could not be told to have ended, as the docs say
    said = prefect.log("going")
    assert "the build goes on" in said
    assert "the version stands all the same: tracemill show going@" in said
    assert "going: done" in "".join(status_lines(Store(store), "going"))
    assert (store / "going" / "latest" / "manifest.json").is_file()


# ---- what is said where it cannot be


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("arguments", "url", "says"),
    [
        (["--cron", "0 2 * *"], None, r'--cron .*five fields.*"0 2 \* \* \*"'),
        (["--cron", "0 2 * * *", "--timezone", "Mars/Base"], None, "--timezone .*Europe/Berlin"),
        ([], None, 'say when: --cron "0 2'),
        (["--cron", "0 2 * * *", "--set", "synth.m=3"], None, "no option"),
        (["--cron", "0 2 * * *", "--workers", "2", "--set", "budget.tokens=9"], None, "budget.tokens: a budget is cut"),
        (["--cron", "0 2 * * *", "--publish", "a/b", "--to", "c"], None, "to one place"),
        (["--cron", "0 2 * * *"], None, "no Prefect server is named; start one .*export PREFECT_API_URL"),
        (["--cron", "0 2 * * *"], "http://127.0.0.1:9/api", "no Prefect server answers at http://127.0.0.1:9/api .*prefect server start"),
    ],
)  # fmt: skip
def test_schedule_says_what_is_wrong_and_what_to_type(
    home: None, tmp_path: Path, arguments: list[str], url: str | None, says: str
):
    assert re.search(says, schedule(url, *arguments, "--store", str(tmp_path / "store"), code=2))


def test_an_address_that_gives_a_page_for_everything_is_no_api(home: None, tmp_path: Path):
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<!doctype html>")

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as page:
        threading.Thread(target=page.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{page.server_port}"
        said = schedule(url, "--cron", "@daily", "--store", str(tmp_path / "store"), code=2)
        page.shutdown()
    assert "is not the API of a Prefect server; its address ends in /api" in said


def test_without_prefect_schedule_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    def missing(name: str, *rest: Any) -> Any:
        if name == "tracemill.flows":
            raise ModuleNotFoundError("No module named 'prefect'", name="prefect")
        return there(name, *rest)

    there = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", missing)
    done = CliRunner().invoke(app, ["schedule", "demo-scripted", "--cron", "0 2 * * *"])
    assert done.exit_code == 2
    assert "pip install 'tracemill[prefect]'" in done.output


# ---- the lock


def locked_versions() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def test_the_locked_versions_satisfy_pyproject_and_hold_what_must_not_go_apart():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    groups = project["dependency-groups"]
    wanted = [
        *project["project"]["dependencies"],
        *(need for name, needs in extras.items() if name != "vllm" for need in needs),
    ]
    wanted += [*groups["dev"], *groups["bench"]]
    locked = locked_versions()
    named_in_the_makefile = {"torch", "setuptools"}
    for text in wanted:
        need = Requirement(text)
        if (name := canonicalize_name(need.name)) not in named_in_the_makefile:
            assert name in locked, f"{name} is not locked: make lock"
            assert locked[name] in need.specifier, f"{name} {locked[name]} is not {need.specifier}: make lock"
    assert locked["sqlalchemy"] < Version("2.1"), "with it a healthy server never creates a scheduled run"
    assert locked["fastapi"] < Version("0.137"), "what vLLM needs; Prefect alone takes a newer one"


def test_the_environment_of_the_tests_is_the_locked_one():
    from importlib.metadata import PackageNotFoundError, version

    differ = {}
    for name, wanted in locked_versions().items():
        try:
            if (have := Version(version(name))) != wanted:
                differ[name] = (have, wanted)
        except PackageNotFoundError:
            continue
    assert differ == {}
