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
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tracemill.pipelines import outcomes
from tracemill.pipelines.brake import Brake
from tracemill.pipelines.collector import collected_rarely
from tracemill.pipelines.outcomes import Record
from tracemill.pipelines.plan import Plan
from tracemill.pipelines.problem_filters import ProblemFilters
from tracemill.pipelines.progress import Report
from tracemill.pipelines.spool import Spool
from tracemill.schemas.errors import DiskFull, EngineLost, LawBroken, RecipeError, TooManyFailures, TracemillError
from tracemill.schemas.rows import Problem, draw
from tracemill.synth.engine import Meter, Workshop
from tracemill.synth.gate import Stopped
from tracemill.synth.journal import Failure

HELD = 2 << 30
"""Bytes of completions that open problems may hold before no further problem is taken up."""
GRACE = 60.0
"""Seconds that requests in flight are given to finish once a run drains."""


@dataclass
class Tally:
    """How far a run is: what the panel shows, and what the budget is cut by."""

    meter: Meter
    total: int = 0
    done: int = 0
    open: int = 0
    reused: int = 0
    """Problems whose outcome came whole from the spool."""
    tokens: int = 0
    """Of the problems that are done."""
    rows: int = 0
    failed: int = 0
    refused_rows: int = 0
    """Source rows that were refused when the problems were read."""
    reasons: Counter[str] = field(default_factory=Counter)
    """What became of traces and problems that will not be chosen, by reason, as far as it is known yet."""
    failures: Counter[str] = field(default_factory=Counter)
    cut: int | None = None
    """The run covers the problems whose draw is at most this; None: all of them."""
    stopped: str | None = None
    """Why the run ended before its last problem: a budget, or a signal."""
    signal: int | None = None
    """The signal that asked the run to stop."""
    notes: list[str] = field(default_factory=list)
    """What the backends want a person to see now."""
    turn: str | None = None
    """Which of several passes over the problems this is, where weights are loaded one after another."""
    opened: dict[str, float] = field(default_factory=dict)
    """Problems that are open, and since when by the monotonic clock; the longest first."""
    shards: list[dict[str, Any]] = field(default_factory=list)
    """Of a run that is spread over workers: how far the shards are that run now."""
    waiting: int = 0
    """Problems that came as far as the loaded weights bring them, and wait for others."""
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    """From there to the end of the run."""

    def longest(self, most: int = 3) -> list[tuple[str, float]]:
        """The problems that have been open longest, and for how many seconds."""
        now = time.monotonic()
        return [(problem_id, now - since) for problem_id, since in itertools.islice(self.opened.items(), most)]

    def turn_note(self) -> list[str]:
        return [f"{self.turn}: {self.done + self.waiting:,} of {self.total:,} problems"] if self.turn else []

    def begin_pass(self, turn: str) -> None:
        """Forget how far the last pass came: every problem is taken up again, with other weights loaded."""
        self.meter.begin_pass()
        self.turn = turn
        self.done = self.reused = self.tokens = self.rows = self.failed = self.waiting = 0
        self.reasons, self.failures = Counter(), Counter()


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
    _prefix: "Prefix" = field(init=False)
    _filters: ProblemFilters = field(init=False)
    _fatal: BaseException | None = None
    _failed: dict[str, Record] = field(default_factory=dict)
    """What failed in this run, at most `tolerate` of them: a later pass does not try again."""

    def __post_init__(self) -> None:
        self._prefix = Prefix(self.plan, self.tally)
        self._filters = ProblemFilters(self.plan, self.spool)

    async def go_all(self) -> None:
        """Every pass that the build takes: one, or one for each of the weights that are loaded one after another.

        In a pass each problem comes as far as the loaded weights bring it; what they said is in the journal, and the next pass
        goes on from there. In the last one every problem has its outcome.
        """
        if self.only_known:
            self.shop.stop("only what the journal holds was asked for")
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
        engine = self.shop.engine(problem)
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


class Prefix:
    """Where a budget cuts: after the shortest run of problems, in order of admission, that reaches it.

    Problems finish in any order, so those that finish early wait here until all before them have; the cut then depends on
    what was sampled, not on when.
    """

    def __init__(self, plan: Plan, tally: Tally) -> None:
        self._budget = plan.recipe.budget
        self._plan = plan
        self._tally = tally
        self._early: dict[int, tuple[int, int, int]] = {}
        self._next = 0
        self._tokens = 0
        self._accepted = 0
        self._last: int | None = None

    def add(self, index: int, problem: Problem, record: Record) -> str | None:
        """Note a finished problem; returns why the run is to stop once the budget is reached."""
        budget = self._budget
        if all(limit is None for limit in (budget.tokens, budget.accepted_rows, budget.wall, budget.gpu_hours)):
            return None
        accepted = self._plan.accepted(record.traces) if budget.accepted_rows else 0
        self._early[index] = (draw(problem.problem_id), record.tokens, accepted)
        while self._tally.cut is None and self._next in self._early:
            self._last, tokens, rows = self._early.pop(self._next)
            self._next += 1
            self._tokens += tokens
            self._accepted += rows
            if budget.tokens is not None and self._tokens >= budget.tokens:
                self._tally.cut = self._last
                return f"budget.tokens: {self._tokens:,} of {budget.tokens:,} tokens are drawn"
            if budget.accepted_rows is not None and self._accepted >= budget.accepted_rows:
                self._tally.cut = self._last
                return f"budget.accepted_rows: {self._accepted:,} of {budget.accepted_rows:,} rows are accepted"
        return None

    def close(self) -> None:
        """Cut where the run is now."""
        if self._tally.cut is None:
            self._tally.cut = -1 if self._last is None else self._last


def too_many(tolerated: int, refused: int, failed: int, reasons: Counter[str]) -> str:
    """The message of a run that stops at `tolerate`, commonest reasons first."""
    common = "\n".join(f"  {count:>6} x {reason}" for reason, count in reasons.most_common(5))
    return (
        f"{refused} source rows were refused and {failed} problems failed, more than tolerate = {tolerated} allows; "
        f"the commonest reasons:\n{common}\nmend the source or the method, or raise `tolerate`; what was sampled is kept"
    )
