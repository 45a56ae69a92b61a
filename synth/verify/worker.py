"""The processes that algebra and users' graders run in: `python -m tracemill.synth.verify.worker` with sockets as arguments.

    parent ── one socket a slot ──▶ nursery, which has imported everything and only forks and waits
                                      ├─ child of slot 0: reads a job, answers it, reads the next
                                      └─ child of slot 1 ...

A child is killed by the kernel when one job has used its CPU time (ITIMER_PROF, which no Python code has to notice). The
nursery tells the parent which job died of what and forks the next child in milliseconds. Nothing outlives the parent: its
end closes the sockets, and the kernel kills the nursery with it and the children with the nursery.

Not a security boundary: limits on CPU time and memory, nothing on files or network.
"""

import contextlib
import ctypes
import importlib.util
import json
import mmap
import os
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from tracemill.synth.verify.compare import Decision, decide

MESSAGE_BYTES = 1 << 17
"""Longest message; one message is one datagram, so a child that dies never leaves half of one behind."""
_STATE = struct.Struct("Qd")  # number of the job in hand, and when it began
_PR_SET_PDEATHSIG = 1

Answer = tuple[str, str | None, str]
"""Status, reason and how of a verdict."""
Judge = Callable[[dict[str, Any]], Answer]


@dataclass(frozen=True, slots=True)
class Caps:
    """What one job may cost, and after how many jobs a child is replaced."""

    cpu_seconds: float = 5.0
    memory_mb: int = 2048
    wall_seconds: float = 900.0
    """For a job that neither ends nor computes. It does not decide a verdict: the job is given up as an error."""
    jobs: int = 1000


def main() -> None:
    """Serve until the parent is gone. Arguments: settings as JSON, then one socket a slot."""
    settings = json.loads(sys.argv[1])
    sockets = [socket.socket(fileno=int(number)) for number in sys.argv[2:]]
    _die_with_parent(int(settings["parent"]))
    caps = Caps(**settings["caps"])
    try:
        judge = load_judge(settings)
    except BaseException as failure:  # a broken grader is told to a person, whatever it raised
        for each in sockets:
            each.send(json.dumps({"broken": f"{type(failure).__name__}: {failure}"[:2000]}).encode())
        raise
    Nursery(sockets, judge, caps).run()


def load_judge(settings: dict[str, Any]) -> Judge:
    """What a child does with a job: compare by algebra, or call the user's grader."""
    if settings["grader"] is None:
        from tracemill.synth.verify import symbolic

        symbolic.prepare()
        return lambda job: told(decide(job["answer"], job["gold"], symbolic.equal_by_algebra))
    function = load_grader(settings["grader"])
    options = settings["options"]
    return lambda job: graded(function(job["answer"], job["gold"], **options))


