"""The command that shows a version to a person: `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tracemill.pipelines.commands.base import STORE, RefArgument, StoreOption, errors, opened_store


def report(
    ref: RefArgument,
    other: Annotated[
        str | None, typer.Argument(metavar="REF2", help="A version to be compared with it, side by side.")
    ] = None,
    store: StoreOption = STORE,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where to; else beside the version in the store, or here for two."),
    ] = None,
    embedder: Annotated[
        str | None,
        typer.Option(
            "--embedder", metavar="FOLDER", help="A sentence encoder, for a map of the rows by their meaning."
        ),
    ] = None,
) -> None:
    """Write one HTML page that opens from disk: what is in a version, what was thrown away and why; of two, what differs."""
    from tracemill.pipelines.report.report import make
    from tracemill.pipelines.versions.dataset import reading

    with errors():
        place = opened_store(store, read_only=True)
        chosen = [place.hold(place.open(name)) for name in (ref, *([other] if other else []))]
        with reading(*chosen):
            print(make(place, chosen, out, embedder))
