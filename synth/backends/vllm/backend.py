"""The `vllm` backend: an engine of our own, in a process of its own, brought back when it dies or hangs.

    build ── backend.py ── process.py ══ frames of wire.py ══ host.py ── vLLM (AsyncLLM) ── EngineCore

The build stays light and drains on Ctrl-C while the engine goes on. Whatever happens to the engine, a request is
answered, refused for a reason of its own, or the whole backend is lost: nothing is left hanging.
"""

import asyncio
import itertools
from array import array
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from tracemill.schemas.errors import EngineLost, RecipeError, RequestRefused
from tracemill.schemas.recipe import ModelTable
from tracemill.schemas.request import Adapter, Capability, Completion, Request, Sampling, TokenScores
from tracemill.synth.backends.vllm import args as vllm_args
from tracemill.synth.backends.vllm import guard
from tracemill.synth.backends.vllm.process import HOST, HostProcess, last_words
from tracemill.synth.backends.vllm.queue import Call, Queue
from tracemill.synth.backends.vllm.wire import Abort, Answer, Ask, FromHost, Hiccup, Ready, Refusal, Scores, Setup
from tracemill.synth.weights.adapters import Lora

REBUILDS = 3
"""Rebuilds in a row, without an answer in between, after which the engine is lost."""
CONVICTIONS = 8
"""Requests in a row that may be refused as deadly, without an answer in between."""
HICCUPS = 3
"""Failures of one request that the engine survives, after which it is refused."""
QUEUE = 0.25
"""With at_once = "auto", so many more requests wait inside the engine as a share of its seats: none is ever empty."""


