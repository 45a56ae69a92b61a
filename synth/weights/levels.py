"""From the `Levels` that a method asks for to what can be asked: adapters at scales, merged models, or served names.

Everything that a recipe can get wrong about them is found here, before the first token.
"""

import asyncio
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.levels import Levels
from tracemill.schemas.recipe import EngineTable, ModelTable
from tracemill.schemas.request import Adapter, Backend, Capability, Completion, Request, TokenScores
from tracemill.synth.weights.adapters import Lora, at_scale, check_adapter, hash_adapter
from tracemill.synth.weights.merge import Line, check_tokenizers, merge

UNPROVEN = "unverified"


@dataclass(frozen=True)
class Level:
    """One point on the line. Merged weights bring a backend of their own; all others share their role's."""

    adapter: Adapter
    backend: Backend | None = None


@dataclass(frozen=True)
class Found:
    """What `levels` come to before any backend is made."""

    adapters: tuple[Adapter, ...]
    loras: tuple[Lora, ...] = ()
    line: Line | None = None
    """The models to merge."""


Locate = Callable[[str, str], Path]
"""From the key of a recipe that names a model or an adapter, and the name, to its folder."""
Prove = Callable[[Path], str]
"""From a model's folder to what proves which model it is."""


def find_levels(
    levels: Levels,
    model: ModelTable,
    engine: EngineTable,
    base: Path | None,
    runtime: Path,
    locate: Locate,
    prove: Prove,
) -> Found:
    """Resolve `levels` for the engine that is to serve them; `base` is the folder of the role's own model."""
    if engine.kind == "openai":
        return Found(_served(levels, model))
    if levels.served:
        raise RecipeError(
            f"synth.served means nothing to an engine of kind {engine.kind!r}: it loads the levels itself"
        )
    _one_direction(levels)
    if engine.kind == "scripted":
        name = levels.adapter or f"{levels.start or model.name}..{levels.end}"
        return Found(
            tuple(Adapter(name=Path(name).name, revision=UNPROVEN, scale=s, kind="served") for s in levels.scales)
        )
    if base is None:
        raise RecipeError(f"models.{levels.role}.name: {model.name!r} has no files here to move along a direction")
    if levels.adapter is not None:
        return _adapted(levels, levels.adapter, base, runtime, locate)
    assert levels.end is not None  # noqa: S101 - one of the two directions is given
    return _merged(levels, levels.end, base, locate, prove)


def _one_direction(levels: Levels) -> None:
    for key in ("adapter", "start", "end"):
        if getattr(levels, key) == "":
            raise RecipeError(f"synth.{key} is empty; name a folder, a Hub id or one that ships, or take it out")
    if levels.adapter is not None and (levels.start or levels.end):
        raise RecipeError(
            "synth.adapter and synth.start, synth.end are two ways to give a direction; give one: adapter = '...' for a LoRA "
            "adapter, start and end for the weights between two models"
        )
    if levels.adapter is None and levels.end is None:
        raise RecipeError(
            "the direction is missing; give synth.adapter = 'folder or Hub id' (LoRA), or synth.start and synth.end (two models), "
            'or let a server serve the levels: engine.kind = \'openai\' and synth.served = {"0.2" = "name"}'
        )


def _served(levels: Levels, model: ModelTable) -> tuple[Adapter, ...]:
    for key in ("adapter", "start", "end"):
        if getattr(levels, key) is not None:
            raise RecipeError(
                f"synth.{key}: an openai engine is asked for levels that its server has loaded; take {key} out and name them under "
                f'synth.served = {{"{levels.scales[0]}" = "name"}}; the default is {model.name}-alpha{levels.scales[0]}'
            )
    if strays := sorted(levels.served.keys() - set(levels.scales)):
        raise RecipeError(f"synth.served names {strays[0]!r}, which is none of the levels {', '.join(levels.scales)}")
    names = {scale: levels.served.get(scale, f"{model.name}-alpha{scale}") for scale in levels.scales}
    for scale, name in names.items():
        if (twin := next((s for s, other in names.items() if other == name and s != scale), None)) is not None:
            raise RecipeError(
                f"synth.served: {scale} and {twin} are both {name!r}; each level is a served model of its own"
            )
    revision = model.revision or UNPROVEN
    return tuple(Adapter(name=name, revision=revision, scale=s, kind="served") for s, name in names.items())


