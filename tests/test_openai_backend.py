"""The `openai` backend against real sockets: a server on loopback that can misbehave in every way known from the field."""

import asyncio
import contextlib
import email.utils
import importlib.util
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tracemill.schemas.errors import BackendError, EngineLost, RecipeError, RequestRefused
from tracemill.schemas.request import Completion, Model, Request, Sampling
from tracemill.synth.backends.openai import OpenAI
from tracemill.synth.backends.openai.endpoint import LONGEST_REST, retry_after, server_message
from tracemill.synth.backends.openai.window import MOST, Window

sys.path.insert(0, str(Path(__file__).parent))
from loopback import FAULTS, Faults, Loopback, reply, tokens_of

MODEL = Model(name="tiny", revision="0")
CHAT = ({"role": "user", "content": "Is 4 even?"},)


def ask(prompt: Any = "Is 4 even?", index: int = 0, *, sampling: dict[str, Any] | None = None, **more: Any) -> Request:
    chosen = Sampling(**{"temperature": 1.0, "max_tokens": 8} | (sampling or {}))
    return Request(model=MODEL, prompt=prompt, sampling=chosen, problem_id="p", index=index, **more)


@contextlib.asynccontextmanager
async def talking_to(*servers: Loopback, **options: Any) -> AsyncIterator[OpenAI]:
    options = {"served_model": "tiny", "send": "text"} | options
    backend = OpenAI([server.url for server in servers], **options)
    await backend.start()
    try:
        yield backend
    finally:
        await backend.close()


async def all_of(backend: OpenAI, count: int, **more: Any) -> list[Completion]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(backend.complete(ask(index=i, **more))) for i in range(count)]
    return [task.result() for task in tasks]


async def keep_asking(backend: OpenAI) -> None:
    while True:
        await asyncio.gather(*(backend.complete(ask(index=i)) for i in range(4)))


