"""A recipe: the whole of a build, as a TOML file and as frozen models. Unknown keys are errors with a suggestion."""

import difflib
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tracemill.schemas.errors import RecipeError

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")
FORMATS = (
    *("trl-sft", "trl-dpo", "trl-kto", "trl-grpo", "verl", "sharegpt", "alpaca", "openrlhf"),
    *("mixchain-wide", "mixchain-long", "knowrl"),
    *("hrm", "trl-prm", "step-pairs", "rest", "omega-pairs"),
    *("medverse", "petri-linear", "petri-dag", "zip-rc", "r2r", "mode-pairs", "gist-segments"),
)
"""What `[views]` and `tracemill export --to` know."""
WEIGHTS = ("adapter", "start", "end")
"""Options of a method that name weights: a folder is meant from the recipe's own."""
FILES = (*WEIGHTS, "graph", "embedder")
"""Options of a method that may name a file or a folder, with `./` from the recipe's own."""


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


class Judging(Step):
    """A step that may ask a model for its word: with planted cases, it is measured before its word counts."""

    calibration: str | None = None
    """A JSONL file of cases whose truth is known."""
    least_accuracy: Annotated[float, Field(gt=0, le=1)] | None = None
    """Below this share of cases judged rightly the build stops before the first problem."""

    @model_validator(mode="after")
    def _of_something(self) -> "Judging":
        if self.least_accuracy is not None and self.calibration is None:
            raise ValueError(
                'least_accuracy is measured on planted cases; name their file: calibration = "./cases.jsonl"'
            )
        return self


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
    chains: str | None = None
    question_entities: str | None = None
    answer_entities: str | None = None
    kp_list: str | None = None
    kp_kept: str | None = None
    difficulty: str | None = None
    response: str | None = None
    responses: tuple[str, ...] = ()
    steps: str | None = None
    trace: str | None = None
    columns: tuple[str, ...] = ()
    licence: str = "unknown"
    limit: Annotated[int, Field(gt=0)] | None = None
    cap: Annotated[int, Field(gt=0)] | None = None
    weight: Annotated[float, Field(gt=0)] | None = None
    keep: tuple[Step, ...] = ()

    @model_validator(mode="after")
    def _one_place(self) -> "Source":
        if sum(place is not None for place in (self.path, self.hub, self.ref)) != 1:
            raise ValueError("a source needs exactly one of path, hub and ref")
        if self.response is not None and self.responses:
            raise ValueError("give response or responses, not both")
        if self.kp_kept is not None and self.kp_list is None:
            raise ValueError("kp_kept holds places in a list of knowledge points: name its column, kp_list, too")
        if not (self.response or self.responses) and (self.trace is not None or (self.columns and self.ref is None)):
            raise ValueError("trace and columns say more of given traces: name their column, response, too")
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

    @field_validator("think")
    @classmethod
    def _two_marks(cls, think: tuple[str, str] | None) -> tuple[str, str] | None:
        if think is None:
            return think
        opening, closing = think
        if not opening.strip() or not closing.strip():
            raise ValueError('think holds two marks, neither empty: think = ["<think>", "</think>"]')
        if opening in closing or closing in opening:
            raise ValueError(f"think: {opening!r} and {closing!r} hold one another, so nobody can tell them apart")
        return think


class EngineTable(_Table):
    """Where and how fast: never part of a key or of the version id."""

    kind: Literal["vllm", "openai", "hf", "scripted"] = "vllm"
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
    segments: str | None = None
    """Where the journals of several machines meet: a folder, or a URL that fsspec takes."""
    ship_every: Annotated[float, Field(gt=0)] = 300.0
    """Seconds between two shipments: what a lost disk costs at most."""
    args: Mapping[str, Any] = Field(default_factory=dict)
    """vllm, hf: further engine arguments; scripted: how it misbehaves."""


class EmbedderTable(_Table):
    """The sentence encoder that selectors by meaning ask: all that changes its vectors."""

    name: str
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    window: Annotated[int, Field(gt=2)] | None = None
    prefix: str = ""


class BenchmarkTable(_Table):
    """A benchmark that the dataset must not hold: where its items are, and in which columns."""

    path: str | None = None
    hub: str | None = None
    config: str | None = None
    split: str = "test"
    revision: str | None = None
    question: str = "question"
    solution: str | None = None
    id: str | None = None

    @model_validator(mode="after")
    def _one_place(self) -> "BenchmarkTable":
        if (self.path is None) == (self.hub is None):
            raise ValueError("a benchmark needs exactly one of path and hub")
        return self


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


