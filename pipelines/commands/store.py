"""The commands that look after a store and send versions out of it: `fsck`, `gc` and `publish`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tracemill.pipelines.commands.base import STORE, RefArgument, StoreOption, errors, opened_store
from tracemill.schemas.errors import RecipeError

OptionalRef = Annotated[
    str | None, typer.Argument(metavar="REF", help="NAME or NAME@VERSION; all versions and the journal unless given.")
]


def fsck(
    ref: OptionalRef = None,
    store: StoreOption = STORE,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also read every value, and make each table's content hash anew.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Hash every file of every version again and check pointers and journal: exit 0 if all is whole, 4 if anything is not."""
    from tracemill.pipelines.versions.fsck import fsck as checked
    from tracemill.pipelines.versions.fsck import fsck_lines

    with errors(as_json=as_json):
        report = checked(opened_store(store, read_only=True).root, ref, deep=deep)
        for line in [json.dumps(report.plain(), indent=2)] if as_json else fsck_lines(report):
            print(line)
        if report.faults:
            raise typer.Exit(4)


def gc(
    store: StoreOption = STORE,
    keep: Annotated[
        int | None,
        typer.Option("--keep", metavar="N", help="Also remove complete versions beyond the newest N of each dataset."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed; remove nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Remove what nothing needs: drafts of dead processes, superseded partial versions; builds may run meanwhile."""
    from tracemill.pipelines.versions.gc import gc as collected
    from tracemill.pipelines.versions.gc import gc_lines

    with errors(as_json=as_json):
        report = collected(opened_store(store, read_only=True).root, keep=keep, dry_run=dry_run)
        for line in [json.dumps(report.plain(), indent=2)] if as_json else gc_lines(report):
            print(line)


def publish(
    ref: RefArgument,
    repo: Annotated[
        str | None, typer.Option("--repo", metavar="ORG/NAME", help="A dataset repository of the Hub; made if need be.")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="URL", help="A folder, or a URL that fsspec takes, instead of the Hub."),
    ] = None,
    private: Annotated[bool, typer.Option("--private/--public", help="Who may read a repository that is made.")] = True,
    partial: Annotated[bool, typer.Option("--partial", help="Publish a partial version, too.")] = False,
    uncalibrated: Annotated[
        bool, typer.Option("--uncalibrated", help="Publish rows that a judge decided about whom nobody measured, too.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would go up, with sizes; send nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    store: StoreOption = STORE,
) -> None:
    """Send a version to the Hub in one commit with a tag, or to a folder or URL; the token is HF_TOKEN or `hf auth login`."""
    from tracemill.pipelines.hub import publish_to_hub
    from tracemill.pipelines.publish import publish_to, published_lines

    with errors(as_json=as_json):
        if (repo is None) == (to is None):
            raise RecipeError("say where to: --repo ORG/NAME for the Hub, or --to a folder or URL")
        place = opened_store(store, read_only=True)
        dataset = place.hold(place.open(ref))
        if repo is not None:
            done = publish_to_hub(
                dataset, repo, public=not private, partial=partial, uncalibrated=uncalibrated, dry_run=dry_run
            )
        else:
            done = publish_to(dataset, str(to), partial=partial, uncalibrated=uncalibrated, dry_run=dry_run)
        for line in [json.dumps(done.plain(), indent=2)] if as_json else published_lines(done):
            print(line)
