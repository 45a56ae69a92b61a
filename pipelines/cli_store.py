"""The commands that look after a store: `fsck` and `gc`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tracemill.pipelines.cli_base import STORE, StoreOption, errors, opened_store

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
    from tracemill.pipelines.fsck import fsck as checked
    from tracemill.pipelines.fsck import fsck_lines

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
    from tracemill.pipelines.gc import gc as collected
    from tracemill.pipelines.gc import gc_lines

    with errors(as_json=as_json):
        report = collected(opened_store(store, read_only=True).root, keep=keep, dry_run=dry_run)
        for line in [json.dumps(report.plain(), indent=2)] if as_json else gc_lines(report):
            print(line)
