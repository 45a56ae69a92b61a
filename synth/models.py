"""From a recipe's `[model]` and `[engine]` to a role: the model's files are found and hashed, the tokenizer is read.

Nothing is started here; whatever is wrong is a RecipeError before the first token.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.levels import Levels
from tracemill.schemas.own import function_of, load_file
from tracemill.schemas.recipe import EngineTable, ModelTable, suggest
from tracemill.schemas.request import Backend, Model, Sampling
from tracemill.synth.backends.scripted import Reply, Scripted, guess
from tracemill.synth.fit import check_arguments_without_template, check_fit
from tracemill.synth.render import Renderer
from tracemill.synth.roles import THINK, Role
from tracemill.synth.weights.adapters import Lora
from tracemill.synth.weights.levels import Found, Level, Merged, find_levels, merged_folder

EMBEDDED = Path(__file__).resolve().parent.parent / "data" / "models"
"""The models that ship with tracemill."""

NEUTRAL = Sampling(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, stop=())
"""How to draw where neither the recipe nor a generation config says."""

TOKENIZER_FILES = ["*.json", "*.jinja"]

ENGINE_KEYS = {
    "vllm": {"kind", "at_once", "stall", "args"},
    "openai": {"kind", "at_once", "stall", "base_urls", "api_key_env", "min_endpoints", "send", "timeout"},
    "hf": {"kind", "at_once", "args"},
    "scripted": {"kind", "at_once", "script", "args"},
}
OF_ANY_ENGINE = {"segments", "ship_every"}
"""What means something to each kind of engine; anything else would be accepted and ignored."""

IN_PROCESS = ("vllm", "hf")
"""Engines of our own: they load the weights from a folder here, so the revision can be proven."""


def open_role(
    name: str,
    model: ModelTable,
    engine: EngineTable,
    *,
    runtime: Path,
    reply: Reply | None = None,
    levels: Levels | None = None,
) -> Role:
    """Resolve one role without starting anything; whatever is wrong is a RecipeError that names `models.<name>`.

    `runtime` is the folder where a running engine leaves its record; `reply` answers in place of a script; `levels` are the
    other weights that the method asks this role for.
    """
    _check_engine_keys(name, model, engine)
    folder, revision = _find(name, model, engine, runtime)
    renderer = _renderer(name, model, engine, folder)
    send = {"vllm": "tokens", "hf": "tokens", "scripted": "text", "openai": engine.send}[engine.kind]
    notes = _check_rendering(f"models.{name}", model, send, renderer)
    found = Found(())
    if levels is not None:
        found = find_levels(
            levels, model, engine, folder, runtime, locate, partial(hash_folder, known=runtime / "weights.hashes")
        )
    opened = _Opened(name, model, engine, runtime, reply)
    return Role(
        name=name,
        model=Model(
            name=Path(model.name).name if _is_path(model.name) else model.name,
            revision=revision,
            dtype=model.dtype,
            quantization=model.quantization,
            kv_cache_dtype=model.kv_cache_dtype,
            max_model_len=model.max_model_len,
            template="server" if send == "chat" else renderer.identity if renderer else "plain-1",
        ),
        backend=opened.backend(folder, found),
        renderer=renderer,
        defaults=_drawing(model, renderer),
        send=send,
        tokenizer=renderer.name if renderer else model.name if engine.kind == "openai" else "words",
        only_ids=engine.kind == "openai" and send == "tokens",
        system=model.system,
        template_kwargs=model.chat_template_kwargs,
        think=model.think or THINK,
        run_seed=model.seed,
        seeds=model.seeds,
        notes=notes,
        levels=opened.levels(found),
    )


def _check_rendering(where: str, model: ModelTable, send: str, renderer: Renderer | None) -> tuple[str, ...]:
    """Whether prompts can be made as the recipe says; what a person should know about it all the same."""
    if send == "tokens" and renderer is None:
        raise RecipeError(f"{where}: send = 'tokens' renders here; name a folder or Hub id: tokenizer = '...'")
    if model.template is not None and send == "chat":
        raise RecipeError(f"{where}: with send = 'chat' the server renders; set engine.send = 'tokens' to use template")
    if renderer is not None:
        kwargs = model.chat_template_kwargs
        return check_fit(where, renderer, system=model.system, kwargs=kwargs, renders=send != "chat")
    if send != "chat":
        check_arguments_without_template(where, model.chat_template_kwargs)
    return ()


@dataclass(frozen=True)
class _Opened:
    """What a backend of this role is made of, whatever weights it runs on."""

    name: str
    model: ModelTable
    engine: EngineTable
    runtime: Path
    reply: Reply | None

    def backend(self, folder: Path | None, found: Found) -> Backend:
        return _backend(self.name, self.model, self.engine, folder, self.runtime, self.reply, found)

    def levels(self, found: Found) -> dict[str, Level]:
        """The levels by scale; merged weights each with a backend that makes them when it starts."""
        if found.line is None:
            return {adapter.scale: Level(adapter) for adapter in found.adapters}
        mixed = replace(
            self, model=self.model.model_copy(update={"revision": None})
        )  # it names the model's own weights
        places = {adapter: merged_folder(self.runtime, adapter) for adapter in found.adapters}
        return {
            adapter.scale: Level(
                adapter, Merged(found.line, adapter.scale, place, lambda made: mixed.backend(made, Found(())))
            )
            for adapter, place in places.items()
        }


def _check_engine_keys(name: str, model: ModelTable, engine: EngineTable) -> None:
    keys = ENGINE_KEYS[engine.kind] | OF_ANY_ENGINE
    if "ship_every" in engine.model_fields_set and engine.segments is None:
        raise RecipeError(f"engines.{name}: ship_every means nothing without segments: say where they go")
    for stray in sorted(engine.model_fields_set - keys):
        known = ", ".join(sorted(keys))
        raise RecipeError(
            f"engines.{name}: {stray!r} means nothing to an engine of kind {engine.kind!r}; it takes: {known}; to replace the "
            f"whole table: --set 'engine={{kind=\"{engine.kind}\"}}'"
        )
    if model.seeds == "none" and engine.kind == "scripted":
        raise RecipeError(f"models.{name}: seeds = 'none' means nothing to a scripted engine; leave it out")


def _drawing(model: ModelTable, renderer: Renderer | None) -> Sampling:
    """How this role draws: as the recipe says, else as the model's generation config does, else neutrally."""
    asked = Sampling(
        temperature=model.temperature,
        top_p=model.top_p,
        top_k=model.top_k,
        min_p=model.min_p,
        max_tokens=model.max_tokens,
        stop=model.stop,
    )
    return asked.over((renderer.generation if renderer else NEUTRAL).over(NEUTRAL))


