"""`tracemill schedule`: the one command that starts nothing itself. Prefect does, later, and again."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tracemill.pipelines.commands.base import STORE, RecipeArgument, SetOption, StoreOption, errors, opened_store
from tracemill.pipelines.commands.shards import SchedulerOption, WorkersOption
from tracemill.schemas.errors import LockHeld, RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracemill.pipelines.store import Store
    from tracemill.schemas.recipe import Recipe


def schedule(
    recipe: RecipeArgument,
    cron: Annotated[
        str | None, typer.Option("--cron", metavar="CRON", help='When to build: "0 2 * * *" is every night at two.')
    ] = None,
    timezone: Annotated[str, typer.Option("--timezone", metavar="ZONE", help="The time zone of --cron.")] = "UTC",
    store: StoreOption = STORE,
    overrides: SetOption = None,
    curate: Annotated[
        str | None,
        typer.Option(
            "--curate", metavar="RECIPE", help="Then curate with this recipe, whose source is the dataset built."
        ),
    ] = None,
    repo: Annotated[
        str | None, typer.Option("--publish", metavar="ORG/NAME", help="Then publish to this repository of the Hub.")
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="URL", help="Or publish to a folder, or a URL that fsspec takes.")
    ] = None,
    public: Annotated[bool, typer.Option("--public/--private", help="Who may read a repository that is made.")] = False,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Of the deployment; the recipe's name unless given.")
    ] = None,
    pool: Annotated[
        str, typer.Option("--pool", metavar="POOL", help="A work pool of type process; made if need be.")
    ] = "tracemill",
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    pause: Annotated[bool, typer.Option("--pause", help="Keep the schedule, but start nothing by it.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Take the deployment away instead.")] = False,
) -> None:
    """Let a Prefect server start a build by the clock; the same command again changes when and what."""
    with errors():
        deploy = _prefect()
        when = None if remove else deploy.timetable(_given(cron), timezone)
        read = _read(recipe, overrides)
        if remove:
            print(f"removed   nightly/{name or read.name} from {deploy.remove(name or read.name)}")
            return
        place = opened_store(store)
        _resolve(read, place, curate, spread=workers is not None or scheduler is not None)
        if repo and to:
            raise RecipeError(f"publish to one place: --publish {repo} or --to {to}")
        parameters = {
            "recipe": _anywhere(recipe),
            "store": os.path.normpath(place.root),
            "overrides": overrides or [],
            "curate": _anywhere(curate) if curate else "",
            "repo": repo or "",
            "to": _absolute(to) if to else "",
            "public": public,
            "workers": workers or 0,
            "scheduler": scheduler or "",
        }
        done = deploy.deploy(
            name or read.name,
            when,
            parameters,
            pool=pool,
            paused=pause,
            description=f"tracemill: {read.name} in {parameters['store']}",
        )
        for line in _lines(done, parameters, cron=_given(cron), timezone=timezone, pool=pool, paused=pause):
            print(line)


def _prefect() -> Any:
    """`tracemill.flows.deploy`, the one module of flows/ that the command line asks, and only here."""
    try:
        from tracemill.flows import deploy
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("prefect", "sqlalchemy"):
            raise
        raise RecipeError(f"schedules need Prefect ({error}): pip install 'tracemill[prefect]'") from None
    return deploy


def _given(cron: str | None) -> str:
    if cron is None:
        raise RecipeError('say when: --cron "0 2 * * *" is every night at two (minute hour day month weekday)')
    return cron


def _read(recipe: str, overrides: list[str] | None) -> Recipe:
    from tracemill.pipelines.recipes.shipped import read_recipe

    return read_recipe(recipe, overrides or ())


def _resolve(recipe: Recipe, store: Store, curate: str | None, *, spread: bool) -> None:
    """Find what is wrong now and not at night. Servers may be down until then, and what is to be curated does not exist yet."""
    from tracemill.pipelines.asking.preview import check
    from tracemill.pipelines.plan import resolve
    from tracemill.pipelines.scale.shards import check_shards

    try:
        for _ in check(recipe, store, reach=False):
            pass
    except LockHeld:
        pass  # a build of it is running just now, so all of it was found
    if spread:
        check_shards(recipe)
    if curate is not None:
        resolve(_read(curate, None), given=True, runtime=store.engines_folder, vectors=store.vectors_folder)


def _anywhere(recipe: str) -> str:
    """A recipe as it is found from any folder: its absolute path, or the name of one that ships."""
    return str(Path(recipe).resolve()) if Path(recipe).is_file() else recipe


def _absolute(to: str) -> str:
    return to if "://" in to else str(Path(to).expanduser().absolute())


def _lines(
    done: Any, parameters: dict[str, Any], *, cron: str, timezone: str, pool: str, paused: bool
) -> Iterator[str]:
    """What stands now, and what is still to be typed."""
    yield f"scheduled {done.name} at {cron!r}, {timezone}{', paused' if paused else ''}, on {done.server}"
    what = [f"build {parameters['recipe']}", *([f"curate {parameters['curate']}"] if parameters["curate"] else [])]
    what += [f"publish to {place}" for place in (parameters["repo"], parameters["to"]) if place]
    yield f"runs      {', then '.join(what)}; store {parameters['store']}"
    if done.workers:
        yield f"workers   {done.workers} in the pool {pool!r}"
    else:
        made = " (made now)" if done.pool_made else ""
        yield f"workers   none in the pool {pool!r}{made}; where the store is, keep one running:"
        yield f"          prefect worker start --pool {shlex.quote(pool)}"
    yield f"try it    prefect deployment run {shlex.quote(done.name)}"
    yield f"status    tracemill status --store {shlex.quote(parameters['store'])}"
