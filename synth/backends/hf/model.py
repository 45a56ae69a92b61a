"""A model as transformers loads it, with its adapters as peft does: what it is, what it says of itself, and one forward pass."""

import importlib.metadata
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import ModelTable
from tracemill.schemas.request import Adapter
from tracemill.synth.backends.hf.args import DTYPES, EngineArgs
from tracemill.synth.weights.adapters import Lora

CPU_BATCH, GPU_BATCH = 32, 64
"""Rows in one forward pass unless the recipe says."""


@dataclass(frozen=True)
class Loaded:
    """A model that is ready, and what of its configuration the backend goes by."""

    model: Any
    tokenizer: Tokenizer
    names: Mapping[Adapter, str]
    """What peft calls each adapter."""
    max_len: int
    vocabulary: int
    ends: frozenset[int]
    """Tokens that end an answer."""
    repetition_penalty: float
    """Of the generation config, as vLLM takes it from there; 1 nearly always."""
    device: Any
    batch: int
    accepts: frozenset[str]
    """Optional arguments that the model's forward pass takes."""
    adapted: Any = None
    """The PeftModel around `model`, where there are adapters."""

    @property
    def on_cpu(self) -> bool:
        return bool(self.device.type == "cpu")

    @contextmanager
    def wearing(self, adapter: Adapter | None) -> Iterator[None]:
        """Run with one adapter, or with none: then peft's layers pass on exactly what the model's own say."""
        if self.adapted is None:
            yield
        elif adapter is None:
            with self.adapted.disable_adapter():
                yield
        else:
            self.adapted.set_adapter(self.names[adapter], inference_mode=True)
            yield

    def forward(self, ids: Any, mask: Any, cache: Any, *, keep: int = 1) -> Any:
        """Logits (float32) of the last `keep` of these tokens. `mask` is as long as the cache and the tokens together."""
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        optional = {"position_ids": positions, "logits_to_keep": keep, "use_cache": True}
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            **{name: value for name, value in optional.items() if name in self.accepts},
        )
        return out.logits[:, -keep:].float()

    def facts(self, table: ModelTable) -> dict[str, Any]:
        import torch

        config = self.model.config
        devices = {str(parameter.device) for parameter in self.model.parameters()}
        eager = config._attn_implementation == "eager"
        return {
            "engine": "hf",
            "package": "transformers",
            "version": importlib.metadata.version("transformers"),
            "torch": torch.__version__,
            **({"peft": importlib.metadata.version("peft")} if self.names else {}),
            "platform": self.device.type,
            "device": "cpu" if self.on_cpu else torch.cuda.get_device_name(self.device),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "quantization": table.quantization,
            "max_model_len": self.max_len,
            "attn_implementation": config._attn_implementation,
            "batch": self.batch,
            "batch_invariant": self.on_cpu and eager and self.model.dtype == torch.float32,
            "generation_defaults": {"repetition_penalty": self.repetition_penalty},
            "threads": torch.get_num_threads(),
            "gpus": sum(not name.startswith("cpu") for name in devices),
        }


