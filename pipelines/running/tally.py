"""How far a run is, where its budget cuts, and when it has failed too often."""

import itertools
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tracemill.pipelines.plan import Plan
from tracemill.pipelines.running.outcomes import Record
from tracemill.schemas.rows import Problem, draw
from tracemill.synth.workshop import Meter

if TYPE_CHECKING:
    from tracemill.pipelines.judging.calibrate import Measured


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
    calibration: list["Measured"] | None = None
    """How often the recipe's judges were right on their cases; None where that is not known, since nothing may be sampled."""
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
