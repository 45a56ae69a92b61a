"""The vllm backend against a stand-in for its engine host: what becomes of requests when the engine dies, hangs or refuses.

The real engine is in test_vllm_engine.py.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracemill.schemas.errors import EngineLost, RecipeError, RequestRefused
from tracemill.schemas.recipe import ModelTable
from tracemill.schemas.request import Adapter, Completion, Model, Request, Sampling
from tracemill.synth.backends.vllm import Vllm, guard
from tracemill.synth.backends.vllm.queue import Call, Queue
from tracemill.synth.backends.vllm.wire import Ask

STAND_IN = (sys.executable, str(Path(__file__).with_name("engine_stand_in.py")))
MODEL = Model(name="toy", revision="0")
TABLE = ModelTable(name="toy", max_tokens=10)


def request(prompt: str, index: int = 0, **fields: Any) -> Request:
    return Request(model=MODEL, prompt=prompt, sampling=Sampling(), problem_id=f"p{index}", index=index, **fields)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A folder that looks like a model."""
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


@pytest.fixture
async def engine(toy: Path, tmp_path: Path) -> AsyncIterator[Callable[..., Vllm]]:
    """Makes backends on the stand-in; closes them and requires that no process is left."""
    made: list[Vllm] = []

    def make(**options: Any) -> Vllm:
        options = {"runtime": tmp_path / "engines", "stall": 20.0, "pause": 0.01, "command": STAND_IN, **options}
        made.append(Vllm(toy, model=TABLE, **options))
        return made[-1]

    yield make
    for backend in made:
        await backend.close()
    assert left_of(os.getpid()) == []
    assert list((tmp_path / "engines").glob("*.json")) == []


