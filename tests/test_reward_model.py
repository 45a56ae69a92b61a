"""Reward models behind a server: the routes of vLLM, faults on the way, and what the score makes of the numbers."""

import asyncio
import contextlib
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.conftest import PROBLEMS
from tracemill.filters.reward_model import reward_model
from tracemill.pipelines.build import build
from tracemill.pipelines.store import Dataset, Store
from tracemill.schemas.errors import EngineLost, RecipeError, RequestRefused
from tracemill.schemas.recipe import Recipe, parse_recipe
from tracemill.schemas.request import Model, Request, Reward, Sampling
from tracemill.synth.backends.openai import OpenAI
from tracemill.synth.journal.codec import decode, encode
from tracemill.synth.render import Renderer

sys.path.insert(0, str(Path(__file__).parent))
from loopback import FAULTS, Faults, Loopback

Make = Callable[..., Recipe]
TURNS = ({"role": "user", "content": "Is 4 even?"},)
TRACE = {
    "id": "p/a",
    "question": "Is 4 even?",
    "messages": [{"content": "<think>x</think>4 = 2 * 2.\n\nYes."}],
    "content": "4 = 2 * 2.\n\nYes.",
}


class RewardServer(Loopback):
    """vLLM's pooling routes: the reward of a conversation is its length in characters, and a step's one over its number."""

    outputs = 1
    limit = 10**9

    def __init__(self, **options: Any) -> None:
        super().__init__(self.rewards, **options)

    def _also(self, app: web.Application) -> None:
        for path in ("/classify", "/pooling"):
            app.router.add_post(path, self._complete)

    def rewards(self, body: Mapping[str, Any]) -> dict[str, Any]:
        text = "".join(turn["content"] for turn in body["messages"]) if "messages" in body else body["input"]
        if len(text) > self.limit:
            said = f"This model's maximum context length is {self.limit} tokens, and you sent {len(text)}"
            raise web.HTTPBadRequest(text=json.dumps({"error": {"message": said}}))
        steps = range(1, text.count("<extra_0>") + 1)
        whole = {"index": 0, "label": None, "probs": [float(len(text))] * self.outputs}
        by_step = {"index": 0, "object": "pooling", "data": [[1 - 1 / n, 1 / n] for n in steps]}
        return {"data": [by_step if "task" in body else whole], "usage": {"prompt_tokens": len(text)}}

    async def _say(self, request: web.Request, said: dict[str, Any], fault: str) -> web.StreamResponse:
        lacking = {"no-choices": [], "no-text": [{"index": 0}], "abort": [{"probs": [], "data": [[]]}]}
        if fault in lacking:
            said, fault = said | {"data": lacking[fault]}, "ok"
        return await super()._say(request, said, fault)


def ask(reply: str, kind: Any = "reward") -> Request:
    model = Model(name="tiny", revision="0", template="server")
    return Request(
        model=model, prompt=TURNS, prefix=reply, sampling=Sampling(), kind=kind, problem_id="", scope="reward"
    )


@contextlib.asynccontextmanager
async def talking_to(*servers: Loopback, **options: Any) -> AsyncIterator[OpenAI]:
    backend = OpenAI([server.url for server in servers], **{"served_model": "tiny", "send": "chat"} | options)
    await backend.start()
    try:
        yield backend
    finally:
        await backend.close()


# The routes


async def test_the_whole_is_asked_of_classify_without_activation_and_steps_of_pooling():
    async with RewardServer() as server, talking_to(server) as backend:
        whole = await backend.reward(ask("Yes."))
        steps = await backend.reward(ask("a<extra_0>b<extra_0>", "step_reward"))
        first, second = server.bodies
    turns = [*TURNS, {"role": "assistant", "content": "Yes."}]
    assert first == {"model": "tiny", "use_activation": False, "messages": turns, "add_generation_prompt": False}
    assert (second["task"], second["use_activation"]) == ("token_classify", True)
    assert whole == Reward(values=((14.0,),), prompt_tokens=14)
    assert steps.values == ((0.0, 1.0), (0.5, 0.5))


