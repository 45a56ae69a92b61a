"""The command line. Each command imports what it needs when it runs, so that `tracemill --help` answers at once."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tracemill.pipelines.commands import look, report, schedule, shards, views
from tracemill.pipelines.commands import store as stores
from tracemill.pipelines.commands.base import (
    STORE,
    JsonOption,
    QuietOption,
    RecipeArgument,
    RefArgument,
    SetOption,
    StoreOption,
    concluded,
)
from tracemill.pipelines.commands.base import errors as _errors
from tracemill.pipelines.commands.base import found_recipe as _recipe
from tracemill.pipelines.commands.base import opened_store as _store
from tracemill.pipelines.commands.shards import SchedulerOption, ShardOption, WorkersOption, refuse_together

if TYPE_CHECKING:
    from tracemill.pipelines.build import Built
    from tracemill.pipelines.running.progress import Report
    from tracemill.pipelines.store import Store
    from tracemill.schemas.recipe import Recipe

app = typer.Typer(
    name="tracemill",
    help="Turn problems into verified, versioned reasoning data with a real model, and survive kill -9.",
    epilog="A first try that needs no model: tracemill build demo-scripted. Exit codes: 0 done; 2 the recipe, an input or a "
    "server is wrong, nothing was sampled; 3 the engine or the Hub was lost, run again; 4 stopped by a promise, the message says which; "
    "5 a budget was reached, a partial version stands; 6 disk full; 130 and 143 interrupted, run again.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"tracemill {importlib.metadata.version('tracemill')}")
        raise typer.Exit(0)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    del version  # its callback has answered


@app.command()
def build(
    recipe: RecipeArgument,
    store: StoreOption = STORE,
    overrides: SetOption = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Sample nothing; commit what is done as a partial version.")
    ] = False,
    shard: ShardOption = None,
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Build a dataset, or go on where the last build of it stopped: after any crash, run the same command again."""
    with _errors(as_json=as_json):
        refuse_together(partial=partial, shard=shard, workers=workers, scheduler=scheduler)
    if shard is not None:
        shards.build_one(recipe, store, overrides, shard, as_json=as_json, quiet=quiet)
    elif workers is not None or scheduler is not None:
        shards.build_all(recipe, store, overrides, workers, scheduler, as_json=as_json, quiet=quiet)
    else:
        _build(recipe, store, overrides, given=False, partial=partial, as_json=as_json, quiet=quiet)


