"""What a person sees of a build in Prefect: lines, progress, tables, the folder. And how a run that is cancelled drains.

The build runs in a thread of its own, as it would alone; this one only looks at it. So a Prefect server that is slow or gone holds up
nobody, and Prefect's signal arrives where nothing is in its way.
"""

import contextvars
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from uuid import UUID

from httpx import HTTPError
from prefect.artifacts import (
    create_link_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import TerminationSignal
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from tracemill.flows.logs import Logger, LogLines
from tracemill.pipelines.asking.screens import built_lines
from tracemill.pipelines.build import Built
from tracemill.pipelines.cards.summaries import shown_summary
from tracemill.pipelines.running.brake import Brake
from tracemill.pipelines.running.progress import Report, Several, line
from tracemill.pipelines.running.tally import Tally
from tracemill.pipelines.versions.lineage import shown_accuracy
from tracemill.schemas.errors import Interrupted

Build = Callable[[Report, Brake], Built]
"""Makes a version: says how far it is, and stops where the brake is pulled."""
EVERY = 5.0
"""Seconds between two looks at a build, however many problems it has."""
AGAIN = 60.0
"""Seconds before a server that was gone is told of progress again."""
DRAIN, LET_GO = 15.0, 10.0
"""Seconds that requests in flight have to finish in a cancelled run, then seconds to end: Prefect kills after 30."""
ROWS = 200
"""So many rows of a table are shown; the version has them all."""


def built_in_view(name: str, build: Build, file: Report, logger: Logger) -> Built:
    """Build the dataset `name`, shown in the flow run that this is part of; a cancelled run drains before it ends."""
    job = Job(build, file, logger)
    view = View(name, logger)
    job.start()
    try:
        while not job.ended(EVERY):
            view.show(job)
        built = job.result()
        logger.info("\n".join(built_lines(built)))
        view.show(job)
        view.conclude(built)
    except (TerminationSignal, KeyboardInterrupt) as asked:
        logger.warning("asked to stop: nothing new is sampled, requests in flight have %.0f s to finish", DRAIN)
        logger.warning(job.drained(getattr(asked, "signal", signal.SIGINT)))
        raise
    return built


class Job(Report):
    """A build in a thread, and how far it is."""

    def __init__(self, build: Build, file: Report, logger: Logger) -> None:
        self._brake = Brake()
        self._over = threading.Event()
        self._built: Built | None = None
        self._error: BaseException | None = None
        self.percent, self.says = 0.0, "starting"
        report = Several([file, LogLines(logger), self])

        def run() -> None:
            try:
                self._built = build(report, self._brake)
            except BaseException as error:  # noqa: BLE001 - raised again by `result`, in the thread that asked
                self._error = error
            finally:
                self._over.set()

        self.start = threading.Thread(
            target=contextvars.copy_context().run, args=(run,), name="build", daemon=True
        ).start

    def ended(self, wait: float) -> bool:
        """Wait so many seconds for the end; whether it has come."""
        return self._over.wait(wait)

    def result(self) -> Built:
        """What was built, or what was raised."""
        if self._error is not None:
            raise self._error
        if self._built is None:
            raise RuntimeError("the build has not ended yet")
        return self._built

    def drained(self, number: int) -> str:
        """Stop as for the signal of this number; what became of it."""
        for seconds in (DRAIN, LET_GO):
            self._brake.pull(number)
            if self.ended(seconds):
                break
        else:
            return (
                "still busy with what is no sampling; all that was sampled is kept: run this flow again, and it goes on"
            )
        if self._built is not None:
            return f"the build had come to its end: {self._built.dataset} stands at {self._built.dataset.path}"
        if isinstance(self._error, Interrupted):
            return (
                f"{self._error}".partition(";")[0] + "; all samples drawn are kept: run this flow again, and it goes on"
            )
        return f"stopped: {self._error}"

    def step(self, name: str) -> None:
        self.says = name

    def update(self, tally: Tally) -> None:
        self.percent = 100.0 * tally.done / max(1, tally.total)
        self.says = line(tally)

    def done(self, built: Built) -> None:
        self.percent, self.says = (
            100.0,
            f"{built.dataset}" + (f", partial: {built.why_partial}" if built.why_partial else ""),
        )


class View:
    """The artifacts of one dataset. Where the server does not answer they are left out, and the build goes on."""

    def __init__(self, name: str, logger: Logger) -> None:
        self._key = name.replace(".", "-").replace("_", "-")
        self._logger = logger
        self._progress: UUID | None = None
        self._shown: tuple[float, str] | None = None
        self._silent_until = 0.0

    def show(self, job: Job) -> None:
        """Tell how far a build is, where there is anything new to tell."""
        if (now := (job.percent, job.says)) == self._shown or time.monotonic() < self._silent_until:
            return
        if self._told(lambda: self._tell_progress(*now)):
            self._shown = now

    def conclude(self, built: Built) -> None:
        """Tell what stands: reasons, numbers, and where it is."""
        for tell in (*self._tables(built.dataset.manifest()), lambda: self._link(built)):
            if not self._told(tell, retries=3):
                self._logger.warning("the version stands all the same: %s", shown_by(built))
                return

    def _tell_progress(self, percent: float, says: str) -> None:
        if self._progress is None:
            made = create_progress_artifact(percent, key=f"{self._key}-progress", description=says)
            self._progress = made if isinstance(made, UUID) else None
        else:
            update_progress_artifact(self._progress, progress=percent, description=says)

    def _tables(self, manifest: Mapping[str, Any]) -> Iterator[Callable[[], object]]:
        name = f"{manifest['name']}@{manifest['version']}"
        counts = [{"rows": c["rows"], "stage": c["stage"], "reason": c["reason"]} for c in manifest["counts"]]
        yield self._table("reasons", f"{name}: rows by stage and reason", counts)
        if (summary := manifest.get("summary")) and summary["rows"]:
            yield self._table("summary", f"{name}: {summary['title']}", shown_summary(summary))
        if accuracy := manifest.get("accuracy"):
            yield self._table(
                "accuracy", f"{name}: accuracy, with 95 % intervals over problems", shown_accuracy(accuracy)
            )

    def _table(self, kind: str, title: str, rows: list[dict[str, Any]]) -> Callable[[], object]:
        cut = f"; the first {ROWS} of {len(rows):,} rows" if len(rows) > ROWS else ""
        return lambda: create_table_artifact(rows[:ROWS], key=f"{self._key}-{kind}", description=title + cut)

    def _link(self, built: Built) -> object:
        path = built.dataset.path
        return create_link_artifact(
            path.as_uri(),
            link_text=str(path),
            key=f"{self._key}-version",
            description=f"{built.dataset}; where the worker runs: `{shown_by(built)}`",
        )

    def _told(self, tell: Callable[[], object], *, retries: int = 0) -> bool:
        """Whether the server took it; tried for seconds and not for minutes, since it is a view only."""
        try:
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: retries}):
                tell()
        except (HTTPError, RuntimeError) as error:
            self._silent_until = time.monotonic() + AGAIN
            self._logger.warning(
                "the Prefect server does not answer (%s: %s); the build goes on, `tracemill status` where it runs says how far",
                *(type(error).__name__, error),
            )
            return False
        return True


def shown_by(built: Built) -> str:
    """What to type to see a version."""
    return f"tracemill show {built.dataset} --store {built.dataset.path.parent.parent}"
