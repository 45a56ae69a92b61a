"""kill -9 at any instant: the next run goes on, ends in the same version, asks nothing twice and leaves nobody behind."""

import json
import random
import time
from pathlib import Path

import pytest

from tests.kill import Ordeal, lives
from tests.test_laws import table_of
from tracemill.pipelines.recipes.toml import to_toml

REPLY = """
import os

LOG = os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def reply(request):
    os.write(LOG, (request.key + "\\n").encode())
    number = int(request.problem_id[1:])
    if request.index == 3:
        return r"\\boxed{{\\sqrt{{" + str(number * number) + "}}}}"  # needs algebra, so verifiers run too
    return "well " * (request.rng_seed % 5) + r"\\boxed{{" + str(number + request.index % 2) + "}}"
"""
PROBLEMS, N = 100, 4


@pytest.fixture
def ordeal(tmp_path: Path) -> Ordeal:
    log = tmp_path / "asked.log"
    (tmp_path / "reply.py").write_text(REPLY.format(log=str(log)))
    rows = [{"id": f"p{i:03}", "question": f"{i} * 1?", "answer": str(i)} for i in range(PROBLEMS)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f"""
        name = "ordeal"
        [source]
        path = "problems.jsonl"
        [model]
        name = "scripted-solver"
        max_tokens = 64
        [engine]
        kind = "scripted"
        script = "./reply.py:reply"
        at_once = 16
        args = {{ latency = 0.03 }}
        [synth]
        use = "sample"
        n = {N}
        [[filters]]
        use = "correct"
        [[select]]
        use = "keep"
        """
    )
    return Ordeal(recipe, tmp_path / "store", log)


@pytest.mark.timeout(600)
def test_twenty_kills_end_in_the_version_of_an_undisturbed_run(ordeal: Ordeal, tmp_path: Path):
    for target in lives(20261120, PROBLEMS * N, 14):
        ordeal.live_until(lambda target=target: len(ordeal.keys_asked()) >= target)
    chance = random.Random(7)
    while ordeal.kills < 20:  # and when all is sampled: while it stages, selects, writes and renames
        moment = time.monotonic() + 0.8 + 2.0 * chance.random()
        if not ordeal.live_until(lambda moment=moment: time.monotonic() >= moment):
            break
    assert ordeal.left_behind() == []
    survivor = ordeal.finish()
    asked = ordeal.keys_asked()
    assert ordeal.kills >= 14
    assert len(set(asked)) == PROBLEMS * N
    assert len(asked) - len(set(asked)) <= ordeal.kills * 16  # at most what was in flight
    undisturbed = ordeal.finish(tmp_path / "undisturbed")
    assert survivor["version"] == undisturbed["version"]
    assert undisturbed["samples_new"] == PROBLEMS * N


LOGGED = """
import os

from tests.test_laws import METHODS

LOG = os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def reply(request):
    os.write(LOG, (request.key + "\\n").encode())
    return METHODS[{method!r}].reply(request)
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("method", ["step_tree", "petri_trace", "hints"])
def test_methods_that_decide_as_they_go_end_in_the_same_version_after_kills(method: str, tmp_path: Path):
    (tmp_path / "reply.py").write_text(LOGGED.format(log=str(tmp_path / "asked.log"), method=method))
    table = table_of(method, tmp_path).model_dump(mode="json", exclude_none=True)
    engine = {"kind": "scripted", "script": "./reply.py:reply", "at_once": 16, "args": {"latency": 0.02}}
    (tmp_path / "recipe.toml").write_text(to_toml({**table, "engines": {"solver": engine}}))
    ordeal = Ordeal(tmp_path / "recipe.toml", tmp_path / "store", tmp_path / "asked.log")
    undisturbed = ordeal.finish(tmp_path / "undisturbed")
    total = len(ordeal.keys_asked())
    (tmp_path / "asked.log").unlink()
    for target in lives(20261126, total, 2):
        ordeal.live_until(lambda target=target: len(ordeal.keys_asked()) >= target)
    survivor = ordeal.finish()
    asked = ordeal.keys_asked()
    assert ordeal.kills >= 1
    assert len(set(asked)) == total == undisturbed["samples_new"]
    assert len(asked) - total <= ordeal.kills * 16
    assert survivor["version"] == undisturbed["version"]


@pytest.mark.timeout(120)
def test_a_signal_drains_keeps_every_answer_and_says_how_to_go_on(ordeal: Ordeal, tmp_path: Path):
    import signal
    import subprocess

    with subprocess.Popen(
        ordeal._command(), env=ordeal._env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as build:
        while len(ordeal.keys_asked()) < 50:
            assert build.poll() is None
            time.sleep(0.01)
        build.send_signal(signal.SIGINT)
        _, err = build.communicate(timeout=60)
    assert build.returncode == 130
    assert b"run the same command again" in err
    assert ordeal.journaled() == set(ordeal.keys_asked())  # nothing that was asked is lost
    rest = ordeal.finish()
    assert rest["samples_replayed"] == len(set(ordeal.keys_asked())) - rest["samples_new"]
    assert rest["version"] == ordeal.finish(tmp_path / "undisturbed")["version"]
    assert ordeal.left_behind() == []


VLLM = """
name = "ordeal"
[source]
path = "problems.jsonl"
[model]
name = "tiny-reasoner"
max_tokens = 200
temperature = 1.0
dtype = "float32"
[engine]
kind = "vllm"
at_once = 24
[synth]
use = "sample"
n = 4
prompt = "## Question\\n{question}\\n## Task\\nThink carefully."
"""


@pytest.mark.vllm
@pytest.mark.timeout(900)
def test_two_kills_of_a_real_engine_end_in_the_version_of_an_undisturbed_run(tmp_path: Path):
    (tmp_path / "recipe.toml").write_text(VLLM)
    rows = [
        {"id": f"p{i:02}", "question": f"Tom has {i} apples and buys {i % 7 + 2} more. How many apples does Tom have?",
         "answer": str(i + i % 7 + 2)}
        for i in range(10, 60)
    ]  # fmt: skip
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ordeal = Ordeal(tmp_path / "recipe.toml", tmp_path / "store")
    for target in (40, 100):
        assert ordeal.live_until(lambda target=target: ordeal.journal_entries() >= target, timeout=400)
        assert ordeal.left_behind() == []
    survivor = ordeal.finish()
    assert 100 <= survivor["samples_replayed"] < 200
    assert survivor["samples_replayed"] + survivor["samples_new"] == 200
    undisturbed = ordeal.finish(tmp_path / "undisturbed")
    assert survivor["version"] == undisturbed["version"]
    assert ordeal.left_behind() == []
