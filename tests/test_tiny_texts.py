"""What the tiny reasoner is trained to say: right by construction, in the forms that the rest of the project reads."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracemill.synth.tiny.problems import LETTERS, NAMES, Dice, WordProblem, word_problem
from tracemill.synth.tiny.texts import (
    HARD,
    TASKS,
    THINK_END,
    Skill,
    chain,
    drill,
    message,
    plan,
    prompt,
    shown_hints,
    target,
)

SOLVING: tuple[Skill, ...] = ("solve", "short", "medium", "long", "think", "steps")
EQUATION = re.compile(r"(\d+) ([-+*]) (\d+) = (\d+)")


def said(seed: int, skill: Skill, steps: int = 3, words: int = 0) -> tuple[WordProblem, str]:
    dice = Dice(f"said/{seed}")
    problem = word_problem(dice, steps=steps, invented=seed % 2 == 0)
    spans = target(dice, problem, skill, shown_hints(dice, problem), words)
    return problem, "".join(span.text for span in spans)


@given(seed=st.integers(0, 10**6), steps=st.integers(1, 5), skill=st.sampled_from(SOLVING), words=st.integers(0, 100))
def test_every_solution_ends_in_the_boxed_answer(seed: int, steps: int, skill: Skill, words: int) -> None:
    problem, text = said(seed, skill, steps, words)
    ending = (
        f"\\boxed{{{problem.answer}}}\n# END!" if skill == "steps" else f"The answer is \\boxed{{{problem.answer}}}."
    )
    assert text.endswith(ending)
    assert text.count("\\boxed") == 1
    assert text.count(THINK_END) == (skill == "think")


@given(seed=st.integers(0, 10**6), steps=st.integers(1, 5), skill=st.sampled_from(SOLVING))
def test_every_equation_is_true_but_those_that_are_not_learned(seed: int, steps: int, skill: Skill) -> None:
    dice = Dice(f"true/{seed}")
    problem = word_problem(dice, steps=steps)
    learned = "".join(span.text for span in target(dice, problem, skill) if span.weight)
    for left, operator, right, value in EQUATION.findall(learned):
        assert {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[operator](int(left), int(right)) == int(value)
    first = re.findall(r"(?<!Check: )\b\d+ [-+*] \d+ =", learned.partition("Once more")[0])
    assert list(dict.fromkeys(first)) == list(
        dict.fromkeys(f"{e.left} {e.operator} {e.right} =" for e in problem.equations)
    )


def test_a_check_finds_the_slip_and_puts_it_right() -> None:
    texts = [said(seed, "long")[1] for seed in range(300)]
    slipped = [text for text in texts if ", not " in text]
    assert 15 <= len(slipped) <= 90  # three checks of 5 % each
    for text in slipped:
        for left, operator, right, wrong, again in re.findall(
            r"(\d+) ([-+*]) (\d+) = (\d+)\. Check: [^.]*, not \d+\. So ([^.]*)\.", text
        ):
            assert again.startswith(f"{left} {operator} {right} = ")
            assert again != f"{left} {operator} {right} = {wrong}"


@given(seed=st.integers(0, 10**6), skill=st.sampled_from(SOLVING))
def test_no_solution_speaks_of_the_people(seed: int, skill: Skill) -> None:
    assert not set(NAMES) & set(re.findall(r"\w+", said(seed, skill)[1]))


def test_words_lengthen_a_chain_bit_by_bit() -> None:
    def mean(words: int) -> float:
        lengths = []
        for seed in range(200):
            dice = Dice(f"words/{seed}")
            problem = word_problem(dice, steps=3)
            lengths.append(len("".join(span.text for span in chain(dice, problem, (), words=words))))
        return sum(lengths) / len(lengths)

    means = [mean(words) for words in (0, 25, 50, 75, 100)]
    gains = [after - before for before, after in itertools.pairwise(means)]
    assert min(gains) > 0.8 * max(gains)


def test_a_hint_is_quoted_by_its_number_in_the_prompt() -> None:
    dice = Dice("quoted")
    problem = word_problem(dice, steps=1, invented=True)
    (hint,) = problem.needed
    other = next(hint for hint in shown_hints(Dice("quoted/2"), problem) if hint != problem.needed[0])
    text = "".join(span.text for span in target(dice, problem, "long", (other, hint)))
    assert f"Hint 2 says {problem.equations[0].right}." in text


def test_a_step_stands_under_its_number() -> None:
    problem, text = said(0, "steps", steps=4)
    *worked, last = re.split(r"^# (?=Step|Answer)", text, flags=re.MULTILINE)[1:]
    assert [step.split("\n")[0] for step in worked] == ["Step 1", "Step 2", "Step 3", "Step 4"]
    assert last == f"Answer\n\\boxed{{{problem.answer}}}\n# END!"


@given(seed=st.integers(0, 10**6), steps=st.integers(2, 5))
def test_a_plan_names_every_quantity_and_ends_in_the_answer(seed: int, steps: int) -> None:
    lines = plan(word_problem(Dice(f"plan/{seed}"), steps=steps)).split("\n")
    ways = [re.fullmatch(rf"{number}: ([A-E](?:->[A-E])+)", line) for number, line in enumerate(lines, 1)]
    letters = [way[1].split("->") for way in ways if way]
    assert len(letters) == len(lines)
    assert {letter for way in letters for letter in way} == set(LETTERS[:steps])
    assert all(way == sorted(way) and way[-1] == LETTERS[steps - 1] for way in letters)


def test_harder_problems_are_called_hard_more_often() -> None:
    shares = [sum(said(seed, "judge", steps)[1] == "1" for seed in range(400)) / 400 for steps in range(1, 6)]
    assert shares == pytest.approx(HARD, abs=0.06)


def test_prompts_have_the_sections_and_no_empty_header() -> None:
    assert message("Q?", "Solve.") == "## Question\nQ?\n## Task\nSolve."
    assert message("Q?", "Solve.", ["1 zorb is 4.", "the blim rule adds 2."]) == (
        "## Hint\n1. 1 zorb is 4.\n2. the blim rule adds 2.\n## Question\nQ?\n## Task\nSolve."
    )
    assert prompt("Q?", "think").endswith("\n## Answer\n<think>\n")
    assert prompt("Q?", "plan").endswith("\n## Task\nMake a plan.\n## Answer\n")
    assert len(set(TASKS.values())) == len(TASKS) - 1  # thinking is asked for by the template, not by a task


@given(seed=st.integers(0, 10**6))
def test_drills_are_true(seed: int) -> None:
    text = "".join(span.text for span in drill(Dice(str(seed))))
    found = EQUATION.findall(text)
    assert len(found) == 10
    assert all(
        int(value) == {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[o](int(a), int(b))
        for a, o, b, value in found
    )