class Vllm:
    """Answers requests whose prompt is text or token ids. `start` it, and `close` it in the end."""

    capabilities: frozenset[Capability] = frozenset({"complete", "prefix", "logprobs", "score", "adapter"})

    def __init__(
        self,
        model_path: Path | str,
        *,
        model: ModelTable,
        runtime: Path,
        engine_args: Mapping[str, Any] | None = None,
        at_once: int | Literal["auto"] = "auto",
        stall: float = 300.0,
        start_within: float = 3600.0,
        pause: float = 1.0,
        command: Sequence[str] = HOST,
        loras: Sequence[Lora] = (),
    ) -> None:
        """Say what to run, or RecipeError for an engine argument that stands in the wrong place; nothing is started yet.

        `runtime` is a folder for logs and for records of running engines: share it between the builds of a store, so that
        each reaps what a killed one left. `stall` is the number of seconds without a token from any request after which
        the engine counts as hung. `pause` is the first wait between rebuilds that fail; it grows fourfold. `command` runs
        the engine host. `loras` are the adapters at their scales that requests may ask for; all are loaded side by side.
        """
        self._args = vllm_args.engine_args(model_path, model, engine_args or {}, loras)
        self._loras = {lora.adapter: str(lora.folder) for lora in loras}
        self._runtime = runtime
        self._given, self._model_path = dict(engine_args or {}), model_path
        self._runtime, self._command = runtime, tuple(command)
        self._stall, self._start_within, self._pause = stall, start_within, pause
        self._auto = at_once == "auto"
        self.at_once = 256 if at_once == "auto" else at_once
        self._numbers = itertools.count(1)
        self._queue = Queue()
        self._host: HostProcess | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._facts: dict[str, Any] = {"engine": "vllm"}
        self._lost: str | None = None
        self._news = ""
        self._answered = 0
        self._rebuilds = 0
        self._read = {"prompt_tokens": 0, "cached_tokens": 0}

    async def start(self) -> None:
        if self._command == HOST:
            vllm_args.check_installed()
        self._local = vllm_args.check_model(self._model_path, self._given)
        self._runtime.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(guard.reap, self._runtime)
        await self._launch()
        self._keeper = asyncio.create_task(self._keep())
        self._keeper.add_done_callback(self._keeper_ended)

    async def complete(self, request: Request) -> Completion:
        reply = await self._ask(request, score=False)
        assert isinstance(reply, Answer)  # noqa: S101 - the host answers in kind
        ids = array("i", reply.token_ids)
        scores = None
        if reply.logprobs is not None:
            scores = TokenScores(token_ids=ids, logprobs=array("f", reply.logprobs), top=reply.top)
        return Completion(
            text=reply.text,
            finish_reason="stop" if reply.finish_reason == "stop" else "length",
            n_tokens=len(ids),
            prompt_tokens=reply.prompt_tokens,
            token_ids=ids,
            scores=scores,
        )

    async def score(self, request: Request) -> TokenScores:
        if not request.prefix:
            raise RequestRefused("nothing to score: the request has no prefix")
        reply = await self._ask(request, score=True)
        assert isinstance(reply, Scores)  # noqa: S101 - the host answers in kind
        return TokenScores(token_ids=array("i", reply.token_ids), logprobs=array("f", reply.logprobs), top=reply.top)

    async def close(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait((keeper,))
        self._give_up("the engine is closed")
        if self._host is not None:
            host, self._host = self._host, None
            await host.close(gently=10.0)

    def facts(self) -> dict[str, Any]:
        """What the engine says of itself; `cached_tokens` of the `prompt_tokens` read so far came out of its prefix cache."""
        return {**self._facts, "args": dict(self._given), "rebuilds": self._rebuilds, **self._read}

    def progress(self) -> Sequence[str]:
        return [self._news] if self._news else []

    async def _ask(self, request: Request, *, score: bool) -> Answer | Scores:
        if self._lost is not None:
            raise EngineLost(self._lost)
        if request.lora is not None and request.lora not in self._loras:
            raise RequestRefused(f"the engine has not loaded {request.lora}; it has: {[*self._loras] or 'no adapters'}")
        ask = _frame(next(self._numbers), request, score)
        call = Call(ask, request.problem_id, asyncio.get_running_loop().create_future())
        self._queue.add(call)
        self._admit()
        try:
            return await call.answer
        finally:
            if self._queue.leave(call) and self._host is not None:  # cancelled while the engine works on it
                self._host.send(Abort(ask.id))
                self._admit()

    def _admit(self) -> None:
        if self._host is None or self._host.ended.done():
            return
        for call in self._queue.admit():
            self._host.send(call.ask)

    def _received(self, frame: FromHost) -> None:
        assert isinstance(frame, Answer | Scores | Refusal | Hiccup)  # noqa: S101 - HostProcess keeps the others
        call = self._queue.inside.get(frame.id)
        if call is None or call.answer.done():
            return  # cancelled while the answer was on its way
        if isinstance(frame, Hiccup) and call.hiccups + 1 < HICCUPS:
            call.hiccups += 1
            assert self._host is not None  # noqa: S101 - it has just spoken
            self._host.send(call.ask)
            return
        self._queue.leave(call)
        if isinstance(frame, Refusal | Hiccup):
            call.answer.set_exception(RequestRefused(f"vLLM will not answer this request: {frame.message}"))
        else:
            self._answered += 1
            if isinstance(frame, Answer):
                self._read["prompt_tokens"] += frame.prompt_tokens
                self._read["cached_tokens"] += frame.cached_tokens
            call.answer.set_result(frame)
        self._admit()

    async def _launch(self) -> None:
        host = HostProcess(
            self._command,
            runtime=self._runtime,
            environment=vllm_args.environment(local=self._local),
            stall=self._stall,
            received=self._received,
            load=self._queue.longest,
        )
        try:
            ready = await host.start(Setup(self._args, self._named_loras()), self._start_within)
        except BaseException:
            await host.close()
            raise
        self._host = host
        self._ready(ready)

    def _named_loras(self) -> list[tuple[str, str]]:
        """The adapters as the host wants them: at scale 0 first, which stands in for the model where that is needed."""
        named = sorted((adapter.scale != "0", _lora_name(adapter), folder) for adapter, folder in self._loras.items())
        return [(name, folder) for _, name, folder in named]

    def _ready(self, ready: Ready) -> None:
        self._facts = ready.facts
        if self._auto:
            self.at_once = ready.seats + max(1, int(ready.seats * QUEUE))
        self._news = ""
        self._admit()

    async def _keep(self) -> None:
        """Bring the engine back for as long as that gets anywhere."""
        barren = convictions = 0
        while self._host is not None:
            host, before = self._host, self._answered
            why = await asyncio.shield(host.ended)  # close() cancels this task, and then still listens for the end
            self._host = None
            await host.close()
            convicted = self._queue.died()
            if self._answered > before:
                barren = convictions = 0
            if convicted is not None:
                convictions += 1
                _refuse(convicted, f"this request, alone in the engine, ended it {convicted.alone} times: {why}")
            elif not (self._queue.isolating and self._answered):  # narrowing down who is to blame is progress, too
                barren += 1
            if barren > REBUILDS or convictions >= CONVICTIONS:
                self._give_up(self._verdict(why, host))
            else:
                await self._rebuild(why, barren)

    async def _rebuild(self, why: str, barren: int) -> None:
        while True:
            self._rebuilds += 1
            among = f"; looking for the request that ends it among {n}" if (n := self._queue.isolating) else ""
            self._news = f"engine lost ({why}), being rebuilt{among}"
            await asyncio.sleep(self._pause * 4 ** (barren - 2) if barren > 1 else 0)
            try:
                return await self._launch()
            except RecipeError as error:  # it has started before, so this may pass: a device not free yet
                why, barren = str(error), barren + 1
            if barren > REBUILDS:
                return self._give_up(why)

    def _verdict(self, why: str, host: HostProcess) -> str:
        problems = sorted({call.problem_id for call in self._queue.everyone()})
        shown = ", ".join(problems[:5]) + (", …" if len(problems) > 5 else "")
        return (
            f"the vLLM engine died again and again without answering: {why}; in flight: {shown}\n"
            f"{last_words(host.log)}\nIts whole log: {host.log}"
        )

    def _keeper_ended(self, keeper: "asyncio.Task[None]") -> None:
        if not keeper.cancelled() and (bug := keeper.exception()) is not None:
            self._give_up(f"tracemill failed to rebuild the engine: {type(bug).__name__}: {bug}")

    def _give_up(self, why: str) -> None:
        """From now on every call, also those that wait, is told that the engine is lost."""
        self._lost = self._lost or why
        self._news = "engine lost"
        for call in self._queue.everyone():
            if not call.answer.done():
                call.answer.set_exception(EngineLost(self._lost))


def _refuse(call: Call, why: str) -> None:
    if not call.answer.done():
        call.answer.set_exception(RequestRefused(why))


def _lora_name(adapter: Adapter) -> str:
    return f"{adapter.name}@{adapter.scale}"


def _frame(number: int, request: Request, score: bool) -> Ask:
    prompt = request.prompt
    if not isinstance(prompt, str) and any(not isinstance(token, int) for token in prompt[:1]):
        raise RequestRefused("kind = 'vllm' takes text or token ids; messages are rendered before they come here")
    params = dict(_params(request.sampling))
    if request.seeds == "request":
        params["seed"] = request.rng_seed
    prefix = None if request.prefix is None else _plain(request.prefix)
    lora = None if request.lora is None else _lora_name(request.lora)
    return Ask(number, _plain(prompt), prefix, params, score, lora)


def _plain(text: Any) -> str | list[int]:
    return text if isinstance(text, str) else list(text)


@lru_cache(maxsize=256)
def _params(sampling: Sampling) -> Mapping[str, Any]:
    """In vLLM's words, and only what was said: the model's generation config fills in the rest."""
    said = {
        name: getattr(sampling, name) for name in ("temperature", "top_p", "top_k", "min_p", "max_tokens", "logprobs")
    }
    params = {name: value for name, value in said.items() if value is not None}
    if sampling.stop:
        params |= {"stop": list(sampling.stop), "include_stop_str_in_output": sampling.include_stop}
    return params
