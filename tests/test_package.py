"""What `pip install` gives: a wheel that holds all that is needed at run time, and runs away from the checkout."""

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("schemas", "synth", "filters", "selectors", "pipelines", "flows", "data")
IGNORED = shutil.ignore_patterns("__pycache__", "store", "*.egg-info")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, because setuptools leaves its `build` folder, and what is in it, beside the sources."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=IGNORED)
    (copy / "data" / "store" / "demo").mkdir(parents=True)
    (copy / "data" / "store" / "demo" / "rows.jsonl").write_text("{}")
    (copy / "tests").mkdir()
    (copy / "tests" / "test_nothing.py").touch()
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy / file)
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(out), ".", cwd=copy)
    return next(out.glob("tracemill-*.whl"))


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an environment in `venv` that holds the wheel and, by way of a .pth file, what it depends on.

    A .pth file inside the folder that a .pth file adds is not read: the editable install of the checkout stays out.
    """
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel))
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip())
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_every_file_that_runs_and_nothing_else(wheel: Path) -> None:
    code = {file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")}
    typed = {file for folder in FOLDERS for file in (ROOT / folder).glob("py.typed")}
    data = {
        file
        for pattern in (
            "calibration/*.jsonl",
            "graphs/*.csv",
            "recipes/*.toml",
            "problems/*.jsonl",
            "traces/*.jsonl",
            "models/*/*",
        )
        for file in (ROOT / "data").glob(pattern)
    }
    data |= {file for kind in ("css", "svg", "j2") for file in (ROOT / "pipelines").rglob(f"*.{kind}")}
    assert contents(wheel) == {f"tracemill/{file.relative_to(ROOT)}" for file in code | typed | data}
    assert len(typed) == len(FOLDERS) - 1


def test_the_wheel_holds_the_recipes_the_problems_and_the_model_of_the_demo(wheel: Path) -> None:
    assert contents(wheel) >= {
        "tracemill/data/recipes/demo.toml",
        "tracemill/data/problems/arith.jsonl",
        "tracemill/data/recipes/curate.toml",
        "tracemill/data/traces/worked.jsonl",
        "tracemill/data/models/tiny-reasoner/model.safetensors",
        "tracemill/data/models/tiny-reasoner/tokenizer.json",
        "tracemill/data/models/tiny-generalist/model.safetensors",
        "tracemill/data/models/tiny-generalist/tokenizer.json",
    }


def test_the_wheel_carries_its_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        licences = [name for name in archive.namelist() if name.endswith("/licenses/LICENSE")]
        assert b"Apache License" in archive.read(licences[0])


def test_the_installed_command_answers_from_another_folder(elsewhere: Path) -> None:
    if not (ROOT / "pipelines" / "cli.py").exists():
        pytest.skip("pipelines/cli.py does not stand yet")
    assert "build" in run(elsewhere / "venv" / "bin" / "tracemill", "--help", cwd=elsewhere)


def test_an_installed_recipe_finds_its_problems_and_its_model(elsewhere: Path) -> None:
    code = """
from pathlib import Path
import tracemill.schemas.recipe as recipes
from tracemill.synth.models import EMBEDDED
home = Path(recipes.__file__).parent.parent
recipe = recipes.load_recipe(home / "data" / "recipes" / "demo.toml")
assert Path(recipe.source[0].path).is_file()
assert (EMBEDDED / recipe.models["solver"].name / "config.json").is_file()
print(home)
"""
    home = run(elsewhere / "venv" / "bin" / "python", "-c", code, cwd=elsewhere).strip()
    assert Path(home).is_relative_to(elsewhere), "the checkout was imported, not the wheel"
