"""The small arithmetic problems: right by construction, the same everywhere, and in words that the tiny reasoner knows."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracemill.synth.tiny.problems import (
    INVENTED,
    LARGEST,
    LETTERS,
    Dice,
    arith,
    distractors,
    hints,
    plans,
    with_chatter,
    word_problem,
)

PROBLEMS = Path(__file__).resolve().parent.parent / "data" / "problems"
HOW_MANY = {"arith": 200, "hints": 60, "plans": 60}

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
CHATTER = rf"{NAME} (?:is \d+ years old|lives in house \d+|walks \d+ miles)\."
QUESTION = rf"How many (?:more )?{ITEM} (?:does {NAME} have|in total|does {NAME} have than {NAME})\?"


def read_and_solve(question: str, hints: Sequence[str] = ()) -> int:
    """The answer as a reader finds it who has only the text, and what the hints say about words that nobody knows."""
    for hint in hints:
        if unit := re.fullmatch(r"1 (\w+) is (\d)\.", hint):
            question = re.sub(rf"has (\d) {unit[1]}s of (\w+)\.", rf"has \1 boxes with {unit[2]} \2 each.", question)
        else:
            rule = re.fullmatch(r"the (\w+) rule (adds|takes) (\d)\.", hint)
            assert rule, hint
            done = f"finds {rule[3]} more" if rule[2] == "adds" else f"loses {rule[3]}"
            question = question.replace(f"uses the {rule[1]} rule", done)
    *told, asked = re.findall(r"[^.?]+[.?]", question)
    assert re.fullmatch(QUESTION, asked.strip()), asked
    holdings: dict[str, int] = {}
    for sentence in map(str.strip, told):
        if re.fullmatch(CHATTER, sentence):
            continue
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


@given(seed=st.integers(0, 10**6), steps=st.integers(1, 5), chatter=st.integers(1, 3))
def test_chatter_is_in_the_text_and_not_in_the_answer(seed: int, steps: int, chatter: int) -> None:
    plain = word_problem(Dice(str(seed)), steps=steps)
    chatty = with_chatter(Dice(f"{seed}/chatter"), plain, chatter)
    assert len(chatty.sentences) == len(plain.sentences) + chatter
    assert read_and_solve(chatty.question) == plain.answer


@given(seed=st.integers(0, 10**6), steps=st.integers(1, 5))
def test_the_hints_that_a_problem_needs_solve_it_and_none_of_them_can_be_spared(seed: int, steps: int) -> None:
    problem = word_problem(Dice(str(seed)), steps=steps, invented=True)
    needed = [hint.text for hint in problem.needed]
    others = [hint.text for hint in distractors(Dice(f"{seed}/others"), problem, 3)]
    assert read_and_solve(problem.question, others + needed) == problem.answer
    for left_out in needed:
        with pytest.raises(StopIteration):  # a sentence that says nothing to the reader
            read_and_solve(problem.question, [*others, *(hint for hint in needed if hint != left_out)])


@given(seed=st.integers(0, 10**6), steps=st.integers(2, 5))
def test_the_ways_of_a_plan_lead_from_every_beginning_forward_to_the_answer(seed: int, steps: int) -> None:
    problem = word_problem(Dice(str(seed)), steps=steps)
    assert len(problem.chains) == len(problem.parts)
    assert {letter for way in problem.chains for letter in way} == set(LETTERS[:steps])
    for way in problem.chains:
        assert list(way) == sorted(set(way))  # every equation comes after those it takes: no circle
        assert way[-1] == LETTERS[steps - 1]


@given(seed=st.integers(0, 10**6), steps=st.integers(1, 5))
def test_an_equation_takes_the_values_of_its_sources(seed: int, steps: int) -> None:
    problem = word_problem(Dice(str(seed)), steps=steps, invented=seed % 2 == 0)
    for equation, sources in zip(problem.equations, problem.sources, strict=True):
        values = [problem.equations[source].value for source in sources]
        assert values == [equation.left, equation.right][: len(values)]


@pytest.mark.parametrize("kind", HOW_MANY)
def test_the_committed_problems_are_what_the_generator_writes(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "tracemill.synth.tiny.problems", "--kind", kind, "--n", str(HOW_MANY[kind])]
    subprocess.run([*command, "--seed", "0", "--out", str(out)], check=True, cwd=tmp_path)
    assert out.read_bytes() == (PROBLEMS / f"{kind}.jsonl").read_bytes()


def committed(kind: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (PROBLEMS / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("kind", HOW_MANY)
def test_the_committed_problems_are_all_different_and_evenly_hard(kind: str) -> None:
    rows, columns = committed(kind), ["id", "question", "answer", "difficulty"]
    assert list(rows[0]) == columns + {"hints": ["kp_list", "needed"], "plans": ["chains"]}.get(kind, [])
    assert len({row["id"] for row in rows}) == len({row["question"] for row in rows}) == len(rows) == HOW_MANY[kind]
    levels = range(3 if kind == "plans" else 1, 6)
    assert {sum(row["difficulty"] == str(level) for row in rows) for level in levels} == {len(rows) // len(levels)}


def test_every_committed_hint_problem_has_hints_to_choose_from() -> None:
    for row in committed("hints"):
        words = [next(word for word in INVENTED if word in hint) for hint in row["kp_list"]]
        assert row["needed"] == [index for index, word in enumerate(words) if word in row["question"]]
        assert 1 <= len(row["needed"]) < len(row["kp_list"]) == len(set(words))
        assert str(read_and_solve(row["question"], row["kp_list"])) == row["answer"]


def test_every_committed_plan_has_lines_of_the_form_that_planners_read() -> None:
    for row in committed("plans"):
        for number, line in enumerate(row["chains"].split("\n"), 1):
            assert re.fullmatch(rf"{number}: [A-E](->[A-E])+", line)


def test_taking_more_problems_keeps_those_there_were() -> None:
    assert list(islice(arith(3), 50)) == list(islice(arith(3), 120))[:50]
    assert next(arith(3)) != next(arith(4))
    assert list(islice(hints(3), 20)) == list(islice(hints(3), 40))[:20]
    assert list(islice(plans(3), 20)) == list(islice(plans(3), 40))[:20]


def test_dice_are_the_same_on_every_machine() -> None:
    dice = Dice("law")
    assert [dice.between(1, 6) for _ in range(10)] == [6, 6, 3, 6, 3, 4, 2, 6, 4, 2]
    assert dice.pick_distinct("abcdef", 6) != list("abcdef")
