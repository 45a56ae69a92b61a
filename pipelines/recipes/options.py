"""docs/options.md, written from what ships: `python -m tracemill.pipelines.recipes.options > docs/options.md`. A test holds it to the code."""

import importlib
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from tracemill.pipelines.recipes import catalog
from tracemill.schemas.recipe import FORMATS
from tracemill.schemas.views import view_named

HEAD = """# Options

Everything that ships and that a recipe can name, with its options. This page is made from the code:

    python -m tracemill.pipelines.recipes.options > docs/options.md

An option is written beside `use`, is checked before anything is sampled, and stands in `recipe.toml` and in the version's id
with its effective value. How to write one of your own: [plugins.md](plugins.md). All other keys: [recipe.md](recipe.md)."""

SECTIONS: Mapping[catalog.Kind, tuple[str, str]] = {
    "synth": ("Methods", 'How traces are made: `[synth]`, `use = "sample"`.'),
    "score": ("Scores", "Columns that a model or a function adds to every trace: `[[score]]`."),
    "filters": (
        "Filters",
        "What a good row is: `[[filters]]` for traces, `[[source.keep]]` for problems. The first that says no decides.",
    ),
    "selectors": ("Selectors", "Which of the good rows to take, seen side by side: `[[select]]`, in the order given."),
}
FORMATS_ABOUT = """Layouts of trainers: `tracemill export REF --to FORMAT --out DIR`, with `--set KEY=VALUE` for an option, or a table or `true`
under `[views]`. What comes out is a folder that `datasets.load_dataset` opens."""
WORDS: Mapping[Any, str] = {int: "whole number", float: "number", str: "text", bool: "true or false", Any: "anything"}


def main() -> None:
    """Write the page to standard output."""
    sys.stdout.write("\n\n".join(page()) + "\n")


def page() -> Iterator[str]:
    """The page, a paragraph or table at a time."""
    yield HEAD
    for kind, (title, about) in SECTIONS.items():
        yield f"## {title}"
        yield about
        names = catalog.names(kind)
        if not names:
            yield 'None ships yet; one of your own is `use = "./file.py:function"`.'
        for name in names:
            module = importlib.import_module(f"tracemill.{catalog.FOLDERS[kind]}.{name}")
            yield from _described(name, getattr(module, name))
    yield "## Formats"
    yield FORMATS_ABOUT
    for name in FORMATS:
        yield from _described(name, view_named(name))


def _described(name: str, function: Callable[..., Any]) -> Iterator[str]:
    yield f"### {name}"
    yield inspect.getdoc(function) or ""
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    options = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in catalog.HANDED]
    yield _table(options) if options else "No options."


def _table(options: Iterable[inspect.Parameter]) -> str:
    rows = [f"| `{p.name}` | {type_text(p.annotation)} | {default_text(p.default)} |" for p in options]
    return "\n".join(["| option | type | default |", "| --- | --- | --- |", *rows])


def type_text(annotation: Any) -> str:
    """A type as a person writes it into a recipe: `int | None` is a whole number."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(inside[0])
    if origin is Literal:
        return " or ".join(f'`"{value}"`' for value in inside)
    if origin in (Union, UnionType):
        return " or ".join(type_text(part) for part in inside if part is not NoneType)
    if origin is tuple:
        return f"list of {type_text(inside[0])}" if Ellipsis in inside else f"list of {len(inside)} texts"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "table"
    return WORDS.get(annotation) or "table"


def default_text(default: Any) -> str:
    """A default as TOML writes it; `-` where leaving the option out says something of its own."""
    if default is inspect.Parameter.empty:
        return "required"
    if default is None:
        return "-"
    return f"`{json.dumps(list(default) if isinstance(default, tuple) else default)}`"


if __name__ == "__main__":
    main()
