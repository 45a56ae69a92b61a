"""LoRA adapters: held against the model they are for, and written out once for each scale.

An adapter is a PEFT folder, adapter_config.json and adapter_model.safetensors. At scale s it is the same folder with s times its
`lora_alpha` (and each entry of `alpha_pattern`): what is added to a weight is lora_alpha / r * B A, so every engine that
loads LoRA serves every scale, side by side.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.request import Adapter
from tracemill.synth.weights.tensors import TensorPlace, read_folder, read_header

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""How PEFT begins the names of tensors: the base model's own name for the module follows."""
_PART = re.compile(r"(?P<module>.+)\.lora_(?P<side>A|B)(?:\.default)?\.weight")


@dataclass(frozen=True)
class Lora:
    """One adapter at one scale, as a PEFT folder whose lora_alpha carries the scale already."""

    adapter: Adapter
    folder: Path
    rank: int = 0
    """The largest rank of its modules."""


def check_adapter(folder: Path, base: Path) -> int:
    """The largest rank of the adapter in `folder`; RecipeError where it does not belong on the model in `base`."""
    config = _config(folder)
    _refuse_other_kinds(folder, config)
    if not (folder / WEIGHTS).is_file():
        other = next((f"; {name} is a pickle, which is never loaded" for name in _pickles(folder)), "")
        raise RecipeError(f"adapter {folder} has no {WEIGHTS}{other}; save it with safe_serialization=True")
    return _check_shapes(folder, config, base)


def hash_adapter(folder: Path) -> str:
    """SHA-256 over the configuration and the weights, 16 hex digits: what proves which adapter it was."""
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        with (folder / name).open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return f"sha256:{digest.hexdigest()[:16]}"


def at_scale(folder: Path, adapter: Adapter, rank: int, runtime: Path) -> Lora:
    """The adapter of `folder` as a folder of its own below `runtime`, scaled; the weights are linked, not copied."""
    place = runtime / "adapters" / f"{adapter.revision.removeprefix('sha256:')}-{adapter.scale}"
    place.mkdir(parents=True, exist_ok=True)
    config = _config(folder)
    config["lora_alpha"] = _times(config["lora_alpha"], adapter.scale)
    if pattern := config.get("alpha_pattern"):
        config["alpha_pattern"] = {module: _times(alpha, adapter.scale) for module, alpha in pattern.items()}
    written, linked = place / f".{os.getpid()}-config", place / f".{os.getpid()}-weights"
    written.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    written.replace(place / CONFIG)
    linked.unlink(missing_ok=True)
    linked.symlink_to((folder / WEIGHTS).resolve())
    linked.replace(place / WEIGHTS)
    return Lora(adapter, place, rank)


def _times(alpha: float, scale: str) -> float:
    """Exactly scaled, and whole where it comes out whole: 32 * 0.2 is 6.4, and not 6.4000000000000004."""
    product = Fraction(str(alpha)) * Fraction(scale)
    return int(product) if product.denominator == 1 else float(product)


