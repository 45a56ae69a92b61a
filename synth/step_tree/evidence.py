"""What is known of a step's value, when that is enough, and what label follows: all of it decided on whole numbers.

The value of a prefix is the share of the model's continuations that end right. Its soft label is that share as counted. Its hard label
says whether the value is above a `threshold`, 0 unless told otherwise, as in Math-Shepherd (arXiv:2312.08935) and OmegaPRM
(arXiv:2406.06592): one right continuation settles that it is. That none came says only that the value is small. How small, the
upper end of the interval tells, and the label is 0 once that is down to `min_value`; what is neither stays unknown.

Adaptively, a solution counts for the prefix that it was drawn from and for every prefix that it goes through on its way: behind each of
them it is one more continuation by the same model. That is fair because nothing is picked by how it ended: all solutions that pass count,
those too that made the search look at the prefix, in the order in which they were drawn. What was drawn when depends on earlier outcomes
only, so each outcome is still right with the probability that is asked for, and that is all a confidence sequence needs. A share of so
few is another matter: where drawing stops at the first right one, it leans upwards. With fixed `k` each prefix has its own k and no others.
"""

from dataclasses import dataclass
from fractions import Fraction

from tracemill.synth.step_tree.interval import interval, wrong_enough


@dataclass(frozen=True, slots=True)
class Counts:
    """Continuations of a prefix; undecided ones are in the total and are neither right nor wrong."""

    correct: int = 0
    total: int = 0
    undecided: int = 0

    @property
    def decided(self) -> int:
        return self.total - self.undecided

    def and_one(self, correct: bool | None) -> "Counts":
        return Counts(self.correct + (correct is True), self.total + 1, self.undecided + (correct is None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How many continuations a prefix is worth, and the label that they give it."""

    k: int | None = 8
    """So many for every prefix; None: as many as the decision takes, in looks of 2, 4, 8, ... and never more than `most`."""
    threshold: Fraction = Fraction(0)
    min_value: Fraction = Fraction("0.4")
    confidence: Fraction = Fraction("0.95")
    most: int = 64

    def more(self, counts: Counts) -> int:
        """How many continuations to draw now; 0 where no more are wanted."""
        if self.k is not None:
            return max(0, self.k - counts.total)
        if self.hard(counts) is not None:
            return 0
        look = 2
        while look <= counts.total:
            look *= 2
        return max(0, min(look, self._enough(counts), self.most) - counts.total)

    def hard(self, counts: Counts) -> int | None:
        """1, 0, or None where the continuations leave it open."""
        if self.k is not None:
            needed = self.threshold * max(self.k, counts.total)
            if counts.correct > needed:
                return 1
            return 0 if counts.total >= self.k and counts.correct + counts.undecided <= needed else None
        low, high = self._ends(counts)
        if self.threshold == 0:
            return 1 if counts.correct else (0 if high <= self.min_value else None)
        return 1 if low > self.threshold else (0 if high <= self.threshold else None)

    def interval(self, counts: Counts) -> tuple[float, float]:
        """Where the value lies with `confidence`, however many were drawn and why."""
        return interval(counts.correct, counts.decided, self.confidence)

    def _ends(self, counts: Counts) -> tuple[Fraction, Fraction]:
        low, high = self.interval(counts)
        return Fraction(str(low)), Fraction(str(high))

    def _enough(self, counts: Counts) -> int:
        """The total at which a prefix that has no right continuation yet would be decided, if none came."""
        enough = None if self.threshold else wrong_enough(self.min_value, self.confidence)
        return self.most if enough is None else enough + counts.undecided
