"""The commands that show a version and write it in the format of a trainer: `show` and `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tracemill.pipelines.commands.base import (
    STORE,
    FormatOption,
    RefArgument,
    StoreOption,
    TokenizerOption,
    errors,
    opened_store,
)
from tracemill.schemas.recipe import FORMATS


def show(
    ref: RefArgument,
    store: StoreOption = STORE,
    to: Annotated[
        str | None,
        typer.Option("--as", metavar="FORMAT", help="Show its rows as a trainer's model reads them: trl-sft, ..."),
    ] = None,
    n: Annotated[int, typer.Option("-n", min=0, help="With --as: rows to show.")] = 2,
    tokenizer: TokenizerOption = None,
    chosen: FormatOption = None,
) -> None:
    """Show what a version holds, what was turned down and why, and how often the model was right."""
    from tracemill.pipelines.versions.dataset import reading

    with errors():
        dataset = opened_store(store, read_only=True).open(ref)
        if to is None:
            from tracemill.pipelines.asking.screens import show_lines

            lines = show_lines(dataset)
        else:
            from tracemill.pipelines.asking.templated import preview_lines

            lines = preview_lines(dataset, to, n=n, tokenizer=tokenizer, **_options(chosen))
        with reading(dataset):
            for line in lines:
                print(line)


def export(
    ref: RefArgument,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help=f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A folder that is new or empty.")],
    store: StoreOption = STORE,
    chosen: FormatOption = None,
    tokenizer: TokenizerOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and the folder.")] = False,
) -> None:
    """Write a version in the format of a trainer."""
    from tracemill.pipelines.asking.templated import export_lines
    from tracemill.pipelines.export import export as exported
    from tracemill.pipelines.versions.dataset import reading

    with errors():
        options = _options(chosen)
        place = opened_store(store, read_only=True)
        version = place.hold(place.open(ref))
        version.manifest()  # one of a newer release is refused before anything is written
        with reading(version):
            print(folder := exported(version.path, to, out, **options))
            for line in () if quiet else export_lines(version, to, folder, tokenizer=tokenizer, **options):
                print(line)


def _options(chosen: list[str] | None) -> dict[str, Any]:
    """The options of a format, as `--set` gives them."""
    from tracemill.schemas.recipe import apply_override

    options: dict[str, Any] = {}
    for override in chosen or ():
        apply_override(options, override)
    return options
