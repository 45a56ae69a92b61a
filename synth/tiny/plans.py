r"""The steps of a solution without its numbers: named line by line, followed, and as code.

1. A is a product              1. A is a product          def solve(a, b, c):
2. B is A less a number        3 * 8 = 24.                    A = a * b
                               2. B is A less a number        B = A - c
                               24 - 5 = 19.                   return B
                               The answer is \boxed{19}.
"""

from tracemill.synth.tiny.aloud import CLOSE, joined, thought
from tracemill.synth.tiny.asking import Text, rendered
from tracemill.synth.tiny.problems import LETTERS, Dice, WordProblem
from tracemill.synth.tiny.texts import TASKS, THINK, Skill, Span, boxed, chain, steps, target, written

NAMING, FOLLOWING, CODING = "Name the steps.", "Follow the plan.", "Write it as code."
PLANNED: tuple[Skill, ...] = ("solve", "medium", "long")
"""The old tasks that may be given a plan."""
NUMBERS = "abcdefghij"
PRODUCT, SUM, DIFFERENCE = "a product", "a sum", "a difference"


def named(problem: WordProblem, number: int) -> str:
    """What an equation does, in words without numbers: `B is A less a number`."""
    letter = LETTERS[number]
    sources = [LETTERS[source] for source in problem.sources[number]]
    match sources, problem.equations[number].operator:
        case [], operator:
            what = {"*": PRODUCT, "+": SUM, "-": DIFFERENCE}[operator]
        case [one], "*":
            what = f"twice {one}"
        case [one], "+":
            what = f"{one} and a number more"
        case [one], _:
            what = f"{one} less a number"
        case [one, other], "+":
            what = f"{one} and {other} together"
        case _:
            what = " less ".join(sources)
    return f"{letter} is {what}"


def strategy(problem: WordProblem) -> str:
    return "\n".join(f"{number + 1}. {named(problem, number)}" for number in range(problem.difficulty))


def along(problem: WordProblem) -> str:
    """A section a step: its line of the plan and its equation; then the answer."""
    lines = zip(strategy(problem).split("\n"), problem.equations, strict=True)
    return "".join(f"{line}\n{written(equation)}.\n" for line, equation in lines) + boxed(problem)


def code(problem: WordProblem) -> str:
    """A function of the numbers that the equations take from the question, in their order."""
    taken, lines = 0, []
    for number, (equation, sources) in enumerate(zip(problem.equations, problem.sources, strict=True)):
        operands = [LETTERS[source] for source in sources]
        operator = equation.operator
        if len(sources) == 1 and operator == "*":
            operands, operator = operands * 2, "+"
        while len(operands) < 2:
            operands.append(NUMBERS[taken])
            taken += 1
        lines.append(f"    {LETTERS[number]} = {operands[0]} {operator} {operands[1]}\n")
    last = LETTERS[problem.difficulty - 1]
    return f"def solve({', '.join(NUMBERS[:taken])}):\n{''.join(lines)}    return {last}"


FORMS = ("solve", "solve", "medium", "long", "steps", "aloud", "aloud", "thinking")
"""What solutions are shown in, some more often than others."""


def solution(dice: Dice, problem: WordProblem, form: str = "") -> str:
    """A solution as one of the tasks gives it, with the answer at its end; any of them if none is named."""
    match form or dice.pick(FORMS):
        case "steps":
            return steps(problem)
        case "aloud":
            return f"{joined(thought(dice, problem))}\n\n{boxed(problem)}"
        case "thinking":
            return f"{THINK}\n{joined(thought(dice, problem))}{CLOSE}{boxed(problem)}"
        case skill:
            words = {"solve": 0, "medium": dice.pick((25, 50, 50, 75)), "long": 100}[skill]
            return "".join(span.text for span in chain(dice, problem, (), words=words)) + boxed(problem)


def naming(dice: Dice, problem: WordProblem) -> Text:
    sections = {"Question": problem.question, "Solution": solution(dice, problem)}
    return Text(rendered(sections, NAMING), [Span(strategy(problem))])


def following(dice: Dice, problem: WordProblem) -> Text:  # noqa: ARG001
    sections = {"Question": problem.question, "Plan": strategy(problem)}
    return Text(rendered(sections, FOLLOWING), [Span(along(problem))])


def coding(dice: Dice, problem: WordProblem, form: str = "") -> Text:
    sections = {"Question": problem.question, "Solution": solution(dice, problem, form)}
    return Text(rendered(sections, CODING), [Span(code(problem))])


def planned(dice: Dice, problem: WordProblem) -> Text:
    """An old task with the code of its solution beside it."""
    skill = dice.pick(PLANNED)
    sections = {"Question": problem.question, "Plan": code(problem)}
    return Text(rendered(sections, TASKS[skill]), target(dice, problem, skill))