async def until(true: Any, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - what is waited for happens in other objects
            await asyncio.sleep(0.01)


# What is sent


async def test_every_sampling_field_is_said_and_the_seed_is_the_requests_own() -> None:
    given_sampling = {"top_p": 0.9, "top_k": 20, "min_p": 0.05, "stop": ("END",), "include_stop": True}
    async with Loopback() as server, talking_to(server) as backend:
        request = ask(sampling=given_sampling)
        await backend.complete(request)
        body = server.bodies[0]
    assert body == {
        "model": "tiny", "prompt": "Is 4 even?", "n": 1, "temperature": 1.0, "max_tokens": 8, "top_p": 0.9, "top_k": 20,
        "min_p": 0.05, "stop": ["END"], "include_stop_str_in_output": True, "seed": request.rng_seed,
        "return_token_ids": True,
    }  # fmt: skip


async def test_an_unseeded_request_sends_no_seed() -> None:
    async with Loopback() as server, talking_to(server) as backend:
        await backend.complete(ask(seeds="none"))
        assert "seed" not in server.bodies[0]


async def test_chat_sends_messages_tools_template_arguments_and_a_prefix_to_continue() -> None:
    tools = '[{"function":{"name":"add"},"type":"function"}]'
    async with Loopback() as server, talking_to(server, send="chat") as backend:
        await backend.complete(ask(CHAT, prefix="Let", tools=tools, template_kwargs='{"enable_thinking":true}'))
        body = server.bodies[0]
    assert body["messages"] == [*CHAT, {"role": "assistant", "content": "Let"}]
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert body["tools"] == msgspec.json.decode(tools)
    assert body["chat_template_kwargs"] == {"enable_thinking": True}


async def test_token_ids_go_out_as_they_are_with_the_prefix_after_them() -> None:
    async with Loopback() as server, talking_to(server, send="tokens") as backend:
        await backend.complete(ask((1, 555, 225), prefix=(7, 8)))
        assert server.bodies[0]["prompt"] == [1, 555, 225, 7, 8]


async def test_a_text_rendered_by_a_chat_template_gets_no_second_beginning_of_text() -> None:
    async with Loopback() as server, talking_to(server) as backend:
        await backend.complete(replace(ask("<s>hi"), model=replace(MODEL, template="chat-0f")))
        await backend.complete(ask("hi"))
    assert [body.get("add_special_tokens", True) for body in server.bodies] == [False, True]


async def test_what_cannot_be_sent_is_refused_by_name_before_it_is_sent() -> None:
    async with Loopback() as server:
        async with talking_to(server, send="chat") as chat:
            assert "score" not in chat.capabilities
            for request, why in [(ask("text"), "rendered"), (ask(CHAT, prefix=(1,)), "token ids")]:
                with pytest.raises(RequestRefused, match=why):
                    await chat.complete(request)
            with pytest.raises(RequestRefused, match="cannot score"):
                await chat.score(ask(CHAT, prefix="x", kind="score"))
        async with talking_to(server) as text:
            assert "score" in text.capabilities
            refused = [
                (ask(CHAT), "only be sent as chat"),
                (ask("a", prefix=(1,)), "both be text"),
                (ask(""), "empty"),
                (ask(sampling={"max_tokens": None}), "max_tokens"),
                (ask(sampling={"logprobs": 21}), "at most 20"),
            ]
            for request, why in refused:
                with pytest.raises(RequestRefused, match=why):
                    await text.complete(request)
        assert server.bodies == []


async def test_a_server_that_turns_down_vllms_own_fields_is_asked_without_them() -> None:
    class Strict(Loopback):
        async def _misbehave(self, request: Any, body: dict[str, Any], fault: str) -> Any:
            from aiohttp import web

            if "return_token_ids" in body:
                said = {"error": {"message": "Unrecognized request argument supplied: return_token_ids"}}
                return web.json_response(said, status=400)
            return await super()._misbehave(request, body, fault)

    async with Strict() as server, talking_to(server) as backend:
        completions = await all_of(backend, 5)
    assert [(c.token_ids, c.n_tokens) for c in completions] == [(None, 8)] * 5


# What comes back


async def test_token_ids_are_kept_as_sampled_and_counted() -> None:
    async with Loopback() as server, talking_to(server) as backend:
        completion = await backend.complete(ask())
        sampled = tokens_of(server.bodies[0], 8)
    assert list(completion.token_ids or ()) == sampled
    assert completion.text == " ".join(map(str, sampled))
    assert (completion.n_tokens, completion.prompt_tokens, completion.finish_reason) == (8, 11, "stop")


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
@pytest.mark.parametrize(
    ("thoughts", "content", "reason", "text"),
    [
        ("\n4 = 2 * 2\n", "\n\nYes", "stop", "<think>\n4 = 2 * 2\n</think>\n\nYes"),
        ("4 = 2", None, "length", "<think>\n4 = 2"),
        (None, "Yes", "stop", "Yes"),
        ("", "Yes", "stop", "Yes"),
    ],
)
async def test_thoughts_that_the_server_took_out_stand_in_front_again(
    field: str, thoughts: str | None, content: str | None, reason: str, text: str
) -> None:
    message = {"role": "assistant", "content": content, field: thoughts}
    async with (
        Loopback(lambda body: reply(body, [1, 2], "", message=message, finish_reason=reason)) as server,
        talking_to(server, send="chat") as backend,
    ):
        assert (await backend.complete(ask(CHAT))).text == text


@pytest.mark.parametrize(("send", "prompt"), [("text", "Is 4 even?"), ("chat", CHAT)])
async def test_logprobs_are_the_sampled_tokens_and_the_k_best_alternatives(send: str, prompt: Any) -> None:
    async with Loopback() as server, talking_to(server, send=send) as backend:
        plain = await backend.complete(ask(prompt, sampling={"logprobs": 0}))
        three = await backend.complete(ask(prompt, index=1, sampling={"logprobs": 3}))
        none = await backend.complete(ask(prompt, index=2))
        assert "logprobs" not in server.bodies[2]
    assert none.scores is None
    assert plain.scores is not None
    assert plain.scores.top is None
    assert list(plain.scores.logprobs) == [-9.0] * 8
    assert three.scores is not None
    assert three.scores.top is not None
    token = three.scores.token_ids[0]
    assert three.scores.top[0] == ((token + 1, -0.5), (token + 2, -1.5), (token + 3, -2.5))


async def test_score_gives_one_logprob_for_each_token_of_the_continuation() -> None:
    async with Loopback() as server:
        async with talking_to(server, send="tokens") as backend:
            scores = await backend.score(ask((1, 50, 60), prefix=(70, 80), kind="score", sampling={"logprobs": 2}))
            assert server.bodies[-1]["prompt"] == [1, 50, 60, 70, 80]
        assert list(scores.token_ids) == [70, 80]
        assert list(scores.logprobs) == [-0.25, -0.25]
        assert scores.top == (((70, -0.25), (71, -1.25)), ((80, -0.25), (81, -1.25)))
        async with talking_to(server, send="text") as backend:
            scores = await backend.score(ask("ab", prefix="cd", kind="score"))
        assert list(scores.token_ids) == [ord("c"), ord("d")]


# Misbehaviour


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_that_passes_is_retried_and_the_answer_is_the_undisturbed_one(fault: str) -> None:
    async with Loopback() as server, talking_to(server) as backend:
        undisturbed = await all_of(backend, 1)
    async with Loopback(faults=Faults(script=[fault])) as server, talking_to(server) as backend:
        assert await all_of(backend, 1) == undisturbed
        assert server.met == {fault: 1, "ok": 1}


async def test_a_server_that_counts_nothing_is_taken_at_its_words() -> None:
    def bare(body: dict[str, Any]) -> dict[str, Any]:
        return {"choices": [{"text": "three words said", "finish_reason": "stop"}]}

    async with Loopback(bare) as server, talking_to(server) as backend:
        (completion,) = await all_of(backend, 1)
    assert (completion.n_tokens, completion.counted, completion.token_ids) == (3, "words", None)


@pytest.mark.parametrize("count", [-1, 1 << 31, 10**30, "many", True])
async def test_a_count_that_cannot_be_one_is_no_count_and_the_answer_stays_good(count: Any) -> None:
    usage = {"completion_tokens": count, "prompt_tokens": count}
    said = {"choices": [{"text": "three words said", "finish_reason": "stop"}], "usage": usage}
    async with Refusing(200, said) as server, talking_to(server) as backend:
        (completion,) = await all_of(backend, 1)
        assert len(server.bodies) == 1
    assert (completion.n_tokens, completion.counted, completion.prompt_tokens) == (3, "words", 0)


async def test_a_third_of_tries_failing_loses_nothing_and_changes_nothing() -> None:
    async with Loopback() as server, talking_to(server) as backend:
        undisturbed = await all_of(backend, 100)
    rough = [Loopback(faults=Faults(share=0.33, seed=seed)) for seed in (1, 2)]
    async with rough[0], rough[1], talking_to(*rough) as backend:
        assert await all_of(backend, 100) == undisturbed
        met = rough[0].met + rough[1].met
        assert met.total() - met["ok"] > 20
        assert len(met) > 6


@pytest.mark.parametrize("fault", ["500", "abort", "no-choices", "no-text"])
async def test_a_request_that_always_fails_is_refused_by_name_and_nothing_else_suffers(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracemill.synth.backends.openai.backend.TRIES", 3)

    class Poisonable(Loopback):
        async def _misbehave(self, request: Any, body: dict[str, Any], given: str) -> Any:
            poisonous = body["prompt"] == "poison"
            self.met["poison"] += poisonous
            return await super()._misbehave(request, body, fault if poisonous else given)

    async with Poisonable() as server, talking_to(server) as backend:
        poison = asyncio.create_task(backend.complete(ask("poison")))
        assert len(await all_of(backend, 20)) == 20
        with pytest.raises(RequestRefused, match="not answered in 3 tries") as refused:
            await poison
        assert server.met["poison"] == 3
        assert "127.0.0.1" not in str(refused.value), "an address in a rejected row would change the version id"


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_refused_request_is_never_sent_twice(status: int) -> None:
    said = {"error": {"message": "max_tokens=4000 cannot be greater than max_model_len=1024"}}
    async with Refusing(status, said) as server, talking_to(server) as backend:
        with pytest.raises(RequestRefused, match=rf"\({status}\).*max_model_len=1024"):
            await backend.complete(ask())
        assert len(server.bodies) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_server_that_turns_the_whole_run_down_stops_it_resumably(status: int) -> None:
    async with Refusing(status, {"error": "Unauthorized"}) as server, talking_to(server) as backend:
        server.willing = 1
        await backend.complete(ask())
        with pytest.raises(EngineLost, match=rf"answers {status}.*Unauthorized.*resume"):
            await backend.complete(ask(index=1))
        with pytest.raises(EngineLost):
            await backend.complete(ask(index=2))
        assert len(server.bodies) == 2


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_server_that_turns_down_the_very_first_request_is_the_recipes_fault(status: int) -> None:
    async with Refusing(status, {"error": "Unauthorized"}) as server, talking_to(server) as backend:
        with pytest.raises(RecipeError, match=rf"answers {status}.*Unauthorized.*run again$"):
            await backend.complete(ask())
        with pytest.raises(RecipeError):
            await backend.complete(ask(index=1))
        assert len(server.bodies) == 1


class Refusing(Loopback):
    def __init__(self, status: int, said: Any, headers: dict[str, str] | None = None) -> None:
        super().__init__()
        self.status, self.said, self.reply_headers = status, said, headers
        self.willing = 0
        """How many requests it answers first."""

    async def _misbehave(self, request: Any, body: dict[str, Any], fault: str) -> Any:
        from aiohttp import web

        if self.willing:
            self.willing -= 1
            return await super()._misbehave(request, body, fault)
        return web.json_response(self.said, status=self.status, headers=self.reply_headers)


async def test_retry_after_is_obeyed_by_every_request() -> None:
    class Resting(Loopback):
        def __init__(self) -> None:
            super().__init__()
            self.times: list[float] = []

        async def _misbehave(self, request: Any, body: dict[str, Any], fault: str) -> Any:
            from aiohttp import web

            self.times.append(time.monotonic())
            if len(self.times) == 1:
                return web.json_response({"error": "slow down"}, status=429, headers={"Retry-After": "1"})
            return await super()._misbehave(request, body, fault)

    async with Resting() as server, talking_to(server) as backend:
        first = asyncio.create_task(backend.complete(ask(index=99)))
        await until(lambda: backend.progress())
        assert backend.progress() == ["endpoint 1 of 1 rests for 1 s: 429: slow down"]
        await all_of(backend, 5)
        await first
    assert server.times[1] - server.times[0] >= 1.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7), ("1e9", LONGEST_REST), ("-5", 0), ("soon", 0), ("nan", 0), ("inf", LONGEST_REST), (None, 0)],
)
def test_retry_after_is_read_as_seconds_and_capped(value: str | None, seconds: float) -> None:
    assert retry_after(value) == seconds


