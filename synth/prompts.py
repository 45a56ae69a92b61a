"""How a problem is put to a model by methods that ask for a plain solution."""

from string import ascii_uppercase

from tracemill.schemas.request import Message
from tracemill.schemas.rows import Problem

PROMPT = "{question}\n\nPlease reason step by step, and put your final answer within \\boxed{}."
"""As the Qwen2.5-Math and DeepSeek-R1 model cards ask for it."""


def check_prompt(prompt: str) -> None:
    """Raise ValueError for a prompt that does not show the problem."""
    if "{question}" not in prompt:
        raise ValueError(f"prompt = {prompt!r} has no place for the problem: write {{question}} where it belongs")


def check_temperature(temperature: float | None) -> None:
    """Raise ValueError for a temperature that no engine takes; None is the model's own."""
    if temperature is not None and not 0 <= temperature <= 2:
        raise ValueError(f"temperature = {temperature}: must lie between 0 and 2")


def shown(problem: Problem, prompt: str) -> tuple[Message, ...]:
    """The conversation that a problem brings, or else `prompt` with the question in the place of {question}."""
    return problem.messages or (Message(role="user", content=prompt.replace("{question}", worded(problem))),)


def earlier(problem: Problem) -> tuple[Message, ...]:
    """The turns of a conversation that a problem brings, before its question."""
    turns = problem.messages or ()
    return turns[:-1] if turns and turns[-1]["role"] == "user" else turns


def worded(problem: Problem) -> str:
    """The question, with the options of a multiple choice under it: `A. Paris`."""
    lettered = [f"{letter}. {text}" for letter, text in zip(ascii_uppercase, problem.options or (), strict=False)]
    return "\n".join([problem.question, *lettered])
