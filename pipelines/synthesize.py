"""Running one method over all problems at once, through one engine, until they are done, refused or the budget is spent.

There are no batches and no barriers: a problem is taken up the moment there is room, in the order of `draw(problem_id)`,
so the backend's scheduler always has work and one slow problem holds up nobody. A problem that raises is recorded and the
run goes on; a lost backend stops the run, to be resumed from the journal.
"""

import asyncio
import hashlib
import itertools
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from functools import partial

from tracemill.pipelines.judging.calibrate import calibrate
from tracemill.pipelines.plan import Plan
from tracemill.pipelines.reading.problem_filters import ProblemFilters
from tracemill.pipelines.running import outcomes
from tracemill.pipelines.running.brake import Brake
from tracemill.pipelines.running.collector import collected_rarely
from tracemill.pipelines.running.outcomes import Record
from tracemill.pipelines.running.progress import Report
from tracemill.pipelines.running.spool import Spool
from tracemill.pipelines.running.tally import Prefix, Tally, too_many
from tracemill.schemas.errors import DiskFull, EngineLost, LawBroken, RecipeError, TooManyFailures, TracemillError
from tracemill.schemas.rows import Problem
from tracemill.synth.engine import ProblemEngine
from tracemill.synth.gate import Stopped
from tracemill.synth.journal import Failure
from tracemill.synth.workshop import Workshop

HELD = 2 << 30
"""Bytes of completions that open problems may hold before no further problem is taken up."""
GRACE = 60.0
"""Seconds that requests in flight are given to finish once a run drains."""


async def synthesize(
    plan: Plan,
    spool: Spool,
    shop: Workshop,
    report: Report,
    *,
    only_known: bool = False,
    limit: int | None = None,
    share_failures: bool = False,
    brake: Brake | None = None,
) -> Tally:
    """Take every problem of the spool, or the first `limit`, to its outcome in the spool. SIGINT, SIGTERM and `brake` drain the run.

    `share_failures`: what fails is told to other machines by way of the journal, or, where nothing is sampled, taken from there.
    """
    counts = spool.ingest_counts()
    total = min(spool.count_problems(), limit or sys.maxsize)
    tally = Tally(shop.meter, total=total, refused_rows=counts.rejected if counts else 0)
    run = Run(plan, spool, shop, tally, only_known, share_failures)
    loop = asyncio.get_running_loop()
    going = asyncio.create_task(run.go_all())

    def on_signal(number: int) -> None:
        if tally.signal is not None:
            going.cancel()  # asked twice: let go of what is in flight
        tally.signal = number
        run.stop(f"signal {number}")

    for number in (signal.SIGINT, signal.SIGTERM):
        if threading.current_thread() is threading.main_thread():
            loop.add_signal_handler(number, on_signal, number)
    shown = asyncio.create_task(_show(report, tally, shop))
    try:
        with collected_rarely(), (brake or Brake()).on(lambda number: loop.call_soon_threadsafe(on_signal, number)):
            await going
    except asyncio.CancelledError:
        if tally.signal is None:
            raise
    finally:
        shown.cancel()
        tally.seconds = time.monotonic() - tally.started
        report.update(tally)
    return tally


async def _show(report: Report, tally: Tally, shop: Workshop) -> None:
    while True:
        tally.notes = [*tally.turn_note(), *shop.notes()]
        report.update(tally)
        await asyncio.sleep(report.every)


