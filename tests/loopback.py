"""An OpenAI-compatible server on 127.0.0.1 that answers from a function and misbehaves on demand.

    async with Loopback() as server:                      # or Loopback(faults=Faults(share=0.3, seed=1))
        backend = OpenAI([server.url], served_model="tiny", send="text")

The default answer is made from the body alone, like a seeded model's. As a script it runs in a process of its own and
prints its URL:  python tests/loopback.py --latency 0.5 --tokens 30000
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Answer = Callable[[Mapping[str, Any]], Mapping[str, Any]]
FAULTS = (
    "429", "429-after", "500", "503", "408", "reset", "truncated", "html", "no-choices", "abort", "no-text",
)  # fmt: skip
"""What passes when asked again. `hang` and `drip` end only when the client has had enough or the server is let go."""


@dataclass
class Faults:
    """Which fault a try meets: by its body and number, so a run that fails can be run again."""

    share: float = 0.0
    seed: int = 0
    kinds: Sequence[str] = FAULTS
    script: list[str] = field(default_factory=list)
    """Faults for the next tries, whoever makes them; "ok" lets one through."""
    always: str | None = None

    def next(self, body: bytes, attempt: int) -> str:
        if self.script:
            return self.script.pop(0)
        if self.always:
            return self.always
        rng = random.Random(f"{self.seed}/{hashlib.sha256(body).hexdigest()}/{attempt}")
        return rng.choice(self.kinds) if rng.random() < self.share else "ok"


def tokens_of(body: Mapping[str, Any], count: int) -> list[int]:
    """Token ids that depend on the prompt and the seed and on nothing else."""
    asked = json.dumps([body.get("prompt", body.get("messages")), body.get("seed"), body.get("temperature")])
    rng = random.Random(hashlib.sha256(asked.encode()).digest())
    return [rng.randrange(100, 30000) for _ in range(count)]


def seeded_answer(body: Mapping[str, Any]) -> dict[str, Any]:
    """A whole reply to `/completions` or `/chat/completions`, with all that was asked for."""
    ids = tokens_of(body, min(body.get("max_tokens", 16), 12))
    return reply(body, ids, " ".join(map(str, ids)))


def reply(body: Mapping[str, Any], ids: list[int], text: str, **choice: Any) -> dict[str, Any]:
    """The reply that says `text`; `choice` overrides fields of its only choice."""
    chat = "messages" in body
    said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    said |= {
        "index": 0,
        "finish_reason": "stop",
        "logprobs": logprobs(body, ids) if body.get("logprobs") is not None else None,
    }
    if body.get("return_token_ids"):
        said["token_ids"] = ids
        said["prompt_token_ids"] = prompt_ids(body)
    if body.get("prompt_logprobs") is not None:
        said["prompt_logprobs"] = prompt_logprobs(body)
    usage = {"prompt_tokens": len(prompt_ids(body)), "completion_tokens": len(ids)}
    return {"model": body["model"], "choices": [said | choice], "usage": usage, "system_fingerprint": "loopback-1"}


def logprobs(body: Mapping[str, Any], ids: list[int]) -> dict[str, Any]:
    """An unlikely token was sampled, -9; the best alternatives are the ids above it: -0.5, -1.5, and so on."""
    if "messages" in body:
        k = body.get("top_logprobs", 0)
        return {
            "content": [{"token": f"token_id:{t}", "logprob": ranked(0), "top_logprobs": chat_top(t, k)} for t in ids]
        }
    tops = [{f"token_id:{t + i}": ranked(i) for i in range(body["logprobs"] + 1)} for t in ids]
    return {"tokens": [f"token_id:{t}" for t in ids], "token_logprobs": [ranked(0)] * len(ids), "top_logprobs": tops}


def ranked(place: int) -> float:
    return 0.5 - place if place else -9.0


def chat_top(token: int, k: int) -> list[dict[str, Any]]:
    """As vLLM does it: the sampled token first, and it counts among the k."""
    return [{"token": f"token_id:{token + i}", "logprob": ranked(i)} for i in range(k)]


def prompt_ids(body: Mapping[str, Any]) -> list[int]:
    """Characters are tokens, after a beginning-of-text token."""
    prompt = body.get("prompt", "")
    return [1, *map(ord, prompt)] if isinstance(prompt, str) else list(prompt)


def prompt_logprobs(body: Mapping[str, Any]) -> list[dict[str, Any] | None]:
    ids = prompt_ids(body)
    ranked = [{str(t + i): {"logprob": -0.25 - i} for i in range(body["prompt_logprobs"] + 1)} for t in ids]
    return [None, *ranked[1:]]


class Loopback:
    """The server. Everything about it may be changed while it runs."""

    def __init__(
        self,
        answer: Answer = seeded_answer,
        *,
        latency: float = 0.0,
        faults: Faults | None = None,
        models: Sequence[str] | None = ("tiny",),
        api_key: str | None = None,
        metrics: bool = False,
        capacity: int | None = None,
        remember: bool = True,
    ) -> None:
        self.answer, self.latency, self.models, self.api_key = answer, latency, models, api_key
        self.faults = faults or Faults()
        self.metrics = metrics
        self.capacity = capacity
        """More than so many at once are pushed back with 503."""
        self.remember = remember
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.met: Counter[str] = Counter()
        self.in_flight = self.most_in_flight = 0
        self.tokens_written = 0
        self.working = asyncio.Event()
        """Cleared, nobody gets an answer any more: the engine hangs behind a healthy server."""
        self.working.set()
        self.port = 0
        self._tries: Counter[str] = Counter()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def __aenter__(self) -> "Loopback":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, on the same port again after a `stop`."""
        app = web.Application(client_max_size=2**30)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/version", self._version)
        app.router.add_get("/metrics", self._metrics)
        for path in ("/v1/completions", "/v1/chat/completions"):
            app.router.add_post(path, self._complete)
        self._also(app)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.0, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, backlog=16384, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    def _also(self, app: web.Application) -> None:
        """Room for further routes."""

    async def stop(self) -> None:
        """Die: connections break, the port refuses."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _models(self, request: web.Request) -> web.Response:
        if refused := self._unauthorized(request):
            return refused
        if self.models is None:
            return web.json_response({"detail": "Not Found"}, status=404)
        return web.json_response({"object": "list", "data": [{"id": name} for name in self.models]})

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "0.0-loopback"})

    async def _metrics(self, request: web.Request) -> web.Response:
        if not self.metrics:
            return web.json_response({"detail": "Not Found"}, status=404)
        waiting = max(0, self.in_flight - (self.capacity or 10**9))
        text = f'vllm:generation_tokens_total{{engine="0"}} {self.tokens_written}.0\n'
        return web.Response(text=text + f'vllm:num_requests_waiting{{engine="0"}} {waiting}.0\n')

    def _unauthorized(self, request: web.Request) -> web.Response | None:
        if self.api_key is None or request.headers.get("Authorization") == f"Bearer {self.api_key}":
            return None
        return web.json_response({"error": "Unauthorized"}, status=401)

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        body = json.loads(raw)
        if self.remember:
            self.bodies.append(body)
            self.headers.append(request.headers)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if refused := self._unauthorized(request):
                return refused
            if self.models is not None and body["model"] not in self.models:
                said = {"error": {"message": f"The model `{body['model']}` does not exist.", "code": 404}}
                return web.json_response(said, status=404)
            digest = hashlib.sha256(raw).hexdigest()
            self._tries[digest] += 1
            fault = self.faults.next(raw, self._tries[digest])
            self.met[fault] += 1
            return await self._misbehave(request, body, fault)
        finally:
            self.in_flight -= 1

    async def _misbehave(self, request: web.Request, body: dict[str, Any], fault: str) -> web.StreamResponse:
        if fault in ("429", "503", "500", "408") or (
            self.capacity and self.in_flight > self.capacity and not self.metrics
        ):
            status = int(fault) if fault != "ok" else 503
            return web.json_response({"error": {"message": f"told to say {status}"}}, status=status)
        if fault == "429-after":
            return web.json_response({"error": "slow down"}, status=429, headers={"Retry-After": "0.05"})
        if fault == "html":
            return web.Response(text="<html>Welcome to the gateway</html>", content_type="text/html")
        if fault == "reset":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if fault == "hang":
            await asyncio.Event().wait()
        if self.latency:
            await asyncio.sleep(self.latency)
        await self.working.wait()
        said = dict(self.answer(body))
        self.tokens_written += said.get("usage", {}).get("completion_tokens", 0)
        return await self._say(request, said, fault)

    async def _say(self, request: web.Request, said: dict[str, Any], fault: str) -> web.StreamResponse:
        if fault == "no-choices":
            said["choices"] = []
        elif fault == "abort":
            said["choices"] = [said["choices"][0] | {"finish_reason": "abort"}]
        elif fault == "no-text":
            lacking = {k: v for k, v in said["choices"][0].items() if k not in ("text", "message", "logprobs")}
            said["choices"] = [lacking]
        text = json.dumps(said).encode()
        if fault not in ("truncated", "drip"):
            return web.Response(body=text, content_type="application/json")
        stream = web.StreamResponse(headers={"Content-Length": str(len(text))})
        await stream.prepare(request)
        if fault == "drip":
            for i in range(len(text)):
                await stream.write(text[i : i + 1])
                await asyncio.sleep(0.05)
            return stream
        await stream.write(text[: len(text) // 2])
        assert request.transport is not None
        request.transport.abort()
        return stream


def long_answer(tokens: int) -> Answer:
    """The same long chain of thought to everyone, made once: what is measured is the client."""
    ids = list(range(100, 100 + tokens))
    text = " ".join(["and so on"] * (tokens // 3))

    def answer(body: Mapping[str, Any]) -> dict[str, Any]:
        return reply(body, ids, text)

    return answer


async def _serve(args: argparse.Namespace) -> None:
    whole = json.dumps(long_answer(args.tokens)({"model": "tiny", "prompt": "1", "return_token_ids": True})).encode()

    class Cheap(Loopback):
        async def _complete(self, request: web.Request) -> web.StreamResponse:
            await request.read()
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            await asyncio.sleep(args.latency)
            self.in_flight -= 1
            return web.Response(body=whole, content_type="application/json")

        async def _version(self, request: web.Request) -> web.Response:
            return web.json_response({"version": f"loopback, most in flight {self.most_in_flight}"})

    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    async with Cheap(remember=False) as server:
        print(server.url, flush=True)
        with contextlib.suppress(asyncio.CancelledError):
            await over.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="An OpenAI-compatible server that says the same to everyone.")
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--tokens", type=int, default=30000)
    sys.exit(asyncio.run(_serve(parser.parse_args())))
