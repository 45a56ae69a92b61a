"""Error bars of a share that is looked at while it is being counted, and stay true whenever one stops.

A fixed-n interval that is read again and again until it pleases is wrong far more often than it says. This is a confidence
sequence instead: with probability `confidence` it covers the true share at all counts at once, so the rule that decides when to
stop may be anything. A share p is inside as long as the outcomes are not much likelier under a mixture of shares than under p:

    p inside   <=>   (1 - confidence) * mixture(s, n) < p^s (1 - p)^(n - s)

(Robbins 1970, Annals of Mathematical Statistics 41(5), with Ville's inequality.) The mixture is ours: a third each for "always wrong",
"always right" and a uniform share, because values of steps crowd at both ends. 0 of 8 at 95 % gives [0, 0.3927].
"""

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from math import comb

GRID = 10_000
"""Ends of intervals are multiples of 1 / GRID, rounded outwards; whether one is inside is decided on whole numbers."""
MOST = 1000
"""Rollouts that may be asked for: more make the whole numbers long, and no step is worth so many. Those that pass through may be more."""


@lru_cache(maxsize=1 << 16)
def interval(correct: int, total: int, confidence: Fraction) -> tuple[float, float]:
    """(low, high) of the true share after `correct` of `total`; (0, 1) where nothing was counted."""
    if not 0 <= correct <= total:
        raise ValueError(f"{correct} of {total}: the right ones are among all")
    if total == 0:
        return 0.0, 1.0
    middle = correct * GRID // total
    low, high = middle, middle + (correct * GRID % total > 0)
    low = _first(0, low, lambda end: _inside(end, correct, total, confidence))
    high = GRID - _first(0, GRID - high, lambda end: _inside(GRID - end, correct, total, confidence))
    return max(0, low - 1) / GRID, min(GRID, high + 1) / GRID


@lru_cache(maxsize=1024)
def wrong_enough(at_most: Fraction, confidence: Fraction) -> int | None:
    """How many wrong outcomes, with none right, bring the upper end down to `at_most`; None where MOST do not."""
    found = _first(1, MOST + 1, lambda total: Fraction(str(interval(0, min(total, MOST), confidence)[1])) <= at_most)
    return found if found <= MOST else None


def _inside(end: int, correct: int, total: int, confidence: Fraction) -> bool:
    """Whether the share end / GRID is inside; both sides are multiplied by 3 (total + 1) binomial(total, correct) GRID^total."""
    miss = 1 - confidence
    ways = (total + 1) * comb(total, correct)
    one_sided = (correct == 0) + (correct == total)
    mixture: int = miss.numerator * (one_sided * ways + 1) * GRID**total
    likelihood: int = end**correct * (GRID - end) ** (total - correct)
    return bool(mixture < miss.denominator * 3 * ways * likelihood)


def _first(start: int, stop: int, holds: Callable[[int], bool]) -> int:
    """The smallest number from `start` on for which `holds`, which stays true once it is; `stop` where there is none before."""
    while start < stop:
        middle = (start + stop) // 2
        if holds(middle):
            stop = middle
        else:
            start = middle + 1
    return start
