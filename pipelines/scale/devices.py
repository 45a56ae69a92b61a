"""The GPUs that are here, and how many a recipe's engines take."""

import os
import re
from pathlib import Path

from tracemill.schemas.recipe import EngineTable, Recipe

PARALLEL = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


def devices() -> list[str]:
    """The GPUs of this process: those that CUDA_VISIBLE_DEVICES leaves, else all of the machine."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    found = (re.fullmatch(r"nvidia(\d+)", path.name) for path in Path("/dev").glob("nvidia*"))
    return sorted((match[1] for match in found if match), key=int)


def gpus_of(recipe: Recipe) -> int:
    """GPUs that the engines of a recipe start on; 0 where they are servers or a script."""
    engines = [recipe.engines.get(role) or recipe.engines.get("solver", EngineTable()) for role in recipe.models]
    return sum(_gpus(engine) for engine in engines)


def _gpus(engine: EngineTable) -> int:
    if engine.kind not in ("vllm", "hf"):
        return 0
    count = 1
    for name in PARALLEL if engine.kind == "vllm" else ():
        count *= int(engine.args.get(name, 1))
    return count