def left_of(owner: int) -> list[int]:
    """Living engine hosts that were started by this process."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            if STAND_IN[1].encode() in words and str(owner).encode() in words:
                found.append(int(entry.name))
    return found


async def ask_all(backend: Vllm, prompts: list[str]) -> list[Completion | BaseException]:
    calls = (backend.complete(request(prompt, index)) for index, prompt in enumerate(prompts))
    return await asyncio.gather(*calls, return_exceptions=True)


def texts(replies: list[Completion | BaseException]) -> list[str]:
    return [reply.text if isinstance(reply, Completion) else type(reply).__name__ for reply in replies]


def undisturbed(prompts: list[str]) -> list[str]:
    return [f"{prompt}|None|{request(prompt, index).rng_seed}" for index, prompt in enumerate(prompts)]


async def test_many_requests_at_once_each_get_their_own_answer(engine: Callable[..., Vllm]) -> None:
    backend = engine()
    await backend.start()
    prompts = [f"say {index}" for index in range(1000)]
    assert texts(await ask_all(backend, prompts)) == undisturbed(prompts)
    assert backend.at_once == 10, "8 seats and a quarter more"
    scores = await backend.score(request("say", prefix="one two three", kind="score"))
    assert list(scores.logprobs) == [-1.0] * 3


async def test_seed_and_prefix_go_along_and_seeds_none_sends_no_seed(engine: Callable[..., Vllm]) -> None:
    backend = engine()
    await backend.start()
    unseeded = await backend.complete(request("say", prefix="So", seeds="none"))
    assert unseeded.text == "say|So|None"


async def test_a_cancelled_request_is_aborted_in_the_engine(engine: Callable[..., Vllm]) -> None:
    backend = engine()
    await backend.start()
    waiting = asyncio.create_task(backend.complete(request("forever")))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (await backend.complete(request("aborted?"))).text == "1"


@pytest.mark.parametrize("trouble", ["die", "hang", "stop"])
async def test_a_lost_engine_is_rebuilt_and_every_answer_is_as_without(
    trouble: str, engine: Callable[..., Vllm], tmp_path: Path
) -> None:
    backend = engine(stall=0.5)
    await backend.start()
    prompts = [f"say {index}" for index in range(50)]
    prompts[20] = f"{trouble} once {tmp_path / 'marker'}"
    assert texts(await ask_all(backend, prompts)) == undisturbed(prompts)
    assert backend.facts()["rebuilds"] == 1


async def test_an_engine_that_is_slow_or_idle_does_not_count_as_hung(engine: Callable[..., Vllm]) -> None:
    backend = engine(stall=0.4)
    await backend.start()
    await backend.complete(request("last 1.5"))
    await asyncio.sleep(1)
    await backend.complete(request("say"))
    assert backend.facts()["rebuilds"] == 0


async def test_the_one_request_that_kills_the_engine_is_refused_and_the_others_are_answered(
    engine: Callable[..., Vllm],
) -> None:
    backend = engine()
    await backend.start()
    prompts = [f"say {index}" for index in range(24)]
    await ask_all(backend, prompts)  # it has worked before
    prompts[13] = "die"
    expected = undisturbed(prompts)
    expected[13] = "RequestRefused"
    assert texts(await ask_all(backend, prompts)) == expected
    assert texts(await ask_all(backend, prompts[:3])) == undisturbed(prompts[:3])


async def test_a_deadly_request_that_is_all_alone_is_refused(engine: Callable[..., Vllm]) -> None:
    backend = engine()
    await backend.start()
    with pytest.raises(RequestRefused, match="alone in the engine, ended it 3 times: the engine host"):
        await backend.complete(request("die"))


async def test_an_engine_that_never_answers_is_lost_after_three_rebuilds(engine: Callable[..., Vllm]) -> None:
    backend = engine()
    await backend.start()
    replies = await ask_all(backend, ["die"] * 12)
    assert {type(reply) for reply in replies} == {EngineLost}
    assert "in flight: p0, p1, p10, p11, p2, …" in str(replies[0])
    assert backend.facts()["rebuilds"] == 3
    with pytest.raises(EngineLost, match="again and again"):
        await backend.complete(request("say"))


async def test_what_the_engine_refuses_is_refused_and_what_it_fumbles_is_asked_again(
    engine: Callable[..., Vllm],
) -> None:
    backend = engine()
    await backend.start()
    with pytest.raises(RequestRefused, match="too long"):
        await backend.complete(request("refuse"))
    assert (await backend.complete(request("hiccup 2"))).n_tokens == 3
    with pytest.raises(RequestRefused, match="once more"):
        await backend.complete(request("hiccup 3"))


async def test_messages_adapters_and_empty_scores_are_refused(engine: Callable[..., Vllm]) -> None:
    backend = engine()
    await backend.start()
    for wrong in (
        Request(model=MODEL, prompt=({"role": "user", "content": "?"},), sampling=Sampling(), problem_id="p"),
        request("say", adapter=Adapter(name="long", revision="1")),
    ):
        with pytest.raises(RequestRefused):
            await backend.complete(wrong)
    with pytest.raises(RequestRefused, match="no prefix"):
        await backend.score(request("say", kind="score"))


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ({"unfit": "no such dtype"}, "no such dtype\n  | ValueError: the root of it all"),
        ({"crash": "all of it"}, "the engine host exited with 1|the engine host ended"),
        ({"crash": "all of it"}, r"  \| MemoryError: all of it"),
        ({"deaf": True}, "not ready within 1 s"),
    ],
)
async def test_an_engine_that_does_not_start_says_why_and_where_its_log_is(
    trouble: dict[str, Any], said: str, engine: Callable[..., Vllm], tmp_path: Path
) -> None:
    backend = engine(engine_args=trouble, start_within=1)
    with pytest.raises(RecipeError, match=said.replace("  |", r"  \|") if "\n" in said else said) as caught:
        await backend.start()
    log = str(caught.value).rpartition("Its whole log: ")[2]
    assert log in map(str, (tmp_path / "engines").glob("*.log"))


async def test_close_tells_those_who_wait_and_may_come_twice(engine: Callable[..., Vllm]) -> None:
    backend = engine(engine_args={"child": True})
    await backend.start()
    waiting = asyncio.create_task(backend.complete(request("forever")))
    await asyncio.sleep(0.05)
    await backend.close()
    await backend.close()
    with pytest.raises(EngineLost, match="closed"):
        await waiting


async def test_close_lets_the_engine_shut_down_in_order(engine: Callable[..., Vllm], tmp_path: Path) -> None:
    backend = engine()
    await backend.start()
    await backend.complete(request("say"))
    await backend.close()
    assert "goodbye" in next(tmp_path.glob("engines/*.log")).read_text()  # noqa: ASYNC240 - a moment


async def test_close_while_the_engine_is_being_rebuilt_leaves_nothing(
    engine: Callable[..., Vllm], tmp_path: Path
) -> None:
    backend = engine(engine_args={"child": True}, pause=100)
    await backend.start()
    waiting = asyncio.create_task(backend.complete(request("die")))
    while not backend.progress():  # noqa: ASYNC110 - a person looks at it just so
        await asyncio.sleep(0.01)
    await backend.close()
    with pytest.raises(EngineLost):
        await waiting


# -- nothing is left behind


BUILD = """
    import asyncio, sys
    from pathlib import Path
    from tracemill.schemas.recipe import ModelTable
    from tracemill.schemas.request import Model, Request, Sampling
    from tracemill.synth.backends.vllm import Vllm

    async def build():
        backend = Vllm(Path({toy!r}), model=ModelTable(name="toy", max_tokens=10), runtime=Path({runtime!r}),
                       engine_args={args!r}, command={command!r})
        await backend.start()
        print("started", flush=True)
        for _ in range(2):
            ask = Request(model=Model(name="toy", revision="0"), prompt="last 0.5", sampling=Sampling(), problem_id="p")
            try:
                print((await asyncio.shield(asyncio.ensure_future(backend.complete(ask)))).text, flush=True)
            except asyncio.CancelledError:
                asyncio.current_task().uncancel()
                print((await backend.complete(ask)).text, flush=True)
                break
        if {wait}:
            await asyncio.sleep(1000)
        print(backend.facts()["rebuilds"], "rebuilds")
        await backend.close()

    asyncio.run(build())
