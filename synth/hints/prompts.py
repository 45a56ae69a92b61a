r"""What the solver is shown: a problem, and under `## Hint` the knowledge points that stand in one configuration.

    What is the area of ...?                       {question}

    ## Hint                                        {hints}: the header and the points, numbered from 1
    1. **Knowledge Point**: ...
       **Key Considerations**: ...
    2. **Knowledge Point**: ...
       **Key Considerations**: ...

    Please reason step by step, and put your final answer within \boxed{}.

That is the layout of KnowRL's released prompts (arXiv:2604.12627). Where nothing is shown there is no header either, and the
prompt is the one that the method `sample` asks with, so the two share their draws.
"""

from collections.abc import Sequence

from tracemill.schemas.request import Message
from tracemill.schemas.rows import Problem
from tracemill.synth.prompts import check_prompt, shown

PROMPT = "{question}\n\n{hints}\n\nPlease reason step by step, and put your final answer within \\boxed{}."
HEADER = "## Hint"
_PLACE = "{hints}"


def check_layout(prompt: str) -> None:
    """Raise ValueError for a prompt without a place for the problem, or with none or several for the hints."""
    check_prompt(prompt)
    if prompt.count(_PLACE) != 1:
        raise ValueError(
            f"prompt = {prompt!r} has {prompt.count(_PLACE)} places for the hints: write {{hints}} once, where they belong"
        )


def block(points: Sequence[str]) -> str:
    """The header and the points below it, numbered from 1; empty where there are none."""
    lines = [f"{number}. {point}" for number, point in enumerate(points, start=1)]
    return "\n".join([HEADER, *lines]) if lines else ""


def hinted(problem: Problem, points: Sequence[str], prompt: str = PROMPT) -> tuple[Message, ...]:
    """The turns that show a problem with these points; without any, what plain sampling shows.

    A problem that brings a conversation of its own is shown as that, with the hints under its last question.
    """
    if problem.messages is None:
        before, after = (shown(problem, part)[0]["content"] for part in _halves(prompt, points))
        return (Message(role="user", content=f"{before}{block(points)}{after}"),)
    if not points:
        return problem.messages
    *earlier, last = problem.messages
    return (*earlier, {**last, "content": f"{last['content']}\n\n{block(points)}"})


def alone(points: Sequence[str], prompt: str) -> tuple[Message, ...]:
    """The points without their problem, in a prompt with a place for them."""
    before, after = _halves(prompt, points)
    return (Message(role="user", content=f"{before}{block(points)}{after}"),)


def _halves(prompt: str, points: Sequence[str]) -> tuple[str, str]:
    """What stands before the hints and after them; without hints the line breaks around their place are one paragraph's less."""
    before, _, after = prompt.partition(_PLACE)
    if points:
        return before, after
    return (before, after.lstrip("\n")) if after else (before.rstrip("\n"), "")
