"""What a recipe may say to the `hf` engine, checked before torch is imported."""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import ModelTable, suggest
from tracemill.synth.weights.adapters import Lora

DTYPES = {
    "auto": "auto",
    "float32": "float32",
    "float": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
    "half": "float16",
}
"""Names as vLLM has them, and what torch calls them; auto is what the checkpoint is in."""
ELSEWHERE = ("dtype", "quantization", "max_model_len", "revision", "tokenizer", "seed")
ALLOWED = ("device", "batch", "attn_implementation")


@dataclass(frozen=True)
class EngineArgs:
    """`[engine.args]` of an hf engine."""

    device: str = "auto"
    batch: int | None = None
    """Rows in one forward pass; None: by the device."""
    attn_implementation: str | None = None


def engine_args(model: ModelTable, given: Mapping[str, Any]) -> EngineArgs:
    """The checked arguments, or RecipeError naming what this engine cannot do."""
    for name in given:
        if name in ELSEWHERE:
            raise RecipeError(f"[engine.args]: {name!r} changes answers, so it stands under [model]: {name} = …")
        if name == "trust_remote_code":
            raise RecipeError("[engine.args]: 'trust_remote_code' cannot be given: code from a model is not run")
        if name not in ALLOWED:
            raise RecipeError(f"[engine.args]: an hf engine has no argument {name!r}{suggest(name, ALLOWED)}")
    batch = given.get("batch")
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise RecipeError(f"[engine.args]: batch = {batch!r}: write a whole number of rows, 1 or more")
    for name in ("device", "attn_implementation"):
        if name in given and not isinstance(given[name], str):
            raise RecipeError(f"[engine.args]: {name} = {given[name]!r}: write a text, such as 'cpu' or 'eager'")
    if model.dtype not in DTYPES:
        raise RecipeError(f"[model] dtype = {model.dtype!r}: an hf engine has {', '.join(DTYPES)}")
    if model.kv_cache_dtype is not None:
        raise RecipeError(
            f"[model] kv_cache_dtype = {model.kv_cache_dtype!r}: an hf engine keeps its cache in the model's dtype; leave it out"
        )
    return EngineArgs(**given)


def check_installed(loras: Sequence[Lora] = ()) -> None:
    """RecipeError with the command that installs what is missing."""
    for package in ("torch", "transformers", "accelerate", *(["peft"] if loras else [])):
        try:
            found = importlib.util.find_spec(package) is not None
        except ValueError:  # somebody put something odd, such as None, in its place
            found = False
        if not found:
            raise RecipeError(f"[engine] kind = 'hf' needs the {package} package: pip install 'tracemill[hf]'")


def check_folders(model: Path, loras: Sequence[Lora]) -> None:
    """RecipeError where a model or adapter is not there, or has its weights as pickles only."""
    if not (model / "config.json").is_file():
        raise RecipeError(f"{model} is not a model: it has no config.json; give the folder of config.json and weights")
    if not any(model.glob("*.safetensors")):
        raise RecipeError(f"{model} has no *.safetensors, and pickled weights are not read: convert them")
    if not (model / "tokenizer.json").is_file():
        raise RecipeError(f"{model} has no tokenizer.json, which an hf engine needs to write text")
    for lora in loras:
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            if not (lora.folder / name).is_file():
                raise RecipeError(
                    f"adapter {lora.adapter.name!r}: {lora.folder} has no {name}, so it is no PEFT adapter"
                )