def _is_path(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~"))


def _local(name: str) -> Path | None:
    """The folder of an embedded or local model; None where the name is a Hub id or a served name."""
    if _is_path(name):
        return Path(name).expanduser()
    return EMBEDDED / name if (EMBEDDED / name).is_dir() and "/" not in name else None


def _find(role: str, model: ModelTable, engine: EngineTable, runtime: Path) -> tuple[Path | None, str]:
    """Where the model's files are, if they are here, and what proves its revision."""
    folder = _local(model.name)
    if folder is None:
        if engine.kind in IN_PROCESS:
            return _from_hub(f"models.{role}.name", model.name, model.revision)
        return None, model.revision or "unverified"
    if engine.kind == "openai" and not folder.is_dir():
        return None, model.revision or "unverified"  # a server's name for its model may be a path on the server
    if not folder.is_dir():
        raise RecipeError(f"models.{role}.name: no folder {folder}; name a model folder, a Hub id or a served model")
    if engine.kind not in IN_PROCESS:
        return folder, model.revision or "unverified"
    if not (folder / "config.json").is_file():
        raise RecipeError(f"models.{role}.name: {folder} has no config.json, so it is not a model folder")
    if not any(folder.glob("*.safetensors")):
        raise RecipeError(f"models.{role}.name: {folder} has no *.safetensors, so there are no weights to load")
    revision = hash_folder(folder, runtime / "weights.hashes")
    if model.revision not in (None, revision):
        raise RecipeError(f"models.{role}.revision is {model.revision}, but the files in {folder} hash to {revision}")
    return folder, revision


def hash_folder(folder: Path, known: Path | None = None) -> str:
    """SHA-256 over names and contents of the files that decide what a model says, 16 hex digits.

    `known` is a JSON file of hashes from earlier runs: a file of the same path, size and time is not read again, because
    the weights of a large model take minutes.
    """
    hashes = _hashes(known)
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.iterdir() if p.suffix in {".safetensors", ".json", ".jinja", ".model"}):
        facts = file.stat()
        mark = f"{file.resolve()} {facts.st_size} {facts.st_mtime_ns}"
        if mark not in hashes:
            with file.open("rb") as stream:
                hashes[mark] = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{file.name}\0{hashes[mark]}\n".encode())
    if known is not None:
        draft = known.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(hashes))
        draft.replace(known)
    return f"sha256:{digest.hexdigest()[:16]}"


def _hashes(known: Path | None) -> dict[str, str]:
    """What is known, or nothing where the file is missing or damaged: it can be made again."""
    try:
        return dict(json.loads(known.read_text())) if known else {}
    except (OSError, ValueError):
        return {}


def locate(key: str, name: str, revision: str | None = None) -> Path:
    """The folder of a model or an adapter that a recipe names under `key`."""
    folder = _local(name)
    if folder is None:
        folder, _ = _from_hub(key, name, revision)
    if not folder.is_dir():
        raise RecipeError(
            f"{key}: no folder {folder}; name a folder, a Hub id or one that ships: {', '.join(_embedded())}"
        )
    return folder


def _embedded() -> list[str]:
    return sorted(p.name for p in EMBEDDED.iterdir() if p.is_dir()) if EMBEDDED.is_dir() else []


