"""What all commands share: how a store, a reference and `--json` are asked for, and how errors end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from tracemill.schemas.errors import DiskFull, EngineLost, RecipeError, TracemillError

if TYPE_CHECKING:
    from tracemill.pipelines.build import Built
    from tracemill.pipelines.running.progress import Report
    from tracemill.pipelines.store import Store
    from tracemill.schemas.recipe import Recipe

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of one that ships, such as demo-scripted.")
]
StoreOption = Annotated[
    Path, typer.Option("--store", envvar="TRACEMILL_STORE", help="The folder of datasets and journal, on a local disk.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the recipe, such as synth.n=4 or source.0.path=x.jsonl; repeatable.",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="End with one line of JSON on stdout; progress goes to stderr.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and the version's path.")]
RefArgument = Annotated[
    str, typer.Argument(metavar="REF", help="NAME, for its newest complete version, or NAME@VERSION.")
]
FormatOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="An option of the format, such as pairs=4; repeatable."),
]
TokenizerOption = Annotated[
    str | None,
    typer.Option(
        "--tokenizer", metavar="NAME", help="Whose template and tokens: a folder or Hub id; else the model's own."
    ),
]
STORE = Path("data/store")


def opened_store(root: Path, *, read_only: bool = False) -> Store:
    from tracemill.pipelines.store import Store

    return Store(root, read_only=read_only)


def found_recipe(name: str, overrides: list[str] | None) -> Recipe:
    from tracemill.pipelines.recipes.shipped import read_recipe

    return read_recipe(name, overrides or ())


@contextmanager
def reporting(work: Path, name: str, *, plain: bool, quiet: bool) -> Iterator[Report]:
    """Who is told how far a run is, until it ends: the progress file in its work folder, and a terminal or a log."""
    report = _report_for(work, name, plain=plain, quiet=quiet)
    try:
        yield report
    finally:
        report.close()


def _report_for(work: Path, name: str, *, plain: bool, quiet: bool) -> Report:
    from tracemill.pipelines.running.progress import Lines, Panel, ProgressFile, Several

    file = ProgressFile(work)
    if quiet:
        return Several([file])
    if plain or not sys.stderr.isatty():
        return Several([file, Lines(sys.stderr)])
    from rich.console import Console

    return Several([file, Panel(Console(stderr=True), name)])


def concluded(
    recipe: str,
    store: Path,
    overrides: list[str] | None,
    make: Callable[[Recipe, Store, Report], Built],
    *,
    as_json: bool,
    quiet: bool,
) -> Built:
    """Run a command that makes a version, and say what it made. Call it within `errors`."""
    from tracemill.pipelines.report.beside import with_report

    read, place = found_recipe(recipe, overrides), opened_store(store)
    with reporting(place.work_folder(read.name), read.name, plain=as_json, quiet=quiet) as report:
        built = with_report(make(read, place, report), read, place)
    _conclude(built, as_json=as_json, quiet=quiet)
    return built


def _conclude(built: Built, *, as_json: bool, quiet: bool) -> None:
    """What a finished build leaves on the screen."""
    from tracemill.pipelines.asking.screens import built_lines

    if as_json:
        print(json.dumps(built.summary()))
    elif quiet:
        print(built.dataset.path)
    else:
        for line in built_lines(built):
            print(line)


@contextmanager
def errors(*, as_json: bool = False) -> Iterator[None]:
    """Turn errors into one clear message and the exit code of the contract."""
    try:
        yield
    except EngineLost as error:
        again = "" if "run again" in str(error) else "; what was sampled is kept: run the same command again"
        fail(f"{error}{again}", error.exit_code, as_json=as_json)
    except TracemillError as error:
        fail(str(error), error.exit_code, as_json=as_json)
    except KeyboardInterrupt:
        fail("interrupted; whatever was sampled is kept, run the same command again", 130, as_json=as_json)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more as it ends
        raise typer.Exit(141) from None  # as if SIGPIPE had ended us: the reader, such as `head`, has seen enough
    except OSError as error:
        from tracemill.pipelines.versions.durable import says_full

        if says_full(error):
            fail(f"the disk is full: {error}; make room and run again", DiskFull.exit_code, as_json=as_json)
        fail(f"{error}", RecipeError.exit_code, as_json=as_json)


def fail(message: str, code: int, *, as_json: bool) -> NoReturn:
    print(f"tracemill: {message}", file=sys.stderr)
    if as_json:
        print(json.dumps({"error": message, "exit_code": code}))
    raise typer.Exit(code)