def load(folder: Path, table: ModelTable, args: EngineArgs, loras: Sequence[Lora]) -> Loaded:
    """Everything that takes memory, or RecipeError saying why it cannot be had."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # what a build shows is its own panel
    device = _device(args.device)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        _check_quantization(config, table)
        spread = args.device == "auto" and device.type == "cuda"  # over all GPUs, where one is too small
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=DTYPES[table.dtype] if table.dtype == "auto" else getattr(torch, DTYPES[table.dtype]),
            attn_implementation=args.attn_implementation or ("eager" if device.type == "cpu" else None),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **({"device_map": "auto"} if spread else {}),
        )
        _check_whole(report)
        _check_cache(model)
        model = (model if spread else model.to(device)).eval()
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        adapted, names = _with_adapters(model, loras)
    except RecipeError:
        raise
    except Exception as error:  # a model is a program of somebody else's, and may fail in any way
        raise RecipeError(f"[model]: transformers cannot load {folder}: {type(error).__name__}: {error}") from error
    return Loaded(
        model=model,
        tokenizer=tokenizer,
        names=names,
        max_len=_max_len(model.config, table),
        vocabulary=model.get_input_embeddings().weight.shape[0],
        ends=_ends(model, folder, tokenizer),
        repetition_penalty=float(getattr(model.generation_config, "repetition_penalty", None) or 1.0),
        device=model.get_input_embeddings().weight.device,
        batch=args.batch or (CPU_BATCH if device.type == "cpu" else GPU_BATCH),
        accepts=frozenset(inspect.signature(model.forward).parameters),
        adapted=adapted,
    )


def _device(asked: str) -> Any:
    import torch

    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise RecipeError(f"[engine.args]: device = {asked!r} cannot be used here: {error}") from error
    return device


def _check_quantization(config: Any, table: ModelTable) -> None:
    found = getattr(config, "quantization_config", None) or {}
    method = found.get("quant_method") if isinstance(found, Mapping) else getattr(found, "quant_method", None)
    method = str(getattr(method, "value", method)) if method else None
    if table.quantization not in (None, method):
        raise RecipeError(
            f"[model] quantization = {table.quantization!r}: an hf engine runs a checkpoint as it is, and this one is "
            f"{f'quantized with {method}' if method else 'not quantized'}"
        )


def _check_whole(report: Mapping[str, Any]) -> None:
    """A weight that is not in the file would be made up at random."""
    for fault in ("missing_keys", "mismatched_keys"):
        if found := sorted(map(str, report.get(fault) or ())):
            raise RecipeError(
                f"[model]: the checkpoint is not that of a causal language model: {fault.replace('_', ' ')}: "
                f"{', '.join(found[:3])}{', …' if len(found) > 3 else ''}"
            )


def _check_cache(model: Any) -> None:
    """Rows join and leave by cutting keys and values; a model that remembers in another way cannot do that."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    if model.config.is_encoder_decoder:
        raise RecipeError("[model]: an hf engine runs decoders only, and this is an encoder with a decoder")
    layers = DynamicCache(config=model.config).layers
    odd = {type(layer).__name__ for layer in layers if not isinstance(layer, DynamicLayer)}
    odd |= {type(layer).__name__ for layer in layers if type(layer).__name__.startswith("LinearAttention")}
    if odd or getattr(model, "_is_stateful", False):
        raise RecipeError(
            f"[model]: an hf engine runs models whose memory is keys and values, and this one keeps a state "
            f"({', '.join(sorted(odd)) or type(model).__name__})"
        )


def _with_adapters(model: Any, loras: Sequence[Lora]) -> tuple[Any, Mapping[Adapter, str]]:
    if not loras:
        return None, {}
    from peft import PeftModel

    adapted, names = None, {}
    for number, lora in enumerate(loras):
        name = names[lora.adapter] = f"lora{number}"
        options = {"adapter_name": name, "is_trainable": False, "autocast_adapter_dtype": False}
        try:
            if adapted is None:
                adapted = PeftModel.from_pretrained(model, str(lora.folder), **options)
            else:
                adapted.load_adapter(str(lora.folder), **options)
        except Exception as error:
            raise RecipeError(
                f"adapter {lora.adapter.name!r} at scale {lora.adapter.scale}: peft cannot load {lora.folder}: "
                f"{type(error).__name__}: {error}"
            ) from error
    return adapted.eval() if adapted is not None else None, names


def _max_len(config: Any, table: ModelTable) -> int:
    room = getattr(config.get_text_config(), "max_position_embeddings", None)
    if table.max_model_len is None:
        return int(room or 1 << 30)
    if room is not None and table.max_model_len > room:
        raise RecipeError(f"[model] max_model_len = {table.max_model_len}: this model has room for {room} tokens")
    return table.max_model_len


def _ends(model: Any, folder: Path, tokenizer: Tokenizer) -> frozenset[int]:
    """What ends an answer: all that the generation config names, and the tokenizer's own end."""
    named = getattr(model.generation_config, "eos_token_id", None)
    ends = set(named if isinstance(named, list | tuple) else [named])
    try:
        written = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("eos_token")
    except (OSError, ValueError, AttributeError):
        written = None
    if written:
        ends.add(tokenizer.token_to_id(written["content"] if isinstance(written, dict) else written))
    return frozenset(int(end) for end in ends if end is not None)
