"""The routes of the viewer: a page a function, each made in a thread, so that no page waits for a search.

A search or a life that nobody waits for any more is stopped; two of them run at once. What goes wrong becomes a page that says so: a version
that is gone, an id that is none, a file that cannot be read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from threading import Event
from typing import TYPE_CHECKING

from tracemill.pipelines.drawings import CSS
from tracemill.pipelines.viewer.life import life_page
from tracemill.pipelines.viewer.pages import FILES, HOME, Query, Viewer, overview, table_page
from tracemill.pipelines.viewer.rows import row_page, tree_page, whole_text
from tracemill.pipelines.viewer.security import REPORT_POLICY, Guard
from tracemill.schemas.errors import LawBroken, RecipeError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

Page = Callable[[Viewer, Query, Event], str]

PAGES, SEARCHES = 8, 2
"""Threads that make pages, and those that go through whole tables."""


def make_app(viewer: Viewer, *, token: str, port: int) -> Guard:
    """The viewer as an ASGI application that answers below `/<token>/` on this port of the loopback."""
    from anyio import CapacityLimiter
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.routing import Route

    quick, slow = CapacityLimiter(PAGES), CapacityLimiter(SEARCHES)

    def route(path: str, page: Page, media: str = "text/html") -> Route:
        async def answer(request: Request) -> Response:
            asked = request.query_params
            whole = path == "/life" or any(asked.getlist("f")) or bool(asked.get("q"))  # it goes through whole tables
            return await _answered(viewer, page, request, slow if whole else quick, media)

        return Route(path, answer, methods=["GET"])

    async def no_page(request: Request, error: Exception) -> Response:
        del request, error
        return _problem(viewer, 404, "There is no such page.")

    routes = [
        route("/", overview),
        route("/table", table_page),
        route("/row", row_page),
        route("/text", whole_text, media="text/plain"),
        route("/tree", tree_page),
        route("/life", life_page),
        route("/file", _file, media="text/plain"),
        Route("/report", partial(_report, viewer)),
        Route("/style.css", partial(_own, CSS + (HOME / "style.css").read_text(encoding="utf-8"), "text/css")),
        Route("/icon.svg", partial(_own, (HOME / "icon.svg").read_text(encoding="utf-8"), "image/svg+xml")),
    ]
    return Guard(Starlette(routes=routes, exception_handlers={HTTPException: no_page}), token=token, port=port)


async def _answered(viewer: Viewer, page: Page, request: Request, threads: object, media: str) -> Response:
    """The page, made in a thread; what goes wrong with it, as a page too."""
    import pyarrow as pa
    from anyio.to_thread import run_sync
    from polars.exceptions import PolarsError
    from starlette.responses import Response

    stop = viewer.begin()
    asked = Query(request.query_params.multi_items())
    leaving = asyncio.create_task(_until_left(request, stop))
    try:
        made = await run_sync(page, viewer, asked, stop, abandon_on_cancel=True, limiter=threads)  # type: ignore[arg-type]
        return Response(made, media_type=media)
    except RecipeError as error:
        return _gone(viewer) if _is_gone(viewer) else _problem(viewer, 404, str(error))
    except (LawBroken, OSError, pa.ArrowException, PolarsError, UnicodeDecodeError) as error:
        return _gone(viewer) if _is_gone(viewer) else _problem(viewer, 500, _damaged(viewer, error))
    finally:
        viewer.done(stop)
        leaving.cancel()


async def _until_left(request: Request, stop: Event) -> None:
    """Wait until the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    stop.set()


def _is_gone(viewer: Viewer) -> bool:
    return not (viewer.dataset.path / "manifest.json").is_file()


def _gone(viewer: Viewer) -> Response:
    said = f"{viewer.dataset} is no longer in {viewer.root}: it was removed while it was being viewed. `tracemill ls` shows what there is."
    return _problem(viewer, 410, said)


def _damaged(viewer: Viewer, error: Exception) -> str:
    if isinstance(error, LawBroken):
        return str(error)
    first = next(iter(str(error).splitlines()), "")
    return f"A file of the version cannot be read ({type(error).__name__}: {first}); `tracemill fsck {viewer.dataset}` says what is wrong."


def _problem(viewer: Viewer, status: int, said: str) -> Response:
    from starlette.responses import HTMLResponse

    return HTMLResponse(viewer.render("problem.html.j2", said=said, status=status), status)


def _file(viewer: Viewer, asked: Query, stop: Event) -> str:
    """One of the files that tell about the version, as text."""
    del stop
    if (name := asked.get("name")) not in FILES:
        raise RecipeError(f"no file {name!r}; there are {', '.join(FILES)}")
    return (viewer.dataset.path / name).read_text(encoding="utf-8", errors="backslashreplace")


async def _report(viewer: Viewer, request: Request) -> Response:
    """The report that stands beside the version; a page of its own kind, which may run its own scripts and nothing else."""
    from starlette.responses import FileResponse

    del request
    if not viewer.report_file.is_file():
        return _problem(
            viewer, 404, f"There is no report of {viewer.dataset}; `tracemill report {viewer.dataset}` makes one."
        )
    return FileResponse(viewer.report_file, media_type="text/html", headers={"content-security-policy": REPORT_POLICY})


async def _own(content: str, media: str, request: Request) -> Response:
    from starlette.responses import Response

    del request
    return Response(content, media_type=media)
