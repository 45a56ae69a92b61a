"""Loading a function of the user's own: `./file.py:function`."""

import hashlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import suggest

OWN = "tracemill_own_"
"""How the names of modules begin that were loaded from a user's file."""


def load_file(path: Path) -> ModuleType:
    """Import a Python file that is not on the path; the same file is the same module."""
    if not path.is_file():
        raise RecipeError(f"no file {path}; a function of your own is './file.py:function', relative to the recipe")
    name = f"{OWN}{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RecipeError(f"{path} cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise RecipeError(f"{path} does not import: {type(error).__name__}: {error}") from error
    return module


def function_of(module: ModuleType, name: str) -> Any:
    """The function `name` of a module, or a RecipeError that lists what it defines."""
    function = getattr(module, name, None)
    if not inspect.isfunction(function):
        defined = [n for n, value in vars(module).items() if inspect.isfunction(value) and not n.startswith("_")]
        raise RecipeError(f"{module.__file__} has no function {name!r}{suggest(name, defined)}")
    return function
