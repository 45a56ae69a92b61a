r"""`Think aloud.`: a thought in paragraphs that checks itself, states its answer and goes on after it.

    We look for B.                                  opening
                                                    (a blank line parts the paragraphs)
    A is 3 times 8: 3 * 8 = 26.                     gives A, here with a slip
    Wait, 8 * 3 = 24, not 26. So 3 * 8 = 24.        rights A
    B is A less 5: 24 - 5 = 19.                     gives B
    That holds.                                     asserts
    So the answer is 19.                            states
    Hmm, once more: 3 * 8 = 24. 24 - 5 = 19. The answer is 19.      again
    Alternatively, check: 19 + 5 = 24. That is right.               checks B

The thought may be closed by force at the end of any paragraph, or asked there whether it is sure. What the user forces is not
learned; what follows it is. The numbers that are wrong on purpose are not learned either.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tracemill.synth.tiny.asking import Text, rendered
from tracemill.synth.tiny.problems import LETTERS, Dice, WordProblem
from tracemill.synth.tiny.texts import THINK_END, Span, check, meaning, slipped, written

ALOUD = "Think aloud."
CLOSE = f"\n{THINK_END}\n\n"
FORCED = f"{CLOSE}The answer is \\boxed{{"
AT_ONCE = f"{THINK_END}\n\n"
ELLIPSIS = "...\n"
PROBE, YES, NO = "\n\nAm I sure?", " Yes", " No"
SLIPS, REFLECTS, ASSERTS = 8, 60, 20
"""Percent of the equations that slip; that are reflected on; that are followed by a bare assertion."""
ASSERTIONS = ("That holds.", "This is clear.", "So far so good.", "Good, go on.")
CUES = ("Wait,", "Wait,", "Hmm,", "Alternatively, check:")
AFTERWARDS = (0, 0, 1, 1, 1, 2, 2, 2, 3, 3)
CLOSES_AT_ONCE = (90, 75, 25, 10, 5)
"""Percent of the problems of one to five steps whose thought, left the choice, closes before it begins."""
WAVERS = 5
GUESS_COUNTS, SURE_COUNTS = 2.0, 4.0
"""What a token of a forced answer, and of a yes or no, counts in the loss."""

Kind = Literal["opening", "gives", "rights", "checks", "asserts", "states", "again"]


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A piece of a thought and the equation that it is about; `right` says whether the thought holds after it."""

    kind: Kind
    number: int
    spans: tuple[Span, ...]
    right: bool = True

    @property
    def text(self) -> str:
        return "".join(span.text for span in self.spans)


def thought(dice: Dice, problem: WordProblem, *, slips: int = SLIPS, reflects: int = REFLECTS) -> list[Paragraph]:
    last = problem.difficulty - 1
    found = [_plain("opening", last, f"We look for {LETTERS[last]}.")]
    for number in range(problem.difficulty):
        if dice.chance(slips):
            found += _slip(dice, problem, number)
            continue
        found.append(_plain("gives", number, f"{meaning(problem, number)}: {written(problem.equations[number])}."))
        roll = dice.between(1, 100)
        if roll <= reflects:
            found.append(_check(dice, problem, number))
        elif roll <= reflects + ASSERTS:
            found.append(_plain("asserts", number, dice.pick(ASSERTIONS)))
    found.append(_plain("states", last, f"So the answer is {problem.answer}."))
    return [*found, *_afterwards(dice, problem)]


def joined(paragraphs: list[Paragraph]) -> str:
    return "\n\n".join(paragraph.text for paragraph in paragraphs)


def spoken(paragraphs: list[Paragraph], counts: float = 1.0) -> list[Span]:
    """The paragraphs as spans, with blank lines between them."""
    spans: list[Span] = []
    for paragraph in paragraphs:
        spans += [Span("\n\n", counts)] if spans else []
        spans += [Span(span.text, span.weight * counts) for span in paragraph.spans]
    return spans


def whole(dice: Dice, problem: WordProblem) -> Text:
    """The thought from end to end, and the answer."""
    return Text(
        _asked(problem), [*spoken(thought(dice, problem)), Span(f"{CLOSE}The answer is \\boxed{{{problem.answer}}}.")]
    )


