"""The shape of the code base: which way the arrows point, what is light to import, and what form a plug-in has."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any

import pytest

from tracemill.pipelines.recipes import catalog
from tracemill.schemas.recipe import Recipe, Step, load_recipe

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "schemas": {"schemas"},
    "synth": {"synth", "schemas"},
    "filters": {"filters", "schemas"},
    "selectors": {"selectors", "schemas"},
    "pipelines": {"pipelines", "synth", "filters", "selectors", "schemas"},
    "flows": {"flows", "pipelines", "synth", "filters", "selectors", "schemas"},
}
THE_DOOR = ROOT / "pipelines" / "commands" / "schedule.py"
"""The one file below flows/ that reaches up into it: the command line starts what there is, and `schedule` is of flows/."""
HEAVY = {
    *("vllm", "torch", "datasets", "transformers", "peft", "sympy", "math_verify", "prefect", "dask", "distributed"),
    *(
        "detect_secrets",
        "phonenumbers",
        "py3langid",
        "rensa",
        "rustworkx",
        "sentence_transformers",
        "sklearn",
        "matplotlib",
        "uvicorn",
    ),
    *("detect_secrets", "phonenumbers", "py3langid", "rensa", "rustworkx", "sentence_transformers", "sklearn"),
    "uvicorn",
}
MACHINERY = {
    "synth": {
        *(
            "closing",
            "embed",
            "engine",
            "fit",
            "gate",
            "journal",
            "judge",
            "models",
            "modes",
            "plans",
            "prompts",
            "render",
            "reply",
            "roles",
            "vectors",
            "workshop",
        ),
    },
    "filters": {"asking", "bounds", "spans", "texts"},
    "selectors": {"shares", "meaning", "near", "keeping", "tiles", "clusters", "votes", "neighbours"},
}
"""Files that are no plug-ins; all else there must have the form of one."""

SOURCES = sorted(file for folder in MAY_IMPORT for file in (ROOT / folder).rglob("*.py"))
RECIPES = sorted((ROOT / "data" / "recipes").glob("*.toml"))


def imports(file: Path) -> Iterator[str]:
    """Every module that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: write the import in full, from tracemill.<folder>"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def run_python(code: str, cwd: Path = ROOT) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def module_names(folder: str) -> list[str]:
    files = sorted((ROOT / folder).rglob("*.py"))
    names = (".".join(("tracemill", *file.relative_to(ROOT).with_suffix("").parts)) for file in files)
    return [name.removesuffix(".__init__") for name in names]


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_arrows_point_one_way(file: Path) -> None:
    folder = file.relative_to(ROOT).parts[0]
    found = set(imports(file))
    ours = {name.split(".")[1] for name in found if name.startswith("tracemill.")}
    if file == THE_DOOR:
        ours.discard("flows")
    assert ours <= MAY_IMPORT[folder], f"{folder}/ may import only {sorted(MAY_IMPORT[folder])}"
    flat = {name.split(".")[0] for name in found} & (MAY_IMPORT.keys() - {"selectors"})
    assert not flat, f"our folders are imported as tracemill.<folder>, not as {flat}"


def test_a_wrong_arrow_and_an_import_inside_a_function_are_seen(tmp_path: Path) -> None:
    file = tmp_path / "example.py"
    file.write_text("def f():\n    from tracemill.filters import length\n")
    assert "tracemill.filters.length" in set(imports(file))


def test_the_standard_librarys_selectors_is_not_hidden_by_ours() -> None:
    assert not (ROOT / "selectors" / "__init__.py").exists()
    assert not Path(run_python("import asyncio, selectors; print(selectors.__file__)")).is_relative_to(
        ROOT / "selectors"
    )


def test_no_benchmark_hides_a_module_of_the_standard_library() -> None:
    """Python puts the folder of a script first, so one file named like such a module breaks all scripts beside it."""
    assert {file.stem for file in (ROOT / "tests" / "bench").glob("*.py")} & sys.stdlib_module_names == set()


def test_schemas_import_nothing_heavy() -> None:
    assert heavy_after_importing(*module_names("schemas")) == set()


def test_the_command_line_imports_nothing_heavy() -> None:
    if not (ROOT / "pipelines" / "cli.py").exists():
        pytest.skip("pipelines/cli.py does not stand yet")
    assert heavy_after_importing("tracemill.pipelines.cli") == set()


