"""What a method draws of a row for `tracemill explain`: its module-level `picture`, lines of plain text.

The function gets what `tracemill explain --json` prints. Only methods that ship with tracemill are asked: a dataset names the
method that made it, and code that a dataset names is not run.
"""

import tomllib
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from tracemill.pipelines.versions.dataset import Dataset
from tracemill.schemas.printable import printable

WIDTH = 400


def picture(dataset: Dataset, life: Mapping[str, Any]) -> Iterator[str]:
    """The lines that the method of `dataset` draws; none where it draws nothing, or is not one of ours."""
    recipe = tomllib.loads((dataset.path / "recipe.toml").read_text(encoding="utf-8"))
    method = str(recipe.get("synth", {}).get("use", "given"))
    if not method.isidentifier() or find_spec(f"tracemill.synth.{method}") is None:
        return
    draw = getattr(import_module(f"tracemill.synth.{method}"), "picture", None)
    try:
        lines = list(draw(life)) if draw is not None else []
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:  # whatever was done to the tables, the rest of the life is still told
        lines = [f"cannot be drawn: {type(error).__name__}: {error}"]
    yield from map(_clipped, lines)


def _clipped(line: str) -> str:
    """One line of a screen with its spaces kept: control characters shown, cut at `WIDTH`."""
    shown = printable(line[: WIDTH + 1])
    return shown if len(shown) <= WIDTH else f"{shown[: WIDTH - 3]}..."
