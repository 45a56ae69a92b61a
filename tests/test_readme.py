"""The README is true: its commands run, its recipes load, its output is what comes out.

`python -m tests.test_readme`, run from the root, writes what comes out now into the page.
"""

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer.main

from tests.loopback import Loopback, reply, tokens_of
from tracemill.pipelines.asking.preview import check
from tracemill.pipelines.build import build
from tracemill.pipelines.cli import app
from tracemill.pipelines.store import Store
from tracemill.schemas.recipe import load_recipe
from tracemill.synth.models import ENGINE_KEYS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?:^<!-- (?P<note>.*?) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [found.groupdict() for found in BLOCK.finditer(README)]


def of_kind(kind: str) -> list[str]:
    return [block["text"] for block in BLOCKS if block["kind"] == kind]


Run = Callable[[list[str]], str]


def stranger_in(home: Path) -> Run:
    """Runs a command as somebody who has just installed tracemill: an empty home, a folder of their own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("TRACEMILL", "HF_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**inherited, "HOME": str(home), "PATH": path, "HF_HUB_OFFLINE": "1"}

    def run(command: list[str]) -> str:
        done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command[-1]}\n{done.stderr}"
        return done.stdout

    return run


def runnable() -> Iterator[tuple[list[str], str | None]]:
    """A command for each block that can be run here, in order, and the output that the page shows of it."""
    for block in BLOCKS:
        note, text = block["note"] or "", block["text"]
        if block["kind"] == "python":
            file = re.match(r"# file: (\w+\.py)\n", text)
            yield [sys.executable, "-c", f"open({file[1]!r}, 'w').write({text!r})" if file else text], None
        elif block["kind"] == "bash" and not note.startswith("needs: "):
            yield ["bash", "-eo", "pipefail", "-c", text], None
        elif note.startswith("output of: "):
            yield ["bash", "-eo", "pipefail", "-c", note.removeprefix("output of: ")], text


@pytest.mark.timeout(240)
def test_every_block_runs_in_order_and_says_what_the_page_shows(tmp_path: Path):
    run = stranger_in(tmp_path)
    shown = 0
    for command, output in runnable():
        said = run(command)
        if output is not None:
            assert shape(said) == shape(output), "python -m tests.test_readme writes what comes out now"
            shown += 1
    assert shown == README.count("<!-- output of: ") > 0


def shape(output: str) -> str:
    """The output without what differs from run to run: times and folders."""
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.+]+", "TIME", output)
    return re.sub(r"\S*(?=/(data/store|elsewhere)/)", "", text)


def test_every_recipe_on_the_page_loads(tmp_path: Path):
    for number, text in enumerate(of_kind("toml")):
        file = tmp_path / f"{number}.toml"
        file.write_text(text, encoding="utf-8")
        load_recipe(file)


def lines_of_tracemill() -> Iterator[str]:
    for text in of_kind("bash"):
        joined = text.replace("\\\n", " ")
        yield from (line for line in joined.splitlines() if line.startswith("tracemill "))


@pytest.mark.parametrize("line", list(lines_of_tracemill()))
def test_every_command_line_on_the_page_is_one_that_there_is(line: str):
    _, command, *arguments = shlex.split(line.removesuffix("&"), comments=True)
    group = typer.main.get_command(app)
    known = group.commands[command]  # type: ignore[attr-defined]
    context = known.make_context(command, arguments)
    overrides = context.params.get("overrides") or []
    if "recipe" in context.params:
        recipe = load_recipe(ROOT / "data" / "recipes" / f"{context.params['recipe']}.toml", overrides)
        for engine in recipe.engines.values():
            assert engine.model_fields_set <= ENGINE_KEYS[engine.kind]


def test_the_table_of_commands_is_complete():
    group = typer.main.get_command(app)
    named = re.findall(r"^\| `tracemill (\w+)", README, re.MULTILINE)
    assert sorted(named) == sorted(group.commands)  # type: ignore[attr-defined]


def test_links_lead_to_files_that_are_there():
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", README):
        assert "://" in target or (ROOT / target).exists(), target


def test_every_folder_of_the_file_map_is_there():
    section = README.split("\n## Files\n")[1].split("\n## ")[0]
    for name in re.findall(r"`([\w/]+/)`", section):
        assert (ROOT / name).is_dir(), name


# ---- the first path: a server that runs already


@pytest.fixture
def server() -> Iterator[str]:
    """An OpenAI-compatible server of the recipe's model, which answers every question with 7 or 8."""

    def answer(body: Mapping[str, Any]) -> dict[str, Any]:
        ids = tokens_of(body, 6)
        return reply(body, ids, f"<think>Let me see.</think>It is \\boxed{{{7 + ids[0] % 2}}}.")

    loop = asyncio.new_event_loop()
    loopback = Loopback(answer, models=("Qwen/Qwen3-8B",))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(loopback.start(), loop).result()
    yield loopback.url
    asyncio.run_coroutine_threadsafe(loopback.stop(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_the_recipe_of_the_first_path_builds_against_a_server(server: str, tmp_path: Path):
    problems = [{"question": f"What is {i} + {7 - i}?", "answer": f"Add them.\n#### {7}"} for i in range(8)]
    file = tmp_path / "gsm8k.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in problems), encoding="utf-8")
    overrides = [
        f'source=[{{path="{file}", answer_format="gsm8k", licence="MIT"}}]',
        f'engine.base_urls=["{server}"]',
    ]
    recipe = load_recipe(ROOT / "data" / "recipes" / "gsm8k-sample.toml", overrides)
    store = Store(tmp_path / "store")
    assert list(check(recipe, store))[-1] == "the recipe can be built"
    dataset = build(recipe, store).dataset
    rows = dataset.scan().collect()
    assert rows.height == 8
    assert set(rows["answer"]) == {"7"}
    assert dataset.scan("samples").collect().height == 64
    assert {path.name for path in (dataset.path / "views").iterdir()} == {"trl-sft", "trl-grpo", "verl"}


def write() -> None:
    """Put what the commands say now into the page."""
    page = README
    with tempfile.TemporaryDirectory() as home:
        run = stranger_in(Path(home))
        for command, output in runnable():
            said = run(command)
            if output is not None and shape(said) != shape(output):
                page = page.replace(output, said.replace(home, ""))
    (ROOT / "README.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    write()
