"""Arithmetic word problems of one to five steps, in the words that the tiny reasoner knows.

    python -m tracemill.synth.tiny.problems --n 200 --seed 0 --out data/problems/arith.jsonl

One row: {"id": "arith-0-0007", "question": "Tom has 3 boxes with 4 eggs each. Tom loses 5. How many eggs does Tom have?",
          "answer": "7", "difficulty": "2"}

A problem is a small tree of quantities: people start with something, change what they have, and in the end their holdings are
joined into a total or a difference. Every equation is known, so the answer is right by construction. The levels of
difficulty, which count equations, take turns, so that each has an equal share.
"""

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Literal, TypeVar

# The tiny reasoner has read nothing but these words and numbers of these sizes; others it answers with nonsense.
NAMES = ("Tom", "Ann", "Ben", "Eva", "Sam", "Mia", "Leo", "Zoe", "Max", "Ivy", "Dan", "Amy")
ITEMS = ("apples", "books", "coins", "pens", "eggs", "cards")
CONTAINERS = ("boxes", "bags")
LARGEST = 199
LEVELS = 5

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Equation:
    """One step of the solution."""

    left: int
    operator: Literal["+", "-", "*"]
    right: int

    @property
    def value(self) -> int:
        match self.operator:
            case "+":
                return self.left + self.right
            case "-":
                return self.left - self.right
            case "*":
                return self.left * self.right


@dataclass(frozen=True, slots=True)
class WordProblem:
    """A text and the equations that solve it, in an order in which they can be worked out; the last one is the answer."""

    sentences: tuple[str, ...]
    asked: str
    equations: tuple[Equation, ...]

    @property
    def question(self) -> str:
        return " ".join((*self.sentences, self.asked))

    @property
    def answer(self) -> int:
        return self.equations[-1].value

    @property
    def difficulty(self) -> int:
        return len(self.equations)


@dataclass(slots=True)
class Dice:
    """Whole numbers from SHA-256 of a name and a counter: the same on every machine and for every library version."""

    name: str
    rolls: int = 0

    def between(self, low: int, high: int) -> int:
        """Uniform over low to high, both included."""
        digest = hashlib.sha256(f"{self.name}/{self.rolls}".encode()).digest()
        self.rolls += 1
        return low + int.from_bytes(digest[:8], "big") % (high - low + 1)

    def chance(self, percent: int) -> bool:
        return self.between(1, 100) <= percent

    def pick(self, options: Sequence[T]) -> T:
        return options[self.between(0, len(options) - 1)]

    def pick_distinct(self, options: Sequence[T], how_many: int) -> list[T]:
        left = list(options)
        return [left.pop(self.between(0, len(left) - 1)) for _ in range(how_many)]


@dataclass(slots=True)
class _Holding:
    """What one person has, as it changes sentence by sentence."""

    person: str
    item: str
    sentences: list[str] = field(default_factory=list)
    equations: list[Equation] = field(default_factory=list)

    @property
    def amount(self) -> int:
        return self.equations[-1].value

    def tell(self, sentence: str, equation: Equation) -> None:
        self.sentences.append(f"{self.person} {sentence}.")
        self.equations.append(equation)

    def begin(self, dice: Dice) -> None:
        match dice.pick(("packed", "packed", "bought", "gave")):
            case "packed":
                packs, each = dice.between(2, 9), dice.between(2, 9)
                self.tell(
                    f"has {packs} {dice.pick(CONTAINERS)} with {each} {self.item} each", Equation(packs, "*", each)
                )
            case "bought":
                start, more = dice.between(5, 50), dice.between(2, 30)
                self.tell(f"has {start} {self.item} and buys {more} more", Equation(start, "+", more))
            case _:
                start = dice.between(15, 80)
                less = dice.between(3, min(30, start - 2))
                self.tell(f"has {start} {self.item} and gives away {less}", Equation(start, "-", less))

    def change(self, dice: Dice) -> None:
        had = self.amount
        if had <= 33 and dice.chance(25):
            self.tell("doubles it", Equation(had, "*", 2))
        elif had > 12 and dice.chance(50):
            less = dice.between(2, min(30, had - 2))
            self.tell(f"loses {less}", Equation(had, "-", less))
        else:
            more = dice.between(2, max(3, min(20, 99 - had)))
            self.tell(f"finds {more} more", Equation(had, "+", more))


def generate(seed: int = 0) -> Iterator[dict[str, str]]:
    """Rows without end: no question comes twice, and the first n are the same however many are taken."""
    seen: set[str] = set()
    for number in count():
        tries = (word_problem(Dice(f"arith-1/{seed}/{number}/{k}"), steps=number % LEVELS + 1) for k in count())
        problem = next(problem for problem in tries if problem.question not in seen)
        seen.add(problem.question)
        yield {
            "id": f"arith-{seed}-{number:04d}",
            "question": problem.question,
            "answer": str(problem.answer),
            "difficulty": str(problem.difficulty),
        }


def word_problem(dice: Dice, *, steps: int) -> WordProblem:
    """A problem of exactly so many steps, with every value between 0 and LARGEST."""
    while True:
        problem = _attempt(dice, steps)
        if all(0 <= equation.value <= LARGEST for equation in problem.equations):
            return problem


def _attempt(dice: Dice, steps: int) -> WordProblem:
    item = dice.pick(ITEMS)
    holdings = [_Holding(name, item) for name in dice.pick_distinct(NAMES, _how_many_people(dice, steps))]
    for holding in holdings:
        holding.begin(dice)
    told = 2 * len(holdings) - 1  # the beginnings, and the joins that follow
    for _ in range(steps - told):
        dice.pick(holdings).change(dice)
    asked, joins = _join(dice, holdings)
    return WordProblem(
        sentences=tuple(sentence for holding in holdings for sentence in holding.sentences),
        asked=asked,
        equations=tuple(equation for holding in holdings for equation in holding.equations) + tuple(joins),
    )


def _how_many_people(dice: Dice, steps: int) -> int:
    """One, or as many as the steps allow: people need one step each, and one less to join them."""
    most = min(3, (steps + 1) // 2)
    return 1 if most == 1 or dice.chance(35) else dice.between(2, most)


def _join(dice: Dice, holdings: Sequence[_Holding]) -> tuple[str, list[Equation]]:
    """The sentence that asks, and the equations that lead from all the holdings to its answer."""
    first, *others = holdings
    if not others:
        return f"How many {first.item} does {first.person} have?", []
    if len(others) == 1 and first.amount > others[0].amount and dice.chance(40):
        asked = f"How many more {first.item} does {first.person} have than {others[0].person}?"
        return asked, [Equation(first.amount, "-", others[0].amount)]
    joins: list[Equation] = []
    total = first.amount
    for other in others:
        joins.append(Equation(total, "+", other.amount))
        total = joins[-1].value
    return f"How many {first.item} in total?", joins


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tracemill.synth.tiny.problems", description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=200, help="how many problems")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="the JSONL file to write")
    options = parser.parse_args()
    lines = (json.dumps(row) + "\n" for row in islice(generate(options.seed), options.n))
    options.out.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
