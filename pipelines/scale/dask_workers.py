"""The workers of a Dask cluster, as a build uses them: calls go out some at a time, results come back in order.

    decide ──calls, with paths and narrow rows──▶ workers ──narrow rows──▶ decide

Workers see the folder of the store and run this very code; both are looked at before anything else. What dies is done again by those that
are left; what cannot be done is an error that says so, and never a wait without end.
"""

import secrets
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tracemill.pipelines.plan import code_hash
from tracemill.schemas.errors import EngineLost, RecipeError

if TYPE_CHECKING:
    from distributed import Client, Future

X = TypeVar("X")
Y = TypeVar("Y")

IN_FLIGHT = 2
"""So many calls for each thread of the cluster are out at once: what waits for its turn is in somebody's memory."""
LOOK = 5.0
PATIENCE = 60.0
"""Seconds without any worker after which nobody is expected to come back; a nanny starts a new one within a few."""
LOST = "what is done is kept: run the same command again"


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a worker holds itself against before it works."""

    code: str
    sign: str
    """A file in the folder that all are to see."""


class DaskWorkers:
    """`Workers` of schemas/plugins.py over a Dask client."""

    def __init__(self, client: "Client", folder: Path) -> None:
        self._client, self.folder = client, folder
        (folder / "sign").write_bytes(b"")
        self._ticket = Ticket(code_hash(), str(folder / "sign"))
        self._threads()

    @property
    def count(self) -> int:
        """Threads of all workers."""
        return max(1, self._threads())

    def each(self, call: Callable[[X], Y], items: Iterable[X]) -> Iterator[Y]:
        """`call` of every item, in order; a call that its worker did not survive is made again.

        What a call raises is raised here. EngineLost where no worker is left, or an item killed several.
        """
        out: deque[Future] = deque()
        room = IN_FLIGHT * self.count
        try:
            for item in items:
                if len(out) >= room:
                    yield self._result(out.popleft())
                out.append(self._client.submit(_called, self._ticket, call, item, pure=False))
            while out:
                yield self._result(out.popleft())
        finally:
            for future in out:
                future.cancel()

    def _result(self, future: "Future") -> Any:
        import distributed
        from distributed.client import FutureCancelledError, FuturesCancelledError

        try:
            self._wait(future)
            return future.result()
        except distributed.KilledWorker as error:
            raise EngineLost(
                f"several workers of the Dask cluster died on one piece of work ({error}); most likely for want of memory: give them "
                f"more, or fewer threads each; {LOST}"
            ) from error
        except (FutureCancelledError, FuturesCancelledError) as error:
            raise EngineLost(f"the Dask cluster went away: {type(error).__name__}; {LOST}") from error

    def _wait(self, future: "Future") -> None:
        """Return when the future is done; raises where nobody is there to do it."""
        alone = 0.0
        while not future.done():
            with suppress(TimeoutError):
                future.exception(timeout=LOOK)  # returned and not raised, here
                return
            alone = 0.0 if self._threads() else alone + LOOK
            if alone >= PATIENCE:
                raise EngineLost(f"the Dask cluster has had no worker for {PATIENCE:.0f} seconds; start some; {LOST}")

    def _threads(self) -> int:
        try:
            return sum(self._client.nthreads().values())
        except (OSError, TimeoutError, RuntimeError) as error:
            raise EngineLost(f"the Dask scheduler does not answer: {type(error).__name__}: {error}; {LOST}") from error


def _called(ticket: Ticket, call: Callable[[X], Y], item: X) -> Y:
    """In a worker."""
    _fit_for(ticket)
    return call(item)


@lru_cache(maxsize=8)
def _fit_for(ticket: Ticket) -> None:
    """RecipeError where this process cannot do what the others do."""
    import socket

    if code_hash() != ticket.code:
        raise RecipeError(
            f"the Dask worker on {socket.gethostname()} runs another tracemill; install the same one everywhere"
        )
    if not Path(ticket.sign).is_file():
        folder = Path(ticket.sign).parent
        raise RecipeError(
            f"the Dask worker on {socket.gethostname()} does not see {folder}; the store has to lie on a disk that all machines share"
        )


@contextmanager
def workers_of(client: "Client | None", folder: Path | None) -> Iterator[DaskWorkers | None]:
    """The workers of `client`, with a folder below `folder` for as long as they are needed; None without a client."""
    if client is None:
        yield None
        return
    home = folder or Path(tempfile.gettempdir())
    own = home / f"spread-{secrets.token_hex(4)}"
    own.mkdir(parents=True)
    try:
        yield DaskWorkers(client, own)
    finally:
        shutil.rmtree(own, ignore_errors=True)