def test_retry_after_is_read_as_a_date() -> None:
    assert 88 <= retry_after(email.utils.formatdate(time.time() + 90, usegmt=True)) <= 90


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"message": "so it is", "code": 400}}',
        b'{"error": "so it is"}',
        b'{"detail": "so it is"}',
        b"so it is",
    ],
)
def test_every_shape_of_error_is_read(body: bytes) -> None:
    assert server_message(body) == "so it is"


async def test_timeout_is_the_total_of_a_request_and_ends_hangs_and_drips() -> None:
    for fault in ("hang", "drip", "429"):
        async with Loopback(faults=Faults(always=fault)) as server, talking_to(server, timeout=0.4) as backend:
            with pytest.raises(RequestRefused, match=r"within timeout = 0\.4 s"):
                await backend.complete(ask())


async def test_no_time_limit_hides_in_the_client() -> None:
    async with Loopback() as server, talking_to(server) as backend:
        session = backend._session
        assert session is not None
        assert session.timeout.total is None
        assert session.timeout.sock_read is None


# Endpoints come and go


async def test_a_dead_endpoint_is_quarantined_its_work_done_elsewhere_and_welcomed_back() -> None:
    async with Loopback(latency=0.2) as one, Loopback(latency=0.01) as two, talking_to(one, two) as backend:
        work = asyncio.create_task(all_of(backend, 60))
        await until(lambda: one.in_flight > 5)
        await one.stop()
        assert len(await work) == 60
        await all_of(backend, 5)
        assert "endpoint 1 of 2 in quarantine: connection refused; next probe in" in backend.progress()[0]
        await one.start()
        await until(lambda: not backend.progress())
        before = len(one.bodies)
        await all_of(backend, 20)
        assert len(one.bodies) > before