def _from_hub(key: str, name: str, revision: str | None) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        folder = snapshot_download(name, revision=revision)
    except (HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, ValueError, OSError) as error:
        hint = suggest(name, _embedded())
        raise RecipeError(
            f"{key}: {name!r} is neither an embedded model{hint}, nor a folder, nor to be had from the "
            f"Hub: {str(error).strip().splitlines()[0]}"
        ) from error
    return Path(folder), Path(folder).name


def _renderer(role: str, model: ModelTable, engine: EngineTable, folder: Path | None) -> Renderer | None:
    named = model.tokenizer
    template = _template(role, model.template)
    if named is None:
        if folder is None:
            if template is not None:
                raise RecipeError(f"models.{role}: template needs a tokenizer here: tokenizer = 'folder or Hub id'")
            return None
        if not (folder / "tokenizer.json").is_file() and engine.kind not in IN_PROCESS:
            return None
        return Renderer.load(folder, model.name if not _is_path(model.name) else folder.name, template)
    return open_renderer(f"models.{role}.tokenizer", named, template)


def open_renderer(key: str, name: str, template: str | None = None, *, here: bool = False) -> Renderer:
    """Tokenizer and template of a model, without the model; `template` is Jinja text. `here` reaches no network."""
    local = _local(name)
    if local is not None:
        return Renderer.load(local, local.name, template)
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(name, allow_patterns=TOKENIZER_FILES, local_files_only=here)
    except (OSError, ValueError) as error:
        where = "in the cache of the Hub" if here else f"to be had from the Hub: {error}"
        raise RecipeError(f"{key}: {name!r} is neither a folder nor {where}") from error
    return Renderer.load(Path(folder), name, template)


def _template(role: str, given: str | None) -> str | None:
    """A template of the recipe's own: Jinja text, or the path of a file that holds it."""
    if given is None or "{{" in given or "{%" in given:
        return given
    if not Path(given).is_file():
        raise RecipeError(f"models.{role}.template: {given!r} is neither Jinja text nor a file")
    return Path(given).read_text(encoding="utf-8")


def _backend(
    role: str,
    model: ModelTable,
    engine: EngineTable,
    folder: Path | None,
    runtime: Path,
    reply: Reply | None,
    found: Found,
) -> Backend:
    if engine.kind == "scripted":
        return _scripted(role, engine, reply)
    if engine.kind == "openai":
        from tracemill.synth.backends.openai import OpenAI

        if not engine.base_urls:
            raise RecipeError(f"engines.{role}: an openai engine needs base_urls = ['http://host:8000/v1']")
        key = os.environ.get(engine.api_key_env) if engine.api_key_env else None
        if engine.api_key_env and key is None:
            raise RecipeError(
                f"engines.{role}.api_key_env: the environment has no {engine.api_key_env}; export it first"
            )
        return OpenAI(
            engine.base_urls,
            served_model=model.name,
            levels=tuple(adapter.name for adapter in found.adapters),
            send=engine.send,
            api_key=key,
            api_key_env=engine.api_key_env,
            at_once=engine.at_once,
            min_endpoints=engine.min_endpoints,
            timeout=engine.timeout,
            stall=engine.stall,
            think=model.think or THINK,
        )
    if folder is None:
        raise RecipeError(f"models.{role}.name: no files of {model.name!r} were found")
    if engine.kind == "hf":
        return _hf(model, engine, folder, found.loras)
    return _vllm(model, engine, folder, runtime, found.loras)


def _hf(model: ModelTable, engine: EngineTable, folder: Path, loras: Sequence[Lora]) -> Backend:
    from tracemill.synth.backends.hf import Hf
    from tracemill.synth.backends.hf.args import check_installed

    check_installed()
    return Hf(folder, model=model, engine_args=engine.args, at_once=engine.at_once, loras=loras)


def _vllm(model: ModelTable, engine: EngineTable, folder: Path, runtime: Path, loras: Sequence[Lora]) -> Backend:
    from tracemill.synth.backends.vllm import Vllm
    from tracemill.synth.backends.vllm.args import check_installed

    check_installed()
    return Vllm(
        folder,
        model=model,
        engine_args=engine.args,
        at_once=engine.at_once,
        stall=engine.stall,
        runtime=runtime,
        loras=loras,
    )


def _scripted(role: str, engine: EngineTable, reply: Reply | None) -> Scripted:
    allowed = {"latency", "refuse", "lose_after"}
    for stray in sorted(engine.args.keys() - allowed):
        raise RecipeError(f"engines.{role}.args: a scripted engine has no {stray!r}{suggest(stray, allowed)}")
    at_once = 1024 if engine.at_once == "auto" else engine.at_once
    try:
        return Scripted(
            reply or _script(role, engine.script), at_once=at_once, remember=reply is not None, **engine.args
        )
    except TypeError as error:
        raise RecipeError(f"engines.{role}.args: {error}") from None


def _script(role: str, script: str | None) -> Reply:
    """The reply function of `script = "./replies.py:reply"`, or the one that ships."""
    if script is None:
        return guess
    place, colon, function = script.rpartition(":")
    if not colon:
        raise RecipeError(f"engines.{role}.script: write './file.py:function'; got {script!r}")
    reply: Reply = function_of(load_file(Path(place)), function)
    return reply