@app.command()
def curate(
    recipe: RecipeArgument,
    store: StoreOption = STORE,
    overrides: SetOption = None,
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Verify, filter and commit traces or rated steps that exist already; nothing is sampled."""
    if workers is not None or scheduler is not None:
        shards.curate_all(recipe, store, overrides, workers, scheduler, as_json=as_json, quiet=quiet)
    else:
        _build(recipe, store, overrides, given=True, partial=False, as_json=as_json, quiet=quiet)


@app.command()
def demo(store: StoreOption = STORE, quiet: QuietOption = False) -> None:
    """Build two datasets with the small model that ships, on real vLLM: verified samples, and chains of four lengths."""
    from tracemill.pipelines.asking.screens import opened_lines

    for name in ("demo", "demo-mixchain"):
        built = _build(name, store, None, given=False, partial=False, as_json=False, quiet=quiet)
        with _errors():
            for line in opened_lines(built.dataset):
                print(line)
            print()


@app.command()
def check(recipe: RecipeArgument, store: StoreOption = STORE, overrides: SetOption = None) -> None:
    """Resolve everything a recipe names, read its sources and reach its servers; sample nothing."""
    from tracemill.pipelines.asking.preview import check as checked

    with _errors():
        for line in checked(_recipe(recipe, overrides), _store(store)):
            print(line)


@app.command()
def preview(
    recipe: RecipeArgument,
    store: StoreOption = STORE,
    overrides: SetOption = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Problems to show, and to sample in the first probe.")] = 2,
) -> None:
    """Show the first prompts, sample two small probes, and forecast the whole build with ranges."""
    from tracemill.pipelines.asking.preview import preview as previewed

    with _errors():
        for line in previewed(_recipe(recipe, overrides), _store(store), n=n):
            print(line)


@app.command()
def why(
    recipe: RecipeArgument,
    store: StoreOption = STORE,
    overrides: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Tell what a build would sample now, which field of which request is the reason, and what it would cost; sample nothing."""
    from tracemill.pipelines.asking.diff_screens import as_json as whole
    from tracemill.pipelines.asking.why import why as asked
    from tracemill.pipelines.asking.why_screens import why_lines

    with _errors(as_json=as_json):
        facts = asked(_recipe(recipe, overrides), _store(store))
        for line in [whole(facts)] if as_json else why_lines(facts):
            print(line)


@app.command()
def replay(
    ref: RefArgument,
    sample: Annotated[int, typer.Option("--sample", min=1, metavar="N", help="Samples to draw anew.")],
    seed: Annotated[int, typer.Option("--seed", help="Another seed chooses other samples.")] = 0,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="FILE",
            help="Models and engines; the version's recipe.toml, which has no addresses, unless given.",
        ),
    ] = None,
    overrides: SetOption = None,
    at_least: Annotated[
        float | None, typer.Option("--at-least", min=0, max=1, metavar="SHARE", help="Exit with 4 where fewer match.")
    ] = None,
    store: StoreOption = STORE,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Draw samples of a version anew on an engine, and say how many come out the same; the journal stays as it is."""
    from tracemill.pipelines.asking.diff_screens import as_json as whole
    from tracemill.pipelines.asking.replay import replay as replayed
    from tracemill.pipelines.versions.dataset import reading
    from tracemill.pipelines.versions.replays import replay_lines

    with _errors(as_json=as_json):
        place = _store(store)
        dataset = place.hold(place.open(ref))
        with reading(dataset):
            read = _recipe(recipe or str(dataset.path / "recipe.toml"), overrides)
            facts = replayed(dataset, place, read, sample=sample, seed=seed)
        for line in [whole(facts)] if as_json else replay_lines(facts):
            print(line)
        exact = facts["all"]["exact"]
        if at_least is not None and (exact is None or exact["rate"] < at_least):
            print(f"tracemill: fewer than {at_least:.2%} of the samples came out the same", file=sys.stderr)
            raise typer.Exit(4)


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A dataset; all of them unless given.")] = None,
    store: StoreOption = STORE,
) -> None:
    """Tell what is running or resumable, how far, and at what rate."""
    from tracemill.pipelines.asking.screens import status_lines

    with _errors():
        for line in status_lines(_store(store, read_only=True), name):
            print(line)


@app.command()
def ls(store: StoreOption = STORE) -> None:
    """List the datasets of a store and their versions."""
    from tracemill.pipelines.asking.screens import list_lines

    with _errors():
        for line in list_lines(_store(store, read_only=True)):
            print(line)


app.command()(views.show)


@app.command()
def path(ref: RefArgument, store: StoreOption = STORE) -> None:
    """Print the folder of a version, for `datasets.load_dataset`."""
    with _errors():
        print(_store(store, read_only=True).open(ref).path)


@app.command()
def explain(
    ref: RefArgument,
    row: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="A row, a problem, or a request's key; or 6 or more of its first characters."
        ),
    ],
    store: StoreOption = STORE,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document, with whole texts.")] = False,
) -> None:
    """Tell the life of a row: its source, what was drawn, what became of each trace and why, and where it stands now."""
    from tracemill.pipelines.asking.diff_screens import as_json as whole
    from tracemill.pipelines.asking.explain import explain as explained
    from tracemill.pipelines.asking.explain_screens import explain_lines
    from tracemill.pipelines.versions.dataset import reading

    with _errors(as_json=as_json):
        place = _store(store, read_only=True)
        dataset = place.hold(place.open(ref))
        with reading(dataset):
            life = explained(dataset, row)
        for line in [whole(life)] if as_json else explain_lines(life):
            print(line)


@app.command()
def diff(
    a: RefArgument,
    b: RefArgument,
    store: StoreOption = STORE,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the same as one HTML file that loads nothing.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=0, help="Examples of added, removed and changed rows to show.")] = 10,
) -> None:
    """Compare two versions: rows added, removed and changed, why, and what shifted in length, difficulty and correctness."""
    from tracemill.pipelines.asking.diff import diff as compared
    from tracemill.pipelines.asking.diff_screens import as_json as whole
    from tracemill.pipelines.asking.diff_screens import diff_lines, write_page
    from tracemill.pipelines.versions.dataset import reading

    with _errors(as_json=as_json):
        place = _store(store, read_only=True)
        one, other = place.hold(place.open(a)), place.hold(place.open(b))
        with reading(one, other):
            facts = compared(one, other, examples=n)
        if html is not None:
            write_page(facts, html)
        for line in [whole(facts)] if as_json else diff_lines(facts):
            print(line)


app.command()(report.report)
app.command()(shards.gather)
app.command()(views.export)
app.command()(look.view)
app.command()(stores.fsck)
app.command()(stores.gc)
app.command()(stores.publish)
app.command()(schedule.schedule)


def main() -> None:
    """The console script."""
    app()


def _build(
    recipe: str, store: Path, overrides: list[str] | None, *, given: bool, partial: bool, as_json: bool, quiet: bool
) -> Built:
    from tracemill.pipelines.build import build as built_from

    with _errors(as_json=as_json):

        def make(read: Recipe, place: Store, report: Report) -> Built:
            return built_from(read, place, given=given, partial=partial, report=report)

        built = concluded(recipe, store, overrides, make, as_json=as_json, quiet=quiet)
        if built.why_partial and not partial:
            raise typer.Exit(5)
    return built


if __name__ == "__main__":
    main()
