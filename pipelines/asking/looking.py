"""A build's spool and journal for somebody who only looks: what is read is the real thing, what is written goes nowhere.

No lock is taken, so a build of the same dataset may run meanwhile; a look is then at what stood at its beginning or later.
"""

import contextlib
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

from tracemill.pipelines.build import read_problems
from tracemill.pipelines.plan import Plan
from tracemill.pipelines.reading.mixing import mix
from tracemill.pipelines.running import outcomes
from tracemill.pipelines.running.outcomes import Record
from tracemill.pipelines.running.progress import Report
from tracemill.pipelines.running.spool import Spool
from tracemill.pipelines.running.spool_writer import current, in_memory, unpack
from tracemill.pipelines.store import Store
from tracemill.schemas.request import Request
from tracemill.schemas.rows import Verdict
from tracemill.synth.journal import Journal
from tracemill.synth.journal.codec import Value

_PREFIX = "looking-"


class Looking(Spool):
    """The problems of one spool, and the outcomes of the dataset's last build."""

    def __init__(self, problems: Path, outcomes_of: Path) -> None:
        """Both files may be the same. A file that is not there, or of another release, holds nothing."""
        self._reading = threading.Lock()
        self._admitted = "1"
        self._read = self._problems = _open(problems)
        self._last = _open(outcomes_of)

    def get_outcome(self, problem_id: str, key: str) -> bytes | None:
        row = self._of_last("SELECT payload FROM outcomes WHERE problem_id = ? AND key = ?", problem_id, key)
        return None if row is None else unpack(row[0])

    def earlier(self, problem_id: str) -> Record | None:
        """What the last build that had this problem made of it, under whatever recipe."""
        row = self._of_last("SELECT payload FROM outcomes WHERE problem_id = ?", problem_id)
        return None if row is None else outcomes.decode(unpack(row[0]))

    def _of_last(self, query: str, *values: str) -> tuple[bytes, ...] | None:
        with self._reading:
            return self._last.execute(query, values).fetchone()  # type: ignore[no-any-return]

    async def put_outcome(self, problem_id: str, key: str, payload: bytes) -> None:
        """Keep nothing."""

    async def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        self._read.close()
        self._last.close()

    def __enter__(self) -> Self:
        return self


class LookedAt(Journal):
    """A journal that answers, tells whoever wants to know of every answer to a request, and keeps nothing."""

    def __init__(self, folder: Path, answered: Callable[[int], None]) -> None:
        super().__init__(folder, housekeeping=False)
        self._answered = answered

    async def get(self, keys: Sequence[str]) -> dict[str, Value]:
        found = await super().get(keys)
        self._answered(sum(not isinstance(value, Verdict) for value in found.values()))
        return found

    async def peek(self, key: str) -> Value | None:
        """An answer that nobody asked for."""
        return (await super().get([key])).get(key)

    async def put(self, key: str, value: Value, request: Request | None = None) -> None:
        """Keep nothing."""


@contextlib.contextmanager
def looked(plan: Plan, store: Store, source_key: str) -> Iterator[Looking]:
    """The spool of a plan's dataset to look at. Its problems are read anew, into a file of their own, where they changed."""
    work = store.work_folder(plan.recipe.name)
    _sweep(work)
    last, place = work / "spool.sqlite", work / f"{_PREFIX}{os.getpid()}"
    try:
        with Looking(last, last) as there:
            known = there.has_problems(source_key)
        if not known:
            with Spool(place / "spool.sqlite") as fresh:
                read_problems(plan, store, fresh, Report())
        with Looking(last if known else place / "spool.sqlite", last) as looking:
            mix(plan, looking)
            yield looking
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _open(file: Path) -> sqlite3.Connection:
    """The file as it is, or an empty one in memory where there is none that this release reads."""
    if not file.exists() or not current(file):
        return in_memory()
    db = sqlite3.connect(file, timeout=30, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA query_only = 1")
    return db


def _sweep(work: Path) -> None:
    """Remove what looks left that were killed."""
    for place in work.glob(f"{_PREFIX}*"):
        try:
            os.kill(int(place.name.removeprefix(_PREFIX)), 0)
        except (ProcessLookupError, ValueError):
            shutil.rmtree(place, ignore_errors=True)
        except PermissionError:
            continue  # it lives, and is another user's
