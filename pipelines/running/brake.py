"""Stopping a build from another thread, where no signal handler can be set: it drains as it does for SIGTERM."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Brake:
    """Pulled once, a build drains and raises Interrupted; pulled twice, it lets go of what is in flight."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pulls: list[int] = []
        self._stop: Callable[[int], object] | None = None

    def pull(self, number: int = signal.SIGTERM) -> None:
        """Ask the build to stop, from any thread. It may not have come as far as sampling yet, or be past it."""
        with self._lock:
            self._pulls.append(number)
            if self._stop is not None:
                self._stop(number)

    @contextmanager
    def on(self, stop: Callable[[int], object]) -> Iterator[None]:
        """Call `stop` with the signal's number for each pull, those that came before too; it must be safe in any thread."""
        with self._lock:
            self._stop = stop
            for number in self._pulls:
                stop(number)
        try:
            yield
        finally:
            with self._lock:
                self._stop = None
