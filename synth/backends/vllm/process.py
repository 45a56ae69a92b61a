"""One life of an engine host: started, spoken to, watched, and ended with everything it started."""

import asyncio
import os
import re
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tracemill.schemas.errors import RecipeError
from tracemill.synth.backends.vllm import guard
from tracemill.synth.backends.vllm.wire import Beat, Dead, Frames, FromHost, Ready, Setup, Stop, ToHost, Unfit

HOST = (sys.executable, "-P", "-m", "tracemill.synth.backends.vllm.host")
"""-P: a folder `vllm/` where the build was started must not be taken for the library."""
LOGS_KEPT = 10
READS = 500
"""Tokens of a prompt that even a slow device reads in a second."""
TELLING = re.compile(r"\b\w*(?:Error|Exception|error)\b: |out of memory|No space left")
TELLS_NOTHING = re.compile(r"Engine core initialization failed|EngineDeadError|Engine process failed to start")


class HostProcess:
    """Talks to one host. `ended` resolves, with the reason, as soon as it is of no more use."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        runtime: Path,
        environment: Mapping[str, str],
        stall: float,
        received: Callable[[FromHost], None],
        load: Callable[[], int | None],
    ) -> None:
        """`load` tells the length of the longest prompt that waits for its answer; None where nobody waits."""
        self._command, self._runtime, self._environment = command, runtime, environment
        self._stall, self._received, self._load = stall, received, load
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._ready: asyncio.Future[Ready | Unfit] = asyncio.get_running_loop().create_future()
        self._wire = Frames(FromHost, self._take, lambda: self._end("the engine host ended"))
        self._mark, self._quiet = 0, 0.0
        self._watch: asyncio.Task[None] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._record: Path | None = None
        self._since = 0
        self._shared: tuple[str, ...] = ()
        self.log = runtime / "engine.log"

    async def start(self, setup: Setup, within: float) -> Ready:
        """Run the host until its engine has answered once; RecipeError with what its log says where it does not."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._spawn(theirs)
        await self._wire.attach(ours)
        self._wire.send(setup)
        self._watch = asyncio.create_task(self._look())
        await asyncio.wait((self._ready, self.ended), timeout=within, return_when=asyncio.FIRST_COMPLETED)
        said = self._ready.result() if self._ready.done() else None
        if isinstance(said, Ready):
            self._remember_shared()
            return said
        if said is not None:
            raise RecipeError(said.message if said.said else self._unfit(said.message))
        if self.ended.done():
            raise RecipeError(self._unfit(self.ended.result()))
        raise RecipeError(self._unfit(f"it was not ready within {within:g} s"))

    def _spawn(self, theirs: socket.socket) -> None:
        self._runtime.mkdir(parents=True, exist_ok=True)
        self.log = self._runtime / f"engine-{os.getpid()}-{time.time_ns() // 1_000_000}.log"
        for old in sorted(self._runtime.glob("engine-*.log"), key=lambda path: path.stat().st_mtime)[:-LOGS_KEPT]:
            old.unlink(missing_ok=True)
        with theirs, self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own module, or what a test put in its place
                [*self._command, str(theirs.fileno()), str(os.getpid()), str(self._runtime)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(),),
                env=dict(self._environment),
                start_new_session=True,
            )
        self._since = guard.start_time(self._process.pid) or 0
        self._record = guard.remember(self._runtime, self._process.pid)

    def _remember_shared(self) -> None:
        """Note which shared memory is the engine's while it can be asked: what died already maps nothing."""
        assert self._process is not None  # noqa: S101 - spawned
        mapped = guard.shared_memory(guard.session(self._process.pid, self._since))
        if not mapped <= set(self._shared):
            self._shared = tuple(sorted(mapped.union(self._shared)))
            self._record = guard.remember(self._runtime, self._process.pid, self._shared) or self._record

    def send(self, frame: ToHost) -> None:
        self._wire.send(frame)

    def _take(self, frame: FromHost) -> None:
        if isinstance(frame, Ready | Unfit):
            if not self._ready.done():
                self._ready.set_result(frame)
        elif isinstance(frame, Dead):
            self._end(frame.why)
        elif isinstance(frame, Beat):
            if frame.mark != self._mark:
                self._mark, self._quiet = frame.mark, 0.0
        elif not self.ended.done():
            self._quiet = 0.0
            self._received(frame)

    def _end(self, why: str) -> None:
        if not self.ended.done():
            self.ended.set_result(why)

    async def _look(self) -> None:
        """Count the seconds without progress while somebody waits: an engine with nothing to do is never hung.

        A prompt's first token comes when all of it has been read, which is given time by its length.
        A look that comes late counts as two at most: where this very process was stopped, the host's news are still
        unread, and nobody knows yet whether the engine stood still as well.
        """
        each = min(1.0, self._stall / 4)
        last = time.monotonic()
        while not self.ended.done():
            await asyncio.sleep(each)
            now = time.monotonic()
            if not self._ready.done() and self._process is not None:
                self._remember_shared()
            load = self._load()
            self._quiet = 0.0 if load is None else self._quiet + min(now - last, 2 * each)
            last = now
            if self._process is not None and self._process.poll() is not None:
                self._end(_how(self._process.returncode))
            elif self._quiet > self._stall + (load or 0) / READS:
                self._end(f"no token from any request for {self._stall:g} s")

    async def close(self, *, gently: float = 0.0) -> None:
        """End the host and all it started; `gently` gives it so many seconds to do so in order. Safe to call twice."""
        if self._process is None:
            return
        process, self._process = self._process, None
        if self._watch is not None:
            self._watch.cancel()
        if gently:
            self._wire.send(Stop())
            await asyncio.wait((self.ended,), timeout=gently)
        self._end("closed")
        self._wire.close()
        await asyncio.shield(asyncio.to_thread(self._clean, process))

    def _clean(self, process: "subprocess.Popen[bytes]") -> None:
        guard.end_session(process.pid, self._since, self._shared)
        process.wait()
        if self._record is not None:
            self._record.unlink(missing_ok=True)

    def _unfit(self, why: str) -> str:
        return f"the vLLM engine did not start: {why}\n{last_words(self.log)}\nIts whole log: {self.log}"


def _how(status: int) -> str:
    return f"the engine host was killed by signal {-status}" if status < 0 else f"the engine host exited with {status}"


def last_words(log: Path, lines: int = 6) -> str:
    """The lines of a log that tell what went wrong, else its last ones, indented."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 200_000))
        text = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    telling = [line for line in text if TELLING.search(line) and not TELLS_NOTHING.search(line)]
    return "\n".join(f"  | {line[:400]}" for line in deque(telling or text, maxlen=lines))
