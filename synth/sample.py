"""Draw `n` solutions of every problem: the job that every team runs daily.

What is drawn is what pass@k (Chen et al. 2021, arXiv:2107.03374) and maj@k (Wang et al. 2022, arXiv:2203.11171) are counted
on, and what selectors and trainers choose from. One draw is one trace:

    {"id": "p7/solve-0003", "problem_id": "p7", "draw": 3, "messages": [{"role": "user", ...}, {"role": "assistant", ...}], ...}
"""

from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Sampling
from tracemill.schemas.rows import Outcome, Problem, Trace
from tracemill.synth.prompts import PROMPT, check_prompt, check_temperature, shown

COLUMNS = {"draw": int}
"""The columns of its traces beyond the common ones."""
MEANING = {"draw": "The number of the draw, from 0."}
"""What they mean, for cards."""

MOST = 100_000
"""Draws of one problem: they are all in flight at once."""


def check(*, n: int, prompt: str, temperature: float | None) -> None:
    """Raise ValueError for options that cannot work."""
    if n < 1:
        raise ValueError(f"n = {n}: draw at least one solution")
    if n > MOST:
        raise ValueError(f"n = {n}: at most {MOST:,} solutions of each problem")
    check_prompt(prompt)
    check_temperature(temperature)
    if temperature == 0 and n > 1:
        raise ValueError(f"n = {n} draws at temperature 0 are one draw; use n = 1 or a temperature above 0")


async def sample(
    problem: Problem, engine: Engine, *, n: int = 8, prompt: str = PROMPT, temperature: float | None = None
) -> Outcome:
    """Draw `n` solutions; growing n later draws only the difference.

    `prompt` shows the problem to the model, with {question} in its place and nothing else replaced; a problem that brings
    its own `messages` is shown as those. `temperature` is the model's own unless given.
    """
    messages = shown(problem, prompt)
    drawn = await engine.sample(messages, n=n, sampling=Sampling(temperature=temperature))
    model = engine.model_name()
    return Outcome(
        traces=[
            Trace.of(problem, completion, name=f"solve-{draw:04d}", prompt=messages, model=model, draw=draw)
            for draw, completion in enumerate(drawn)
        ]
    )
