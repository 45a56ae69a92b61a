"""Problems whose equations have gone wrong somewhere, with everything after it worked out from there.

A = 3 * 8 = 24, B = A - 5 = 19      false     A = 26, B = 26 - 5 = 21
                                    misread   A = 3 * 6 = 18, B = 18 - 5 = 13
                                    skipped   A = 24, and that is the answer
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from tracemill.synth.tiny.problems import LARGEST, Dice, Equation, WordProblem


@dataclass(frozen=True, slots=True)
class FalseEquation(Equation):
    """An equation that says what is not so."""

    said: int

    @property
    def value(self) -> int:
        return self.said


T = TypeVar("T")
Change = Callable[[Equation], Equation]


def astray(dice: Dice, problem: WordProblem) -> WordProblem:
    """The same question with equations that end in another number than the answer."""
    while True:
        how = dice.pick((_false, _false, _misread, _misread, _skipped))
        wrong = how(dice, problem)
        fits = all(0 <= equation.value <= LARGEST and equation.right >= 0 for equation in wrong.equations)
        if fits and wrong.answer != problem.answer:
            return wrong


def _false(dice: Dice, problem: WordProblem) -> WordProblem:
    by = dice.pick((-10, -2, -1, 1, 2, 10))

    def change(equation: Equation) -> Equation:
        return FalseEquation(equation.left, equation.operator, equation.right, equation.value + by)

    return carried(problem, dice.between(0, problem.difficulty - 1), change)


def _misread(dice: Dice, problem: WordProblem) -> WordProblem:
    """Another number or the other sign in an equation that takes a number from the question."""
    alone = [number for number, sources in enumerate(problem.sources) if len(sources) < 2]
    by, turned = dice.pick((-2, -1, 1, 2, 3)), dice.chance(40)

    def change(equation: Equation) -> Equation:
        if turned and equation.operator != "*":
            return replace(equation, operator="-" if equation.operator == "+" else "+")
        return replace(equation, right=max(1, equation.right + by))

    return carried(problem, dice.pick(alone), change)


def _skipped(dice: Dice, problem: WordProblem) -> WordProblem:
    """Without one of the steps that change what somebody has; where there is none, misread."""
    changes = [number for number, sources in enumerate(problem.sources) if len(sources) == 1]
    if not changes:
        return _misread(dice, problem)
    gone = dice.pick(changes)
    parts, begin = list(problem.parts), 0
    for person, part in enumerate(problem.parts):
        if begin <= gone < begin + part:
            parts[person] -= 1
        begin += part
    without = replace(
        problem,
        equations=_without(problem.equations, gone),
        parts=tuple(parts),
        hints=_without(problem.hints, gone),
    )
    return carried(without, 0, lambda equation: equation)


def _without(items: Sequence[T], gone: int) -> tuple[T, ...]:
    return (*items[:gone], *items[gone + 1 :])


def carried(problem: WordProblem, where: int, change: Change) -> WordProblem:
    """The problem with one equation changed and all others worked out anew from those before them."""
    found: list[Equation] = []
    for number, (equation, sources) in enumerate(zip(problem.equations, problem.sources, strict=True)):
        left = found[sources[0]].value if sources else equation.left
        right = found[sources[1]].value if len(sources) == 2 else equation.right
        anew = replace(equation, left=left, right=right)
        found.append(change(anew) if number == where else anew)
    return replace(problem, equations=tuple(found))