async def test_the_run_is_lost_when_too_few_endpoints_are_left_for_too_long() -> None:
    async with (
        Loopback() as one,
        Loopback() as two,
        talking_to(one, two, min_endpoints=2, patience=0.5) as backend,
    ):
        await all_of(backend, 10)
        await two.stop()
        with pytest.raises(EngineLost, match=r"1 of 2 endpoints usable.*min_endpoints = 2; endpoint 2 .*refused"):
            await keep_asking(backend)


async def test_an_endpoint_that_only_ever_pushes_back_is_lost_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracemill.synth.backends.openai.pool.ONLY_PUSHBACK", 0.5)
    async with Loopback(faults=Faults(always="503")) as server, talking_to(server, patience=0.2) as backend:
        with pytest.raises(EngineLost, match=r"0 of 1 endpoints usable.*503"):
            await keep_asking(backend)


async def test_an_endpoint_that_comes_back_in_time_costs_nothing() -> None:
    async with Loopback() as server, talking_to(server, patience=30) as backend:
        await server.stop()
        work = asyncio.create_task(all_of(backend, 10))
        await until(lambda: backend.progress())
        await server.start()
        assert len(await work) == 10


async def test_a_page_of_html_for_everything_condemns_the_endpoint_not_the_requests() -> None:
    async with (
        Loopback(faults=Faults(always="html")) as gateway,
        Loopback() as good,
        talking_to(gateway, good) as backend,
    ):
        assert len(await all_of(backend, 100)) == 100
        assert "not JSON" in backend.progress()[0] or "not the reply" in backend.progress()[0]


