"""What a reward model gives a trace: a model with a number for an output, served by vLLM's pooling routes.

    {"reward": 1.73, "reward_fault": null}                                  for the whole
    {"reward": 0.31, "reward_steps": [0.98, 0.93, 0.31], ...}               by step, from a process reward model

    [models.reward]                       [engines.reward]
    name = "served-name"                  kind = "openai"
    max_tokens = 1                        base_urls = ["http://127.0.0.1:8001/v1"]

A process reward model reads each step with a separator behind it and answers at the separators (Lightman et al. 2023,
arXiv:2305.20050, section 2.2); the smallest of the steps, or their product, stands for the whole (the same, section 2.3 and appendix F).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tracemill.filters.asking import Shown, check_name, shown
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.filling import check_places, fill
from tracemill.schemas.plugins import Engine

Over = Literal["min", "product", "mean", "last"]

SEPARATOR = "<extra_0>"
"""That of Qwen2.5-Math-PRM, as its model card has it."""
SPLIT = "\n\n"


def check(*, prompt: str, name: str, separator: str, split: str, output: int | None, **_: Any) -> None:
    """Raise ValueError for options that cannot work."""
    check_places("prompt", prompt, "question")
    check_name("name", name)
    for option, text in (("separator", separator), ("split", split)):
        if not text:
            raise ValueError(
                f"{option} is empty: {'what the model reads' if option == 'separator' else 'what stands'} between two steps"
            )
    if output is not None and output < 0:
        raise ValueError(f"output = {output}: the number of one of the model's outputs, from 0")


def needs(*, role: str) -> dict[str, tuple[str, ...]]:
    """A reward model, which no engine of our own runs."""
    return {role: ("reward",)}


def columns(*, by_step: bool, name: str) -> dict[str, Any]:
    """Named by the option `name`, so that two reward models can stand side by side."""
    return {name: float, f"{name}_fault": str} | ({f"{name}_steps": list[float]} if by_step else {})


async def reward_model(
    trace: Mapping[str, Any],
    engine: Engine,
    *,
    by_step: bool = False,
    over: Over = "min",
    output: int | None = None,
    role: str = "reward",
    show: Shown = "trace",
    prompt: str = "{question}",
    separator: str = SEPARATOR,
    split: str = SPLIT,
    name: str = "reward",
) -> dict[str, Any]:
    """Add `reward`, the number that the model under [models.reward] gives the trace as a reply to its question, and `reward_fault`.

    For the whole it is the model's output before any activation. `by_step` writes `separator` behind each step, steps being what `split`
    divides, and adds `reward_steps`, the number at each; `reward` is then one number over them. vLLM has to be told of such a model which token
    that is: docs/scores.md. A model with several outputs needs `output`, the number of the one that counts, from 0. Null with the fault
    `too_long` where the trace is longer than the model reads, `no_steps` where it is empty, and `steps_differ` where there are not as many
    numbers as steps. Equal traces are asked about once.
    """
    text = shown(trace, show)
    steps = [step for part in text.split(split) if (step := part.strip())] if by_step else []
    empty: dict[str, Any] = {name: None, f"{name}_fault": None} | ({f"{name}_steps": None} if by_step else {})
    if by_step and not steps:
        return empty | {f"{name}_fault": "no_steps"}
    reply = "".join(step + separator for step in steps) if by_step else text
    given = await engine.reward(fill(prompt, question=trace["question"]), reply, role=role, by_step=by_step)
    if given.too_long is not None:
        return empty | {f"{name}_fault": "too_long"}
    if len(given.values) != (len(steps) if by_step else 1):
        return empty | {f"{name}_fault": "steps_differ"}
    numbers = [_chosen(row, output) for row in given.values]
    if not by_step:
        return empty | {name: numbers[0]}
    return empty | {name: _over(numbers, over), f"{name}_steps": numbers}


def _chosen(row: Sequence[float], output: int | None) -> float:
    if output is None and len(row) == 1:
        return row[0]
    if output is None or output >= len(row):
        said = "" if output is None else f", and output = {output}"
        raise RecipeError(
            f"reward_model: the model has {len(row)} outputs{said}; say which counts: output = 0 to {len(row) - 1}"
        )
    return row[output]


def _over(numbers: Sequence[float], over: Over) -> float:
    if over == "last":
        return numbers[-1]
    if over == "product":
        return math.prod(numbers)
    return min(numbers) if over == "min" else sum(numbers) / len(numbers)
