"""Runs the viewer until somebody ends it: a socket of the loopback, a token of this run, one line that says where."""

from __future__ import annotations

import importlib.util
import logging
import secrets
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tracemill.pipelines.versions.dataset import Dataset
from tracemill.schemas.errors import RecipeError

if TYPE_CHECKING:
    import uvicorn

HOST = "127.0.0.1"
NEEDS = "tracemill view needs starlette and uvicorn: pip install 'tracemill[view]'"
GRACE = 2
"""Seconds that requests have to end when the viewer does."""


def serve(dataset: Dataset, root: Path, *, port: int, ready: Callable[[str], None]) -> None:
    """Show a version on 127.0.0.1 until SIGINT or SIGTERM; `ready` gets the address once it answers.

    Port 0 takes a free one. Raises RecipeError where the port is taken, or what serves is not installed.
    """
    if missing := [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]:
        raise RecipeError(f"{NEEDS} ({', '.join(missing)} missing)")
    import uvicorn

    from tracemill.pipelines.viewer.app import make_app
    from tracemill.pipelines.viewer.pages import Viewer

    viewer = Viewer(dataset, root)
    with _bound(port) as listening:
        own = int(listening.getsockname()[1])
        token = secrets.token_urlsafe(24)
        app = make_app(viewer, token=token, port=own)
        config = uvicorn.Config(
            app,
            log_level="error",  # what a client sends wrongly is no matter of the terminal
            access_log=False,  # it would write the token into logs
            server_header=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=GRACE,
        )

        class Server(uvicorn.Server):
            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                ready(f"http://{HOST}:{own}/{token}/")

            async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
                viewer.end()
                logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # pages that are cut off now are no error
                await super().shutdown(sockets)

        server = Server(config)
        with _ended_quietly(server):
            server.run(sockets=[listening])


@contextmanager
def _bound(port: int) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
            listening.listen(128)
        except OSError as error:
            why = error.strerror or str(error)
            raise RecipeError(f"port {port} of {HOST} cannot be had: {why}; --port 0 takes a free one") from error
        yield listening


@contextmanager
def _ended_quietly(server: uvicorn.Server) -> Iterator[None]:
    """Uvicorn ends on SIGINT and SIGTERM, then raises them anew for whoever was there before; here that is nobody.

    One that comes before uvicorn listens to it ends the server as soon as it has started.
    """

    def end(*_: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
