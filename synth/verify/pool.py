"""A pool of worker processes behind a queue: jobs in, answers out, whatever a job does to its worker.

One thread a slot talks to one child (see worker.py). Threads rather than an event loop, so that a pool serves any loop,
several of them or none, and never holds one up.
"""

import contextlib
import itertools
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from typing import Any

from tracemill.schemas.errors import ProblemFailed, RecipeError
from tracemill.synth.verify.worker import MESSAGE_BYTES, Answer, Caps

_TRIES = 3
"""How often a job is begun again when its worker was killed from outside: that says nothing about the job."""
_GRACE = 60.0


class _Closed(Exception):
    """The pool was closed while a job was in hand."""


@dataclass(slots=True)
class _Job:
    answer: str
    gold: str | None
    future: "Future[Answer]" = field(default_factory=Future)


@dataclass(slots=True)
class _Nursery:
    """One running worker command and our ends of its sockets."""

    process: "subprocess.Popen[bytes]"
    sockets: list[socket.socket]

    def close(self) -> None:
        for each in self.sockets:
            with contextlib.suppress(OSError):  # the other end may be gone
                each.shutdown(
                    socket.SHUT_RDWR
                )  # wakes whoever reads, even where a grader's own process holds the other end
            each.close()
        self.process.kill()
        self.process.wait()


class Pool:
    """`submit` may be called from any thread. Nothing is started before the first job."""

    def __init__(self, workers: int, caps: Caps, grader: str | None, options: Mapping[str, Any]) -> None:
        self.workers = workers
        self.caps = caps
        self.grader = grader
        self.options = dict(options)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._nursery: _Nursery | None = None
        self._closed = False

    def submit(self, answer: str, gold: str | None) -> "Future[Answer]":
        job = _Job(answer, gold)
        if self._closed:
            raise RuntimeError("this verifier is closed")
        if not self._threads:
            with self._lock:
                if not self._threads:
                    self._threads = [
                        threading.Thread(target=self._slot, args=(number,), name=f"verify-{number}", daemon=True)
                        for number in range(self.workers)
                    ]
                    for thread in self._threads:
                        thread.start()
        self._jobs.put(job)
        if self._closed:  # meanwhile: perhaps nobody takes it out any more
            job.future.cancel()
        return job.future

    def close(self) -> None:
        """Kill the workers; jobs that wait or are in hand are cancelled. Safe to call twice."""
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        with self._lock:
            if self._nursery is not None:
                self._nursery.close()
                self._nursery = None
        for thread in self._threads:
            thread.join()
        while not self._jobs.empty():
            job = self._jobs.get()
            if job is not None:
                job.future.cancel()

    def _slot(self, slot: int) -> None:
        numbers = itertools.count(1)
        while (job := self._jobs.get()) is not None:
            if job.future.cancelled():
                continue
            # a future is marked as running only to be settled, so that `close` can cancel it until then
            try:
                answer = self._answer(slot, numbers, job)
            except _Closed:
                job.future.cancel()
            except BaseException as failure:  # noqa: BLE001 - whoever waits for this job is told, and the slot goes on
                if job.future.set_running_or_notify_cancel():
                    job.future.set_exception(failure)
            else:
                if job.future.set_running_or_notify_cancel():
                    job.future.set_result(answer)

    def _answer(self, slot: int, numbers: Iterator[int], job: _Job) -> Answer:
        """What a worker says to a job, asked again where the worker was killed from outside."""
        for _ in range(_TRIES):
            answer = self._ask(slot, next(numbers), job)
            if answer is not None:
                return answer
        raise ProblemFailed(_given_up(job, self.caps))

    def _ask(self, slot: int, number: int, job: _Job) -> Answer | None:
        """One try of a job; None where the worker was lost for reasons that are not the job's."""
        nursery = self._running()
        line = nursery.sockets[slot]
        message = json.dumps({"number": number, "answer": job.answer, "gold": job.gold}).encode()
        if len(message) > MESSAGE_BYTES:
            return "undecided", "too_long", ""
        try:
            line.settimeout(self.caps.wall_seconds + _GRACE)
            line.send(message)
            while True:
                reply = json.loads(line.recv(MESSAGE_BYTES) or b"{}")
                if "broken" in reply:
                    what = f"[verify] use = {self.grader!r}" if self.grader else "math-verify"
                    raise RecipeError(f"{what} cannot be loaded in a worker process: {reply['broken']}")
                if not reply:
                    raise ConnectionResetError
                if reply["number"] == number:
                    break
        except OSError:
            self._lost(nursery)
            return None
        return tuple(reply["answer"]) if "answer" in reply else _cause(reply["died"])

    def _running(self) -> _Nursery:
        """The nursery, started where there is none."""
        with self._lock:
            if self._closed:
                raise _Closed
            if self._nursery is None:
                self._nursery = self._start()
            return self._nursery

    def _lost(self, nursery: _Nursery) -> None:
        """Take down a nursery that no longer answers, once, however many slots notice."""
        with self._lock:
            if self._nursery is nursery:
                self._nursery = None
                nursery.close()

    def _start(self) -> _Nursery:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(self.workers)]
        for pair in pairs:
            for end in pair:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MESSAGE_BYTES)
        theirs = [end.fileno() for _, end in pairs]
        settings = {"caps": asdict(self.caps), "grader": self.grader, "options": self.options, "parent": os.getpid()}
        # -P: the working folder may hold a module of any name. A fixed hash seed: sympy's order of terms follows it.
        command = [sys.executable, "-P", "-m", "tracemill.synth.verify.worker", json.dumps(settings, default=str)]
        process = subprocess.Popen(  # noqa: S603 - our own interpreter, our own module
            [*command, *map(str, theirs)],
            pass_fds=theirs,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # a Ctrl-C is for the build, which drains and still needs verdicts
        )
        for _, end in pairs:
            end.close()
        return _Nursery(process, [end for end, _ in pairs])


def _cause(code: int) -> Answer | None:
    """What a worker's death says about its job: over its CPU time, or a crash; nothing where the system killed it.

    An exit code says 'crashed', 0 included: a worker with a job in hand has no reason to leave. So does any other signal,
    as workers do not die of those that a person or a scheduler sends (see `worker._shrug`).
    """
    if code in (-signal.SIGPROF, -signal.SIGXCPU):
        return "undecided", "cpu_cap", ""
    if code == -signal.SIGKILL:
        return None
    return "undecided", "crashed", ""


def _given_up(job: _Job, caps: Caps) -> str:
    return (
        f"the check of answer {job.answer[:80]!r} was given up: its worker was killed {_TRIES} times, by the system (is"
        f" memory short?) or after {caps.wall_seconds:g} s in which it used less than {caps.cpu_seconds:g} s of CPU time"
    )
