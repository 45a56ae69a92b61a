"""How well a model does: accuracy, pass@k and maj@k over problems, with intervals, by difficulty and in total.

pass@k is the chance that k draws hold a right one, unbiased from n >= k draws (Chen et al. 2021, arXiv:2107.03374, section
2.1). maj@k is the chance that the commonest answer of k draws is right (Wang et al. 2022, arXiv:2203.11171). Both are exact
expectations over all sets of k of the n draws, in fractions; floats appear only in the estimates.

Answers vote as text, with white space collapsed and case folded: `1/2` and `0.5` are two candidates. A draw without an answer
does not vote. Of answers with equally many votes each counts its share: two leaders of which one is right make 1/2.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import polars as pl

from tracemill.schemas.intervals import wilson


@dataclass(frozen=True, slots=True)
class Draws:
    """What was drawn for one problem: the final answer of each draw (None: none found) and whether it is right."""

    difficulty: str | None
    answers: Sequence[tuple[str | None, bool | None]]
    """`correct` is None where undecided: inside the total, never inside correct."""

    @property
    def correct(self) -> int:
        return sum(right is True for _, right in self.answers)

    @property
    def undecided(self) -> int:
        return sum(right is None for _, right in self.answers)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over problems and its 95 % interval."""

    mean: float
    low: float
    high: float
    problems: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def pass_at(k: int, *, correct: int, total: int) -> Fraction:
    """The chance that `k` of `total` draws, taken without putting back, hold one of the `correct` ones."""
    if not (0 < k <= total and 0 <= correct <= total):
        raise ValueError(f"pass@{k} of {correct} right among {total}: needs 1 <= k <= total and correct <= total")
    return 1 - Fraction(math.comb(total - correct, k), math.comb(total, k))


def majority_at(k: int, answers: Sequence[tuple[str | None, bool | None]]) -> Fraction:
    """The chance that a vote among `k` of the draws elects a right answer, ties shared.

    An answer is right where any draw that gave it was judged right.
    """
    if not 0 < k <= len(answers):
        raise ValueError(f"maj@{k} of {len(answers)} draws: needs 1 <= k <= draws")
    votes: Counter[str] = Counter(text for answer, _ in answers if (text := normalised(answer)) is not None)
    right = {text for answer, correct in answers if correct and (text := normalised(answer)) is not None}
    if k == len(answers):
        most = max(votes.values(), default=0)
        leaders = [answer for answer, count in votes.items() if count == most]
        return Fraction(sum(answer in right for answer in leaders), max(1, len(leaders)))
    silent = len(answers) - votes.total()
    elected = sum(
        (
            _elections(k, votes[winner], [votes[other] for other in votes if other != winner], silent)
            for winner in right
        ),
        Fraction(0),
    )
    return elected / math.comb(len(answers), k)


def normalised(answer: str | None) -> str | None:
    """The text that an answer votes for; None where there is none."""
    return " ".join((answer or "").split()).casefold() or None


def estimate(values: Mapping[Fraction, int], draws: int) -> Estimate | None:
    """The mean of values between 0 and 1, given as how many problems have which, with the problem as the unit.

    The interval is Wilson's, at the number of yes-or-no problems that would scatter as much: the problems themselves where
    every value is 0 or 1, more where the values lie closer together, never more than the draws they come from. None where
    there is no problem to tell from.
    """
    problems = sum(values.values())
    if problems == 0:
        return None
    mean = sum((value * count for value, count in values.items()), Fraction(0)) / problems
    spread = sum(((value - mean) ** 2 * count for value, count in values.items()), Fraction(0)) / problems
    size = Fraction(problems)
    if problems > 1 and 0 < mean < 1:
        size = min(problems * mean * (1 - mean) / spread, Fraction(draws)) if spread else Fraction(draws)
    low, high = wilson(float(mean), float(size))
    return Estimate(float(mean), low, high, problems)


