r"""Judgements of texts: is a paragraph needed, do two sentences differ, is a solution right.

## Question, ## Solution, ## Segment        Is it needed?      keep: it gives A.
## First, ## Second                         Do they differ?    1
## Question, ## Solution                    Is it right?       0
"""

import re

from tracemill.synth.tiny.aloud import Kind, joined, thought
from tracemill.synth.tiny.asking import Text, rendered
from tracemill.synth.tiny.astray import astray
from tracemill.synth.tiny.plans import solution
from tracemill.synth.tiny.problems import LARGEST, LETTERS, Dice, WordProblem
from tracemill.synth.tiny.texts import Span, meaning, written

NEEDED, DIFFER, RIGHT = "Is it needed?", "Do they differ?", "Is it right?"
VERDICTS: dict[Kind, str] = {
    "opening": "drop: it gives nothing.",
    "gives": "keep: it gives {}.",
    "rights": "keep: it puts {} right.",
    "checks": "drop: it checks {}.",
    "asserts": "drop: it gives nothing.",
    "states": "drop: it says it again.",
    "again": "drop: it says it again.",
}
JUDGED_COUNTS = 4.0
"""What the one token of a judgement counts in the loss."""
READ_COUNTS, PROMPT_COUNTS = 0.5, 0.03
CONTENT = re.compile(r"\d+|[-+*]|\b[A-E]\b")
WORDINGS = (
    ("{}.", "So {}.", "Now {}.", "Check: {}.", "Wait, {}.", "Hmm, {}.", "Wait, {}. That is right.", "Alternatively, {}.", "We see {}.",
     "Once more: {}."),
    ("The answer is {}.", "So the answer is {}.", "The answer is \\boxed{{{}}}.", "So it is {}.", "That gives {}.", "We have {}."),
    ("That holds.", "This is clear.", "So far so good.", "Good, go on.", "That is right.", "Hmm.", "Wait."),
)  # fmt: skip
"""Ways to say an equation, with or without what it stands for; a number; and nothing."""


def needed(dice: Dice, problem: WordProblem) -> Text:
    """Of which paragraphs there are many, and of which few, comes out even."""
    paragraphs = thought(dice, problem, slips=15)
    kind = dice.pick(sorted({paragraph.kind for paragraph in paragraphs}))
    segment = dice.pick([paragraph for paragraph in paragraphs if paragraph.kind == kind])
    sections = {"Question": problem.question, "Solution": joined(paragraphs), "Segment": segment.text}
    verdict = VERDICTS[kind].format(LETTERS[segment.number])
    return Text(rendered(sections, NEEDED), [Span(verdict[:4], JUDGED_COUNTS), Span(verdict[4:])])


def content(text: str) -> list[str]:
    """The numbers, operators and quantities of a text: what makes two sentences differ."""
    return CONTENT.findall(text)


def differ(dice: Dice, problem: WordProblem) -> Text:
    """Two sentences, half of them with a change, shown from where they part or a little before."""
    number = dice.between(0, problem.difficulty - 1)
    changed = astray(dice, problem) if dice.chance(50) else problem
    if number >= changed.difficulty:
        number = changed.difficulty - 1
    spelt = dice.chance(50)
    sayings = [_saying(some, number, spelt != dice.chance(8)) for some in (problem, changed)]
    group = dice.pick((0, 0, 0, 1, 2))
    if group == 2 and dice.chance(50):  # something beside nothing
        first, second = dice.pick(WORDINGS[2]), dice.pick(WORDINGS[0]).format(sayings[1][0])
    else:
        first, second = (dice.pick(WORDINGS[group]).format(saying[min(group, 1)]) for saying in sayings)
    if dice.chance(50):
        first, second = second, first
    first, second = _parted(dice, first, second)
    label = "1" if content(first) != content(second) else "0"
    return Text(rendered({"First": first, "Second": second}, DIFFER), [Span(label, JUDGED_COUNTS)])


def differ_read(dice: Dice, problem: WordProblem) -> Text:
    """The same, and the second sentence is learned too: to foresee it is to compare it with the first."""
    text = differ(dice, problem)
    before, mark, after = text.asked.partition("## Second\n")
    second, rest = after.split("\n", 1)
    return Text(before + mark, [Span(second, READ_COUNTS), Span(f"\n{rest}", PROMPT_COUNTS), *text.spans])


def right(dice: Dice, problem: WordProblem, form: str = "") -> Text:
    """A solution that is right, or goes astray, or ends in a number that it does not give; of any form if none is named."""
    match dice.between(1, 100):
        case roll if roll <= 50:
            shown, label = solution(dice, problem, form), "1"
        case roll if roll <= 88:
            shown, label = solution(dice, astray(dice, problem), form), "0"
        case _:
            shown, label = ending_otherwise(dice, solution(dice, problem, form), problem.answer), "0"
    sections = {"Question": problem.question, "Solution": shown}
    return Text(rendered(sections, RIGHT), [Span(label, JUDGED_COUNTS)])


def right_ending(dice: Dice, problem: WordProblem) -> Text:
    """The easiest to tell: brief solutions of which half end in a number that they do not give."""
    shown, label = solution(dice, problem, "solve"), "1"
    if dice.chance(50):
        shown, label = ending_otherwise(dice, shown, problem.answer), "0"
    sections = {"Question": problem.question, "Solution": shown}
    return Text(rendered(sections, RIGHT), [Span(label, JUDGED_COUNTS)])


def ending_otherwise(dice: Dice, text: str, answer: int) -> str:
    """The solution with another number in its box."""
    others = [answer + by for by in (-10, -2, -1, 1, 2, 10) if 0 <= answer + by <= LARGEST]
    return text.replace(f"\\boxed{{{answer}}}", f"\\boxed{{{dice.pick(others)}}}")


def _saying(problem: WordProblem, number: int, spelt: bool) -> tuple[str, str]:
    """An equation, with what it stands for if `spelt`, and its value."""
    equation = problem.equations[number]
    said = written(equation)
    return f"{meaning(problem, number)}: {said}" if spelt else said, str(equation.value)


def _parted(dice: Dice, first: str, second: str) -> tuple[str, str]:
    """Both without what they begin with alike: as they are, by words, or down to the last sign."""
    match dice.between(1, 3):
        case 1:
            return first, second
        case 2:
            one, other = first.split(" "), second.split(" ")
            alike = _alike(one, other)
            return " ".join(one[alike:]) or first, " ".join(other[alike:]) or second
        case _:
            alike = _alike(first, second)
            return first[alike:].strip() or first, second[alike:].strip() or second


def _alike(one: str | list[str], other: str | list[str]) -> int:
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