"""


@contextlib.contextmanager
def another_build(toy: Path, runtime: Path, *, wait: bool = True, starts: bool = True) -> Any:
    """A process with an engine that runs, or is starting for ever, and the record of that engine."""
    args = {"child": True} if starts else {"deaf": True}
    code = BUILD.format(toy=str(toy), runtime=str(runtime), command=STAND_IN, wait=wait, args=args)
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            assert not starts or process.stdout.readline() == "started\n"
            while not list(runtime.glob("*.json")):
                time.sleep(0.05)
            yield process, json.loads(next(runtime.glob("*.json")).read_text())
        finally:
            process.kill()


def gone(record: dict[str, Any], within: float = 20) -> bool:
    deadline = time.monotonic() + within
    while guard.session(record["pid"], record["started"]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not guard.session(record["pid"], record["started"])


def test_a_killed_build_takes_its_engine_along(toy: Path, tmp_path: Path) -> None:
    with another_build(toy, tmp_path / "engines") as (process, record):
        assert len(guard.session(record["pid"], record["started"])) == 2
        process.kill()
        assert gone(record)
        deadline = time.monotonic() + 5
        while list((tmp_path / "engines").glob("*.json")) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert list((tmp_path / "engines").glob("*.json")) == []


def test_a_build_killed_while_its_engine_starts_takes_it_along(toy: Path, tmp_path: Path) -> None:
    with another_build(toy, tmp_path / "engines", starts=False) as (process, record):
        time.sleep(1)  # it hears nothing by now, as while a model loads
        process.kill()
        assert gone(record)


@pytest.mark.parametrize("fate", [signal.SIGSTOP, signal.SIGKILL])
def test_the_next_build_ends_what_a_killed_build_and_a_lost_host_left(
    fate: signal.Signals, toy: Path, tmp_path: Path
) -> None:
    with another_build(toy, tmp_path / "engines") as (process, record):
        os.kill(record["pid"], fate)
        process.kill()
        process.wait()
        time.sleep(0.5)
        assert guard.session(record["pid"], record["started"]), "nobody was left to end it"
        assert guard.reap(tmp_path / "engines") == [record["pid"]]
        assert gone(record, within=0)
    assert guard.reap(tmp_path / "engines") == []


def test_engines_of_a_living_build_or_another_machine_are_left_alone(toy: Path, tmp_path: Path) -> None:
    with another_build(toy, tmp_path / "engines") as (_, record):
        path = tmp_path / "engines" / f"{record['pid']}.json"
        assert guard.reap(tmp_path / "engines") == []
        for change in ({"machine": "elsewhere"}, {"started": record["started"] - 1, "owner_started": 0}):
            path.write_text(json.dumps({**record, **change}))
            assert guard.reap(tmp_path / "engines") == []
            assert not gone(record, within=0)
        path.write_text(json.dumps(record))


def test_ctrl_c_at_the_terminal_does_not_reach_the_engine(toy: Path, tmp_path: Path) -> None:
    with another_build(toy, tmp_path / "engines", wait=False) as (process, record):
        os.killpg(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=20)
        assert out.startswith("last 0.5|None|"), "it was answered after the signal"
        assert out.endswith("0 rebuilds\n")
        assert gone(record)


def test_shared_memory_of_a_killed_session_is_removed(tmp_path: Path) -> None:
    code = """
        import time
        from multiprocessing.shared_memory import SharedMemory
        kept = SharedMemory(create=True, size=9)
        print(kept.name, flush=True)
        time.sleep(99)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert (guard.SHARED / name).exists()
        guard.end_session(process.pid, guard.start_time(process.pid) or 0)
    assert not (guard.SHARED / name).exists()


