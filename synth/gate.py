"""Who may ask a backend, and when: as many at once as it finds worth having, first come, first served."""

import asyncio
import errno
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tracemill.schemas.errors import DiskFull, EngineLost, TracemillError
from tracemill.schemas.request import Backend


class Stopped(Exception):
    """Not an error: the problem needs a sample, and the run was told to draw no more."""


class Gate:
    """Lets as many requests through at once as the backend finds worth having, first come, first served.

    The backend is started for the first request, so a run that only replays starts no engine.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._started: asyncio.Task[None] | None = None
        self._closed: str | None = None
        self.inside = 0

    def close(self, why: str) -> None:
        """Let nobody in any more; who waits learns `why`."""
        self._closed = why
        while self._waiting:
            if not (turn := self._waiting.popleft()).done():
                turn.set_exception(Stopped(why))

    @asynccontextmanager
    async def entered(self) -> AsyncIterator[None]:
        if self._closed is not None:
            raise Stopped(self._closed)
        if self._started is None:
            self._started = asyncio.create_task(self._start())
        if self._started.done():
            self._started.result()
        else:
            await asyncio.shield(self._started)
            if self._closed is not None:  # meanwhile: a start may take a minute
                raise Stopped(self._closed)
        if self.inside >= self._backend.at_once or self._waiting:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            self._admit()  # there may be more room than when the last one came
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled() and turn.exception() is None:
                    self._leave()  # let in and cancelled at the same moment
                raise
        else:
            self.inside += 1
        try:
            yield
        finally:
            self._leave()

    async def _start(self) -> None:
        """A backend that does not start is nobody's bad problem: whatever it raises ends the run."""
        try:
            await self._backend.start()
        except TracemillError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise DiskFull(f"the disk is full: {error}; make room and run again") from error
            raise EngineLost(f"the engine does not start: {type(error).__name__}: {error}") from error

    def _leave(self) -> None:
        self.inside -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self.inside < self._backend.at_once:
            turn = self._waiting.popleft()
            if not turn.done():
                self.inside += 1
                turn.set_result(None)