@pytest.mark.parametrize("metrics", [True, False])
async def test_an_engine_that_hangs_behind_a_healthy_server_is_found_and_its_work_goes_elsewhere(metrics: bool) -> None:
    async with (
        Loopback(metrics=metrics) as one,
        Loopback(metrics=metrics) as two,
        talking_to(one, two, stall=0.4) as backend,
    ):
        await all_of(backend, 20)
        one.working.clear()
        assert len(await all_of(backend, 20, salt="again")) == 20
        assert "endpoint 1 of 2 in quarantine: hung: not a token for" in backend.progress()[0]
        one.working.set()
        await until(lambda: not backend.progress())


async def test_a_long_chain_lives_while_the_token_counter_moves() -> None:
    async with Loopback(latency=2.0, metrics=True) as server, talking_to(server, stall=0.4) as backend:
        work = asyncio.create_task(all_of(backend, 3))
        while not work.done():
            await asyncio.sleep(0.25)
            server.tokens_written += 1
            assert backend.progress() == []
        assert server.met == {"ok": 3}


async def test_a_long_chain_lives_while_a_server_without_counters_still_writes_a_token() -> None:
    class Slow(Loopback):
        async def _misbehave(self, request: Any, body: dict[str, Any], fault: str) -> Any:
            await asyncio.sleep(0 if body["max_tokens"] == 1 else 2.0)
            return await super()._misbehave(request, body, fault)

    async with Slow() as server, talking_to(server, stall=0.4) as backend:
        assert len(await all_of(backend, 3)) == 3
        assert sum(body["max_tokens"] == 8 for body in server.bodies) == 3, "no chain was sent twice"


async def test_a_busy_endpoint_is_not_asked_whether_it_is_alive() -> None:
    async with Loopback(latency=0.2) as server, talking_to(server, stall=0.4) as backend:
        async with asyncio.TaskGroup() as group:
            for i in range(30):  # one after the other, so that there is always one in flight
                group.create_task(backend.complete(ask(index=i)))
                await asyncio.sleep(0.05)
        assert all(body["max_tokens"] == 8 for body in server.bodies)


# Before the first token


async def test_start_names_the_url_and_says_what_to_do() -> None:
    async with Loopback(api_key="right", models=("qwen3-8b", "tiny-r")) as server:
        wrong: list[tuple[dict[str, Any], str]] = [
            ({}, r"answers 401: Unauthorized; .*api_key_env"),
            ({"api_key": "wrong", "api_key_env": "MY_KEY"}, r"401.*does not take the key in MY_KEY"),
            ({"api_key_env": "MY_KEY"}, r"MY_KEY .* is not set; export it"),
            ({"api_key": "right"}, r"does not serve 'tiny'; it serves \['qwen3-8b', 'tiny-r'\]; did you mean 'tiny-r'"),
        ]
        for options, why in wrong:
            with pytest.raises(RecipeError, match=why) as error:
                async with talking_to(server, **options):
                    pass
            assert f"127.0.0.1:{server.port}" in str(error.value)


async def test_start_waits_a_moment_for_a_server_and_then_says_that_it_is_unreachable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tracemill.synth.backends.openai.backend.START_PATIENCE", 0.3)
    server = Loopback()
    await server.start()
    await server.stop()
    with pytest.raises(RecipeError, match=r"unreachable: .*; start the server"):
        async with talking_to(server):
            pass


async def test_a_server_without_a_list_of_models_is_taken_and_called_unverified() -> None:
    async with Loopback(models=None) as server, talking_to(server) as backend:
        await backend.complete(ask())
        facts = backend.facts()
    assert facts["model_verified"] is False
    assert facts["system_fingerprints"] == ["loopback-1"]


def test_wrong_settings_are_recipe_errors() -> None:
    for urls, options, why in [
        ([], {}, "empty"),
        (["http://h/v1"], {"min_endpoints": 2}, "min_endpoints = 2"),
        (["h:8000"], {}, "no http"),
        (["http://h/v1?key=hunter22"], {}, "query"),
    ]:
        with pytest.raises(RecipeError, match=why) as error:
            OpenAI(urls, served_model="tiny", **options)
        assert "hunter22" not in str(error.value)


