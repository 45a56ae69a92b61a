r"""How a problem becomes a prompt and the text that the tiny reasoner is trained to answer with.

One pair, of the skill `long`:

    ## Hint                                             We look for B. It takes 2 steps. Hint 1 says 4. A is 6 times 4:
    1. 1 zorb is 4.                                     6 * 4 = 24. Check: 4 * 6 = 24. B is A less 5: 24 - 5 = 19.
    ## Question                                 -->     Check: 19 + 5 = 24. Once more: 6 * 4 = 24. 24 - 5 = 19.
    Tom has 6 zorbs of pens. Tom loses 5. How many      The answer is \boxed{19}.
    pens does Tom have?
    ## Task
    Think carefully.
    ## Answer

The letters name the quantities that the equations give, in their order: a chain never has to repeat a person or a thing. What
is not an equation is there with the probability `words`: none in a short chain, all in a long one. In part of the long
chains an equation goes wrong and its check finds it ("Check: 4 * 6 = 24, not 26. So 6 * 4 = 24."); the wrong number itself
is not learned.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tracemill.synth.tiny.problems import LARGEST, LETTERS, Dice, Equation, Hint, WordProblem, distractors, mixed

Skill = Literal["solve", "short", "medium", "long", "think", "steps", "judge", "plan"]

TASKS: dict[Skill, str] = {
    "solve": "Solve.",
    "short": "Be brief.",
    "medium": "Explain.",
    "long": "Think carefully.",
    "think": "Solve.",
    "steps": "Solve step by step.",
    "judge": "Is it hard?",
    "plan": "Make a plan.",
}
THINK, THINK_END = "<think>", "</think>"
HARD = (0.04, 0.15, 0.75, 0.90, 0.97)
"""How often a problem of one to five steps is called hard: a judge that wavers where it is close, and says how much."""
HARD_FROM = 3
SLIPS = 5
"""Percent of the equations of a long chain that go wrong at first and are put right by their check."""

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ message['content'] }}{{ eos_token }}"
    "{% elif message['role'] == 'system' %}{{ message['content'] }}{{ '\n' }}"
    "{% else %}{{ message['content'] }}{{ '\n' }}"
    "{% if not loop.last %}{{ '## Answer\n' }}{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt and messages[-1]['role'] != 'assistant' %}{{ '## Answer\n' }}"
    "{% if enable_thinking is defined and enable_thinking %}{{ '<think>\n' }}{% endif %}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a target, and how much of the loss it counts for: 0 for a number that is wrong on purpose."""

    text: str
    weight: float = 1.0


def message(question: str, task: str, hints: Sequence[str] = ()) -> str:
    """What the user says; the chat template adds `## Answer`. No hints, no header."""
    shown = "".join(f"{number}. {hint}\n" for number, hint in enumerate(hints, 1))
    return (f"## Hint\n{shown}" if shown else "") + f"## Question\n{question}\n## Task\n{task}"


def prompt(question: str, skill: Skill, hints: Sequence[str] = ()) -> str:
    """The message as the chat template renders it, without the token that begins every text."""
    return message(question, TASKS[skill], hints) + "\n## Answer\n" + (f"{THINK}\n" if skill == "think" else "")


def boxed(problem: WordProblem) -> str:
    return f"The answer is \\boxed{{{problem.answer}}}."


def target(dice: Dice, problem: WordProblem, skill: Skill, hints: Sequence[Hint] = (), words: int = 0) -> list[Span]:
    """What a right answer looks like; `words` counts in percent, and only for `solve`."""
    match skill:
        case "solve":
            return [*chain(dice, problem, hints, words=words), Span(boxed(problem))]
        case "short":
            return [*chain(dice, problem, hints, words=0), Span(boxed(problem))]
        case "medium":
            return [*chain(dice, problem, hints, words=dice.pick((25, 50, 50, 75))), Span(boxed(problem))]
        case "long":
            return [*chain(dice, problem, hints, words=100), Span(boxed(problem))]
        case "think":
            *body, last = chain(dice, problem, hints, words=100)
            return [*body, Span(last.text.rstrip(), last.weight), Span(f"\n{THINK_END}\n{boxed(problem)}")]
        case "steps":
            return [Span(steps(problem))]
        case "judge":
            return [Span("1" if dice.chance(round(100 * HARD[problem.difficulty - 1])) else "0")]
        case "plan":
            return [Span(plan(problem))]


def chain(dice: Dice, problem: WordProblem, hints: Sequence[Hint], *, words: int) -> list[Span]:
    """The solution with each optional sentence there or not, all but the boxed answer."""
    spans = []
    equations, last = problem.equations, LETTERS[len(problem.equations) - 1]
    if dice.chance(words):
        many = "1 step" if len(equations) == 1 else f"{len(equations)} steps"
        spans.append(Span(f"We look for {last}. It takes {many}. "))
    for number, equation in enumerate(equations):
        if dice.chance(words):
            spans.append(Span(meaning(problem, number, hints) + ": "))
        checked = dice.chance(words)
        if checked and dice.chance(SLIPS):
            spans += _slip(dice, equation)
            continue
        spans.append(Span(f"{written(equation)}. "))
        if checked:
            before, value = check(equation, equation.value)
            spans.append(Span(f"Check: {before} {value}. "))
    if dice.chance(words):
        spans.append(Span("Once more: " + "".join(f"{written(equation)}. " for equation in equations)))
    return spans


