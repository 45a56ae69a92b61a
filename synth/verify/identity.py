"""What a verdict rests on, as one short string: it is part of the key under which verdicts are journaled."""

import ast
import hashlib
import importlib.metadata
import importlib.util
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import suggest
from tracemill.synth.verify.worker import Caps

_LIBRARIES = ("math-verify", "latex2sympy2_extended", "sympy", "mpmath", "antlr4-python3-runtime")
_GIVEN = 2
"""A grader is called with the answer and the gold; the rest of its arguments are options."""


def identity(use: str, extract: str, think: tuple[str, str] | None, options: Mapping[str, Any], caps: Caps) -> str:
    """Kind of verifier and 16 hex digits over its settings, our code, the grader's file, the libraries and the caps.

    The number of workers and the wall-clock limit are not in it: they decide no verdict.
    """
    is_grader = ":" in use
    decisive = {name: value for name, value in asdict(caps).items() if name not in ("wall_seconds", "jobs")}
    stamp = {
        "use": use.rpartition(":")[2] if is_grader else use,
        "grader": hashlib.sha256(_grader_file(use).read_bytes()).hexdigest() if is_grader else None,
        "extract": extract,
        "think": think,
        "options": options,
        "caps": decisive,
        "code": _code(),
        "libraries": _versions(),
        "unicode": unicodedata.unidata_version,
    }
    digest = hashlib.sha256(msgspec.json.encode(stamp, order="deterministic")).hexdigest()
    return f"{'grader' if is_grader else use}-{extract}-{digest[:16]}"


def check_grader(use: str, options: Mapping[str, Any]) -> None:
    """Refuse a grader that is not there or does not take these options. Its code is read, not run: that is for workers."""
    path, name = _grader_file(use), use.rpartition(":")[2]
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise RecipeError(f"[verify] use = {use!r}: {path} is not valid Python: {error}") from None
    functions = {node.name: node.args for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    imported = {
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    if name in imported:
        return
    if name not in functions:
        raise RecipeError(f"[verify] use = {use!r}: {path} has no function {name!r}{suggest(name, functions)}")
    taken = functions[name]
    names = [each.arg for each in (*(*taken.posonlyargs, *taken.args)[_GIVEN:], *taken.kwonlyargs)]
    unknown = [key for key in options if key not in names]
    if unknown and taken.kwarg is None:
        raise RecipeError(f"[verify] {name} has no option {unknown[0]!r}{suggest(unknown[0], names)}")


def _grader_file(use: str) -> Path:
    place = use.rpartition(":")[0]
    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            raise RecipeError(
                f"[verify] use = {use!r}: no file {place}; a relative path is meant from the recipe's folder"
            )
        return path
    try:
        spec = importlib.util.find_spec(place)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise RecipeError(
            f"[verify] use = {use!r}: no module {place!r}; write './file.py:function' for a file of your own"
        )
    return Path(spec.origin)


@cache
def _code() -> str:
    """Hash of every file of this package."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}