def _adapted(levels: Levels, name: str, base: Path, runtime: Path, locate: Locate) -> Found:
    folder = locate("synth.adapter", name)
    rank = check_adapter(folder, base)
    revision = hash_adapter(folder)
    shown = folder.name if Path(name).name == folder.name else name
    adapters = tuple(Adapter(name=shown, revision=revision, scale=scale) for scale in levels.scales)
    return Found(adapters, tuple(at_scale(folder, adapter, rank, runtime) for adapter in _with_zero(adapters)))


def _with_zero(adapters: tuple[Adapter, ...]) -> tuple[Adapter, ...]:
    """One that has no effect is always loaded too: vLLM on CPUs needs it in the place of the model itself."""
    zero = replace(adapters[0], scale="0")
    return adapters if zero in adapters else (zero, *adapters)


def _merged(levels: Levels, end: str, base: Path, locate: Locate, prove: Prove) -> Found:
    first, second = locate("synth.start", levels.start or str(base)), locate("synth.end", end)
    before, after = prove(first), prove(second)
    if before == after:
        raise RecipeError(f"synth.start and synth.end are one model, {end}: there is no direction between them")
    line = Line(first, second)
    line.check()
    if first != base:
        check_tokenizers(base, first)  # prompts are rendered with the tokenizer of [model]
    name = f"{Path(levels.start or base.name).name}..{Path(end).name}"
    revision = f"{before}..{after}"
    return Found(tuple(Adapter(name=name, revision=revision, scale=s, kind="merged") for s in levels.scales), line=line)


class Merged:
    """A backend on merged weights: made when it starts, on the disk for as long as it runs."""

    def __init__(self, line: Line, alpha: str, folder: Path, open_backend: Callable[[Path], Backend]) -> None:
        self._line, self._alpha, self._folder = line, alpha, folder
        self._inner = open_backend(folder)
        self._stop = threading.Event()
        self._merging: asyncio.Future[None] | None = None
        self.capabilities: frozenset[Capability] = self._inner.capabilities

    @property
    def at_once(self) -> int:
        return self._inner.at_once

    async def start(self) -> None:
        self._merging = asyncio.ensure_future(asyncio.to_thread(self._make))
        await asyncio.shield(self._merging)
        await self._inner.start()

    async def complete(self, request: Request) -> Completion:
        return await self._inner.complete(request)

    async def score(self, request: Request) -> TokenScores:
        return await self._inner.score(request)

    async def close(self) -> None:
        self._stop.set()
        if self._merging is not None:
            await asyncio.wait((self._merging,))
        await self._inner.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def facts(self) -> dict[str, Any]:
        return self._inner.facts()

    def progress(self) -> Sequence[str]:
        return self._inner.progress()

    def _make(self) -> None:
        _sweep(self._folder.parent)
        if not self._folder.is_dir():
            merge(self._line, self._alpha, self._folder, self._stop.is_set)


def merged_folder(runtime: Path, adapter: Adapter) -> Path:
    """Where the weights of a level lie while this process runs."""
    digest = adapter.revision.replace("sha256:", "").replace("..", "-")
    return runtime / "merged" / f"{os.getpid()}-{digest}-{adapter.scale}"


def _sweep(folder: Path) -> None:
    """Remove what builds left that were killed: each folder begins with the process that made it."""
    for left in folder.glob("*"):
        owner = left.name.lstrip(".").partition("-")[0]
        if not Path("/proc", owner).exists():
            shutil.rmtree(left, ignore_errors=True)
