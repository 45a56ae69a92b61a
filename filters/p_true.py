"""P(True): how likely a model says that an answer is right, in one token.

    {"p_true": 0.83, "p_true_returned": 0.97}

The best of the confidences that CISC compares (Taubenfeld et al. 2025, arXiv:2502.06233): the model is shown the solution and asked for
1 (right) or 0 (wrong); the probability of 1 is the confidence. The selectors `cisc` and `veccisc` vote by such a column.
"""

from collections.abc import Mapping
from typing import Any

from tracemill.schemas.filling import check_places
from tracemill.schemas.plugins import Engine

NEEDS = {"judge": ("logprobs",)}
COLUMNS = {"p_true": float, "p_true_returned": float}

PROMPT = (
    "Problem:\n{question}\n\nProposed solution:\n{solution}\n\n"
    "Is the final answer of this solution right? Answer with one digit: 1 if it is right, 0 if it is wrong."
)


def check(*, prompt: str) -> None:
    """Raise ValueError for options that cannot work."""
    check_places("prompt", prompt, "question", "solution")


async def p_true(trace: Mapping[str, Any], engine: Engine, *, prompt: str = PROMPT) -> dict[str, Any]:
    """Add `p_true`, the judge's p1 / (p1 + p0) for the trace being right, and `p_true_returned`, p1 + p0.

    {question} and {solution} in `prompt` are the problem and the whole trace, nothing else is replaced. Null where neither 1 nor 0
    is among the 20 likeliest tokens: such a trace has no weight in a vote. Two equal traces are asked about once.
    """
    before, _, after = prompt.partition("{question}")
    shown = [part.replace("{solution}", trace["messages"][-1]["content"]) for part in (before, after)]
    judged = await engine.judge(trace["question"].join(shown), ("1", "0"))
    right, wrong = (judged.probabilities.get(answer, 0.0) for answer in ("1", "0"))
    known = right + wrong
    return {"p_true": right / known if known > 0 else None, "p_true_returned": known}
