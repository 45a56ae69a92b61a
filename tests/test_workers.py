"""Builds that are spread over Dask workers: real worker processes, real schedulers, and what happens when they go."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kill import MARK, Ordeal
from tracemill.pipelines.scale.cluster import cluster
from tracemill.pipelines.scale.worker_shard import Job, _environment, devices
from tracemill.pipelines.scale.workers import how_many
from tracemill.schemas.errors import RecipeError

pytestmark = pytest.mark.timeout(600)
PROBLEMS, N = 60, 4
REPLY = """
import os, random
from pathlib import Path

from tracemill.schemas.errors import EngineLost

HERE = Path(__file__).parent
LOG = os.open(HERE / "asked.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def reply(request):
    if os.environ.get("TEST_ENGINE") == "dead":
        raise EngineLost("the engine of this worker does not answer")
    os.write(LOG, (request.key + "\\n").encode())
    number = int(request.problem_id[1:])
    return "well " * (request.rng_seed % 5) + r"\\boxed{" + str(number + request.index % 2) + "} " + random.Random(request.key).randbytes(PADDING).hex()
"""
ENDLESS = """
import asyncio
from pathlib import Path

from tracemill.synth.sample import sample

HERE = Path(__file__).parent


async def endless(problem, engine, *, n: int = 4):
    "Plain samples, and one problem that does not end before somebody lets it."
    outcome = await sample(problem, engine, n=n)
    while problem.problem_id == "p007" and not (HERE / "enough").exists():
        await asyncio.sleep(0.1)
    return outcome
"""


@pytest.fixture
def ordeal(tmp_path: Path) -> Ordeal:
    return made(tmp_path)


def made(folder: Path, *, synth: str = "sample", padding: int = 0, latency: float = 0.1) -> Ordeal:
    (folder / "reply.py").write_text(REPLY.replace("PADDING", str(padding)))
    (folder / "endless.py").write_text(ENDLESS)
    rows = [{"id": f"p{i:03}", "question": f"{i} * 1?", "answer": str(i)} for i in range(PROBLEMS)]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = folder / "recipe.toml"
    recipe.write_text(
        f"""
        name = "ordeal"
        [source]
        path = "problems.jsonl"
        [model]
        name = "scripted-solver"
        max_tokens = 100000
        [engine]
        kind = "scripted"
        script = "./reply.py:reply"
        at_once = 8
        args = {{ latency = {latency} }}
        [synth]
        use = "{synth}"
        n = {N}
        [[filters]]
        use = "correct"
        [[select]]
        use = "keep"
        """
    )
    return Ordeal(recipe, folder / "store", asked=folder / "asked.log", options=("--workers", "2"))


@contextmanager
def running(ordeal: Ordeal, **options) -> Iterator[subprocess.Popen]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(ordeal._command(), env=ordeal._env(), **pipes, **options) as build:
        try:
            yield build
        finally:
            build.kill()


def until(enough: Callable[[], object], build: subprocess.Popen, *, timeout: float = 200) -> None:
    end = time.monotonic() + timeout
    while not enough():
        assert build.poll() is None, build.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.02)


def dask_workers(ordeal: Ordeal) -> list[int]:
    """The processes of Dask's workers that have a shard each."""
    found = set()
    for pid in ordeal._marked():
        try:
            place = Path("/proc") / str(pid)
            if b"tracemill.pipelines.scale.worker_shard" in (place / "cmdline").read_bytes():
                found.add(int((place / "stat").read_text().rpartition(")")[2].split()[1]))
        except OSError:
            continue
    return sorted(found - {1})


def waits_for(progress: Path, problem: str) -> bool:
    """Whether the driver's progress file shows a shard that has nothing but this problem left."""
    rows = json.loads(progress.read_text()).get("shards", ())
    left = [row for row in rows if row.get("problems", 0) - row.get("done", 0) == 1]
    return any(row["longest_open"] and row["longest_open"][0][0] == problem for row in left)


def alone(ordeal: Ordeal, folder: Path) -> str:
    """The version of one process."""
    return replace(ordeal, options=()).finish(folder)["version"]


def test_a_killed_workers_build_ends_in_the_version_of_one_process(ordeal: Ordeal, tmp_path: Path):
    with running(ordeal) as build:
        until(lambda: len(ordeal.keys_asked()) >= 60 and len(dask_workers(ordeal)) == 2, build)
        killed = dask_workers(ordeal)[0]
        before = set(ordeal.keys_asked())
        os.kill(killed, signal.SIGKILL)
        out, err = build.communicate(timeout=300)
    assert build.returncode == 0, err
    done = json.loads(out.splitlines()[-1])
    asked = ordeal.keys_asked()
    assert len(set(asked)) == PROBLEMS * N
    assert len(asked) - len(set(asked)) <= 8  # what was in flight in one shard
    assert len(before) >= 60
    assert done["samples_replayed"] + done["samples_new"] == PROBLEMS * N
    assert ordeal.left_behind() == []
    assert done["version"] == alone(ordeal, tmp_path / "one")


@pytest.mark.slow
def test_ctrl_c_drains_every_shard_and_the_same_command_goes_on(ordeal: Ordeal, tmp_path: Path):
    with running(ordeal, start_new_session=True) as build:
        until(lambda: len(ordeal.keys_asked()) >= 60, build)
        os.killpg(build.pid, signal.SIGINT)  # as a terminal does: to the driver and to Dask's workers
        _, err = build.communicate(timeout=120)
    assert build.returncode == 130, err
    assert "run the same command again" in err
    assert ordeal.left_behind() == []
    asked = ordeal.keys_asked()
    assert len(asked) < PROBLEMS * N
    assert ordeal.journaled() == set(asked)  # nothing that was asked is lost
    done = ordeal.finish()
    assert len(ordeal.keys_asked()) == PROBLEMS * N
    assert done["version"] == alone(ordeal, tmp_path / "one")


@pytest.mark.slow
def test_an_endless_problem_holds_up_no_other_and_is_named(tmp_path: Path):
    ordeal = made(tmp_path, synth="./endless.py:endless", latency=0.01)
    progress = tmp_path / "store" / ".work" / "ordeal" / "progress.json"
    with running(ordeal) as build:
        until(lambda: len(ordeal.keys_asked()) == PROBLEMS * N, build)
        until(lambda: waits_for(progress, "p007"), build)
        status = subprocess.run(
            [sys.executable, "-m", "tracemill.pipelines.cli", "status", "--store", str(tmp_path / "store")],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert "longest open: p007 for" in status
        time.sleep(12)  # a line every ten seconds
        (tmp_path / "enough").touch()
        _, err = build.communicate(timeout=200)
    assert build.returncode == 0, err
    assert "waits for 1 of its problems, p007 for" in err


# ---- a scheduler of one's own


class Site:
    """A Dask scheduler and workers that somebody else started, as on a cluster."""

    def __init__(self, folder: Path, mark: str) -> None:
        self.file, self.env, self.folder = folder / "scheduler.json", {**os.environ, MARK: mark}, folder
        self.processes: dict[str, subprocess.Popen] = {}
        self.start(
            "scheduler", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"
        )
        while not self.file.exists() or not self.file.read_text():
            time.sleep(0.1)
        self.address = json.loads(self.file.read_text())["address"]

    def start(self, name: str, module: str, *options: str, before=None, **env: str) -> None:
        command = [sys.executable, "-m", module, "--scheduler-file", str(self.file), *options]
        with (self.folder / f"{name}.log").open("w") as log:
            self.processes[name] = subprocess.Popen(
                command, env={**self.env, **env}, stdout=log, stderr=log, preexec_fn=before, cwd=self.folder
            )

    def worker(self, name: str, *more: str, before=None, **env: str) -> None:
        options = ("--name", name, "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1", *more)
        self.start(name, "distributed.cli.dask_worker", *options, before=before, **env)

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def site(ordeal: Ordeal, tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, ordeal.mark)
    ordeal.options = ("--workers", "2", "--scheduler", site.address)
    try:
        yield site
    finally:
        site.stop()


@pytest.mark.slow
def test_an_engine_that_is_dead_on_one_worker_leaves_its_shards_to_the_others(
    ordeal: Ordeal, site: Site, tmp_path: Path
):
    site.worker("sound")
    site.worker("broken", TEST_ENGINE="dead")
    with running(ordeal) as build:
        out, err = build.communicate(timeout=400)
    assert build.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["version"] == alone(ordeal, tmp_path / "one")
    assert "gets no more: shard" in err
    assert "the engine of this worker does not answer" in err
    assert len(ordeal.keys_asked()) == PROBLEMS * N * 2  # once here, once in `alone`


@pytest.mark.slow
def test_the_last_engine_dead_ends_the_run_resumable(ordeal: Ordeal, site: Site):
    site.worker("broken", TEST_ENGINE="dead")
    ordeal.options = ("--scheduler", site.address)
    with running(ordeal) as build:
        _, err = build.communicate(timeout=400)
    assert build.returncode == 3, err
    assert "the engine of this worker does not answer" in err


@pytest.mark.slow
@pytest.mark.parametrize("everywhere", [False, True])
def test_a_full_disk_on_a_worker_is_told_with_its_name(everywhere: bool, tmp_path: Path):
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    ordeal = made(tmp_path, padding=6000)
    site = Site(tmp_path, ordeal.mark)
    try:
        site.worker("full", before=limit)
        site.worker("other", before=limit if everywhere else None)
        ordeal.options = ("--workers", "2", "--scheduler", site.address)
        with running(ordeal) as build:
            _, err = build.communicate(timeout=400)
    finally:
        site.stop()
    assert build.returncode == (6 if everywhere else 0), err
    assert "no room left on the disk" in err or "the disk is full" in err
    assert "shard" in err
    assert "tcp://127.0.0.1" in err


@pytest.mark.slow
def test_a_killed_scheduler_ends_the_run_resumable_and_leaves_nobody(ordeal: Ordeal, site: Site, tmp_path: Path):
    site.worker("a", "--resources", "GPU=1")
    site.worker("b", "--resources", "GPU=1")
    with running(ordeal) as build:
        until(lambda: len(ordeal.keys_asked()) >= 60, build)
        site.processes["scheduler"].kill()
        _, err = build.communicate(timeout=120)
    assert build.returncode == 3, err
    assert "the Dask scheduler is gone" in err
    assert "run the same command again" in err
    site.stop()
    assert ordeal.left_behind() == []
    journaled, before = ordeal.journaled(), len(ordeal.keys_asked())
    ordeal.options = ("--workers", "2")
    done = ordeal.finish()
    assert not journaled & set(ordeal.keys_asked()[before:])
    assert done["version"] == alone(ordeal, tmp_path / "one")


@pytest.mark.slow
def test_kills_of_workers_again_and_again(ordeal: Ordeal, tmp_path: Path):
    with running(ordeal) as build:
        for target in (30, 90, 150):
            until(lambda target=target: len(ordeal.keys_asked()) >= target, build)
            for pid in dask_workers(ordeal)[:2]:
                os.kill(pid, signal.SIGKILL)
        out, err = build.communicate(timeout=400)
    assert build.returncode == 0, err
    asked = ordeal.keys_asked()
    assert len(set(asked)) == PROBLEMS * N
    assert len(asked) - len(set(asked)) <= 6 * 8
    assert json.loads(out.splitlines()[-1])["version"] == alone(ordeal, tmp_path / "one")
    assert ordeal.left_behind() == []


def test_each_worker_of_a_machine_has_gpus_of_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7,9")
    job = Job("run", "sums", "", "store", "0/2", gpus_each=2)
    assert [_environment(job, worker)["CUDA_VISIBLE_DEVICES"] for worker in (0, 1)] == ["3,5", "7,9"]
    assert _environment(replace(job, gpus_each=0), 1)["CUDA_VISIBLE_DEVICES"] == "3,5,7,9"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert devices() == []


@pytest.mark.parametrize(
    ("workers", "problems", "shards"),
    [(2, 60, 2), (2, 10, 2), (2, 1000, 8), (64, 1_000_000, 256), (64, 10_000_000, 1000)],
)
def test_a_large_build_is_cut_into_more_shards_and_a_small_one_into_fewer(workers: int, problems: int, shards: int):
    assert how_many(workers, problems) == shards


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"workers": 0}, "give a number of processes"),
        ({"scheduler": "tcp://127.0.0.1:9"}, "no Dask scheduler answers there"),
        ({"scheduler": "nonsense://x"}, "no Dask scheduler answers there"),
    ],
)
def test_a_cluster_that_cannot_be_had_is_refused(asked: dict, says: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tracemill.pipelines.scale.cluster.PATIENCE", 1.0)
    with pytest.raises(RecipeError, match=says), cluster(**asked):
        pass


def test_options_that_contradict_one_another_are_refused(tmp_path: Path):
    ordeal = made(tmp_path)
    for options, says in (
        (("--shard", "0/2", "--workers", "2"), "a shard is one process"),
        (("--partial", "--workers", "2"), "--partial and --workers"),
        (("--shard", "2/2"), "write i/N"),
    ):
        command = replace(ordeal, options=options)._command()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert says in done.stderr