def forced(dice: Dice, problem: WordProblem) -> Text:
    """The thought up to the end of one of its paragraphs, closed there by force, and the true answer."""
    paragraphs = thought(dice, problem)
    kept = paragraphs[: dice.between(1, len(paragraphs))]
    return Text(
        _asked(problem), [*spoken(kept), Span(FORCED, 0.0), Span(f"{problem.answer}", GUESS_COUNTS), Span("}.")]
    )


def at_once(dice: Dice, problem: WordProblem) -> Text:  # noqa: ARG001
    return Text(
        _asked(problem),
        [Span(AT_ONCE, 0.0), Span("The answer is \\boxed{"), Span(f"{problem.answer}", GUESS_COUNTS), Span("}.")],
    )


def own_choice(dice: Dice, problem: WordProblem) -> Text:
    """Behind an ellipsis the thought closes at once or begins; the choice counts more than other tokens."""
    if dice.chance(CLOSES_AT_ONCE[problem.difficulty - 1]):
        end = [Span("\n\nThe answer is \\boxed{"), Span(f"{problem.answer}", GUESS_COUNTS), Span("}.")]
        return Text(_asked(problem), [Span(ELLIPSIS, 0.0), Span(THINK_END, SURE_COUNTS), *end])
    first, *others = thought(dice, problem)
    begin, rest = first.text.split(" ", 1)
    opening = Paragraph("opening", first.number, (Span(begin, SURE_COUNTS), Span(f" {rest}")))
    end = [Span(f"{CLOSE}The answer is \\boxed{{{problem.answer}}}.")]
    return Text(_asked(problem), [Span(ELLIPSIS, 0.0), *spoken([opening, *others]), *end])


def sure(dice: Dice, problem: WordProblem, told: WordProblem) -> Text:
    """Asked whether it is sure at the end of a paragraph: `told` is the problem, or one that gives a wrong answer."""
    astray = told != problem
    paragraphs = thought(dice, told, reflects=20 if astray else REFLECTS)
    stated = next(
        n
        for n, paragraph in enumerate(paragraphs, 1)
        if paragraph.number == told.difficulty - 1 and paragraph.kind == "gives"
    )
    late = dice.chance(50)
    kept = paragraphs[: dice.between(stated, len(paragraphs)) if late or stated == 1 else dice.between(1, stated - 1)]
    said = (is_stated(kept, problem) and not astray) != dice.chance(WAVERS)
    answer = [Span(PROBE, 0.0), Span(YES if said else NO, SURE_COUNTS)]
    return Text(_asked(problem), [*spoken(kept, 0.0 if astray else 1.0), *answer])


def is_stated(paragraphs: list[Paragraph], problem: WordProblem) -> bool:
    """Whether the equation of the last quantity stands there, and no slip is left."""
    given = {paragraph.number for paragraph in paragraphs if paragraph.kind == "gives"}
    return problem.difficulty - 1 in given and paragraphs[-1].right


def _asked(problem: WordProblem) -> str:
    return rendered({"Question": problem.question}, ALOUD, thinking=True)


def _plain(kind: Kind, number: int, text: str) -> Paragraph:
    return Paragraph(kind, number, (Span(text),))


def _check(dice: Dice, problem: WordProblem, number: int) -> Paragraph:
    equation = problem.equations[number]
    before, value = check(equation, equation.value)
    return _plain("checks", number, f"{dice.pick(CUES)} {before} {value}. That is right.")


def _slip(dice: Dice, problem: WordProblem, number: int) -> Iterator[Paragraph]:
    equation = problem.equations[number]
    begin, wrong, noticed = slipped(dice, equation)
    yield Paragraph(
        "gives", number, (Span(f"{meaning(problem, number)}: {begin}"), Span(wrong, 0.0), Span(".")), right=False
    )
    yield _plain("rights", number, f"{dice.pick(CUES[:3])} {noticed}")


def _afterwards(dice: Dice, problem: WordProblem) -> Iterator[Paragraph]:
    """Up to three reflections, none of which says what another has said."""
    last = problem.difficulty - 1
    again = "".join(f"{written(equation)}. " for equation in problem.equations)
    which = dice.pick_distinct(["again", "last", "any"], dice.pick(AFTERWARDS))
    for kind in which:
        if kind == "again":
            yield _plain(
                "again", last, f"{dice.pick(('Hmm,', 'Wait,'))} once more: {again}The answer is {problem.answer}."
            )
        elif kind == "last" or last == 0:
            yield _check(dice, problem, last)
        else:
            yield _check(dice, problem, dice.between(0, last - 1))