@dataclass
class Run:
    """One pass over the problems of a spool."""

    plan: Plan
    spool: Spool
    shop: Workshop
    tally: Tally
    only_known: bool = False
    """Sample nothing: take what the journal implies and leave the rest (`--partial`)."""
    share_failures: bool = False
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _prefix: Prefix = field(init=False)
    _filters: ProblemFilters = field(init=False)
    _fatal: BaseException | None = None
    _failed: dict[str, Record] = field(default_factory=dict)
    """What failed in this run, at most `tolerate` of them: a later pass does not try again."""

    def __post_init__(self) -> None:
        self._prefix = Prefix(self.plan, self.tally)
        self._filters = ProblemFilters(self.plan, self.spool)
        if self.plan.neighbours:
            self.shop.neighbours = partial(self.spool.neighbours, count=self.plan.neighbours)

    async def go_all(self) -> None:
        """Every pass that the build takes: one, or one for each of the weights that are loaded one after another.

        In a pass each problem comes as far as the loaded weights bring it; what they said is in the journal, and the next pass
        goes on from there. In the last one every problem has its outcome.
        """
        if self.only_known:
            self.shop.stop("only what the journal holds was asked for")
        await self.calibrate()
        scales = self.shop.passes()
        for number, scale in enumerate(scales, start=1):
            if self.tally.stopped is not None:
                return
            self.shop.loaded = scale
            self.tally.begin_pass(f"weights at {scale}, pass {number} of {len(scales)}")
            await self.go()
            await self.shop.unload(scale)
        if not scales:
            await self.go()

    async def calibrate(self) -> None:
        """Measure the recipe's judges on their cases before the first problem."""
        try:
            self.tally.calibration = await calibrate(self.plan, self.shop)
        except Stopped:
            return  # asked to stop, or to sample nothing: who needs the numbers finds that there are none

    async def go(self) -> None:
        """Take up every problem; returns when all are done or the run was told to stop."""
        tasks: set[asyncio.Task[None]] = set()
        clock = asyncio.create_task(self._watch_the_clock())
        try:
            for index, problem in enumerate(itertools.islice(self.spool.problems(), self.tally.total)):
                if not await self._room(len(tasks)):
                    break
                task = asyncio.create_task(self._one(index, problem))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                task.add_done_callback(self._notice)
            await self._drain(tasks)
        finally:
            clock.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, clock, return_exceptions=True)
        if self._fatal is not None:
            raise self._fatal
        await self.spool.flush()

    def stop(self, why: str) -> None:
        """Take up nothing more and let in no further request; what is in flight may finish."""
        if self.tally.stopped is None:
            self.tally.stopped = why
        self.shop.stop(why)
        self._wake.set()

    async def _room(self, open_problems: int) -> bool:
        """Wait until a further problem may be taken up; False once the run is to stop."""
        while True:
            if self._fatal is not None or (self.tally.stopped is not None and not self.only_known):
                return False
            if open_problems < self.shop.worth_opening() and self.shop.held < HELD and self._affordable(open_problems):
                return True
            self._wake.clear()
            await self._wake.wait()
            open_problems = self.tally.open

    def _affordable(self, open_problems: int) -> bool:
        """Whether the token budget has room for one problem more, if those open cost what the others did.

        So a build overshoots its budget by little more than one problem, not by all that could be in flight at once.
        """
        budget = self.plan.recipe.budget.tokens
        if budget is None or open_problems == 0:
            return True
        if self.tally.done == 0:
            return open_problems < 8  # nobody knows yet what a problem costs
        return self.tally.tokens * (1 + open_problems / self.tally.done) < budget

    async def _drain(self, tasks: set[asyncio.Task[None]]) -> None:
        """Wait for the open problems; once the run is to stop, no longer than one of them ends now and then."""
        while tasks and self._fatal is None:
            self._wake.clear()
            try:
                async with asyncio.timeout(GRACE if self.tally.stopped is not None else None):
                    await self._wake.wait()
            except TimeoutError:
                return

    async def _one(self, index: int, problem: Problem) -> None:
        self.tally.open += 1
        self.tally.opened[problem.problem_id] = time.monotonic()
        try:
            record = await self._record(problem)
        except Stopped:
            self.tally.waiting += 1
            return  # not an outcome: the next pass, or the next run, takes this problem up again
        except (TracemillError, OSError) as fatal:
            self._fatal = self._fatal or fatal
            return
        else:
            await self._keep(index, problem, record)
        finally:
            self.tally.open -= 1
            self.tally.opened.pop(problem.problem_id, None)
            self._wake.set()

    def _notice(self, task: asyncio.Task[None]) -> None:
        """A task that raised what `_one` does not expect ends the run too: nothing is lost in silence."""
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._fatal = self._fatal or failure
        self._wake.set()

    async def _record(self, problem: Problem) -> Record:
        """The problem's outcome: from the last run's spool, from a problem filter, or from the method."""
        if (lost := self._failed.get(problem.problem_id)) is not None:
            return lost
        key = self._filters.outcome_key(problem)
        payload = self.spool.get_outcome(problem.problem_id, key)
        if payload is not None and (known := outcomes.decode(payload)).status != "failed":
            self.tally.reused += 1
            self.shop.meter.samples_replayed += len(known.drawn)
            self.shop.meter.tokens_replayed += known.tokens
            return known
        if (verdict := self._filters.verdict(problem)) is not None:
            record = outcomes.filtered(problem, *verdict)
            payload = outcomes.encode(record)
        else:
            record, payload = await self._shared(problem, key)
        await self.spool.put_outcome(problem.problem_id, key, payload)
        return record

    async def _shared(self, problem: Problem, key: str) -> tuple[Record, bytes]:
        """What the method makes of a problem; a failure is told to other machines, or taken from what they told."""
        name = _failure_key(key)
        try:
            record, payload = await self._worked(problem)
        except Stopped:
            failure = (
                (await self.shop.journal.get([name])).get(name) if self.share_failures and self.only_known else None
            )
            if not isinstance(failure, Failure):
                raise
            record = Record(problem, "failed", failure.reason)
            return record, outcomes.encode(record)
        if record.status == "failed" and self.share_failures and not self.only_known:
            await self.shop.journal.put(name, Failure(record.reason or ""))
        return record, payload

    async def _worked(self, problem: Problem) -> tuple[Record, bytes]:
        """What the method makes of a problem, or what it raised. The one place where everything is caught."""
        engine = ProblemEngine(self.shop, problem)
        try:
            record = await outcomes.work(self.plan, problem, engine)
            return record, outcomes.encode(record)
        except (Stopped, EngineLost, RecipeError, LawBroken, DiskFull):
            raise
        except asyncio.CancelledError as failure:
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            record = outcomes.failed(problem, failure)  # raised by the method, and nobody cancelled it
        except (Exception, SystemExit) as failure:  # noqa: BLE001 - a bad problem is data, not a crash
            record = outcomes.failed(problem, failure)
        finally:
            self.shop.held -= engine.held
        return record, outcomes.encode(record)

    async def _keep(self, index: int, problem: Problem, record: Record) -> None:
        tally = self.tally
        tally.done += 1
        tally.tokens += record.tokens
        tally.rows += len(record.traces)
        for row in record.traces:
            if not row["correct"]:
                tally.reasons["undecided" if row["correct"] is None else "wrong"] += 1
        if record.status != "done":
            tally.reasons[record.reason or record.status] += 1
        if record.status == "failed":
            tally.failed += 1
            self._failed[problem.problem_id] = record
            tally.failures[record.reason or "failed"] += 1
            self._tolerate()
        if (why := self._prefix.add(index, problem, record)) is not None:
            self.stop(why)

    def _tolerate(self) -> None:
        tolerated = self.plan.recipe.tolerate
        if self.tally.failed + self.tally.refused_rows > tolerated:
            self._fatal = self._fatal or TooManyFailures(
                too_many(tolerated, self.tally.refused_rows, self.tally.failed, self.tally.failures)
            )

    async def _watch_the_clock(self) -> None:
        """Stop at the budget's wall time or GPU hours."""
        budget = self.plan.recipe.budget
        limits = [("wall", budget.wall), ("gpu_hours", budget.gpu_hours and budget.gpu_hours * 3600 / self.shop.gpus())]
        reached = [(seconds, name) for name, seconds in limits if seconds is not None]
        if not reached:
            return
        seconds, name = min(reached)
        await asyncio.sleep(seconds)
        self._prefix.close()
        self.stop(f"budget.{name} is reached")


def _failure_key(outcome_key: str) -> str:
    """Under which name the journal has the failure of one problem under one synthesis."""
    return hashlib.sha256(f"failure {outcome_key}".encode()).hexdigest()