async def test_a_rendered_conversation_goes_as_it_is_and_gets_no_second_beginning_of_text():
    model = Model(name="tiny", revision="0", template="chat-0f")
    rendered = Request(
        model=model, prompt="<s>Q A</s>", sampling=Sampling(), kind="reward", problem_id="", scope="reward"
    )
    async with RewardServer() as server, talking_to(server, send="text") as backend:
        await backend.reward(rendered)
        assert server.bodies == [
            {"model": "tiny", "use_activation": False, "input": "<s>Q A</s>", "add_special_tokens": False}
        ]


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_that_passes_is_asked_again(fault: str):
    async with RewardServer(faults=Faults(script=[fault, fault])) as server, talking_to(server) as backend:
        assert (await backend.reward(ask("Yes."))).values == ((14.0,),)
        assert len(server.bodies) == 3


async def test_many_rewards_come_right_from_two_servers_that_misbehave_and_one_that_dies():
    faults = [Faults(share=0.2, seed=i) for i in range(2)]
    async with (
        RewardServer(faults=faults[0]) as one,
        RewardServer(faults=faults[1]) as two,
        talking_to(one, two) as backend,
    ):
        asked = [asyncio.create_task(backend.reward(ask("x" * n))) for n in range(80)]
        await asyncio.sleep(0.2)
        await two.stop()
        found = await asyncio.gather(*asked)
    assert [reward.values for reward in found] == [((10.0 + n,),) for n in range(80)]


async def test_a_server_in_quarantine_is_asked_for_a_reward_to_prove_it_is_back():
    async with RewardServer() as server, talking_to(server, patience=30.0) as backend:
        await backend.reward(ask("a"))
        await server.stop()
        waiting = asyncio.create_task(backend.reward(ask("b")))
        await asyncio.sleep(0.3)
        await server.start()
        assert (await waiting).values == ((11.0,),)
        probes = [body for body in server.bodies if body.get("input") == "1"]
        assert probes
        assert probes[0] == {"model": "tiny", "input": "1"}


async def test_a_reply_that_is_too_long_is_a_fact_and_any_other_refusal_a_failure():
    async with RewardServer() as server, talking_to(server) as backend:
        server.limit = 20
        found = await backend.reward(ask("x" * 30))
        assert found.values == ()
        assert "maximum context length is 20" in (found.too_long or "")
        server.answer = _refuses
        with pytest.raises(RequestRefused, match="no such field"):
            await backend.reward(ask("y"))


def _refuses(body: Mapping[str, Any]) -> dict[str, Any]:
    raise web.HTTPBadRequest(text='{"error": "no such field"}')


async def test_a_server_without_a_reward_model_says_so_at_once():
    async with Loopback() as server, talking_to(server) as backend:
        with pytest.raises((RecipeError, EngineLost), match=r"404 to /classify.*--runner pooling"):
            await backend.reward(ask("Yes."))


@pytest.mark.parametrize(
    "reward",
    [
        Reward(values=((0.1, -3.5e300),), prompt_tokens=7),
        Reward(values=((0.25,), (1 / 3,))),
        Reward(too_long="30 tokens, and 20 is the most"),
    ],
)
def test_a_reward_comes_out_of_the_journal_as_it_went_in(reward: Reward):
    assert decode(encode(reward), "0" * 64) == reward


# The score


class Given:
    """An engine whose reward model gives these numbers."""

    def __init__(self, *values: tuple[float, ...], too_long: str | None = None) -> None:
        self.reward_ = Reward(values=values, too_long=too_long)
        self.asked: list[tuple[str, str]] = []

    async def reward(self, prompt: str, reply: str, **_: Any) -> Reward:
        self.asked.append((prompt, reply))
        return self.reward_


async def of(engine: Given, **options: Any) -> Mapping[str, Any]:
    return await reward_model(TRACE, engine, **options)  # type: ignore[arg-type]


async def test_the_number_of_the_model_is_the_reward():
    engine = Given((1.5,))
    assert await of(engine, show="content", prompt="Q: {question}") == {"reward": 1.5, "reward_fault": None}
    assert engine.asked == [("Q: Is 4 even?", TRACE["content"])]


@pytest.mark.parametrize(("over", "whole"), [("min", 0.5), ("product", 0.4), ("mean", 0.65), ("last", 0.5)])
async def test_steps_get_a_number_each_and_one_over_them(over: str, whole: float):
    engine = Given((0.2, 0.8), (0.5, 0.5))
    found = await of(engine, by_step=True, over=over, output=1, show="content", name="prm")
    assert found == {"prm": pytest.approx(whole), "prm_fault": None, "prm_steps": [0.8, 0.5]}
    assert engine.asked[0][1] == "4 = 2 * 2.<extra_0>Yes.<extra_0>"


