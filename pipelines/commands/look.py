"""The command that shows a version in the browser: `view`."""

from __future__ import annotations

from typing import Annotated

import typer

from tracemill.pipelines.commands.base import STORE, RefArgument, StoreOption, errors, opened_store


def view(
    ref: RefArgument,
    store: StoreOption = STORE,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="On 127.0.0.1; 0 takes a free one.")] = 0,
    opening: Annotated[bool, typer.Option("--open/--no-open", help="Open a browser, too.")] = False,
) -> None:
    """Page through a version in the browser: rows, trees, nets, what was turned down; ends with Ctrl-C."""
    from tracemill.pipelines.viewer.serve import serve

    def ready(url: str) -> None:
        print(url, flush=True)
        if opening:
            import webbrowser

            webbrowser.open(url)

    with errors():
        place = opened_store(store, read_only=True)
        serve(place.hold(place.open(ref)), place.root, port=port, ready=ready)
