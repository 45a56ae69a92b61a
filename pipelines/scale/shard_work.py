"""Where the shards of a dataset work in a store, and who may work there at once.

.work/<name>/
├── lock                     a build or gather holds it alone, shards hold it together
├── spool.sqlite             the problems, read once for all shards of this machine; outcomes of builds
└── shards/2-of-8/           lock, spool.sqlite (outcomes), progress.json: of one shard
"""

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tracemill.pipelines.running.segments import OF_SHARD, sent_names
from tracemill.schemas.errors import LockHeld, RecipeError, ShardsMissing

if TYPE_CHECKING:
    from tracemill.pipelines.running.progress import Report
    from tracemill.pipelines.running.spool import Spool

MOST = 100_000
_WRITTEN = re.compile(r"(\d{1,6})/(\d{1,6})")
_FOLDER = re.compile(r"(\d+)-of-(\d+)")


@dataclass(frozen=True, slots=True, order=True)
class Shard:
    """One of `of` parts of a recipe's problems: those whose `shard_of(problem_id, of)` is `number`, which begins at 0."""

    of: int
    number: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """From `i/N`; RecipeError for anything else."""
        found = _WRITTEN.fullmatch(text.strip())
        if not found or not 0 <= int(found[1]) < int(found[2]) <= MOST:
            raise RecipeError(f"--shard {text!r}: write i/N with i from 0 to N - 1, such as 0/8 for the first of eight")
        return cls(int(found[2]), int(found[1]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def pair(self) -> tuple[int, int]:
        return self.number, self.of

    def folder(self, work: Path) -> Path:
        """Where it keeps its outcomes and progress, made if need be."""
        place = work / "shards" / f"{self.number}-of-{self.of}"
        place.mkdir(parents=True, exist_ok=True)
        return place


@contextmanager
def locked_work(work: Path, name: str) -> Iterator[None]:
    """Hold the lock of this dataset's builds, which the kernel lets go of however the process ends."""
    with (work / "lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            who = f"another build of {name!r} is running in this store (process {file.read().strip() or 'unknown'})"
            if running := [str(shard) for shard, alive in shards_here(work) if alive]:
                who = f"shards of {name!r} are running in this store ({', '.join(running)})"
            raise LockHeld(f"{who}; wait for it, or give this recipe another name") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def locked_shard(work: Path, name: str, shard: Shard, patience: float = 0.0) -> Iterator[Path]:
    """Hold the lock of one shard, beside other shards of the same number of them; gives its folder.

    Waits `patience` seconds for a process that has it and may be about to end.
    """
    place = shard.folder(work)
    with (work / "lock").open("a+b") as all_of_it, (place / "lock").open("a+b") as own:
        try:
            fcntl.flock(all_of_it, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockHeld(f"a build of {name!r} is running in this store; its shards wait until it is done") from None
        if not _locked_within(own.fileno(), patience):
            raise LockHeld(f"shard {shard} of {name!r} is running in this store already; wait for it")
        if others := [str(other) for other, alive in shards_here(work) if alive and other.of != shard.of]:
            raise LockHeld(
                f"shard {shard} of {name!r} would sample again what shards of another number of them are at: "
                f"{', '.join(others)} run in this store; wait for them"
            )
        yield place


def _locked_within(fd: int, patience: float) -> bool:
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.1)
        else:
            return True


@contextmanager
def alone_with_problems(work: Path) -> Iterator[None]:
    """While one shard of a machine reads the problems, the others wait for it."""
    with (work / "problems.lock").open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def shards_here(work: Path) -> list[tuple[Shard, bool]]:
    """Every shard that has worked in this store, and whether its process lives."""
    places = [(_FOLDER.fullmatch(place.name), place / "lock") for place in (work / "shards").glob("*-of-*")]
    return sorted((Shard(int(name[2]), int(name[1])), is_locked(lock)) for name, lock in places if name)


def is_locked(lock: Path) -> bool:
    """Whether a live process holds this lock, alone."""
    if not lock.exists():
        return False
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def adopt_shards(spool: "Spool", work: Path, report: "Report") -> None:
    """Take over the outcomes that shards left in this store, oldest first: what they hold need not be made again."""
    files = [shard.folder(work) / "spool.sqlite" for shard, _ in shards_here(work)]
    there = sorted((file for file in files if file.exists()), key=lambda file: file.stat().st_mtime_ns)
    if there:
        report.step(f"taking over the outcomes of {len(there)} shards")
    for file in there:
        spool.adopt(file)


def remove_shards(work: Path) -> None:
    """Once all is gathered: what shards left is in the spool of builds, and in the journal."""
    shutil.rmtree(work / "shards", ignore_errors=True)


def refuse_missing(spool: "Spool", work: Path, journal: Path, recipe: str) -> None:
    """Raise ShardsMissing where problems have no outcome, with the shards to run by the number of them that ran last."""
    of = _last_number(work, journal)
    lacking = spool.without_outcome(of)
    if not lacking:
        return
    problems = sum(count for count, _ in lacking.values())
    lines = [f"  shard {shard}/{of}: {count:,} of {total:,} problems" for shard, (count, total) in lacking.items()]
    more = [f"  and {len(lines) - 20:,} more shards"] if len(lines) > 20 else []
    names = " ".join(str(shard) for shard in lacking)
    told = [f"{problems:,} of {spool.count_problems():,} problems have no outcome yet; nothing is committed"]
    if of > 1:
        told += [*lines[:20], *more]
        told += [f"run: tracemill build {recipe} --shard i/{of}, with i in {names}; then gather again"]
    else:
        told += [f"  no shards have run, neither here nor where segments are shared; run: tracemill build {recipe}"]
    raise ShardsMissing("\n".join(told))


def _last_number(work: Path, journal: Path) -> int:
    """How many shards there were when a shard last ran, by what lies here and by the names of segments from elsewhere."""
    here = [(shard.folder(work).stat().st_mtime_ns, shard.of) for shard, _ in shards_here(work)]
    marked = [(name[:20], OF_SHARD.search(name)) for name in sent_names(journal)]
    there = [(int(born), int(found[2])) for born, found in marked if found and born.isdigit()]
    return max([*here, *there], default=(0, 1))[1]