async def test_what_cannot_be_told_is_null_with_the_reason():
    assert await of(Given(too_long="30 tokens")) == {"reward": None, "reward_fault": "too_long"}
    three = Given((0.1,), (0.2,), (0.3,))
    assert (await of(three, by_step=True))["reward_fault"] == "steps_differ"
    empty = TRACE | {"content": " \n\n "}
    said = await reward_model(empty, Given(), by_step=True, show="content")  # type: ignore[arg-type]
    assert said == {"reward": None, "reward_fault": "no_steps", "reward_steps": None}


async def test_a_model_of_several_outputs_needs_to_be_told_which():
    with pytest.raises(RecipeError, match="2 outputs; say which counts: output = 0 to 1"):
        await of(Given((0.1, 0.9)))
    with pytest.raises(RecipeError, match="1 outputs, and output = 1"):
        await of(Given((0.1,)), output=1)
    assert (await of(Given((0.1, 0.9)), output=1))["reward"] == 0.9


def rewarded(recipe: Make, store: Store, score: dict[str, Any], engine: dict[str, Any], **changes: Any) -> Dataset:
    models = {"solver": {"name": "scripted-solver", "max_tokens": 64}, "reward": {"name": "tiny", "max_tokens": 1}}
    table = recipe().model_dump(exclude={"models", "engines", "select", "filters", "score"}, exclude_none=True)
    engines = {"solver": {"kind": "scripted"}, "reward": engine}
    whole = {**table, "models": models, "engines": engines, "score": [score], **changes}
    return build(parse_recipe(whole), store).dataset


async def test_a_build_asks_for_each_trace_once_and_replays(recipe: Make, store: Store):
    async with RewardServer(faults=Faults(share=0.1, seed=3)) as server:
        engine = {"kind": "openai", "base_urls": [server.url], "send": "chat"}
        dataset = await asyncio.to_thread(rewarded, recipe, store, {"use": "reward_model"}, engine)
        rows = dataset.scan().collect()
        assert len(rows) == 4 * len(PROBLEMS)
        for row in rows.to_dicts():
            assert row["reward"] == len(row["question"]) + len(row["messages"][-1]["content"])
        asked = len(server.bodies)
        more = {"use": "reward_model", "name": "again"}
        again = await asyncio.to_thread(rewarded, recipe, store, more, engine)
        assert len(server.bodies) == asked, "the journal answers, whatever the column is called"
        assert again.manifest()["samples"]["new"] == 0


def test_an_engine_that_serves_no_reward_model_is_refused_before_the_first_token(recipe: Make, store: Store):
    with pytest.raises(
        RecipeError, match="reward_model needs 'reward' of the role 'reward', and an engine of kind 'hf'"
    ):
        rewarded(
            recipe,
            store,
            {"use": "reward_model"},
            {"kind": "hf"},
            models={
                "solver": {"name": "scripted-solver", "max_tokens": 64},
                "reward": {"name": "tiny-reasoner", "max_tokens": 1, "dtype": "float32"},
            },
        )


def test_a_script_replies_with_numbers(recipe: Make, store: Store, tmp_path: Path):
    (tmp_path / "replies.py").write_text(
        "def reply(request):\n    return '0.5\\n0.25' if 'step' in request.kind else '2'\n"
    )
    engine = {"kind": "scripted", "script": f"{tmp_path}/replies.py:reply"}
    rows = rewarded(recipe, store, {"use": "reward_model"}, engine).scan().collect()
    assert set(rows["reward"]) == {2.0}
    assert set(rows["reward_fault"]) == {None}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prompt": "x"}, r"lacks \{question\}"),
        ({"separator": ""}, "separator is empty"),
        ({"output": -1}, "output = -1"),
        ({"over": "max"}, "over: Input should be 'min'"),
        ({"name": ""}, "name = ''"),
        ({"role": "rewarder"}, r"add \[models.rewarder\]"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], says: str, recipe: Make, store: Store):
    with pytest.raises(RecipeError, match=says):
        rewarded(recipe, store, {"use": "reward_model", **options}, {"kind": "scripted"})


# vLLM's own server, on models that are made here: the small one's body with a head that gives numbers

TINY = Path(__file__).parents[1] / "data" / "models" / "tiny-reasoner"
STEP = ";"
STEPS = {"task": "token_classify", "tok_pooling_type": "STEP"}


