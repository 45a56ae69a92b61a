"""How a plug-in gets to another process: by the name of its module, or with the file itself where it is a user's own.

A file of a user's own is written down where it arrives, under the hash of its content, and loaded from there: it need not lie there before.
"""

import hashlib
import importlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from tracemill.pipelines.recipes.catalog import Plugin
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.own import OWN, function_of, load_file


@dataclass(frozen=True)
class Shipped:
    """A plug-in that can be sent."""

    name: str
    module: str
    function: str
    options: Mapping[str, Any]
    bound: Mapping[str, Any]
    """What its function is called with: the options, and what a recipe hands on beside them."""
    code: str
    source: bytes | None
    """The text of the file; None where the module is installed wherever it goes."""

    def plugin(self) -> Plugin:
        """The plug-in, here; RecipeError where its module is not to be had."""
        module = _written(self.module, self.source) if self.source is not None else _installed(self.module)
        function = function_of(module, self.function)
        return Plugin(self.name, partial(function, **self.bound), module, self.options, self.code)


def shipped(plugin: Plugin) -> Shipped:
    """`plugin` in the form that travels."""
    module, call = plugin.module, plugin.call
    function, bound = call.func, call.keywords  # type: ignore[attr-defined]  # a partial, by catalog.find
    own = module.__name__.startswith(OWN)
    source = Path(str(module.__file__)).read_bytes() if own else None
    name = Path(str(module.__file__)).name if own else module.__name__
    return Shipped(plugin.name, name, function.__name__, plugin.options, bound, plugin.code, source)


def _installed(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise RecipeError(
            f"a Dask worker cannot import {name!r} ({error}); install it on every worker, or name the file: use = './file.py:function'"
        ) from error


@cache
def _written(name: str, source: bytes) -> ModuleType:
    digest = hashlib.sha256(source).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"tracemill-own-{os.getuid()}-{os.getpid()}-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    file = folder / name
    file.write_bytes(source)
    try:
        return load_file(file)
    finally:
        file.unlink()
        folder.rmdir()
