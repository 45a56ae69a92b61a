"""How hard a model says a problem is: the first published form of Select2Reason's difficulty.

    {"p1": 0.61, "p0": 0.30, "p_returned": 0.91}     1: difficult, 0: not

Yang et al. 2025 (arXiv:2505.17266) and its released script: a small instruct model is asked for one token, and the probability of "1"
is set against what came back. `select2reason` and `baseline` make their difficulty from these columns.
"""

from collections.abc import Mapping
from typing import Any

from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Message

NEEDS = {"judge": ("logprobs",)}
COLUMNS = {"p1": float, "p0": float, "p_returned": float}

TOP = 20
"""As many as engines give; the released script asks for 2."""

SYSTEM = "You judge how difficult problems are. Answer with one digit: 1 if the problem is difficult, 0 if it is not."
PROMPT = "{question}"


def check(*, prompt: str, top: int, **_: Any) -> None:
    """Raise ValueError for options that cannot work."""
    if "{question}" not in prompt:
        raise ValueError(f"prompt = {prompt!r} has no place for the problem: write {{question}} where it belongs")
    if not 2 <= top <= TOP:
        raise ValueError(f"top = {top}: between 2, as the released script has it, and {TOP}")


async def judge_difficulty(
    trace: Mapping[str, Any],
    engine: Engine,
    *,
    prompt: str = PROMPT,
    system: str | None = SYSTEM,
    top: int = TOP,
) -> dict[str, Any]:
    """Add `p1` and `p0`, the judge's probabilities of calling the problem difficult or not, and `p_returned`.

    A problem is judged once, for all its traces. `prompt` has {question} in its place; `system = ""` sends none. `p1` and `p0` are
    summed over the spellings of 1 and 0 among the `top` likeliest tokens, and null where none came back. `p_returned` is the sum over
    the two likeliest tokens, whatever they say: with `top = 2`, what the released script divides by (`d_method = "judge_released"`).
    """
    user = Message(role="user", content=prompt.replace("{question}", trace["question"]))
    turns = (Message(role="system", content=system), user) if system else (user,)
    judged = await engine.judge(turns, ("1", "0"), top=top)
    return {
        "p1": judged.probabilities.get("1"),
        "p0": judged.probabilities.get("0"),
        "p_returned": sum(p for _, p in judged.returned[:2]),
    }