def test_every_module_can_be_imported_without_heavy_libraries_being_loaded() -> None:
    below = [name for folder in MAY_IMPORT if folder != "flows" for name in module_names(folder)]
    assert heavy_after_importing(*below) == set()


def test_only_flows_import_prefect_and_flows_import_nothing_else_that_is_heavy() -> None:
    users = {
        file.relative_to(ROOT).parts[0] for file in SOURCES if any(n.split(".")[0] == "prefect" for n in imports(file))
    }
    assert users == {"flows"}
    assert heavy_after_importing(*module_names("flows")) == {"prefect"}


def heavy_after_importing(*modules: str) -> set[str]:
    code = "; ".join(["import sys", *(f"import {name}" for name in modules), "print(*sys.modules)"])
    return HEAVY & {name.split(".")[0] for name in run_python(code).split()}


def plugin_files() -> Iterator[tuple[str, str]]:
    for folder, machinery in MACHINERY.items():
        places = sorted((ROOT / folder).iterdir())
        files = [place.stem for place in places if place.suffix == ".py" and not place.stem.startswith("_")]
        families = [place.name for place in places if (place / f"{place.name}.py").exists()]
        yield from ((folder, name) for name in (*files, *families) if name.split("_")[0] not in machinery)


@pytest.mark.parametrize(("folder", "name"), list(plugin_files()))
def test_every_plugin_holds_to_its_form(folder: str, name: str) -> None:
    kinds: dict[str, tuple[catalog.Kind, ...]] = {
        "synth": ("synth",),
        "filters": ("filters", "score"),
        "selectors": ("selectors",),
    }
    function = catalog._function(folder, name)
    assert function is not None, f"{folder}/{name}.py has no function {name}"
    assert any(catalog._is_plugin(kind, function) for kind in kinds[folder]), (
        f"not the form: {inspect.signature(function)}"
    )
    assert inspect.getdoc(function) or inspect.getdoc(inspect.getmodule(function)), "says nothing about itself"
    for option in inspect.signature(function).parameters.values():
        if option.kind is not option.KEYWORD_ONLY or option.name in catalog.HANDED:
            continue
        assert option.annotation is not option.empty, f"option {option.name} has no annotation"
        assert option.default is option.empty or is_plain(option.default), f"a recipe cannot write {option.default!r}"


def is_plain(value: Any) -> bool:
    """Whether TOML can write it (None: by leaving it out) and nobody can change it by accident."""
    return isinstance(value, bool | int | float | str | NoneType) or (
        isinstance(value, tuple) and all(is_plain(part) for part in value)
    )


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_that_ships_names_only_what_there_is(path: Path) -> None:
    recipe = load_recipe(path)
    for kind, step in steps(recipe):
        assert catalog.find(kind, step)


def steps(recipe: Recipe) -> Iterator[tuple[catalog.Kind, Step]]:
    if recipe.synth is not None:
        yield "synth", recipe.synth
    yield from (("score", step) for step in recipe.score)
    yield from (("filters", step) for step in recipe.filters)
    yield from (("filters", step) for source in recipe.source for step in source.keep)
    yield from (("selectors", step) for step in recipe.select)


def tracked_files() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    files = (ROOT / name for name in done.stdout.decode().split("\0") if name)
    return [file for file in files if file.is_file() and not file.is_symlink()]


def test_no_merge_was_left_half_done() -> None:
    marks = re.compile(rb"^(?:<{7}|>{7}) ", re.MULTILINE)
    assert [str(file.relative_to(ROOT)) for file in tracked_files() if marks.search(file.read_bytes())] == []


def test_no_tracked_file_names_a_folder_of_somebodys_machine() -> None:
    machine = re.compile(rb"(?<![\w.~-])/(?:home|root|work|opt|farm|Users|mnt|tmp)/[\w.-]+")
    found = {
        str(file.relative_to(ROOT)): hit.group()
        for file in tracked_files()
        if (hit := machine.search(file.read_bytes()))
    }
    assert found == {}


def test_type_checkers_find_every_folder_through_a_symlink() -> None:
    for folder in MAY_IMPORT:
        link = ROOT / ".typing" / "tracemill" / folder
        assert link.is_symlink()
        assert link.readlink() == Path("../..") / folder


def test_every_folder_with_code_is_a_package_of_the_project() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {str(file.parent.relative_to(ROOT)) for file in SOURCES}
    assert folders <= {name.removeprefix("tracemill.").replace(".", "/") for name in tool["packages"]}
