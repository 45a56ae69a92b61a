"""Behind which segment a thought may be closed: the first at which enough short answers are right, and at the next one, too.

right answers   0   .25   .75   .875   1        ->   the exit is segment 3, for a threshold of .75
"""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tracemill.schemas.rows import Verdict
from tracemill.synth.closing import Closed
from tracemill.synth.engine import together

SCAN = 24
"""Segments up to which all are measured. Our default, as the search beyond it."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Answers behind one closed thought, with their verdicts."""

    closed: Sequence[Closed]
    verdicts: Sequence[Verdict]

    @property
    def right(self) -> int:
        return sum(verdict.correct is True for verdict in self.verdicts)

    @property
    def share(self) -> Fraction:
        """Right ones of all; an undecided one is among all."""
        return Fraction(self.right, len(self.verdicts))

    def best(self) -> Closed | None:
        """The shortest right answer, the first of them where several are."""
        right = [one for one, verdict in zip(self.closed, self.verdicts, strict=True) if verdict.correct is True]
        return min(right, key=lambda one: one.answer.n_tokens, default=None)


async def first_exit(above: Callable[[int], Coroutine[Any, Any, bool]], count: int, *, scan: int = SCAN) -> int | None:
    """The first segment, from 1, of `count` at which and behind which enough answers are right; None where there is none.

    `above` says it of one segment, and is never asked for one twice at a time. The last segment has none behind it. Of more than
    `scan` segments not all are measured: 1, 2, 4, 8 and on until one is an exit, then halves between it and the last that was none.
    Shares of right answers do not only rise, so what this finds is an exit, and the segment before it is none, but an earlier one
    may be.
    """

    async def stands(j: int) -> bool:
        return await above(j) and (j == count or await above(j + 1))

    if count <= scan:
        marks = await together(above(j) for j in range(1, count + 1))
        return next((j for j in range(1, count + 1) if all(marks[j - 1 : j + 1])), None)
    low, high = 0, 1
    while not await stands(high):
        if high == count:
            return None
        low, high = high, min(2 * high, count)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if await stands(middle) else (middle, high)
    return high
