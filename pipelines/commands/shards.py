"""The commands that spread one build over processes and machines: `build --shard`, `build --workers`, `curate --workers`, `gather`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tracemill.pipelines.commands.base import (
    STORE,
    JsonOption,
    QuietOption,
    RecipeArgument,
    SetOption,
    StoreOption,
    concluded,
    errors,
    found_recipe,
    opened_store,
    reporting,
)
from tracemill.schemas.errors import RecipeError

if TYPE_CHECKING:
    from tracemill.pipelines.build import Built
    from tracemill.pipelines.running.progress import Report
    from tracemill.pipelines.store import Store
    from tracemill.schemas.recipe import Recipe

ShardOption = Annotated[
    str | None,
    typer.Option("--shard", metavar="i/N", help="Only sample one of N shards, i from 0 to N - 1; `gather` joins them."),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers", metavar="N", min=1, help="Spread over N processes of this machine, or N workers of --scheduler."
    ),
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        "--scheduler", metavar="ADDRESS", help="Spread over the workers of a Dask scheduler: tcp://host:8786."
    ),
]


def refuse_together(*, partial: bool, shard: str | None, workers: int | None, scheduler: str | None) -> None:
    """Options that say different things of what one process is to do."""
    spread = [name for name, value in (("--workers", workers), ("--scheduler", scheduler)) if value is not None]
    if shard is not None and spread:
        raise RecipeError(f"--shard and {spread[0]}: a shard is one process; leave one of them out")
    if partial and (shard is not None or spread):
        raise RecipeError(f"--partial and {'--shard' if shard else spread[0]}: use `tracemill build RECIPE --partial`")


def build_one(
    recipe: str,
    store: Path,
    overrides: list[str] | None,
    shard: str,
    *,
    as_json: bool,
    quiet: bool,
    patience: float = 0.0,
) -> None:
    """Sample one shard and say so; `patience` as in `build_shard`."""
    with errors(as_json=as_json):
        from tracemill.pipelines.scale.shard_work import Shard
        from tracemill.pipelines.scale.shards import build_shard

        part, read, place = Shard.parse(shard), found_recipe(recipe, overrides), opened_store(store)
        work = part.folder(place.work_folder(read.name))
        with reporting(work, f"{read.name}, shard {part}", plain=as_json, quiet=quiet) as report:
            done = build_shard(read, place, part, report=report, patience=patience)
        if as_json:
            print(json.dumps(done.summary()))
        elif not quiet:
            print(done.line(recipe))


def gather(
    recipe: RecipeArgument,
    store: StoreOption = STORE,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Join shards into one version, the one that a single process would have made; refuse while problems are missing."""
    with errors(as_json=as_json):
        from tracemill.pipelines.scale.shards import gather as gathered

        def make(read: Recipe, place: Store, report: Report) -> Built:
            return gathered(read, place, called=recipe, report=report)

        concluded(recipe, store, overrides, make, as_json=as_json, quiet=quiet)


def build_all(
    recipe: str,
    store: Path,
    overrides: list[str] | None,
    workers: int | None,
    scheduler: str | None,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Spread the sampling of a build over workers, then gather."""
    with errors(as_json=as_json):
        from tracemill.pipelines.scale.workers import spread

        def make(read: Recipe, place: Store, report: Report) -> Built:
            return spread(read, place, workers=workers or 0, scheduler=scheduler, report=report, called=recipe)

        concluded(recipe, store, overrides, make, as_json=as_json, quiet=quiet)


def curate_all(
    recipe: str,
    store: Path,
    overrides: list[str] | None,
    workers: int | None,
    scheduler: str | None,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Curate with workers that help to select."""
    with errors(as_json=as_json):
        from tracemill.pipelines.build import build
        from tracemill.pipelines.scale.cluster import cluster

        def make(read: Recipe, place: Store, report: Report) -> Built:
            with cluster(workers or 0, scheduler) as client:
                return build(read, place, given=True, report=report, client=client)

        concluded(recipe, store, overrides, make, as_json=as_json, quiet=quiet)
