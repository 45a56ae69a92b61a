"""Files that are whole or absent, on a disk that may fill up and under a process that may be killed at any instant.

Whatever is to exist is written beside its place, synced, and renamed into it; what a rename has not reached does not exist.
"""

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tracemill.schemas.errors import DiskFull, TracemillError

_FULL = (
    "no space left on device",
    "disk quota exceeded",
    "(os error 28)",
    "(os error 122)",
    "database or disk is full",
)
"""Texts of errors that come without an errno: polars, SQLite, and Arrow where it wraps."""


def sync(path: Path) -> None:
    """Put a file's bytes, or a folder's entries, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Put everything below a folder, and the folder, on the disk; files become read-only."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            sync_tree(path)
        else:
            mode = path.stat().st_mode
            if mode & 0o333:  # a file shared with another version is so already, and may be somebody else's
                path.chmod(mode & 0o444)
            sync(path)
    sync(folder)


def write_whole(path: Path, text: str) -> None:
    """Replace a file by `text`; a reader sees the old file or the new one."""
    beside = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    with watch_disk(path, needs=len(text)):
        try:
            with beside.open("w", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        sync(path.parent)


def point(link: Path, target: str) -> None:
    """Make `link` a relative symlink to `target`; a reader sees the old target or the new one."""
    beside = link.with_name(f".{link.name}-{secrets.token_hex(4)}")
    beside.symlink_to(target)
    beside.replace(link)
    sync(link.parent)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's own lock; the kernel lets go of it when the process dies, however it dies."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def watch_disk(path: Path, *, needs: int | None = None) -> Iterator[None]:
    """Turn whatever a full disk or quota raises inside into DiskFull, with the path and what is known of the space.

    `needs` is the number of bytes that were still to be written, where that is known.
    """
    try:
        yield
    except TracemillError:
        raise
    except Exception as error:
        if not says_full(error):
            raise
        wanted = f"{needs:,} more bytes are needed at most" if needs is not None else "more is needed"
        raise DiskFull(
            f"disk full while writing {path}: {wanted}, {_free(path):,} are free. Nothing half-written is left in place; "
            "make room and run again"
        ) from error


def says_full(error: BaseException) -> bool:
    """Whether an error of any library means that the disk, or a quota, is full."""
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return True
    text = str(error).lower()
    return any(sign in text for sign in _FULL)


def _free(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