def load_grader(where: str) -> Callable[..., Any]:
    """The function of `path/to/file.py:name`, or of `package.module:name`."""
    place, _, name = where.rpartition(":")
    if place.endswith(".py"):
        spec = importlib.util.spec_from_file_location(f"grader_{Path(place).stem}", place)
        if spec is None or spec.loader is None:
            raise ImportError(f"cannot load {place}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    function: Callable[..., Any] = getattr(module, name)
    return function


def told(decision: Decision) -> Answer:
    """A decision as the three strings of a verdict."""
    if decision.equal is None:
        return "undecided", decision.reason or "unparsed", decision.how
    return ("equal" if decision.equal else "different"), decision.reason, decision.how


def graded(result: Any) -> Answer:
    """What a grader said: True, False, None, or something with a status and perhaps a reason."""
    if result is None:
        return "undecided", "grader_undecided", "grader"
    if isinstance(result, bool):
        return ("equal" if result else "different"), None, "grader"
    said = result if isinstance(result, dict) else {key: getattr(result, key, None) for key in ("status", "reason")}
    status, reason = said.get("status"), said.get("reason")
    if status in ("equal", "different", "undecided"):
        return str(status), None if reason is None else str(reason), "grader"
    return "undecided", "grader_error", "grader"


class Nursery:
    """Forks one child a slot, says what a child died of, and forks the next."""

    def __init__(self, sockets: list[socket.socket], judge: Judge, caps: Caps) -> None:
        self.sockets = sockets
        self.judge = judge
        self.caps = caps
        self.state = mmap.mmap(-1, _STATE.size * len(sockets))
        self.children: dict[int, int] = {}
        self.parent = os.getppid()

    def run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        for slot in range(len(self.sockets)):
            self._fork(slot)
        while self.children:
            signal.sigtimedwait([signal.SIGCHLD], 1.0)
            self._bury()
            self._stop_idlers()
            if os.getppid() != self.parent:
                break

    def _fork(self, slot: int) -> None:
        _STATE.pack_into(self.state, slot * _STATE.size, 0, 0.0)
        pid = os.fork()
        if pid:
            self.children[pid] = slot
            return
        code = 70
        try:
            _die_with_parent(os.getppid())
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
            _shrug(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
            code = self._serve(slot)
        finally:
            os._exit(code)

    def _serve(self, slot: int) -> int:
        """The life of a child, until the parent is gone, or it has served its number or is out of memory; the exit code."""
        for other, each in enumerate(self.sockets):
            if other != slot:
                each.close()
        limit = self.caps.memory_mb << 20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for _ in range(self.caps.jobs):
            message = self.sockets[slot].recv(MESSAGE_BYTES)
            if not message:
                return 0
            job = json.loads(message)
            _STATE.pack_into(self.state, slot * _STATE.size, job["number"], time.monotonic())
            signal.setitimer(signal.ITIMER_PROF, self.caps.cpu_seconds)
            answer, healthy = self._judge(job)
            signal.setitimer(signal.ITIMER_PROF, 0)
            self.sockets[slot].send(json.dumps({"number": job["number"], "answer": answer}).encode())
            # only now: a child that ends before is reported, and a report that comes after the answer is passed over
            _STATE.pack_into(self.state, slot * _STATE.size, 0, 0.0)
            if not healthy:
                return 0
        return 0

    def _judge(self, job: dict[str, Any]) -> tuple[Answer, bool]:
        """The answer to a job, and whether this process is fit for another one."""
        try:
            answer = self.judge(job)
        except MemoryError:
            return ("undecided", "memory_cap", ""), False
        except RecursionError:
            return ("undecided", "too_nested", ""), False
        except Exception as failure:  # noqa: BLE001 - a grader that raises has no opinion, and says so
            return ("undecided", "grader_error", f"{type(failure).__name__}: {failure}"[:500]), True
        if answer[0] == "different" and _peak_bytes() > (self.caps.memory_mb << 20) * 3 // 4:
            # sympy takes a MemoryError for 'not equal'; close to the cap that cannot be told from an opinion
            return ("undecided", "memory_cap", ""), False
        return answer, True

    def _bury(self) -> None:
        """Report every dead child, and put a new one in its place unless the parent has hung up."""
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            slot = self.children.pop(pid)
            number, _ = _STATE.unpack_from(self.state, slot * _STATE.size)
            code = os.waitstatus_to_exitcode(status)
            if _hung_up(self.sockets[slot]):
                continue
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                if number:
                    self.sockets[slot].send(json.dumps({"number": number, "died": code}).encode())
                self._fork(slot)

    def _stop_idlers(self) -> None:
        now = time.monotonic()
        for pid, slot in self.children.items():
            number, since = _STATE.unpack_from(self.state, slot * _STATE.size)
            if number and now - since > self.caps.wall_seconds:
                os.kill(pid, signal.SIGKILL)


def _hung_up(line: socket.socket) -> bool:
    """Whether the other end is closed. No exit code can say it: a grader may leave with any."""
    try:
        return not line.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def _shrug(*numbers: signal.Signals) -> None:
    """Let these signals pass this process by. Whoever sends them from outside must not decide a verdict.

    No SIG_IGN, which the processes that a grader starts would inherit: it may want to end them so.
    """
    pid = os.getpid()

    def pass_by(number: int, _: FrameType | None) -> None:
        if os.getpid() != pid:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    for number in numbers:
        signal.signal(number, pass_by)


def _peak_bytes() -> int:
    """The largest address space that this process has had."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmPeak:"):
            return int(line.split()[1]) << 10
    return 0


def _die_with_parent(parent: int) -> None:
    """Have the kernel kill this process with its parent; leave at once where it is already gone."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


if __name__ == "__main__":
    main()
