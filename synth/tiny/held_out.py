"""The problems that the tiny reasoner is measured on and never trained on.

The held-out rows are further rows of the committed kinds, under a seed of their own:

    {"id": "arith-1000003-0000", "question": "Ben has 3 bags with 7 coins each. ...", "answer": "9", "difficulty": "1"}
"""

from functools import cache
from itertools import islice

from tracemill.synth.tiny.problems import LEVELS, Dice, WordProblem, arith, hints, plans, word_problem

SEED = 1_000_003
COMMITTED = 200  # of each kind at most, under seed 0


def measured(a_level: int, *, invented: bool = False) -> list[WordProblem]:
    """So many problems of each level, which take turns."""
    kind = "hints" if invented else "plain"
    return [
        word_problem(Dice(f"held-out/{kind}/{SEED}/{number}"), steps=number % LEVELS + 1, invented=invented)
        for number in range(a_level * LEVELS)
    ]


@cache
def withheld() -> frozenset[str]:
    """Every question that training must not see."""
    committed = [row["question"] for rows in (arith(0), plans(0)) for row in islice(rows, COMMITTED)]
    committed += [str(row["question"]) for row in islice(hints(0), COMMITTED)]
    held = [problem.question for kind in (False, True) for problem in measured(200, invented=kind)]
    return frozenset((*committed, *held))
