"""The command line, used as people and programs use it."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer
from typer.testing import CliRunner, Result

from tests.conftest import PROBLEMS
from tracemill.pipelines.asking.templated import TEMPLATED
from tracemill.pipelines.cli import app
from tracemill.schemas.recipe import FORMATS
from tracemill.schemas.views import MADE_OF

COMMANDS: Any = typer.main.get_command(app).commands  # type: ignore[attr-defined]
SUMMARY = [
    "name", "version", "path", "problems", "rows", "rejected", "samples_new", "samples_replayed", "tokens_new", "complete",
]  # fmt: skip
RECIPE = """
name = "sums"
[source]
path = "problems.jsonl"
licence = "CC0-1.0"
[model]
name = "scripted-solver"
max_tokens = 64
[engine]
kind = "scripted"
[synth]
use = "sample"
n = 4
[[filters]]
use = "correct"
[[select]]
use = "keep"
"""

Run = Callable[..., Result]


@pytest.fixture
def recipe(tmp_path: Path, problems: Path) -> str:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return str(tmp_path / "recipe.toml")


@pytest.fixture
def tracemill(tmp_path: Path) -> Run:
    """Runs a command on a store of its own, and expects it to end with `code`."""

    def run(command: str, *args: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, [command, *args, "--store", str(tmp_path / "store")])
        assert result.exit_code == code, result.output
        return result

    return run


def plain(text: str) -> str:
    """Without colours and frames."""
    return re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", " ", text))


# ---- help


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_says_what_it_does_and_names_its_options(name: str):
    result = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, [name, "--help"])
    assert result.exit_code == 0
    shown = plain(result.output)
    assert plain(COMMANDS[name].help.splitlines()[0]).strip() in shown
    for parameter in COMMANDS[name].params:
        for option in parameter.opts if parameter.opts[0].startswith("-") else [parameter.metavar or parameter.name]:
            assert option in shown, f"{name} --help does not name {option}"
        assert parameter.name == "help" or parameter.help, f"{name}: {parameter.name} says nothing of itself"


def test_the_first_help_lists_every_command_and_all_exit_codes():
    result = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, ["--help"])
    for name in COMMANDS:
        assert f" {name} " in plain(result.output)
    codes = plain(result.output).partition("Exit codes:")[2]
    assert re.findall(r"\b(0|2|3|4|5|6|130|143)\b", codes) == ["0", "2", "3", "4", "5", "6", "130", "143"]
    bare = CliRunner().invoke(app, [])
    assert "Usage" in bare.output


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nsys.argv = ['tracemill', '--help']\nfrom tracemill.pipelines.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print('LOADED', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.partition("LOADED ")[2].split()}
    heavy = {
        "polars",
        "pyarrow",
        "numpy",
        "datasets",
        "torch",
        "vllm",
        "transformers",
        "aiohttp",
        "math_verify",
        "jinja2",
    }
    assert loaded & heavy == set()


# ---- build


def test_the_last_line_of_json_is_the_contract(tracemill: Run, recipe: str, tmp_path: Path):
    result = tracemill("build", recipe, "--json")
    [line] = result.stdout.splitlines()
    summary = json.loads(line)
    assert list(summary) == SUMMARY
    assert summary["name"] == "sums"
    assert summary["complete"] is True
    assert Path(summary["path"]) == tmp_path / "store" / "sums" / summary["version"]
    assert (summary["problems"], summary["samples_new"], summary["samples_replayed"]) == (20, 80, 0)
    assert summary["rows"] + summary["rejected"] == 80
    for table in ("rows", "rejected", "problems"):
        assert pl.read_parquet(f"{summary['path']}/{table}/*.parquet").height == summary[table]
    assert "reading problems" in result.stderr
    again = json.loads(tracemill("build", recipe, "--json").stdout)
    assert again == {**summary, "samples_new": 0, "samples_replayed": 80, "tokens_new": 0}


def test_a_failure_in_json_is_json_too(tracemill: Run, recipe: str):
    result = tracemill("build", recipe, "--json", "--set", "synth.n=0", code=2)
    said = json.loads(result.stdout)
    assert list(said) == ["error", "exit_code"]
    assert said["exit_code"] == 2
    assert result.stderr.strip() == f"tracemill: {said['error']}"


def test_quiet_prints_the_path_and_nothing_else(tracemill: Run, recipe: str):
    result = tracemill("build", recipe, "--quiet")
    assert result.stderr == ""
    [line] = result.stdout.splitlines()
    assert (Path(line) / "manifest.json").is_file()
    failed = tracemill("build", recipe, "-q", "--set", "synth.n=0", code=2)
    assert failed.stdout == ""
    assert failed.stderr.startswith("tracemill: ")


def test_without_a_terminal_a_build_tells_its_steps_in_plain_lines_and_ends_with_what_to_do_next(
    tracemill: Run, recipe: str
):
    result = tracemill("build", recipe)
    steps = ["reading problems", "staging", "filtering and selecting", "committing"]
    assert [step for step in steps if step in result.stderr] == steps
    assert "\x1b" not in result.output
    for part in ("accuracy", "rows by stage and reason", "filter:correct", "path  ", "tracemill show sums"):
        assert part in result.stdout


def test_a_budget_that_is_reached_ends_in_5_with_a_partial_version(tracemill: Run, recipe: str):
    result = tracemill("build", recipe, "--json", "--set", "budget.tokens=100", code=5)
    summary = json.loads(result.stdout)
    assert summary["complete"] is False
    assert 0 < summary["problems"] < 20
    assert "partial" in tracemill("ls").stdout
    assert "budget.tokens" in tracemill("show", f"sums@{summary['version']}").stdout
    tracemill("show", "sums", code=2)


def test_an_engine_that_is_lost_ends_in_3_and_partial_commits_what_is_done(tracemill: Run, recipe: str):
    dying = ["--set", "engine.args={lose_after = 30}", "--set", "engine.at_once=4"]
    result = tracemill("build", recipe, *dying, code=3)
    assert "run the same command again" in result.stderr
    assert "stopped, resumable" in tracemill("status", "sums").stdout
    partial = json.loads(tracemill("build", recipe, "--partial", "--json").stdout)
    assert partial["complete"] is False
    assert partial["samples_new"] == 0
    assert 0 < partial["problems"] < 20
    whole = json.loads(tracemill("build", recipe, "--json").stdout)
    assert (whole["complete"], whole["samples_new"]) == (True, 50)


def test_a_recipe_that_ships_is_built_by_its_name(tracemill: Run):
    summary = json.loads(tracemill("build", "demo-scripted", "--json", "--set", "source.0.limit=12").stdout)
    assert summary["name"] == "demo-scripted"
    assert summary["problems"] == 12


def test_given_traces_are_curated_without_a_model(tracemill: Run, tmp_path: Path):
    rows = [{**row, "solution": rf"so \boxed{{{row['answer']}}}"} for row in PROBLEMS]
    (tmp_path / "given.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "given.toml").write_text('name = "given"\n[source]\npath = "given.jsonl"\nresponse = "solution"\n')
    summary = json.loads(tracemill("curate", str(tmp_path / "given.toml"), "--json").stdout)
    assert (summary["rows"], summary["samples_new"]) == (20, 0)
    assert "the recipe can be built" in tracemill("check", str(tmp_path / "given.toml")).stdout


# ---- before a build


def test_check_tells_what_was_found_and_samples_nothing(tracemill: Run, recipe: str, tmp_path: Path):
    said = tracemill("check", recipe).stdout
    for part in ("problems  20; 0 rows refused", "solver: scripted-solver", "sample(n=4", "correct", "keep(k=1"):
        assert part in said
    assert said.splitlines()[-1] == "the recipe can be built"
    assert "no datasets" in tracemill("ls").stdout
    assert json.loads(tracemill("build", recipe, "--json").stdout)["samples_new"] == 80


def test_preview_shows_prompts_and_a_forecast_and_its_samples_are_replayed(tracemill: Run, recipe: str):
    said = tracemill("preview", recipe, "-n", "2").stdout
    assert said.count("--- prompt of p") == 2
    assert said.count("Please reason step by step") == 2
    for part in ("problems", "tokens", "accepted rows", "tokens per accepted row", "disk, MB"):
        assert part in said
    built = json.loads(tracemill("build", recipe, "--json").stdout)
    assert (built["samples_replayed"], built["samples_new"]) == (40, 40)


def test_a_preview_of_everything_is_no_forecast_but_the_truth(tracemill: Run, recipe: str):
    tracemill("build", recipe, "-q")
    said = tracemill("preview", recipe, "-n", "20").stdout
    assert re.search(r"problems\s+20", said)


# ---- after a build


def test_a_store_tells_what_it_holds(tracemill: Run, recipe: str, tmp_path: Path):
    summary = json.loads(tracemill("build", recipe, "--json").stdout)
    name = f"sums@{summary['version']}"
    assert name in tracemill("ls").stdout
    for ref in ("sums", "sums@latest", name, f"sums@{summary['version'][:6]}"):
        assert tracemill("path", ref).stdout == f"{summary['path']}\n"
    shown = tracemill("show", "sums").stdout
    for part in (name, "problems.jsonl: 20 problems, licence CC0-1.0", "scripted-solver", "L2:", "filter:correct"):
        assert part in shown
    assert "done, 20 of 20 problems, 80 samples new, 0 replayed" in tracemill("status").stdout
    assert summary["version"] in tracemill("status", "sums").stdout


@pytest.mark.parametrize("form", [name for name in FORMATS if name not in MADE_OF])
def test_a_version_is_exported_for_every_trainer(tracemill: Run, recipe: str, tmp_path: Path, form: str):
    tracemill("build", recipe, "-q")
    out = tmp_path / "deep" / "out"
    said = tracemill("export", "sums", "--to", form, "--out", str(out)).stdout.splitlines()
    assert said[0] == str(out)
    height = pl.read_parquet(out / "*.parquet").height
    if form in TEMPLATED:
        assert "'scripted-solver' is neither a folder" in said.pop(1)
    assert said[1].startswith(f"rows    {height}, ")
    assert [line.split()[0] for line in said[2:]] == ([] if form in ("trl-grpo", "verl") else ["tokens"])


def test_an_export_tells_its_tokens_in_the_template_that_is_named(tracemill: Run, recipe: str, tmp_path: Path):
    tracemill("build", recipe, "-q")
    asked = ("export", "sums", "--to", "trl-sft", "--out", str(tmp_path / "out"), "--tokenizer", "tiny-reasoner")
    assert [line.split()[0] for line in tracemill(*asked).stdout.splitlines()[1:]] == [
        "template",
        "rows",
        "tokens",
        "cut",
    ]
    shown = tracemill("show", "sums", "--as", "trl-sft", "-n", "1", "--tokenizer", "tiny-reasoner").stdout
    assert "--- row 1, the conversation" in shown
    assert "'trl-sfr'; did you mean 'trl-sft'?" in tracemill("show", "sums", "--as", "trl-sfr", code=2).stderr


def test_an_export_takes_options_and_is_quiet_when_asked(tracemill: Run, recipe: str, tmp_path: Path):
    tracemill("build", recipe, "-q")
    out = tmp_path / "out"
    asked = ("export", "sums", "--to", "openrlhf", "--out", str(out))
    assert "'from'; did you mean 'form'?" in tracemill(*asked, "--set", "from=rl", code=2).stderr
    assert tracemill(*asked, "--set", "form=rl", "-q").stdout == f"{out}\n"
    assert "label" in pl.read_parquet(out / "*.parquet").columns


def test_a_running_build_is_shown_as_running(tracemill: Run, recipe: str, tmp_path: Path):
    import fcntl

    tracemill("build", recipe, "--set", "engine.args={lose_after = 8}", "--set", "engine.at_once=4", code=3)
    with (tmp_path / "store" / ".work" / "sums" / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "sums: running (" in tracemill("status").stdout
    assert "sums: stopped, resumable" in tracemill("status").stdout


def test_the_version_is_printed():
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output.split()[0]) == (0, "tracemill")
