"""Recipes by path, or by the name of one that ships."""

import os
from collections.abc import Sequence
from pathlib import Path

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import Recipe, load_recipe

FOLDER = Path(__file__).resolve().parents[2] / "data" / "recipes"


def recipe_file(name: str) -> Path:
    """The recipe at a path, or the one of that name that ships; RecipeError where a bare name is neither."""
    path = Path(name)
    if path.is_file() or path.suffix == ".toml" or os.sep in name:
        return path
    path = FOLDER / f"{name}.toml"
    if not path.is_file():
        shipped = ", ".join(sorted(file.stem for file in FOLDER.glob("*.toml")))
        raise RecipeError(f"no recipe file {name!r} here, and none of that name ships; those that do: {shipped}")
    return path


def read_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe with `KEY=VALUE` overrides applied; RecipeError where it cannot be."""
    return load_recipe(recipe_file(name), overrides)