def written(equation: Equation) -> str:
    return f"{equation.left} {equation.operator} {equation.right} = {equation.value}"


def meaning(problem: WordProblem, number: int, hints: Sequence[Hint] = ()) -> str:
    """What an equation stands for, in letters: `Hint 2 says 4. A is 6 times 4`, `B is A less 5`, `C is A and B together`."""
    equation, letter = problem.equations[number], LETTERS[number]
    hint = problem.hints[number] if number < len(problem.hints) else None
    told = f"Hint {hints.index(hint) + 1} says {equation.right}. " if hint and hint in hints else ""
    match problem.sources[number], equation.operator:
        case (), "*":
            return f"{told}{letter} is {equation.left} times {equation.right}"
        case (), "+":
            return f"{told}{letter} is {equation.left} and {equation.right} more"
        case (), _:
            return f"{told}{letter} is {equation.left} less {equation.right}"
        case (one,), "*":
            return f"{told}{letter} is twice {LETTERS[one]}"
        case (one,), "+":
            return f"{told}{letter} is {LETTERS[one]} and {equation.right} more"
        case (one,), _:
            return f"{told}{letter} is {LETTERS[one]} less {equation.right}"
        case (one, other), "+":
            return f"{letter} is {LETTERS[one]} and {LETTERS[other]} together"
        case (one, other), _:
            return f"{letter} is {LETTERS[one]} less {LETTERS[other]}"
    raise AssertionError(problem)  # sources has at most two entries


def steps(problem: WordProblem) -> str:
    lines = (
        f"# Step {number + 1}\n{meaning(problem, number)}: {written(equation)}.\n"
        for number, equation in enumerate(problem.equations)
    )
    return "".join(lines) + f"# Answer\n\\boxed{{{problem.answer}}}\n# END!"


def plan(problem: WordProblem) -> str:
    return "\n".join(f"{number}: {'->'.join(way)}" for number, way in enumerate(problem.chains, 1))


def check(equation: Equation, value: int) -> tuple[str, int]:
    """The equation the other way round, up to its equals sign, and what that gives."""
    match equation.operator:
        case "+":
            return f"{value} - {equation.right} =", value - equation.right
        case "-":
            return f"{value} + {equation.right} =", value + equation.right
        case "*":
            return f"{equation.right} * {equation.left} =", equation.value


def slipped(dice: Dice, equation: Equation) -> tuple[str, str, str]:
    """An equation that goes wrong, up to its equals sign; the wrong number; and how its check finds that."""
    off = [equation.value + by for by in (-10, -2, -1, 1, 2, 10)]
    wrong = dice.pick([value for value in off if equation.right <= value <= LARGEST] or [equation.value + 1])
    before, value = check(equation, wrong)
    should = wrong if equation.operator == "*" else equation.left
    begin = f"{equation.left} {equation.operator} {equation.right} ="
    return begin, f" {wrong}", f"{before} {value}, not {should}. So {written(equation)}."


def _slip(dice: Dice, equation: Equation) -> Iterator[Span]:
    begin, wrong, noticed = slipped(dice, equation)
    yield Span(begin)
    yield Span(wrong, 0.0)
    yield Span(f". Check: {noticed} ")


def shown_hints(dice: Dice, problem: WordProblem) -> list[Hint]:
    """What a training prompt shows: mostly all that is needed among other hints, at times a part, or nothing."""
    needed = list(problem.needed)
    match dice.between(1, 100):
        case roll if roll <= 5:
            return []
        case roll if roll <= 12:
            needed = [hint for hint in needed if dice.chance(50)]
        case _:
            pass
    others = dice.between(0, 3)
    return mixed(dice, (*needed, *distractors(dice, problem, others)))


def drill(dice: Dice) -> list[Span]:
    """Ten bare equations, of which only the results are learned."""
    spans = []
    for number in range(10):
        equation = dice.pick((_plus, _plus, _minus, _minus, _times))(dice)
        spans.append(Span(f"{' ' * (number > 0)}{equation.left} {equation.operator} {equation.right} =", 0.02))
        spans.append(Span(f" {equation.value}."))
    return spans


def _plus(dice: Dice) -> Equation:
    left = dice.between(3, dice.pick((60, 99, 150)))
    return Equation(left, "+", dice.between(2, min(LARGEST - left, dice.pick((9, 20, 30, 99)))))


def _minus(dice: Dice) -> Equation:
    left = dice.between(8, dice.pick((60, 99, 150)))
    return Equation(left, "-", dice.between(2, min(left - 1, dice.pick((9, 20, 30, 99)))))


def _times(dice: Dice) -> Equation:
    if dice.chance(25):
        return Equation(dice.between(5, 45), "*", 2)
    return Equation(dice.between(2, 9), "*", dice.between(2, 9))
