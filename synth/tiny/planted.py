r"""Planted cases, good and bad ones, for judges of small word problems: what `calibration` of a recipe names.

    solutions    {"id", "question", "solution", "gold", "expected"}: bad ones have a false equation, or end in another number than they give
    differences  {"id", "context", "first", "second", "expected"}: two ways to go on; good: only words differ; bad: a number, a sign or what is meant
    segments     {"id", "question", "solution", "segment", "expected"}: a paragraph of a thought; good ones are needed, bad ones check or say nothing new

    python -m tracemill.synth.tiny.planted --kind solutions --out data/calibration/solutions.jsonl
    python -m tracemill.synth.tiny.planted --kind differences --out data/calibration/differences.jsonl
    python -m tracemill.synth.tiny.planted --kind segments --out data/calibration/segments.jsonl

Their problems are among those that no small model is trained on.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

from tracemill.synth.tiny.aloud import Paragraph, joined, thought
from tracemill.synth.tiny.astray import FalseEquation
from tracemill.synth.tiny.held_out import measured
from tracemill.synth.tiny.judging import VERDICTS
from tracemill.synth.tiny.problems import LARGEST, LETTERS, LEVELS, Dice, Equation, WordProblem
from tracemill.synth.tiny.texts import boxed, chain, meaning, written

CASES = 80
"""Of each set, half of them good."""
GOOD, BAD = "good", "bad"
OFF_BY = (-10, -2, -1, 1, 2, 10)
WAYS = ("{}.", "So {}.", "Now {}.", "Check: {}.", "Once more: {}.", "That gives {}.")


def solutions() -> Iterator[dict[str, str]]:
    """Solutions as the small models write them; every problem once, good and bad ones in turn at each level."""
    for number, problem in enumerate(measured(CASES // LEVELS)):
        dice, good = Dice(f"planted-1/solutions/{number}"), number // LEVELS % 2 == 0
        shown = _solution(dice, problem) if good else _wrong(dice, problem)
        yield {
            "id": f"solution-{number:03d}",
            "question": problem.question,
            "solution": shown,
            "gold": str(problem.answer),
            "expected": GOOD if good else BAD,
        }


def differences() -> Iterator[dict[str, str]]:
    """Two ways to go on in a solution, from where they part."""
    for number, problem in enumerate(measured(CASES // LEVELS)):
        dice, good = Dice(f"planted-1/differences/{number}"), number // LEVELS % 2 == 0
        at = dice.between(0, problem.difficulty - 1)
        before = "".join(f"{LETTERS[k]}: {written(equation)}. " for k, equation in enumerate(problem.equations[:at]))
        first, second = _reworded(dice, problem, at) if good else _changed(dice, problem, at)
        alike = next(k for k, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
        yield {
            "id": f"difference-{number:03d}",
            "context": before + first[:alike],
            "first": first[alike:],
            "second": second[alike:],
            "expected": GOOD if good else BAD,
        }


def segments() -> Iterator[dict[str, str]]:
    """A paragraph of a thought that the small models write aloud: one that gives a number or puts it right, or one that does neither."""
    for number, problem in enumerate(measured(CASES // LEVELS)):
        dice, good = Dice(f"planted-1/segments/{number}"), number // LEVELS % 2 == 0
        paragraphs: list[Paragraph] = []
        while not (fit := [one for one in paragraphs if VERDICTS[one.kind].startswith("keep") == good]):
            paragraphs = thought(dice, problem, slips=15)
        yield {
            "id": f"segment-{number:03d}",
            "question": problem.question,
            "solution": joined(paragraphs),
            "segment": dice.pick(fit).text,
            "expected": GOOD if good else BAD,
        }


def _solution(dice: Dice, problem: WordProblem) -> str:
    """Without slips that a check puts right: whether such a one is good is a matter of taste."""
    words = dice.pick((0, 50, 100))
    told = "".join(span.text for span in chain(dice, problem, (), words=words))
    return _solution(dice, problem) if ", not " in told else told + boxed(problem)


def _wrong(dice: Dice, problem: WordProblem) -> str:
    """With one equation off by something and all after it worked out from there; or with another number at the end alone."""
    if dice.chance(25):
        said = _other(dice, problem.answer)
        return _solution(dice, problem).rpartition("The answer is")[0] + f"The answer is \\boxed{{{said}}}."
    where = dice.between(0, problem.difficulty - 1)
    found: list[Equation] = []
    for number, (equation, sources) in enumerate(zip(problem.equations, problem.sources, strict=True)):
        left = found[sources[0]].value if sources else equation.left
        right = found[sources[1]].value if len(sources) == 2 else equation.right
        anew = Equation(left, equation.operator, right)
        found.append(
            FalseEquation(left, equation.operator, right, _other(dice, anew.value)) if number == where else anew
        )
    off = replace(problem, equations=tuple(found))
    fits = off.answer != problem.answer and all(0 <= equation.value <= LARGEST for equation in found)
    return _solution(dice, off) if fits else _wrong(dice, problem)


def _other(dice: Dice, value: int) -> int:
    return dice.pick([value + by for by in OFF_BY if 0 <= value + by <= LARGEST])


def _reworded(dice: Dice, problem: WordProblem, at: int) -> tuple[str, str]:
    """The same equation, said in two ways."""
    one, other = dice.pick_distinct(WAYS, 2)
    said = written(problem.equations[at])
    spelt = f"{meaning(problem, at)}: {said}" if dice.chance(30) else said
    return one.format(said), other.format(spelt)


def _changed(dice: Dice, problem: WordProblem, at: int) -> tuple[str, str]:
    """An equation, and one with another number or sign in it, mostly said in the same way."""
    equation = problem.equations[at]
    if dice.chance(30) and equation.operator != "*":
        other: Equation = replace(equation, operator="-" if equation.operator == "+" else "+")
    elif dice.chance(40):
        other = Equation(equation.left, equation.operator, max(1, equation.right + dice.pick((-2, -1, 1, 2, 3))))
    else:
        other = FalseEquation(equation.left, equation.operator, equation.right, _other(dice, equation.value))
    if not 0 <= other.value <= LARGEST or written(other) == written(equation):
        return _changed(dice, problem, at)
    one = dice.pick(WAYS)
    two = one if dice.chance(70) else dice.pick(WAYS)
    return one.format(written(equation)), two.format(written(other))


KINDS: Mapping[str, Callable[[], Iterator[dict[str, str]]]] = {
    "solutions": solutions,
    "differences": differences,
    "segments": segments,
}


def lines(kind: str) -> str:
    """A set as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in islice(KINDS[kind](), CASES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=sorted(KINDS), required=True)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    asked.out.write_text(lines(asked.kind), encoding="utf-8")


if __name__ == "__main__":
    main()
