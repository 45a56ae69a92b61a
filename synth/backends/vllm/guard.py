"""Leaves no engine behind: finds, ends and cleans up after the session that an engine host and its children form.

An engine host starts a session of its own, and vLLM's processes stay in it. So the session is what is killed, and a
record of it (`<runtime>/<pid>.json`) is what a later build reaps by, should both the build and the host have been killed.

    {"pid": 4711, "started": 8812, "owner": 4700, "owner_started": 8790, "machine": "…", "shared": ["psm_6782bf0c"]}
"""

import contextlib
import os
import re
import signal
import time
from pathlib import Path
from typing import NoReturn

import msgspec

PROC = Path("/proc")
SHARED = Path("/dev/shm")  # noqa: S108 - where Linux keeps POSIX shared memory, not a temporary file of ours
OURS = ("psm_", "sem.mp-", "sem.loky-")
"""How Python's multiprocessing, which vLLM uses, begins the names of its segments and semaphores."""
MAPPED = re.compile(r" (\d+) +/dev/shm/")
"""The inode in a line of /proc/<pid>/maps; the name there is a deleted draft's in the process that made a semaphore."""


class Record(msgspec.Struct, frozen=True):
    """One engine host, so that a later process can tell it from another of the same number."""

    pid: int
    started: int
    owner: int
    owner_started: int
    machine: str
    shared: tuple[str, ...] = ()


def start_time(pid: int) -> int | None:
    """Clock ticks from boot to the start of a process; None where there is none."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def _stat(pid: int) -> list[str] | None:
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # it ended, maybe between two reads
        return None
    return text.rpartition(")")[2].split()  # the name before it may hold blanks and brackets


def machine() -> str:
    """Names boot and container: process numbers mean nothing outside."""
    boot = (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {(PROC / 'self/ns/pid').readlink()}"


def session(leader: int, since: int) -> list[int]:
    """Living processes of the session that `leader` began at tick `since`."""
    began = start_time(leader)
    if began not in (None, since):
        return []  # the number was given anew, and the kernel does so only when the session is empty
    members = []
    for entry in PROC.iterdir():
        fields = _stat(int(entry.name)) if entry.name.isdigit() else None
        if fields and int(fields[3]) == leader and int(fields[19]) >= since and fields[0] not in "ZX":
            members.append(int(entry.name))
    return members


def shared_memory(pids: list[int]) -> set[str]:
    """Names of the shared memory that these processes have mapped."""
    inodes: set[int] = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            maps = (PROC / str(pid) / "maps").read_text(encoding="utf-8", errors="replace")
            inodes.update(map(int, MAPPED.findall(maps)))
    if not inodes or not SHARED.is_dir():
        return set()
    with os.scandir(SHARED) as entries:
        return {entry.name for entry in entries if entry.name.startswith(OURS) and entry.inode() in inodes}


def end_session(leader: int, since: int, shared: tuple[str, ...] = (), *, within: float = 20.0) -> None:
    """Kill every process of a session, also stopped ones, and remove the shared memory it leaves.

    The caller may be a member: it is spared. Returns when all are gone or `within` seconds have passed (a process
    inside a device driver dies late).
    """
    names, deadline = set(shared), time.monotonic() + within
    while members := [pid for pid in session(leader, since) if pid != os.getpid()]:
        names |= shared_memory(members)
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    for name in names:
        with contextlib.suppress(OSError):  # tidied up by its owner, or another user's
            (SHARED / name).unlink()


def remember(runtime: Path, pid: int, shared: tuple[str, ...] = ()) -> Path | None:
    """Write the record of a host that this process started; None where it has already ended."""
    began = start_time(pid)
    if began is None:
        return None
    me = os.getpid()
    record = Record(pid, began, me, start_time(me) or 0, machine(), shared)
    path = runtime / f"{pid}.json"
    draft = path.with_suffix(".draft")
    draft.write_bytes(msgspec.json.encode(record))
    draft.rename(path)
    return path


def reap(runtime: Path) -> list[int]:
    """End what hosts of dead builds have left behind; their process numbers. Hosts of living builds stay."""
    ended = []
    for path in sorted(runtime.glob("*.json")):
        try:
            record = msgspec.json.decode(path.read_bytes(), type=Record)
        except (OSError, msgspec.MsgspecError):  # another build was quicker, or it is no record of ours
            continue
        if record.machine != machine() or start_time(record.owner) == record.owner_started:
            continue
        if session(record.pid, record.started):
            ended.append(record.pid)
        end_session(record.pid, record.started, record.shared)
        path.unlink(missing_ok=True)
    return ended


def follow(owner: int, runtime: Path) -> None:
    """For the leader of a session: return never, and `leave` when the process `owner`, its parent, has ended.

    To be run in a thread, because an event loop stands still while an engine starts. Where even a thread cannot run (a
    stopped process), `reap` does it later.
    """
    while os.getppid() == owner:
        time.sleep(0.25)
    leave(runtime)


def leave(runtime: Path) -> NoReturn:
    """For the leader of a session: take all of it along, and the record too."""
    end_session(os.getpid(), start_time(os.getpid()) or 0)
    (runtime / f"{os.getpid()}.json").unlink(missing_ok=True)
    os._exit(1)
