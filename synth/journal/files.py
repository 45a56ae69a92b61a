"""The files of a journal, and the locks that say who may touch them.

    .journal/
    ├── lock                    held for moments: while listing, creating, sealing, swapping
    ├── merge.lock              held by the one process that merges
    ├── 0176…-9f2c….sqlite      a segment; names sort by creation
    ├── 0176…-9f2c….own         beside it until it is sealed; locked while the process that appends to it lives
    └── 0176…-77ab….merging     half a merge; nobody reads it

A segment with an unlocked `.own` is what kill -9 left: whoever opens the journal next brings its WAL home and seals it. A
sealed segment never changes again. Locks are flocks, so the kernel releases them however a process ends.
"""

import contextlib
import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from tracemill.schemas.errors import RecipeError

SUFFIX, OWN, MERGING = ".sqlite", ".own", ".merging"

REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "lustre", "ceph", "glusterfs", "beegfs", "gpfs"})
REMOTE |= {"afs", "9p", "panfs", "orangefs", "ocfs2", "gfs2", "fuse"}
"""File system types whose locks and shared memory SQLite's WAL cannot rely on; `fuse.<anything>` too, but for these:"""
LOCAL_FUSE = frozenset({"fuse.fuse-overlayfs"})


class FileLock:
    """An exclusive flock, held until released or until the process ends in whatever way."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def take(cls, path: Path, *, wait: bool = False) -> Self | None:
        """The lock on a file that is made if need be; None where another holds it and we do not wait."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        return cls(fd)

    def release(self) -> None:
        os.close(self._fd)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """The only one to list or change the set of segments; for moments, never while copying."""
    lock = FileLock.take(folder / "lock", wait=True)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def unique_name(mark: str = "") -> str:
    """Of a segment, without its suffix; `mark` says whose it is to those who only see the name."""
    return f"{time.time_ns():020d}-{secrets.token_hex(4)}{mark and '-'}{mark}"


def is_sealed(segment: Path) -> bool:
    """Nobody appends to it, and all of it is in the one file."""
    return not segment.with_suffix(OWN).exists() and size(wal(segment)) == 0


def sealed_segments(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob(f"*{SUFFIX}")) if is_sealed(path)]


def wal(segment: Path) -> Path:
    return segment.with_name(f"{segment.name}-wal")


def size(path: Path) -> int:
    """Bytes; 0 for a file that is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def remove(segment: Path) -> None:
    """Delete a segment with all that may lie beside it."""
    for path in (wal(segment), segment.with_name(f"{segment.name}-shm"), segment, segment.with_suffix(OWN)):
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def refuse_remote(folder: Path, mounts: str | None = None) -> None:
    """Raise RecipeError where `folder` lies on a network file system; `mounts` is the text of /proc/mounts."""
    if mounts is None:
        try:
            mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return  # not Linux: nobody to ask
    where = folder.resolve()
    below = [line.split()[1:3] for line in mounts.splitlines() if len(line.split()) > 2]
    holding = [(_plain(point), kind) for point, kind in below if where.is_relative_to(_plain(point))]
    if not holding:
        return
    deepest = max(len(point) for point, _ in holding)
    point, kind = [mount for mount in holding if len(mount[0]) == deepest][-1]  # the last one mounted is on top
    if kind in REMOTE or (kind.startswith("fuse.") and kind not in LOCAL_FUSE):
        raise RecipeError(
            f"the journal would lie in {folder}, on {point}, a network file system ({kind}), where a crash can lose or "
            "tear it. Put the store on a local disk: TRACEMILL_STORE=/a/local/folder"
        )


def _plain(point: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point)
