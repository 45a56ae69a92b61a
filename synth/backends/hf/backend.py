"""The `hf` backend: any causal language model that transformers runs, with LoRA adapters at several scales side by side.

    build ── backend.py ── calls ──▶ worker.py (a thread) ── batch.py, score.py ── model.py ── transformers, peft

For models that vLLM does not run, and for adapters where it mixes them up. Slower: see docs/operations.md.

What seeds promise: a request draws from a generator of its own, seeded by its content. On a CPU in float32 (and eager
attention, the default there) the numbers it draws from are the same bits whatever the batch size, the batch mates and
the order of arrival, so the answer is the same; other thread counts, machines or libraries may differ in the last bit. On a GPU, or in
a shorter dtype, mates can change the last bits of a logit, and now and then a draw with it; how often was not measured.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from tracemill.schemas.errors import EngineLost, RecipeError, RequestRefused
from tracemill.schemas.recipe import ModelTable
from tracemill.schemas.request import Adapter, Capability, Completion, Request, TokenScores
from tracemill.synth.backends.hf import args as hf_args
from tracemill.synth.backends.hf.model import Loaded, load
from tracemill.synth.backends.hf.row import Row, Settings
from tracemill.synth.backends.hf.score import Given
from tracemill.synth.backends.hf.worker import Call, TooLarge, Worker
from tracemill.synth.weights.adapters import Lora

MOST_LOGPROBS = 20
QUEUE = 0.25
"""With at_once = "auto", so many more requests wait as a share of the rows: none is ever empty."""


class Hf:
    """Answers requests whose prompt is text or token ids. `start` it, and `close` it in the end."""

    capabilities: frozenset[Capability] = frozenset({"complete", "prefix", "logprobs", "score", "adapter"})

    def __init__(
        self,
        model_path: Path | str,
        *,
        model: ModelTable,
        engine_args: Mapping[str, Any] | None = None,
        at_once: int | Literal["auto"] = "auto",
        loras: Sequence[Lora] = (),
    ) -> None:
        """Say what to run, or RecipeError for what this engine cannot do; nothing is loaded yet."""
        self._folder, self._table, self._given = Path(model_path), model, dict(engine_args or {})
        self._args = hf_args.engine_args(model, self._given)
        self._loras, self._at_once = tuple(loras), at_once
        self._loaded: Loaded | None = None
        self._facts: dict[str, Any] = {"engine": "hf"}
        self._worker: Worker | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: dict[asyncio.Future[Any], Call] = {}
        self._lost: str | None = None

    @property
    def at_once(self) -> int:
        if self._at_once != "auto":
            return self._at_once
        rows = self._worker.rows if self._worker else self._args.batch or 32
        return (rows + max(1, int(rows * QUEUE))) * (1 + len(self._loras))

    async def start(self) -> None:
        hf_args.check_installed(self._loras)
        hf_args.check_folders(self._folder, self._loras)
        self._loop = asyncio.get_running_loop()
        loaded, worker = await asyncio.to_thread(self._load)
        if self._lost is None:  # it was not closed meanwhile
            self._loaded, self._worker = loaded, worker
            self._facts = loaded.facts(self._table)  # they are asked for once all is closed
        else:
            await asyncio.to_thread(worker.close)

    def _load(self) -> tuple[Loaded, Worker]:
        loaded = load(self._folder, self._table, self._args, self._loras)
        worker = Worker(loaded, self._lose)
        try:
            worker.start()
        except Exception as error:
            raise RecipeError(
                f"[model]: {self._folder} loads but does not run under transformers: {type(error).__name__}: {error}"
            ) from error
        return loaded, worker

    async def complete(self, request: Request) -> Completion:
        answer = await self._ask(request, _row(request, self._ready()))
        assert isinstance(answer, Completion)  # noqa: S101 - the worker answers in kind
        return answer

    async def score(self, request: Request) -> TokenScores:
        answer = await self._ask(request, _given(request, self._ready()))
        assert isinstance(answer, TokenScores)  # noqa: S101 - the worker answers in kind
        return answer

    async def close(self) -> None:
        self._give_up("the engine is closed")
        worker, self._worker, self._loaded = self._worker, None, None
        if worker is not None:
            await asyncio.shield(asyncio.to_thread(worker.close))

    def facts(self) -> dict[str, Any]:
        return {**self._facts, "args": self._given}

    def progress(self) -> Sequence[str]:
        if self._lost is not None:
            return ["engine lost"]
        if self._worker and self._loaded and self._worker.rows < self._loaded.batch:
            return [f"memory ran out with {self._loaded.batch} rows at once; {self._worker.rows} from now on"]
        return []

    def _ready(self) -> Loaded:
        if self._lost is not None:
            raise EngineLost(self._lost)
        if self._loaded is None:
            raise EngineLost("the engine was not started")
        return self._loaded

    async def _ask(self, request: Request, task: Row | Given) -> Completion | TokenScores:
        assert self._worker is not None  # noqa: S101 - ready
        future: asyncio.Future[Completion | TokenScores] = asyncio.get_running_loop().create_future()

        def settle(found: Completion | TokenScores | Exception) -> None:
            if future.done():
                return
            if isinstance(found, TooLarge):
                future.set_exception(RequestRefused("the request does not fit in memory, even with no other beside it"))
            elif isinstance(found, Exception):
                future.set_exception(found)
            else:
                future.set_result(found)

        call = Call(self._known(request.lora), task, lambda found: self._soon(settle, found))
        self._waiting[future] = call
        self._worker.submit(call)
        try:
            return await future
        finally:
            del self._waiting[future]
            call.drop()  # where it was cancelled; else it is over already

    def _known(self, adapter: Adapter | None) -> Adapter | None:
        names = {lora.adapter for lora in self._loras}
        if adapter is not None and adapter not in names:
            loaded = ", ".join(sorted(f"{known.name} at {known.scale} ({known.revision})" for known in names)) or "none"
            raise RequestRefused(
                f"adapter {adapter.name!r} at scale {adapter.scale} ({adapter.revision}) is not loaded; loaded: {loaded}"
            )
        return adapter

    def _soon(self, call: Any, *args: Any) -> None:
        """From the worker's thread into the event loop, which may have ended."""
        assert self._loop is not None  # noqa: S101 - started
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *args)

    def _lose(self, why: str) -> None:
        self._soon(self._give_up, f"the transformers engine broke: {why}")

    def _give_up(self, why: str) -> None:
        """From now on every call, also those that wait, is told that the engine is lost."""
        self._lost = self._lost or why
        for future in self._waiting:
            if not future.done():
                future.set_exception(EngineLost(self._lost))