def with_a_head(folder: Path, outputs: int) -> Any:
    """A classifier on the small model's body, its head drawn at random, saved in `folder`."""
    torch = pytest.importorskip("torch", reason="needs the extra: pip install 'tracemill[hf]'")
    transformers = pytest.importorskip("transformers", reason="needs the extra: pip install 'tracemill[hf]'")
    config = transformers.AutoConfig.from_pretrained(TINY, num_labels=outputs)
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(TINY, config=config, dtype=torch.float32)
    torch.nn.init.normal_(model.score.weight, std=0.1)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TINY / name, folder)
    return model.eval()


@contextlib.contextmanager
def vllm_serving(folder: Path, *options: str) -> Iterator[str]:
    """The URL of a server on `folder`, in a session of its own that ends with the test."""
    pytest.importorskip("vllm", reason="needs vLLM: make demo installs its CPU build")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    cpu = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--runner", "pooling"]
    command += ["--enforce-eager", "--dtype", "float32", "--max-model-len", "256", *options]
    log = folder / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=output, env=os.environ | quiet | cpu, start_new_session=True
        )
    try:
        until = time.monotonic() + 400
        while b"Application startup complete" not in log.read_bytes():
            assert server.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < until, log.read_text()[-3000:]
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def logits(model: Any, ids: list[int]) -> list[list[float]]:
    """What the head gives at each token, by transformers."""
    import torch

    with torch.no_grad():
        hidden = model.model(torch.tensor([ids])).last_hidden_state[0]
        return [list(map(float, row)) for row in model.score(hidden)]


def shown_to_the_model(reply: str) -> list[int]:
    renderer = Renderer.load(TINY, "tiny")
    turns = ({"role": "user", "content": "Is 4 even?"}, {"role": "assistant", "content": reply})
    return list(renderer.encode(renderer.text(turns, add_generation_prompt=False)))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(600)
async def test_vllms_server_gives_the_reward_that_transformers_gives(tmp_path: Path, recipe: Make, store: Store):
    model = with_a_head(tmp_path, 1)
    with vllm_serving(tmp_path) as url:
        backend = OpenAI([url], served_model="tiny", send="chat")
        await backend.start()
        try:
            for reply in ("4 = 2 * 2.", "No."):
                [[reward]] = (await backend.reward(ask(reply))).values
                assert reward == pytest.approx(logits(model, shown_to_the_model(reply))[-1][0], abs=1e-3)
            assert "maximum context length is 256" in str((await backend.reward(ask("3 * 8. " * 300))).too_long)
        finally:
            await backend.close()
        by_send = [
            await asyncio.to_thread(
                rewarded,
                recipe,
                store,
                {"use": "reward_model"},
                {"kind": "openai", "base_urls": [url], "send": send},
                models={
                    "solver": {"name": "scripted-solver", "max_tokens": 64},
                    "reward": {"name": "tiny", "max_tokens": 1, **({} if send == "chat" else {"tokenizer": str(TINY)})},
                },
            )
            for send in ("chat", "text", "tokens")
        ]
    found = [dataset.scan().collect().sort("id")["reward"].to_list() for dataset in by_send]
    assert len(set(found[0])) > 20
    assert found[1] == pytest.approx(found[0], abs=1e-4)
    assert found[2] == pytest.approx(found[0], abs=1e-4)


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(600)
async def test_vllms_server_gives_a_number_for_each_step(tmp_path: Path):
    model = with_a_head(tmp_path, 2)
    tag = Renderer.load(TINY, "tiny").encode(STEP)
    assert len(tag) == 1
    steps = "".join(step + STEP for step in ("3 * 8 = 24.", "24 - 16 = 8.", "The answer is 8."))
    with vllm_serving(tmp_path, "--pooler-config", json.dumps(STEPS | {"step_tag_id": tag[0]})) as url:
        backend = OpenAI([url], served_model="tiny", send="text")
        await backend.start()
        try:
            given = Request(
                model=Model(name="tiny", revision="0"),
                prompt=steps,
                sampling=Sampling(),
                kind="step_reward",
                problem_id="",
            )
            found = (await backend.reward(given)).values
        finally:
            await backend.close()
    ids = list(Renderer.load(TINY, "tiny").encode(steps, special=True))
    rows = [row for token, row in zip(ids, logits(model, ids), strict=True) if token == tag[0]]
    expected = [[1 / (1 + math.exp(b - a)), 1 / (1 + math.exp(a - b))] for a, b in rows]
    assert len(found) == 3
    assert [list(row) for row in found] == [pytest.approx(row, abs=1e-3) for row in expected]