class ReportTable(_Table):
    """What a person is shown of a finished build: never part of a key or of the version id."""

    write: bool = True
    """The report beside the version."""
    pictures: bool = True
    """Those of the version's card."""


def _known_format(views: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in views:
        if name not in FORMATS:
            raise ValueError(f"unknown format {name!r}{suggest(name, FORMATS)}")
    return views


class Recipe(_Table):
    """Everything that decides a dataset, and, under `engines`, what it runs on."""

    name: Annotated[str, AfterValidator(_dataset_name)]
    tolerate: Annotated[int, Field(ge=0)] = 100
    samples: bool = True
    source: tuple[Source, ...]
    models: Mapping[str, ModelTable] = Field(default_factory=dict)
    engines: Mapping[str, EngineTable] = Field(default_factory=dict)
    embedder: EmbedderTable | None = None
    benchmarks: Mapping[str, BenchmarkTable] = Field(default_factory=dict)
    verify: VerifyTable = VerifyTable()
    synth: Judging | None = None
    score: tuple[Judging, ...] = ()
    filters: tuple[Step, ...] = ()
    select: tuple[Step, ...] = ()
    budget: Budget = Budget()
    report: ReportTable = ReportTable()
    views: Annotated[Mapping[str, bool | Mapping[str, Any]], AfterValidator(_known_format)] = Field(
        default_factory=dict
    )

    @model_validator(mode="after")
    def _all_weighed(self) -> "Recipe":
        without = [index for index, source in enumerate(self.source) if source.weight is None]
        if without and len(without) < len(self.source):
            raise ValueError(
                f"source.{without[0]} has no weight beside sources that have one: weights are shares of one mix, so give each "
                "source one, or none"
            )
        return self


def uncalibrated(recipe: Recipe) -> Recipe:
    """The recipe without the files of planted cases, for who reads it where they are not: a version brings its recipe, not them."""
    none = {"calibration": None, "least_accuracy": None}
    scores = tuple(step.model_copy(update=none) for step in recipe.score)
    synth = recipe.synth.model_copy(update=none) if recipe.synth is not None else None
    return recipe.model_copy(update={"score": scores, "synth": synth})


def load_recipe(path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe and apply `--set a.b=v` overrides, or say all that is wrong with it.

    Paths in the file are resolved against its folder, paths in overrides against the working folder; the recipe that
    comes back holds absolute paths.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"no recipe at {path}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise RecipeError(f"{path}: not a readable TOML file: {error}") from None
    _spell_out(table)
    _anchor(table, path.resolve().parent)
    for override in overrides:
        apply_override(table, override)
    _spell_out(table)  # again: an override may bring a short form
    _anchor(table, Path.cwd())
    return parse_recipe(table, str(path))


def parse_recipe(table: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """A recipe from plain data, such as a parsed TOML file."""
    spelt = dict(table)
    _spell_out(spelt)
    if (odd := _odd_number(spelt)) is not None:
        raise RecipeError(f"{where}: {odd[0]} = {odd[1]}: a number of a recipe is finite and fits in 64 bits")
    try:
        # by way of JSON: strict about types, yet a TOML array may fill a tuple
        return Recipe.model_validate_json(msgspec.json.encode(spelt))
    except ValidationError as error:
        lines = [_explain(fault) for fault in error.errors(include_url=False)]
        raise RecipeError("\n".join(f"{where}: {line}" for line in dict.fromkeys(lines))) from None


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: what was meant, or else what there is."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(choices) or 'none'}"


def _spell_out(table: dict[str, Any]) -> None:
    """Replace the short forms: [source] for [[source]], [model] for [models.solver], [engine] for [engines.solver]."""
    if isinstance(table.get("source"), Mapping):
        table["source"] = [table["source"]]
    for short, long in (("model", "models"), ("engine", "engines")):
        if short not in table:
            continue
        alone, beside = table.pop(short), table.get(long, {})
        if not isinstance(beside, Mapping):
            continue  # the validation says so
        if "solver" in beside:
            raise RecipeError(f"[{short}] is short for [{long}.solver]; give one of them")
        table[long] = {"solver": alone, **beside}


def _odd_number(value: Any, where: str = "") -> tuple[str, float] | None:
    """The first number that JSON cannot carry, and where it stands: nan would come out as a key that was left out."""
    if isinstance(value, float) and not math.isfinite(value):
        return where, value
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        return where, value
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    inner = (_odd_number(part, f"{where}.{name}" if where else str(name)) for name, part in parts)
    return next((odd for odd in inner if odd is not None), None)


def _anchor(table: dict[str, Any], folder: Path) -> None:
    """Make the paths of a recipe file absolute: sources, local models, templates, scripts and plug-ins of the user's own."""
    sources = _tables(table.get("source"))
    for source in sources:
        _anchor_key(source, "path", folder)
    for model in _tables(table.get("models")):
        for key in ("name", "tokenizer", "template"):
            _anchor_key(model, key, folder, only_if_path=True)
    _anchor_key(table.get("embedder"), "name", folder, only_if_path=True)
    for benchmark in _tables(table.get("benchmarks")):
        _anchor_key(benchmark, "path", folder)
    for engine in _tables(table.get("engines")):
        _anchor_key(engine, "script", folder, only_if_path=True)
        _anchor_key(engine, "segments", folder, only_if_path=True)
    for key in FILES:
        _anchor_key(table.get("synth"), key, folder, only_if_path=True)
    lists = [table.get(key) for key in ("score", "filters", "select")] + [source.get("keep") for source in sources]
    for step in [table.get("synth"), *_tables(table.get("score"))]:
        _anchor_key(step, "calibration", folder)
    for step in [table.get("synth"), table.get("verify"), *(step for steps in lists for step in _tables(steps))]:
        _anchor_key(step, "use", folder, only_if_path=True)


def _tables(value: Any) -> list[dict[str, Any]]:
    """The tables in a list or a table of tables; what has another shape is left to the validation."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [part for part in parts if isinstance(part, dict)]


def _anchor_key(table: Any, key: str, folder: Path, *, only_if_path: bool = False) -> None:
    if not isinstance(table, dict) or not isinstance(value := table.get(key), str):
        return
    if only_if_path and not value.startswith(("./", "../", "/", "~")):
        return
    table[key] = str((folder / Path(value).expanduser()).resolve())


def apply_override(table: dict[str, Any], override: str) -> None:
    """Apply `a.b=v`. The value is TOML where it parses as TOML, else text; a path is meant from the working folder."""
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise RecipeError(
            f"--set {override!r}: write KEY=VALUE, such as --set synth.n=4 or --set source.0.path=x.jsonl"
        )
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text
    first, dot, rest = dotted.partition(".")
    *path, last = ({"model": "models.solver", "engine": "engines.solver"}.get(first, first) + dot + rest).split(".")
    place: Any = table
    for part in path:
        place = _step_into(place, part, dotted)
    if isinstance(place, list):
        raise RecipeError(
            f"--set {dotted}: {'.'.join(path)} is a list; write a number, such as {'.'.join(path)}.0.{last}"
        )
    if not isinstance(place, dict):
        raise RecipeError(f"--set {dotted}: {'.'.join(path)} is {place!r}, not a table to put {last!r} into")
    place[last] = value


def _step_into(place: Any, part: str, dotted: str) -> Any:
    if isinstance(place, list):
        if not part.isdecimal() or int(part) >= len(place):
            raise RecipeError(f"--set {dotted}: {part!r} is not one of 0 to {len(place) - 1}")
        return place[int(part)]
    if not isinstance(place, dict):
        raise RecipeError(f"--set {dotted}: there is no table to put {part!r} into")
    return place.setdefault(part, {})


def _explain(fault: Any) -> str:
    """One line for one pydantic fault: where, the value, what is allowed."""
    location = [part for part in fault["loc"] if not (isinstance(part, str) and "[" in part)]
    where = ".".join(str(part) for part in location)
    if fault["type"] == "extra_forbidden":
        return f"unknown key {where!r}{suggest(str(location[-1]), _keys_beside(location))}"
    if fault["type"] == "missing":
        return f"missing {where!r}"
    message = fault["msg"].removeprefix("Value error, ")
    value = "" if fault["type"] == "value_error" and not where else f" (got {fault['input']!r})"
    return f"{where}: {message}{value}" if where else f"{message}"


_TABLES: Mapping[str, type[BaseModel]] = {
    "source": Source,
    "models": ModelTable,
    "engines": EngineTable,
    "embedder": EmbedderTable,
    "benchmarks": BenchmarkTable,
    "budget": Budget,
    "report": ReportTable,
}


def _keys_beside(location: list[int | str]) -> Iterable[str]:
    """The keys that are allowed where a key was not known."""
    model = _TABLES.get(str(location[0]), Recipe) if len(location) > 1 else Recipe
    short = {"model", "engine"} if model is Recipe else set()
    return {*model.model_fields, *short}
