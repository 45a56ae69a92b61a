"""Finding the function that a recipe names, and checking its options against its signature.

`use = "sample"` is `synth/sample.py`, function `sample`; a folder `synth/sample/` serves as well. A user's own needs no
fork: `use = "./mine.py:fn"`, `"package.module:fn"`.
"""

import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import msgspec
from pydantic import ConfigDict, ValidationError, create_model

from tracemill.schemas.benchmarks import Benchmarks, given
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.own import function_of, load_file
from tracemill.schemas.recipe import Step, suggest
from tracemill.schemas.request import Capability

Kind = Literal["synth", "score", "filters", "selectors"]

FOLDERS: Mapping[Kind, str] = {"synth": "synth", "score": "filters", "filters": "filters", "selectors": "selectors"}
OPENINGS: Mapping[Kind, tuple[str, ...]] = {
    "synth": ("problem", "engine"),
    "score": ("trace", "engine"),
    "filters": (),
    "selectors": ("traces",),
}
"""The positional parameters that make a function a plug-in of a kind; scores live in filters/ beside the filters."""
HANDED = ("engine", "benchmarks", "workers")
"""Keyword parameters that the pipeline fills in: no options of a recipe."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plug-in with its options bound."""

    name: str
    call: Callable[..., Any]
    module: ModuleType
    options: Mapping[str, Any]
    """Every option, defaults included: what the plug-in will really run with."""
    code: str
    """SHA-256 of the file it comes from, or of all files of its folder."""

    def with_benchmarks(self, benchmarks: Benchmarks | None) -> "Plugin":
        """The same plug-in with the recipe's benchmarks in its hands, where it looks for such."""
        if not self.takes("benchmarks"):
            return self
        return replace(self, call=partial(self.call, benchmarks=given(self.name, benchmarks)))

    def about(self, attribute: str, default: Any) -> Any:
        """A module-level constant of the plug-in's file, such as NEEDS or REACH; a file of its folder by that name is none."""
        found = getattr(self.module, attribute, default)
        return default if isinstance(found, ModuleType) else found

    def columns(self) -> Mapping[str, Any] | None:
        """The columns that it says its traces get, by its options where it has a function `columns`; None where it does not say."""
        by_options = self.about("columns", None)
        if inspect.isfunction(by_options):  # a method's folder may hold a file of that name
            found: Mapping[str, Any] | None = self.ask(by_options)
            return found
        declared: Mapping[str, Any] | None = self.about("COLUMNS", None)
        return declared

    def needs(self) -> Mapping[str, tuple[Capability, ...]]:
        """What it needs of the models of which roles: by its options where it has a function `needs`."""
        by_options = self.about("needs", None)
        needed: Mapping[str, tuple[Capability, ...]] = self.ask(by_options) if by_options else self.about("NEEDS", {})
        return needed

    def takes(self, parameter: str) -> bool:
        """Whether the plug-in's function has a parameter of this name."""
        return parameter in inspect.signature(self.call).parameters

    def ask(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function of the plug-in's file with those of its options that the function takes."""
        taken = inspect.signature(function).parameters
        return function(*args, **{name: value for name, value in self.options.items() if name in taken})


def find(kind: Kind, step: Step) -> Plugin:
    """The plug-in that `step` names, with its options checked and bound, or a RecipeError that says what to change."""
    module, function = _own(kind, step.use) if ":" in step.use else _shipped(kind, step.use)
    options = _checked(function, step, module)
    _check_meaning(step, getattr(module, "MEANING", {}))
    code = hashlib.sha256(b"".join(file.read_bytes() for file in _files(module))).hexdigest()
    name = step.use.rpartition("/")[2]  # stages and reasons name it, and where it lies differs from machine to machine
    return Plugin(name, partial(function, **options), module, options, code)


def _check_meaning(step: Step, told: object) -> None:
    """Raise RecipeError for a MEANING that the card, written last of all, could not show."""
    if isinstance(told, ModuleType):  # a file of the plug-in's folder
        return
    if not isinstance(told, Mapping) or not all(isinstance(part, str) for pair in told.items() for part in pair):
        raise RecipeError(
            f"{step.use}: MEANING of its file is {told!r}, which has to say of columns what they mean: "
            '{"column": "What it holds."}; give a constant of another kind another name'
        )


def _files(module: ModuleType) -> list[Path]:
    file = Path(inspect.getfile(module))
    return sorted(file.parent.glob("*.py")) if file.name == "__init__.py" else [file]


def names(kind: Kind) -> list[str]:
    """Every plug-in of a kind that ships with tracemill."""
    package = importlib.import_module(f"tracemill.{FOLDERS[kind]}")
    found = (info.name for info in pkgutil.iter_modules(package.__path__))
    return sorted(name for name in found if _is_plugin(kind, _function(FOLDERS[kind], name)))


def _function(folder: str, name: str) -> Callable[..., Any] | None:
    return getattr(importlib.import_module(f"tracemill.{folder}.{name}"), name, None)


def _is_plugin(kind: Kind, function: Callable[..., Any] | None) -> bool:
    """Whether a function has the form of the kind: its leading parameters, and whether it is async."""
    if not inspect.isfunction(function):
        return False
    positional = [p.name for p in inspect.signature(function).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    return tuple(positional) == OPENINGS[kind] and inspect.iscoroutinefunction(function) == (kind in ("synth", "score"))


def _shipped(kind: Kind, name: str) -> tuple[ModuleType, Callable[..., Any]]:
    folder = FOLDERS[kind]
    exists = name.isidentifier() and importlib.util.find_spec(f"tracemill.{folder}.{name}") is not None
    function = _function(folder, name) if exists else None
    if function is None or not _is_plugin(kind, function):
        own = "; one of your own is written './file.py:function'"
        raise RecipeError(f"no {name!r} in {folder}/{suggest(name, names(kind))}{own}")
    return importlib.import_module(f"tracemill.{folder}.{name}"), function


def _own(kind: Kind, use: str) -> tuple[ModuleType, Callable[..., Any]]:
    place, _, name = use.rpartition(":")
    module = load_file(Path(place)) if place.endswith(".py") else _module_named(place, use)
    function = function_of(module, name)
    if not _is_plugin(kind, function):
        form = ", ".join((*OPENINGS[kind], "*", "<options>"))
        word = "async def" if kind in ("synth", "score") else "def"
        raise RecipeError(f"{use} is not a plug-in of {kind}; its form is: {word} {name}({form})")
    return module, function


def _module_named(place: str, use: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except Exception as error:  # a module of the user's own may raise anything
        raise RecipeError(f"use = {use!r}: cannot import {place!r}: {type(error).__name__}: {error}") from error


def _checked(function: Callable[..., Any], step: Step, module: ModuleType) -> dict[str, Any]:
    """The options of `step` as the function's annotations want them, with its defaults filled in."""
    try:
        signature = inspect.signature(function, eval_str=True)
    except (NameError, TypeError, SyntaxError) as error:
        raise RecipeError(f"{step.use}: its annotations cannot be read: {error}") from error
    parameters = [p for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY and p.name not in HANDED]
    fields: dict[str, Any] = {
        p.name: (Any if p.annotation is p.empty else p.annotation, ... if p.default is p.empty else p.default)
        for p in parameters
    }
    for stray in sorted(step.options.keys() - fields.keys()):
        raise RecipeError(f"{step.use} has no option {stray!r}{suggest(stray, fields)}")
    model = create_model(
        "Options",
        __config__=ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True, protected_namespaces=()),
        **fields,
    )
    try:
        options = dict(model.model_validate_json(msgspec.json.encode(step.options)))
        check = getattr(module, "check", None)
        if inspect.isfunction(check) and _takes(check, options):
            check(**options)
        if not inspect.iscoroutinefunction(function) and len(signature.parameters) == len(fields):
            function(**options)  # a filter checks its options when it makes its expression
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in error.errors())
        raise RecipeError(f"{step.use}: " + "; ".join(faults)) from None
    except ValueError as error:
        raise RecipeError(f"{step.use}: {error}") from None
    except RecipeError:
        raise
    except Exception as error:
        raise RecipeError(f"{step.use} raises {type(error).__name__}: {error} when it is given its options") from error
    return options


def _takes(check: Callable[..., Any], options: Mapping[str, Any]) -> bool:
    """Whether a module's `check` is about these options: a file of the user's own may hold several plug-ins."""
    try:
        inspect.signature(check).bind(**options)
    except TypeError:
        return False
    return True
