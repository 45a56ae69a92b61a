"""The small arithmetic problems: right by construction, the same everywhere, and in words that the tiny reasoner knows."""

import json
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tracemill.synth.tiny.problems import LARGEST, Dice, arith, word_problem

COMMITTED = Path(__file__).resolve().parent.parent / "data" / "problems" / "arith.jsonl"

NAME = "(?:Tom|Ann|Ben|Eva|Sam|Mia|Leo|Zoe|Max|Ivy|Dan|Amy)"
ITEM = "(?:apples|books|coins|pens|eggs|cards)"
SENTENCES = {
    rf"{NAME} has \d (?:boxes|bags) with \d {ITEM} each\.": lambda _, packs, each: packs * each,
    rf"{NAME} has \d+ {ITEM} and buys \d+ more\.": lambda _, start, more: start + more,
    rf"{NAME} has \d+ {ITEM} and gives away \d+\.": lambda _, start, less: start - less,
    rf"{NAME} doubles it\.": lambda had: 2 * had,
    rf"{NAME} finds \d+ more\.": lambda had, more: had + more,
    rf"{NAME} loses \d+\.": lambda had, less: had - less,
}
QUESTION = rf"How many (?:more )?{ITEM} (?:does {NAME} have|in total|does {NAME} have than {NAME})\?"


def read_and_solve(question: str) -> int:
    """The answer as a reader finds it who has only the text."""
    *told, asked = re.findall(r"[^.?]+[.?]", question)
    assert re.fullmatch(QUESTION, asked.strip()), asked
    holdings: dict[str, int] = {}
    for sentence in map(str.strip, told):
        person = sentence.split()[0]
        meaning = next(meaning for form, meaning in SENTENCES.items() if re.fullmatch(form, sentence))
        numbers = re.findall(r"\d+", sentence)
        holdings[person] = meaning(holdings.get(person, 0), *map(int, numbers))
    first, *others = holdings.values()
    return first - others[0] if " more " in asked else first + sum(others)


@given(seed=st.integers(0, 10**6), steps=st.integers(1, 5))
def test_a_reader_of_the_text_alone_comes_to_the_answer(seed: int, steps: int) -> None:
    problem = word_problem(Dice(str(seed)), steps=steps)
    assert read_and_solve(problem.question) == problem.answer


@given(seed=st.integers(0, 10**6), steps=st.integers(1, 5))
def test_a_problem_has_as_many_steps_as_asked_for_and_small_numbers(seed: int, steps: int) -> None:
    problem = word_problem(Dice(str(seed)), steps=steps)
    assert problem.difficulty == len(problem.equations) == steps
    assert all(0 <= equation.value <= LARGEST for equation in problem.equations)


def test_the_committed_problems_are_what_the_generator_writes(tmp_path: Path) -> None:
    out = tmp_path / "arith.jsonl"
    command = [sys.executable, "-m", "tracemill.synth.tiny.problems", "--n", "200", "--seed", "0", "--out", str(out)]
    subprocess.run(command, check=True, cwd=tmp_path)
    assert out.read_bytes() == COMMITTED.read_bytes()


def test_the_committed_problems_are_all_different_and_evenly_hard() -> None:
    rows = [json.loads(line) for line in COMMITTED.read_text(encoding="utf-8").splitlines()]
    assert list(rows[0]) == ["id", "question", "answer", "difficulty"]
    assert len({row["id"] for row in rows}) == len({row["question"] for row in rows}) == len(rows) == 200
    assert [sum(row["difficulty"] == str(level) for row in rows) for level in range(1, 6)] == [40] * 5


def test_taking_more_problems_keeps_those_there_were() -> None:
    assert list(islice(arith(3), 50)) == list(islice(arith(3), 120))[:50]
    assert next(arith(3)) != next(arith(4))


def test_dice_are_the_same_on_every_machine() -> None:
    dice = Dice("law")
    assert [dice.between(1, 6) for _ in range(10)] == [6, 6, 3, 6, 3, 4, 2, 6, 4, 2]
    assert dice.pick_distinct("abcdef", 6) != list("abcdef")