async def test_keys_and_passwords_are_in_no_error_fact_or_line() -> None:
    async with Refusing(400, {"error": {"message": "bad key canary-key and canary-pass"}}) as server:
        with_password = server.url.replace("http://", "http://user:canary-pass@")
        for url, key in [(server.url, "canary-key"), (with_password, None)]:
            backend = OpenAI([url], served_model="tiny", send="text", api_key=key, patience=0.1)
            await backend.start()
            seen = [str(backend.facts())]
            with pytest.raises(BackendError) as refused:
                await backend.complete(ask())
            port = server.port
            await server.stop()
            with pytest.raises(BackendError) as lost:
                await backend.complete(ask())
            seen += [*backend.progress(), str(refused.value), str(lost.value)]
            await backend.close()
            assert ("canary-key" if key else "canary-pass") not in " ".join(seen)
            server.port = port
            await server.start()
        assert server.headers[0]["Authorization"] == "Bearer canary-key"
        assert server.headers[1]["Authorization"].startswith("Basic ")


# How much at once


async def test_a_number_fixes_what_is_in_flight_at_each_endpoint() -> None:
    async with (
        Loopback(latency=0.02) as one,
        Loopback(latency=0.02) as two,
        talking_to(one, two, at_once=3) as backend,
    ):
        assert backend.at_once == 6
        await all_of(backend, 40)
    assert (one.most_in_flight, two.most_in_flight) == (3, 3)


async def test_cancelling_a_request_frees_its_slot_at_once() -> None:
    async with Loopback(faults=Faults(script=["hang"] * 2)) as server, talking_to(server, at_once=2) as backend:
        stuck = [asyncio.create_task(backend.complete(ask(index=i))) for i in range(2)]
        waits = asyncio.create_task(backend.complete(ask(index=2)))
        queued = asyncio.create_task(backend.complete(ask(index=3)))
        await until(lambda: server.in_flight == 2)
        queued.cancel()
        stuck[0].cancel()
        await waits
        stuck[1].cancel()
        await asyncio.gather(*stuck, queued, return_exceptions=True)
        await until(lambda: server.in_flight == 0)
        assert len(await all_of(backend, 10, salt="later")) == 10


async def test_a_slot_handed_to_a_request_that_is_cancelled_in_that_instant_is_not_lost() -> None:
    async with Loopback() as server, talking_to(server, at_once=1) as backend:
        pool = backend._pool
        endpoint = await pool.take()
        waits = asyncio.create_task(pool.take())
        await asyncio.sleep(0)
        pool.give(endpoint)
        waits.cancel()
        await asyncio.gather(waits, return_exceptions=True)
        assert endpoint.window.in_flight == 0


async def test_closing_ends_whatever_is_in_flight_queued_or_waiting_to_go_again() -> None:
    async with (
        Refusing(429, {"error": "later"}, {"Retry-After": "300"}) as rests,
        Loopback(latency=100) as slow,
        talking_to(rests, slow, at_once=2) as backend,
    ):
        work = [asyncio.create_task(backend.complete(ask(index=i))) for i in range(8)]
        await until(lambda: rests.bodies and slow.in_flight == 2)
        await backend.close()
        async with asyncio.timeout(5):
            results = await asyncio.gather(*work, return_exceptions=True)
    assert [type(result) for result in results] == [EngineLost] * 8


async def test_pushback_shrinks_the_window_and_everything_is_answered() -> None:
    async with Loopback(latency=0.02, capacity=8) as server, talking_to(server) as backend:
        assert len(await all_of(backend, 150)) == 150
        assert backend.at_once < 64


async def test_the_window_grows_while_nothing_waits_in_the_servers_queue() -> None:
    async with Loopback(latency=0.3, metrics=True) as server, talking_to(server, stall=0.4) as backend:
        assert backend.at_once == 64
        await all_of(backend, 600)
        assert server.most_in_flight > 64


@given(st.lists(st.tuples(st.sampled_from(["enter", "answer", "push", "gauge"]), st.integers(0, 100)), max_size=200))
def test_a_window_is_never_below_one_or_above_the_most(events: list[tuple[str, int]]) -> None:
    window, now = Window(), 0.0
    for event, amount in events:
        now += amount / 10
        if event == "enter" and not window.full:
            window.enter(now)
        elif event == "answer" and window.in_flight:
            window.leave()
            window.answered(amount, now)
        elif event == "push":
            window.pushed_back(now, now)
        elif event == "gauge":
            window.queue_seen(amount)
        assert 1 <= window.limit <= MOST
        assert window.in_flight >= 0


def test_a_burst_of_pushback_halves_a_window_once() -> None:
    window = Window()
    for _ in range(50):
        window.pushed_back(sent=1.0, now=2.0)
    assert window.limit == 32