def _config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    if not folder.is_dir():
        raise RecipeError(
            f"no adapter folder {folder}; name a PEFT folder with {CONFIG}, a Hub id or an embedded adapter"
        )
    try:
        config = dict(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise RecipeError(f"{folder} has no {CONFIG}, so it is not a PEFT adapter") from None
    except (ValueError, TypeError, OSError) as error:
        raise RecipeError(f"{file}: not a readable JSON object: {error}") from None
    for key in ("r", "lora_alpha"):
        value = config.get(key)
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if config.get("peft_type") == "LORA" and not number:
            raise RecipeError(f"{file}: {key} is {config.get(key)!r}, not a number")
    return config


def _refuse_other_kinds(folder: Path, config: Mapping[str, Any]) -> None:
    """What a scale does not simply multiply, or what engines do not serve."""
    if (kind := config.get("peft_type")) != "LORA":
        raise RecipeError(f"adapter {folder} is of kind {kind!r}; only LoRA adapters can be scaled and served")
    if config.get("use_dora"):
        raise RecipeError(
            f"adapter {folder} is a DoRA adapter, whose effect does not grow with its scale; train plain LoRA"
        )
    if (made := config.get("init_lora_weights", True)) not in (True, False, None, "gaussian"):
        raise RecipeError(
            f"adapter {folder} was started as {made!r}, which changes the base weights too; convert it to plain LoRA first "
            "(peft: save_pretrained with path_initial_model_for_weight_conversion)"
        )
    if config.get("bias", "none") != "none":
        raise RecipeError(f"adapter {folder} trains biases (bias = {config['bias']!r}), which no scale reaches")
    if saved := config.get("modules_to_save"):
        raise RecipeError(f"adapter {folder} replaces whole modules ({', '.join(saved)}), which no scale reaches")


def _pickles(folder: Path) -> list[str]:
    return sorted(file.name for kind in ("*.bin", "*.pt") for file in folder.glob(kind))


def _check_shapes(folder: Path, config: Mapping[str, Any], base: Path) -> int:
    weights = _shapes_of(base)
    sides: dict[str, dict[str, TensorPlace]] = {}
    for place in read_header(folder / WEIGHTS):
        match = _PART.fullmatch(place.name.removeprefix(PREFIX))
        if match is None:
            raise RecipeError(f"adapter {folder}: {place.name} is neither the A nor the B of a LoRA pair")
        sides.setdefault(match["module"], {})[match["side"]] = place
    if not sides:
        raise RecipeError(f"adapter {folder} is empty: {WEIGHTS} holds no tensors")
    return max(_check_pair(folder, module, pair, weights, config, base) for module, pair in sorted(sides.items()))


def _check_pair(
    folder: Path,
    module: str,
    pair: Mapping[str, TensorPlace],
    weights: Mapping[str, tuple[int, ...]],
    config: Mapping[str, Any],
    base: Path,
) -> int:
    """The rank of one module's pair."""
    if missing := {"A", "B"} - pair.keys():
        raise RecipeError(f"adapter {folder}: {module} has no lora_{min(missing)}")
    low, high = pair["A"].shape, pair["B"].shape
    if len(low) != 2 or len(high) != 2 or low[0] != high[1]:
        raise RecipeError(f"adapter {folder}: {module} has A of {list(low)} and B of {list(high)}; their ranks differ")
    if low[0] != (rank := _rank_of(module, config)):
        raise RecipeError(
            f"adapter {folder}: {CONFIG} gives {module} rank {rank}, and its tensors are of rank {low[0]}"
        )
    if f"{module}.weight" not in weights:
        if any(name.startswith(f"{module}.") for name in weights):
            return low[0]  # packed weights of a quantised model, whose shape says nothing
        raise RecipeError(f"adapter {folder} is for another model: it changes {module}, and {base} has no such weight")
    wanted = (high[0], low[1])
    if weights[f"{module}.weight"] != wanted:
        have = list(weights[f"{module}.weight"])
        raise RecipeError(
            f"adapter {folder} is for another model: {module} is {list(wanted)} to it, and {have} in {base}"
        )
    return low[0]


def _rank_of(module: str, config: Mapping[str, Any]) -> Any:
    """`r`, or what the first entry of `rank_pattern` says whose name, a regular expression, ends the module's."""
    for name, rank in (config.get("rank_pattern") or {}).items():
        try:
            named = re.fullmatch(rf"(.*\.)?({name})", module)
        except re.error as error:
            raise RecipeError(
                f"{CONFIG}: rank_pattern names {name!r}, which is no regular expression: {error}"
            ) from None
        if named:
            return rank
    return config["r"]


def _shapes_of(base: Path) -> dict[str, tuple[int, ...]]:
    return {name: place.shape for name, place in read_folder(base).items()}
