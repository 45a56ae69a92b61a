"""Arguments and environment of the in-process vLLM engine, checked before anything is started."""

import importlib.metadata
import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import ModelTable
from tracemill.synth.weights.adapters import Lora

MODEL_KEYS = ("dtype", "quantization", "kv_cache_dtype", "max_model_len", "revision", "tokenizer")
"""Engine arguments that stand under [model] in a recipe, because they change answers."""
ELSEWHERE = {
    "model": "it is [model] name",
    "seed": "every request has a seed of its own; [model] seed changes them all",
    "trust_remote_code": "code from a model repository is not run",
    "max_num_queued_reqs": "the build bounds what is in flight: [engine] at_once",
    "max_num_queued_tokens": "the build bounds what is in flight: [engine] at_once",
    "disable_log_stats": "the build reads the engine's progress itself",
}
UNKEYED = (
    *("hf_config_path", "hf_overrides", "hf_token", "config_format", "model_impl", "runner", "convert", "task"),
    *("tokenizer_mode", "tokenizer_revision", "code_revision", "skip_tokenizer_init", "override_attention_dtype"),
    *("generation_config", "override_generation_config", "logits_processors", "logits_processor_pattern"),
    *("logprobs_mode", "max_logprobs", "rope_scaling", "rope_theta"),
)
"""Engine arguments that can change answers and have no place in a request's key."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What `max_lora_rank` may be."""
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")


def engine_args(
    path: Path | str, model: ModelTable, given: Mapping[str, Any], loras: Sequence[Lora] = ()
) -> dict[str, Any]:
    """All arguments of the engine, or RecipeError naming the one that does not belong where it stands."""
    for name in given:
        if name in MODEL_KEYS:
            raise RecipeError(f"[engine.args]: {name!r} changes answers, so it stands under [model]: {name} = …")
        if name in ELSEWHERE:
            raise RecipeError(f"[engine.args]: {name!r} cannot be given: {ELSEWHERE[name]}")
        if name in UNKEYED:
            raise RecipeError(
                f"[engine.args]: {name!r} can change answers and is part of no request's key; take it out"
            )
    # A folder is what the revision names already, and vLLM would take a weights hash for a Hub revision.
    settings = {name: getattr(model, name) for name in MODEL_KEYS if name != "revision" or not Path(path).exists()}
    said = {name: value for name, value in settings.items() if value is not None}
    return {"model": str(path), **said, **_room_for(loras), **given}


def _room_for(loras: Sequence[Lora]) -> dict[str, Any]:
    """The rank that the largest adapter needs, of those that vLLM knows."""
    if not loras:
        return {}
    rank = max(lora.rank for lora in loras)
    fitting = next((known for known in RANKS if known >= rank), None)
    if fitting is None:
        raise RecipeError(f"adapter {loras[0].adapter.name} is of rank {rank}; vLLM serves at most {RANKS[-1]}")
    return {"max_lora_rank": fitting}


def check_model(model: Path | str, given: Mapping[str, Any]) -> bool:
    """Whether the model is a folder or file here; RecipeError where it should be and is not fit to be loaded."""
    path = Path(model).expanduser()
    if not path.exists():
        if isinstance(model, Path) or path.is_absolute() or str(model).startswith(("~", ".")):
            raise RecipeError(f"no model at {path}; [model] name is a folder with config.json and weights, or a Hub id")
        return False
    if path.is_file():
        return True
    if not (path / "config.json").is_file():
        raise RecipeError(
            f"{path} is not a model: it has no config.json; give the folder that holds config.json and weights"
        )
    if given.get("load_format") != "dummy" and not any(next(path.glob(kind), None) for kind in WEIGHTS):
        raise RecipeError(f"{path} has no weights; it needs one of {', '.join(WEIGHTS)} beside config.json")
    return True


def check_installed() -> None:
    if importlib.util.find_spec("vllm") is None:
        raise RecipeError(
            "[engine] kind = 'vllm' needs the vllm package: pip install 'tracemill[vllm]' "
            "(or point kind = 'openai' at a running server)"
        )


def environment(*, local: bool) -> dict[str, str]:
    """The build's environment with what an engine host needs; what a person has set holds."""
    ours = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}
    if local:
        ours["HF_HUB_OFFLINE"] = "1"
    if _cpu_build():
        # One core stays with the host and the build; vLLM's own binding would claim them all, again for each engine.
        cores = len(os.sched_getaffinity(0))
        ours |= {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(max(1, cores - 1)),
        }
    return {**ours, **os.environ}


def _cpu_build() -> bool:
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        try:
            return "cpu" in importlib.metadata.version("vllm")
        except importlib.metadata.PackageNotFoundError:
            return False
    return True