# -- what is wrong before anything is started


@pytest.mark.parametrize("name", ["dtype", "max_model_len", "seed", "model", "logprobs_mode", "trust_remote_code"])
def test_engine_arguments_that_change_answers_are_refused_by_name(name: str, toy: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=rf"\[engine.args\]: '{name}'"):
        Vllm(toy, model=TABLE, runtime=tmp_path, engine_args={name: 1})


@pytest.mark.parametrize(
    ("left", "said"),
    [(["config.json"], "has no weights"), (["model.safetensors"], "has no config.json"), (None, "no model at")],
)
async def test_a_folder_that_is_no_model_is_refused_before_a_process_starts(
    left: list[str] | None, said: str, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    if left is not None:
        folder.mkdir()
        (folder / left[0]).write_text("{}")
    backend = Vllm(folder, model=TABLE, runtime=tmp_path / "engines", command=STAND_IN)
    with pytest.raises(RecipeError, match=said):
        await backend.start()
    assert not list(tmp_path.glob("engines/*"))  # noqa: ASYNC240 - a moment


async def test_without_vllm_the_error_names_the_command_that_installs_it(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(RecipeError, match=r"pip install 'tracemill\[vllm\]'"):
        await Vllm(toy, model=TABLE, runtime=tmp_path).start()


# -- finding the guilty one


@given(st.integers(1, 40), st.sets(st.integers(0, 39), max_size=4))
def test_exactly_the_deadly_requests_are_convicted(size: int, deadly: set[int]) -> None:
    loop = asyncio.new_event_loop()
    try:
        queue, answered, convicted = Queue(), set(), set()
        for number in range(size):
            queue.add(Call(Ask(number, "", None, {}), "p", loop.create_future()))
        for _ in range(200):
            queue.admit()
            if not queue.inside:
                break
            if deadly & queue.inside.keys() and (call := queue.died()):
                convicted.add(call.ask.id)
            for call in list(queue.inside.values()):
                answered.add(call.ask.id)
                queue.leave(call)
        assert convicted == deadly & set(range(size))
        assert answered == set(range(size)) - deadly
        assert queue.everyone() == []
    finally:
        loop.close()
