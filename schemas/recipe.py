"""A recipe: the whole of a build, as a TOML file and as frozen models. Unknown keys are errors with a suggestion."""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from tracemill.schemas.errors import RecipeError

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")
FORMATS = ("trl-sft", "trl-dpo", "trl-grpo", "verl")
"""What `[views]` and `tracemill export --to` know."""


def _dataset_name(name: str) -> str:
    if not NAME.fullmatch(name) or ".." in name:
        raise ValueError("a name is 1 to 80 of a-z 0-9 . _ - and begins with a letter or digit; no '..'")
    return name


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Step(BaseModel):
    """A plug-in and its options: `use = "keep"`, `k = 2`. The options are checked against its signature."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    use: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Source(_Table):
    """Where problems come from, and which columns hold what."""

    path: str | None = None
    hub: str | None = None
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    ref: str | None = None
    id: str | None = None
    question: str | None = None
    messages: str | None = None
    tools: str | None = None
    answer: str | None = None
    answer_format: Literal["plain", "gsm8k", "boxed", "choice"] = "plain"
    options: str | None = None
    solution: str | None = None
    difficulty: str | None = None
    response: str | None = None
    responses: tuple[str, ...] = ()
    licence: str = "unknown"
    limit: Annotated[int, Field(gt=0)] | None = None
    keep: tuple[Step, ...] = ()

    @model_validator(mode="after")
    def _one_place(self) -> "Source":
        if sum(place is not None for place in (self.path, self.hub, self.ref)) != 1:
            raise ValueError("a source needs exactly one of path, hub and ref")
        if self.response is not None and self.responses:
            raise ValueError("give response or responses, not both")
        return self


class ModelTable(_Table):
    """One role's model and prompt side: all that changes its answers."""

    name: str
    max_tokens: Annotated[int, Field(gt=0)]
    revision: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    stop: tuple[str, ...] | None = None
    system: str | None = None
    template: str | None = None
    chat_template_kwargs: Mapping[str, Any] = Field(default_factory=dict)
    think: tuple[str, str] | None = None
    tokenizer: str | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    seeds: Literal["request", "none"] = "request"
    dtype: str = "auto"
    quantization: str | None = None
    kv_cache_dtype: str | None = None
    max_model_len: Annotated[int, Field(gt=0)] | None = None


class EngineTable(_Table):
    """Where and how fast: never part of a key or of the version id."""

    kind: Literal["vllm", "openai", "scripted"] = "vllm"
    base_urls: tuple[str, ...] = ()
    api_key_env: str | None = None
    at_once: Annotated[int, Field(gt=0)] | Literal["auto"] = "auto"
    min_endpoints: Annotated[int, Field(gt=0)] = 1
    send: Literal["chat", "text", "tokens"] = "chat"
    timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds that one request may take in all; none by default: a long chain of thought takes what it takes."""
    stall: Annotated[float, Field(gt=0)] = 300.0
    """Seconds without a token from any request after which an engine counts as hung."""
    script: str | None = None
    args: Mapping[str, Any] = Field(default_factory=dict)
    """vllm: further engine arguments; scripted: how it misbehaves."""


class VerifyTable(Step):
    """How answers are compared with the gold; unknown options go to a grader of the user's own."""

    use: str = "math"
    extract: Literal["boxed", "gsm8k", "last_number", "tag"] = "boxed"


class Budget(_Table):
    """Limits at which a build drains and commits what it has."""

    tokens: Annotated[int, Field(gt=0)] | None = None
    accepted_rows: Annotated[int, Field(gt=0)] | None = None
    wall: Annotated[float, Field(gt=0)] | None = None
    """Seconds."""
    gpu_hours: Annotated[float, Field(gt=0)] | None = None


def _known_format(views: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in views:
        if name not in FORMATS:
            raise ValueError(f"unknown format {name!r}{_suggest(name, FORMATS)}")
    return views


class Recipe(_Table):
    """Everything that decides a dataset, and, under `engines`, what it runs on."""

    name: Annotated[str, AfterValidator(_dataset_name)]
    tolerate: Annotated[int, Field(ge=0)] = 100
    samples: bool = True
    source: tuple[Source, ...]
    models: Mapping[str, ModelTable] = Field(default_factory=dict)
    engines: Mapping[str, EngineTable] = Field(default_factory=dict)
    verify: VerifyTable = VerifyTable()
    synth: Step | None = None
    score: tuple[Step, ...] = ()
    filters: tuple[Step, ...] = ()
    select: tuple[Step, ...] = ()
    budget: Budget = Budget()
    views: Annotated[Mapping[str, bool | Mapping[str, Any]], AfterValidator(_known_format)] = Field(default_factory=dict)


def load_recipe(path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe and apply `--set a.b=v` overrides, or say all that is wrong with it.

    Paths in the file are resolved against its folder, paths in overrides against the working folder; the recipe that
    comes back holds absolute paths.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"no recipe at {path}; `tracemill init` writes one to start from") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path}: not a readable TOML file: {error}") from None
    _spell_out(table)
    _anchor(table, path.resolve().parent)
    given: dict[str, Any] = {}
    for override in overrides:
        _override(table, given, override)
    return parse_recipe(table, str(path))


def parse_recipe(table: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """A recipe from plain data, such as a parsed TOML file."""
    spelt = dict(table)
    _spell_out(spelt)
    try:
        return Recipe.model_validate(spelt, strict=False)
    except ValidationError as error:
        raise RecipeError("\n".join(f"{where}: {line}" for line in _explain(error))) from None