def _row(request: Request, loaded: Loaded) -> Row:
    sampling = request.sampling
    if sampling.max_tokens is None or sampling.max_tokens < 1:
        raise RequestRefused(
            f"max_tokens = {sampling.max_tokens}: an answer has one token at least; set it under [model]"
        )
    prompt = _joined(request, loaded)
    room = loaded.max_len - len(prompt)
    if room < 1:
        raise RequestRefused(
            f"the prompt has {len(prompt)} tokens, and the context of {loaded.max_len} has no room to answer"
        )
    temperature = 1.0 if sampling.temperature is None else sampling.temperature
    if not 0 <= temperature <= 2:
        raise RequestRefused(f"temperature = {temperature}: 0 to 2")
    return Row(
        prompt=prompt,
        settings=Settings(
            temperature=temperature,
            top_k=sampling.top_k or 0,
            top_p=1.0 if sampling.top_p is None else sampling.top_p,
            min_p=sampling.min_p or 0.0,
            repetition_penalty=loaded.repetition_penalty,
        ),
        limit=min(sampling.max_tokens, room),
        ends=loaded.ends,
        tokenizer=loaded.tokenizer,
        seed=request.rng_seed if request.seeds == "request" else None,
        logprobs=_logprobs(sampling.logprobs, loaded),
        stop=sampling.stop or (),
        include_stop=bool(sampling.stop) and sampling.include_stop,
    )


def _given(request: Request, loaded: Loaded) -> Given:
    if not request.prefix:
        raise RequestRefused("nothing to score: the request has no prefix")
    everything = _joined(request, loaded)
    tokens = _encoded(request.prefix, loaded.tokenizer, special=False)
    if len(everything) == len(tokens):
        raise RequestRefused("the prompt is empty: the first token of the prefix has nothing to be scored after")
    if len(everything) > loaded.max_len:
        raise RequestRefused(f"prompt and prefix have {len(everything)} tokens, and the context has {loaded.max_len}")
    k = _logprobs(request.sampling.logprobs, loaded) or 0
    return Given(tuple(everything[: -len(tokens)]), tuple(tokens), k)


def _joined(request: Request, loaded: Loaded) -> list[int]:
    """Prompt and prefix as token ids that the model has."""
    prompt = request.prompt
    if not isinstance(prompt, str) and any(not isinstance(token, int) for token in prompt):
        raise RequestRefused("kind = 'hf' takes text or token ids; messages are rendered before they come here")
    ids = _encoded(prompt, loaded.tokenizer, special=True)
    if request.prefix is not None:
        ids += _encoded(request.prefix, loaded.tokenizer, special=False)
    if not ids:
        raise RequestRefused("the prompt is empty; it needs at least one token")
    if strangers := [token for token in ids if not 0 <= token < loaded.vocabulary]:
        raise RequestRefused(f"token id {strangers[0]} is outside the vocabulary of {loaded.vocabulary}")
    return ids


def _encoded(text: Any, tokenizer: Tokenizer, *, special: bool) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=special).ids if isinstance(text, str) else text)


def _logprobs(k: int | None, loaded: Loaded) -> int | None:
    if k is not None and not 0 <= k <= MOST_LOGPROBS:
        raise RequestRefused(f"logprobs = {k}: at most {MOST_LOGPROBS} alternatives a position can be asked for")
    return k if k is None else min(k, loaded.vocabulary)