@dataclass
class _Tally:
    """What one line of the table adds up; problems with equal values are counted, not kept."""

    problems: int = 0
    correct: int = 0
    undecided: int = 0
    drawn: int = 0
    outcomes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Problems by (correct, total)."""
    votes: Counter[tuple[int, Fraction]] = field(default_factory=Counter)
    """Problems by (draws, maj@draws)."""

    def add(self, problem: Draws, vote: Fraction) -> None:
        self.problems += 1
        self.correct += problem.correct
        self.undecided += problem.undecided
        self.drawn += len(problem.answers)
        self.outcomes[problem.correct, len(problem.answers)] += 1
        self.votes[len(problem.answers), vote] += 1

    def line(self, ks: Sequence[int], most: int) -> dict[str, Any]:
        pass_ = {f"pass@{k}": self._at(k) for k in ks}
        counted = {"problems": self.problems, "draws": self.drawn, "correct": self.correct, "undecided": self.undecided}
        return {**counted, "accuracy": self._at(1), **pass_, f"maj@{most}": self._majority(most)}

    def _at(self, k: int) -> Estimate | None:
        values: Counter[Fraction] = Counter()
        for (correct, total), count in self.outcomes.items():
            if total >= k:
                values[pass_at(k, correct=correct, total=total)] += count
        return estimate(values, sum(t * count for (_, t), count in self.outcomes.items() if t >= k))

    def _majority(self, most: int) -> Estimate | None:
        values: Counter[Fraction] = Counter()
        for (drawn, vote), count in self.votes.items():
            if drawn == most:
                values[vote] += count
        return estimate(values, most * values.total())


def accuracy_table(traces: pl.LazyFrame) -> list[dict[str, Any]]:
    """The lines of `tabulate` for a table of traces; none where nothing was decided."""
    drawn = (
        traces.select("problem_id", "difficulty", "answer", "correct")
        .group_by("problem_id")
        .agg(pl.col("difficulty").first(), "answer", "correct")
        .select("difficulty", "answer", "correct")
        .collect(engine="streaming")
    )
    table = tabulate(Draws(level, list(zip(*votes, strict=True))) for level, *votes in drawn.iter_rows())
    return table if table and table[-1]["undecided"] < table[-1]["draws"] else []


def tabulate(problems: Iterable[Draws]) -> list[dict[str, Any]]:
    """One line a difficulty, in order of number where they are numbers, and one in total (difficulty `all`), last.

    Keys: difficulty, problems, draws, correct, undecided, accuracy, pass@1, pass@2, pass@4, ... up to the most draws that
    a problem has, and maj@ that number. Estimates say over how many problems they are: those with enough draws; None where
    no problem has enough. Problems
    without a draw are not counted; `accuracy` weighs problems alike, however many draws each has.
    """
    tallies: dict[str | None, _Tally] = {}
    total, most = _Tally(), 0
    for problem in problems:
        if not problem.answers:
            continue
        most = max(most, len(problem.answers))
        vote = majority_at(len(problem.answers), problem.answers)
        for tally in (tallies.setdefault(problem.difficulty, _Tally()), total):
            tally.add(problem, vote)
    if most == 0:
        return []
    ks = [*(2**i for i in range(most.bit_length()) if 2**i < most), most]
    levels = [] if tallies.keys() == {None} else sorted(tallies, key=by_number)
    lines = [{"difficulty": level, **tallies[level].line(ks, most)} for level in levels]
    return [*lines, {"difficulty": "all", **total.line(ks, most)}]


def by_number(difficulty: str | None) -> tuple[int, float, str]:
    """Numbers first by size, then words, then those without a difficulty."""
    if difficulty is None:
        return (2, 0.0, "")
    found = re.fullmatch(r"\D*(\d+(?:\.\d+)?)\D*", difficulty, re.ASCII)
    return (0, float(found[1]), difficulty) if found else (1, 0.0, difficulty)


def _elections(k: int, winner: int, others: Sequence[int], silent: int) -> Fraction:
    """In how many sets of `k` draws an answer with `winner` votes leads, a set with r fellow leaders counting 1 / (r + 1)."""
    elected = Fraction(0)
    for votes in range(1, min(winner, k) + 1):
        ways = math.comb(winner, votes)
        for (used, fellows), count in _beaten(votes, k - votes, others).items():
            elected += Fraction(ways * count * math.comb(silent, k - votes - used), fellows + 1)
    return elected


def _beaten(votes: int, room: int, others: Sequence[int]) -> Counter[tuple[int, int]]:
    """Ways to take at most `room` draws with no answer above `votes`, by (draws taken, answers that reach `votes`)."""
    ways: Counter[tuple[int, int]] = Counter({(0, 0): 1})
    for count in others:
        longer: Counter[tuple[int, int]] = Counter()
        for (used, fellows), so_far in ways.items():
            for taken in range(min(count, votes, room - used) + 1):
                longer[used + taken, fellows + (taken == votes)] += so_far * math.comb(count, taken)
        ways = longer
    return ways
