r"""Arithmetic word problems of one to five steps, in the words that the tiny reasoner knows.

    python -m tracemill.synth.tiny.problems --kind arith --n 200 --seed 0 --out data/problems/arith.jsonl
    python -m tracemill.synth.tiny.problems --kind hints --n 60 --seed 0 --out data/problems/hints.jsonl
    python -m tracemill.synth.tiny.problems --kind plans --n 60 --seed 0 --out data/problems/plans.jsonl

One row of each:
    {"id": "arith-0-0007", "question": "Tom has 3 boxes with 4 eggs each. Tom loses 5. How many eggs does Tom have?",
     "answer": "7", "difficulty": "2"}
    {"id": "hints-0-0001", "question": "Ann has 4 zorbs of pens. Ann uses the blim rule. How many pens does Ann have?",
     "answer": "19", "difficulty": "2", "kp_list": ["1 quax is 3.", "the blim rule takes 1.", "1 zorb is 5."], "needed": [1, 2]}
    {"id": "plans-0-0000", "question": "Ann has 5 bags with 3 pens each. Max has ... How many pens in total?",
     "answer": "43", "difficulty": "3", "chains": "1: A->C\n2: B->C"}

A problem is a small tree of quantities: people start with something, change what they have, and in the end their holdings are
joined into a total or a difference. Every equation is known, so the answer is right by construction. The levels of
difficulty, which count equations, take turns, so that each has an equal share. What an invented word means stands in the
hints alone, most of which a problem can do without.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal, TypeVar

# The tiny reasoner has read nothing but these words and numbers of these sizes; others it answers with nonsense.
NAMES = ("Tom", "Ann", "Ben", "Eva", "Sam", "Mia", "Leo", "Zoe", "Max", "Ivy", "Dan", "Amy")
ITEMS = ("apples", "books", "coins", "pens", "eggs", "cards")
CONTAINERS = ("boxes", "bags")
INVENTED = ("zorb", "blim", "glim", "quax", "vint", "dorp", "snee", "plok", "wuzz", "trel", "fipo", "krag")
LARGEST = 199
LEVELS = 5
LETTERS = "ABCDE"
"""Names of the quantities that the equations of a problem give, in their order."""

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
class Hint:
    """What an invented word stands for, as in `1 zorb is 4.` and `the blim rule adds 5.`."""

    word: str
    text: str


@dataclass(frozen=True, slots=True)
class WordProblem:
    """A text and the equations that solve it, in an order in which they can be worked out; the last one is the answer.

    `parts` counts the equations of each person, who come one after the other; the equations after these join them.
    `hints` has an entry for each of the persons' equations: what one has to be told to write it, or None.
    """

    sentences: tuple[str, ...]
    asked: str
    equations: tuple[Equation, ...]
    parts: tuple[int, ...]
    hints: tuple[Hint | None, ...]

    @property
    def question(self) -> str:
        return " ".join((*self.sentences, self.asked))

    @property
    def answer(self) -> int:
        return self.equations[-1].value

    @property
    def difficulty(self) -> int:
        return len(self.equations)

    @property
    def needed(self) -> tuple[Hint, ...]:
        return tuple(hint for hint in self.hints if hint)

    @property
    def sources(self) -> tuple[tuple[int, ...], ...]:
        """For each equation the earlier ones whose values it takes: () for a beginning, two for a join."""
        found: list[tuple[int, ...]] = []
        heads: list[int] = []
        for part in self.parts:
            found.append(())
            found += [(len(found) - 1 + k,) for k in range(part - 1)]
            heads.append(len(found) - 1)
        joined = heads[0]
        for head in heads[1:]:
            found.append((joined, head))
            joined = len(found) - 1
        return tuple(found)

    @property
    def chains(self) -> tuple[tuple[str, ...], ...]:
        """For each person the way from their beginning to the answer, in letters: ((A, B, E), (C, E))."""
        leads_to = {source: number for number, sources in enumerate(self.sources) for source in sources}
        ways: list[tuple[str, ...]] = []
        for begin in (number for number, sources in enumerate(self.sources) if not sources):
            way = [begin]
            while way[-1] in leads_to:
                way.append(leads_to[way[-1]])
            ways.append(tuple(LETTERS[number] for number in way))
        return tuple(ways)


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
    words: list[str]  # invented ones that the problem may still use; empty for a problem without hints
    sentences: list[str] = field(default_factory=list)
    equations: list[Equation] = field(default_factory=list)
    hints: list[Hint | None] = field(default_factory=list)

    @property
    def amount(self) -> int:
        return self.equations[-1].value

    def tell(self, sentence: str, equation: Equation, hint: Hint | None = None) -> None:
        self.sentences.append(f"{self.person} {sentence}.")
        self.equations.append(equation)
        self.hints.append(hint)

    def begin_by_hint(self, dice: Dice) -> None:
        word, packs, each = self.words.pop(), dice.between(2, 9), dice.between(2, 9)
        hint = Hint(word, f"1 {word} is {each}.")
        self.tell(f"has {packs} {word}s of {self.item}", Equation(packs, "*", each), hint)

    def change_by_hint(self, dice: Dice) -> None:
        word, by = self.words.pop(), dice.between(2, 9)
        if self.amount > by + 1 and dice.chance(50):
            self.tell(
                f"uses the {word} rule", Equation(self.amount, "-", by), Hint(word, f"the {word} rule takes {by}.")
            )
        else:
            self.tell(
                f"uses the {word} rule", Equation(self.amount, "+", by), Hint(word, f"the {word} rule adds {by}.")
            )

    def begin(self, dice: Dice) -> None:
        if self.words and dice.chance(60):
            self.begin_by_hint(dice)
            return
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
        if self.words and dice.chance(60):
            self.change_by_hint(dice)
            return
        had = self.amount
        if had <= 33 and dice.chance(25):
            self.tell("doubles it", Equation(had, "*", 2))
        elif had > 12 and dice.chance(50):
            less = dice.between(2, min(30, had - 2))
            self.tell(f"loses {less}", Equation(had, "-", less))
        else:
            more = dice.between(2, max(3, min(20, 99 - had)))
            self.tell(f"finds {more} more", Equation(had, "+", more))


def arith(seed: int = 0) -> Iterator[dict[str, str]]:
    """Rows without end: no question comes twice, and the first n are the same however many are taken."""
    for number, problem in _distinct(
        f"arith-1/{seed}", lambda dice, number: word_problem(dice, steps=number % LEVELS + 1)
    ):
        yield _row(f"arith-{seed}-{number:04d}", problem)


def hints(seed: int = 0) -> Iterator[dict[str, str | list[str] | list[int]]]:
    """Problems that cannot be solved without some of the hints in `kp_list`, those that `needed` counts from 0."""

    def draw(dice: Dice, number: int) -> WordProblem:
        return word_problem(dice, steps=number % LEVELS + 1, invented=True)

    for number, problem in _distinct(f"hints-1/{seed}", draw):
        dice = Dice(f"hints-1/{seed}/{number}/shown")
        shown = mixed(dice, (*problem.needed, *distractors(dice, problem, dice.between(1, 3))))
        needed = [index for index, hint in enumerate(shown) if hint in problem.needed]
        yield {
            **_row(f"hints-{seed}-{number:04d}", problem),
            "kp_list": [hint.text for hint in shown],
            "needed": needed,
        }


def plans(seed: int = 0) -> Iterator[dict[str, str]]:
    """Problems of three to five steps about two or three people, with the way from each of them to the answer."""

    def draw(dice: Dice, number: int) -> WordProblem:
        while True:
            problem = word_problem(dice, steps=number % (LEVELS - 2) + 3)
            if len(problem.parts) > 1:
                return problem

    for number, problem in _distinct(f"plans-1/{seed}", draw):
        lines = (f"{index}: {'->'.join(way)}" for index, way in enumerate(problem.chains, 1))
        yield {**_row(f"plans-{seed}-{number:04d}", problem), "chains": "\n".join(lines)}


def _distinct(name: str, draw: Callable[[Dice, int], WordProblem]) -> Iterator[tuple[int, WordProblem]]:
    seen: set[str] = set()
    for number in count():
        tries = (draw(Dice(f"{name}/{number}/{k}"), number) for k in count())
        problem = next(problem for problem in tries if problem.question not in seen)
        seen.add(problem.question)
        yield number, problem


def _row(identity: str, problem: WordProblem) -> dict[str, str]:
    return {
        "id": identity,
        "question": problem.question,
        "answer": str(problem.answer),
        "difficulty": str(problem.difficulty),
    }


def word_problem(dice: Dice, *, steps: int, invented: bool = False) -> WordProblem:
    """A problem of exactly so many steps, with every value between 0 and LARGEST; if `invented`, one that needs a hint."""
    while True:
        problem = _attempt(dice, steps, invented)
        if all(0 <= equation.value <= LARGEST for equation in problem.equations) and (problem.needed or not invented):
            return problem


def distractors(dice: Dice, problem: WordProblem, how_many: int) -> list[Hint]:
    """Hints of the same forms about words that the problem does not use."""
    used = {hint.word for hint in problem.needed}
    found = []
    for word in dice.pick_distinct([word for word in INVENTED if word not in used], how_many):
        form = dice.pick(("1 {} is {}.", "the {} rule adds {}.", "the {} rule takes {}."))
        found.append(Hint(word, form.format(word, dice.between(2, 9))))
    return found


def mixed(dice: Dice, options: Sequence[T]) -> list[T]:
    return dice.pick_distinct(options, len(options))


def with_chatter(dice: Dice, problem: WordProblem, how_many: int) -> WordProblem:
    """The same problem with sentences between its own that say nothing about the answer."""
    told = list(problem.sentences)
    for _ in range(how_many):
        form = dice.pick(("{} is {} years old.", "{} lives in house {}.", "{} walks {} miles."))
        told.insert(dice.between(0, len(told)), form.format(dice.pick(NAMES), dice.between(2, 99)))
    return replace(problem, sentences=tuple(told))


def _attempt(dice: Dice, steps: int, invented: bool) -> WordProblem:
    item = dice.pick(ITEMS)
    people = dice.pick_distinct(NAMES, _how_many_people(dice, steps))
    words = mixed(dice, INVENTED) if invented else []
    holdings = [_Holding(name, item, words) for name in people]
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
        parts=tuple(len(holding.equations) for holding in holdings),
        hints=tuple(hint for holding in holdings for hint in holding.hints),
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
    kinds: dict[str, Callable[[int], Iterator[Any]]] = {"arith": arith, "hints": hints, "plans": plans}
    parser.add_argument("--kind", choices=kinds, default="arith")
    parser.add_argument("--n", type=int, default=200, help="how many problems")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="the JSONL file to write")
    options = parser.parse_args()
    lines = (json.dumps(row) + "\n" for row in islice(kinds[options.kind](options.seed), options.n))
    options.out.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