@pytest.mark.parametrize("best", [20, 200, 1500])
def test_a_window_finds_the_knee_of_a_server_that_shows_nothing(best: int) -> None:
    """A server that answers `best` at once at full speed, and more than that no faster."""
    window, now, rng = Window(), 0.0, random.Random(0)
    for _ in range(60):
        while not window.full:
            window.enter(now)
        seconds = max(1.0, window.limit / best)
        for _ in range(window.limit):
            now += seconds / window.limit
            window.leave()
            window.answered(rng.randrange(900, 1100), now)
            window.enter(now)
    assert best / 2 < window.limit < max(3 * best, 100)


async def test_a_thousand_in_flight_are_fine() -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 3000:
        pytest.skip("needs 3,000 open files")
    async with Loopback(latency=1.0, remember=False) as server, talking_to(server, at_once=1000) as backend:
        assert len(await all_of(backend, 1000)) == 1000
        assert server.most_in_flight > 800


# A real server

TINY = Path(__file__).parent.parent / "data" / "models" / "tiny-reasoner"
QUESTION = "Is 4 even?\n## Answer\n"
QUESTION_IDS = tuple(Tokenizer.from_file(str(TINY / "tokenizer.json")).encode(QUESTION).ids)
vllm = [pytest.mark.vllm, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """URL and process group of a vLLM server on the tiny model."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vllm is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    cpu = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(TINY)]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--api-key", "canary-key"]
    command += ["--enforce-eager", "--dtype", "float32", "--no-enable-chunked-prefill"]
    command += ["--max-model-len", "1024", "--max-num-batched-tokens", "2048"]
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=output, env=os.environ | quiet | cpu, start_new_session=True
        )
    try:
        until = time.monotonic() + 240
        while not serves(port):
            assert server.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < until, log.read_text()[-3000:]
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1", server.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def serves(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@contextlib.asynccontextmanager
async def talking_to_vllm(server: tuple[str, int], **options: Any) -> AsyncIterator[OpenAI]:
    backend = OpenAI([server[0]], **{"served_model": "tiny", "api_key": "canary-key"} | options)
    await backend.start()
    try:
        yield backend
    finally:
        await backend.close()


GREEDY = {"temperature": 0.0, "max_tokens": 24}


class TestVllm:
    pytestmark = vllm

    async def test_text_and_tokens_say_the_same_and_chat_answers_with_its_token_ids(
        self, vllm_server: tuple[str, int]
    ) -> None:
        said = []
        for send, prompt in [("text", QUESTION), ("tokens", QUESTION_IDS), ("chat", CHAT)]:
            async with talking_to_vllm(vllm_server, send=send) as backend:
                said.append(await backend.complete(ask(prompt, sampling=GREEDY)))
                assert backend.facts()["server_versions"][0].startswith("vllm ")
        text, tokens, chat = said
        assert text == tokens
        assert text.prompt_tokens == len(QUESTION_IDS)
        assert all(c.token_ids is not None and len(c.token_ids) == c.n_tokens > 0 for c in said)
        assert chat.token_ids == text.token_ids, "the template adds what the text spells out"

    @pytest.mark.parametrize(("send", "prompt"), [("text", QUESTION), ("tokens", QUESTION_IDS), ("chat", CHAT)])
    async def test_a_seeded_sample_is_the_same_at_any_concurrency(
        self, vllm_server: tuple[str, int], send: str, prompt: Any
    ) -> None:
        runs = []
        for at_once in (1, 4, 16):
            async with talking_to_vllm(vllm_server, send=send, at_once=at_once) as backend:
                runs.append(await all_of(backend, 16, prompt=prompt, sampling={"max_tokens": 24}))
        assert runs[0] == runs[1] == runs[2]
        assert len({completion.text for completion in runs[0]}) > 4, "different draws have different seeds"

    async def test_scoring_a_completion_gives_the_logprobs_it_was_sampled_with(
        self, vllm_server: tuple[str, int]
    ) -> None:
        wanted = {"max_tokens": 16, "logprobs": 3}
        async with talking_to_vllm(vllm_server, send="tokens") as backend:
            drawn = await backend.complete(ask(QUESTION_IDS, sampling=wanted))
            assert drawn.token_ids is not None
            given = ask(QUESTION_IDS, prefix=tuple(drawn.token_ids), kind="score", sampling={"logprobs": 3})
            scored = await backend.score(given)
        assert drawn.scores is not None
        assert drawn.scores.top is not None
        assert scored.top is not None
        assert drawn.token_ids == drawn.scores.token_ids == scored.token_ids
        assert list(scored.logprobs) == pytest.approx(list(drawn.scores.logprobs), abs=1e-3)
        assert [[t for t, _ in at] for at in scored.top] == [[t for t, _ in at] for at in drawn.scores.top]

    async def test_scoring_text_scores_the_tokens_after_the_prompt(self, vllm_server: tuple[str, int]) -> None:
        async with talking_to_vllm(vllm_server, send="text") as backend:
            drawn = await backend.complete(ask(QUESTION, sampling=GREEDY | {"logprobs": 0}))
            scored = await backend.score(ask(QUESTION, prefix=drawn.text, kind="score"))
        assert drawn.scores is not None
        shared = min(len(scored.token_ids), len(drawn.scores.token_ids)) - 1
        assert shared > 3
        assert list(scored.logprobs[:shared]) == pytest.approx(list(drawn.scores.logprobs[:shared]), abs=1e-3)

    async def test_chat_names_the_true_best_alternatives_although_the_server_counts_the_sampled_one(
        self, vllm_server: tuple[str, int]
    ) -> None:
        async with talking_to_vllm(vllm_server, send="chat") as backend:
            two = await backend.complete(ask(CHAT, sampling={"max_tokens": 24, "logprobs": 2}, seeds="none"))
            assert two.scores is not None
            assert two.scores.top is not None
            for token, logprob, top in zip(two.scores.token_ids, two.scores.logprobs, two.scores.top, strict=True):
                assert len(top) == 2
                assert top[0][1] >= top[1][1]
                assert token in dict(top) or logprob <= top[1][1] + 1e-6

    async def test_a_forced_prefix_is_continued_and_not_repeated(self, vllm_server: tuple[str, int]) -> None:
        async with talking_to_vllm(vllm_server, send="tokens") as backend:
            whole = await backend.complete(ask(QUESTION_IDS, sampling=GREEDY))
            assert whole.token_ids is not None
            prefix = tuple(whole.token_ids[:5])
            rest = await backend.complete(ask(QUESTION_IDS, prefix=prefix, sampling=GREEDY | {"max_tokens": 19}))
        assert rest.token_ids == whole.token_ids[5:]
        async with talking_to_vllm(vllm_server, send="chat") as backend:
            assert not (await backend.complete(ask(CHAT, prefix="Step", sampling=GREEDY))).text.startswith("Step")

    async def test_stop_strings_end_the_text_with_or_without_them(self, vllm_server: tuple[str, int]) -> None:
        async with talking_to_vllm(vllm_server, send="text") as backend:
            whole = (await backend.complete(ask(QUESTION, sampling=GREEDY))).text
            stop = whole[6:9]
            cut = [
                await backend.complete(ask(QUESTION, sampling=GREEDY | {"stop": (stop,), "include_stop": included}))
                for included in (False, True)
            ]
        assert [c.text for c in cut] == [whole[: whole.index(stop)], whole[: whole.index(stop) + 3]]
        assert {c.finish_reason for c in cut} == {"stop"}

    async def test_what_the_server_turns_down_says_why(self, vllm_server: tuple[str, int]) -> None:
        async with talking_to_vllm(vllm_server, send="text") as backend:
            with pytest.raises(RequestRefused, match=r"\(400\).*max_model_len=1024"):
                await backend.complete(ask(QUESTION, sampling={"max_tokens": 4000}))
        for options, why in [
            ({"served_model": "tinny"}, "did you mean 'tiny'"),
            ({"api_key": "wrong", "api_key_env": "MY_KEY"}, "401: Unauthorized; it does not take the key in MY_KEY"),
        ]:
            with pytest.raises(RecipeError, match=why):
                async with talking_to_vllm(vllm_server, **options):
                    pass

    async def test_an_engine_stopped_in_the_middle_is_found_by_its_counter_and_welcomed_back(
        self, vllm_server: tuple[str, int]
    ) -> None:
        async with talking_to_vllm(vllm_server, send="text", stall=3.0, patience=60.0) as backend:
            work = asyncio.create_task(all_of(backend, 200, sampling={"max_tokens": 200}))
            await asyncio.sleep(0.5)
            engine = engine_core(vllm_server[1])
            os.kill(engine, signal.SIGSTOP)
            try:
                await until(lambda: backend.progress(), 20)
                assert re.search(r"hung: not a token for \d+ s", backend.progress()[0])
            finally:
                os.kill(engine, signal.SIGCONT)
            assert len(await work) == 200
            assert backend.progress() == []


def engine_core(group: int) -> int:
    """The process of a server that holds the model."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, rest = stat.read_text().split("(", 1)[1].rsplit(")", 1)
            if int(rest.split()[2]) == group and name.startswith("VLLM::Engine"):
                return int(stat.parent.name)
    raise AssertionError("no engine process in the server's group")
