"""Which step of a solution is the first wrong one, told from the equations that its problem was made of."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from tracemill.synth.tiny.problems import LEVELS, WordProblem, _distinct, word_problem

EQUATION = re.compile(r"(\d+) ([-+*]) (\d+) = (\d+)")
BOXED = re.compile(r"\\boxed\{(\d+)\}")


def word_problems(seed: int) -> Iterator[WordProblem]:
    """The problems of `arith`, with their equations."""
    drawn = _distinct(f"arith-1/{seed}", lambda dice, number: word_problem(dice, steps=number % LEVELS + 1))
    return (problem for _, problem in drawn)


def first_error(problem: WordProblem, steps: Sequence[str]) -> int | None:
    """The number, from 0, of the first step whose equation is none of the problem's that are still open; the last step answers, too.

    The order of terms and factors does not count, nor that of equations. None: all is right.
    """
    open_ones = Counter(_key(e.left, e.operator, e.right, e.value) for e in problem.equations)
    for number, step in enumerate(steps):
        said = [_key(int(a), op, int(b), int(c)) for a, op, b, c in EQUATION.findall(step)]
        for key in said:
            if not open_ones[key]:
                return number
            open_ones[key] -= 1
        if not said and "\\boxed" not in step:
            return number
        if (answer := BOXED.search(step)) and int(answer[1]) != problem.answer:
            return number
    return None if BOXED.search(steps[-1]) else len(steps) - 1


def _key(left: int, operator: str, right: int, value: int) -> tuple[int, str, int, int]:
    if operator in "+*" and right < left:
        left, right = right, left
    return (left, operator, right, value)
