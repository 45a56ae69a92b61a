"""How sure a model says it is that a trace is right, in words: the verbal confidences of CISC.

    {"critic": 0.85, "critic_reply": "85", "critic_fault": null}

Taubenfeld et al. 2025 (arXiv:2502.06233) ask for a number from 0 to 100, or for 0 or 1, and read the reply; VecCISC (arXiv:2605.08070)
asks about the traces that stand for a cluster only. The prompts are our own. The selectors `cisc` and `veccisc` vote by such a column:
`confidence = "critic"`. Confidence from a probability in place of a word is the score `p_true`.
"""

from collections.abc import Mapping
from typing import Any, Literal

from tracemill.filters.asking import Shown, check_name, number_in, shown
from tracemill.schemas.filling import check_places, fill
from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Sampling

Scale = Literal["percent", "binary"]

PROMPT = "Problem:\n{question}\n\nProposed solution:\n{solution}\n\n{task}"
TASKS: Mapping[Scale, str] = {
    "percent": (
        "How sure are you that the final answer of this solution is right? Reply with one whole number from 0 (surely wrong) to "
        "100 (surely right), and with nothing else."
    ),
    "binary": "Is the final answer of this solution right? Reply with 1 for yes or 0 for no, and with nothing else.",
}


def check(*, prompt: str, name: str, max_tokens: int | None, **_: Any) -> None:
    """Raise ValueError for options that cannot work."""
    check_places("prompt", prompt, "question", "solution", "task")
    check_name("name", name)
    if max_tokens is not None and max_tokens < 1:
        raise ValueError(f"max_tokens = {max_tokens}: at least 1; leave it out for what models.<role> says")


def needs(*, role: str) -> dict[str, tuple[str, ...]]:
    """Any model that writes."""
    return {role: ("complete",)}


def columns(*, name: str) -> dict[str, type]:
    """Named by the option `name`, so that two critics can stand side by side."""
    return {name: float, f"{name}_reply": str, f"{name}_fault": str}


async def critic(
    trace: Mapping[str, Any],
    engine: Engine,
    *,
    scale: Scale = "percent",
    role: str = "judge",
    show: Shown = "trace",
    prompt: str = PROMPT,
    max_tokens: int | None = None,
    name: str = "critic",
) -> dict[str, Any]:
    """Add `critic`, the confidence from 0 to 1 that `role` states for a trace, `critic_reply` and `critic_fault`.

    The last line of the reply has to be the number, alone or with a label, a `%` or marks around it; thoughts before it do not matter.
    Otherwise the confidence is null and the fault says why: `no_number`, `not_on_scale` (0.85 and 87.5 are no whole numbers from 0 to
    100), or `cut_off` by `max_tokens`, which is that of models.<role> unless given. A trace without a confidence has no weight in a vote. The
    reply is greedy. `prompt` has {question}, {solution} and {task} in their places; `show = "content"` leaves thoughts out.
    """
    asked = fill(prompt, question=trace["question"], solution=shown(trace, show), task=TASKS[scale])
    sampling = Sampling(temperature=0.0, max_tokens=max_tokens)
    [reply] = await engine.sample(asked, role=role, scope="critic", salt=trace["id"], sampling=sampling)
    highest = 100 if scale == "percent" else 1
    number, fault = number_in(reply.text, 0, highest, truncated=reply.truncated)
    stated = None if number is None else number / highest
    return {name: stated, f"{name}_reply": reply.text, f"{name}_fault": fault}
