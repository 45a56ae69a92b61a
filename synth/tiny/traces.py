r"""Traces to try curation on: solutions of small word problems as two data sets might hold them, good ones and bad ones.

    worked    a problem a row, four solutions in a list: {"id", "question", "answer", "generations": [...]}
    replies   a reply a row, several of one problem, as a chat: {"messages": [..., {"role": "assistant"}], "answer", "tokens"}

What is wrong with a bad one is known: `FLAWS` lists the ways. `python -m tracemill.synth.tiny.traces --out data/traces`
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from tracemill.synth.tiny.problems import LETTERS, Dice, WordProblem, word_problem
from tracemill.synth.tiny.texts import written

WORKED, REPLIES = 60, 45
SOLUTIONS, ANSWERS = 4, 3
OPENINGS = (
    "Let me write down what the text gives and go through it in order.",
    "First I look for what is asked, then I collect the numbers that lead there.",
    "I take the sentences one at a time and keep a running value.",
    "The question names its quantities one after the other, so I follow them.",
)
STEPS = (
    "{how} is {what} for {name}, which I get from {equation}.",
    "Working out {what}: {equation}, so {name} stands at {value}.",
    "For {name} I need {what}. That makes {equation}.",
    "Now {what} comes in. With {equation} the value of {name} is settled.",
)
WHAT = {"+": "what is added", "-": "what is taken away", "*": "how many there are in all of them together"}
CHECKS = (
    "Wait, is {equation} right? Doing it backwards gives the same, so it holds.",
    "Let me make sure of {equation}. Yes, that is correct.",
    "I look at {equation} once more and see no slip.",
)
HOW = ("The first quantity", "Next", "After that", "Then", "The last quantity")


def solution(dice: Dice, problem: WordProblem, *, careful: bool = False, slip: int = 0) -> str:
    r"""A solution in paragraphs that ends in its boxed answer; `slip` is added to the answer, and makes it wrong."""
    parts = [dice.pick(OPENINGS)]
    for number, equation in enumerate(problem.equations):
        text = written(equation)
        about = {"how": HOW[number], "what": WHAT[equation.operator], "name": LETTERS[number], "value": equation.value}
        parts.append(dice.pick(STEPS).format(equation=text, **about))
        if careful:
            parts.append(dice.pick(CHECKS).format(equation=text))
    return "\n\n".join([*parts, f"So the answer is \\boxed{{{problem.answer + slip}}}."])


def _looped(dice: Dice, problem: WordProblem) -> str:
    return solution(dice, problem).rpartition("\n\n")[0] + "\n\nLet me go over the numbers again." * 12


def _cut(dice: Dice, problem: WordProblem) -> str:
    whole = solution(dice, problem, careful=True).rpartition("\n\n")[0]
    return whole[: len(whole) - dice.between(9, 20)]


def _refused(dice: Dice, problem: WordProblem) -> str:
    counted = len(problem.sentences)
    form = dice.pick(
        ("I'm sorry, but I can't help with that. It has {} sentences.", "I cannot assist with these {} sentences.")
    )
    return (
        form.format(counted)
        + " Please ask somebody who teaches arithmetic, and show them all of what you have found so far."
    )


def _german(dice: Dice, problem: WordProblem) -> str:
    steps = "\n\n".join(
        f"Schritt {number}: Wir rechnen zuerst aus, wie viele es danach sind, und erhalten {written(equation)}."
        for number, equation in enumerate(problem.equations, 1)
    )
    start = dice.pick(("Gesucht ist die Anzahl am Ende der Geschichte.", "Wir lesen den Text der Reihe nach durch."))
    return (
        f"{start}\n\n{steps}\n\nDie Antwort lautet also \\boxed{{{problem.answer}}}, wie man leicht nachrechnen kann."
    )


def _leaking(dice: Dice, problem: WordProblem) -> str:
    told = f"The given result is {problem.answer}, so the steps only have to arrive there."
    return f"{told}\n\n{solution(dice, problem)}"


def _wrong(dice: Dice, problem: WordProblem) -> str:
    return solution(dice, problem, slip=dice.pick((1, 2, 10)))


FLAWS: Mapping[str, Callable[[Dice, WordProblem], str]] = {
    "looped": _looped,
    "cut": _cut,
    "refused": _refused,
    "german": _german,
    "leaking": _leaking,
    "wrong": _wrong,
}
"""What a solution may suffer from. `copied`, a solution that repeats the one before it but for its last words, is the seventh."""


def _problem(name: str, number: int) -> tuple[Dice, WordProblem]:
    dice = Dice(f"traces-1/{name}/{number}")
    return dice, word_problem(dice, steps=1 + number % 5)


def _texts(dice: Dice, problem: WordProblem, how_many: int, flawed: int) -> list[tuple[str, str]]:
    """Kind and text of solutions to one problem, `flawed` percent of them bad."""
    found: list[tuple[str, str]] = []
    for number in range(how_many):
        kind = dice.pick([*FLAWS, "copied"]) if dice.chance(flawed) else "good"
        if kind == "copied" and number:
            found.append((kind, found[-1][1].rstrip(".") + ", and that is all."))
        elif kind in FLAWS:
            found.append((kind, FLAWS[kind](dice, problem)))
        else:
            found.append(("good", solution(dice, problem, careful=dice.chance(40))))
    return found


def worked() -> Iterator[dict[str, Any]]:
    """A problem a row, with its solutions and, beside them, what is wrong with each."""
    for number in range(WORKED):
        dice, problem = _problem("worked", number)
        kinds, texts = zip(*_texts(dice, problem, SOLUTIONS, 30), strict=True)
        about = {"id": f"worked-{number:03}", "question": problem.question, "answer": str(problem.answer)}
        yield {**about, "level": str(problem.difficulty), "generations": list(texts), "kinds": list(kinds)}


def replies() -> Iterator[dict[str, Any]]:
    """A reply a row, all of one problem together."""
    for number in range(REPLIES):
        dice, problem = _problem("replies", number)
        for kind, text in _texts(dice, problem, ANSWERS, 45):
            turns = [{"role": "user", "content": problem.question}, {"role": "assistant", "content": text}]
            end = "length" if kind == "cut" else "stop"
            about = {
                "answer": str(problem.answer),
                "level": str(problem.difficulty),
                "finish_reason": end,
                "kind": kind,
            }
            yield {"messages": turns, **about}


def main() -> None:
    """Write both files to the folder that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tracemill.synth.tiny.traces", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder for worked.jsonl and replies.jsonl")
    options = parser.parse_args()
    for name, rows in (("worked", worked()), ("replies", replies())):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in islice(rows, 10_000))
        (options.out / f"{name}.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
