"""ZIP-RC's labels: at each token of a rollout, how it will end and how much is still to come, as one class.

    class = length bin + 8 * reward state        300 tokens left, right: 1 + 8 * 1 = 9; 5,000 left, wrong: 5 + 8 * 0 = 5

Manvi et al. 2025 (arXiv:2512.01457) and the released code. A label follows from place, length and reward, so a row keeps these; the format
`zip-rc` (schemas/views/zip_rc.py) writes the labels out.
"""

from fractions import Fraction
from itertools import pairwise
from typing import Literal

import pyarrow as pa

from tracemill.schemas.errors import ProblemFailed
from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Sampling
from tracemill.schemas.rows import Outcome, Problem, Rejection, Trace
from tracemill.schemas.views.zip_rc import EDGES, label
from tracemill.synth.engine import together
from tracemill.synth.prompts import PROMPT, check_prompt, check_temperature, shown
from tracemill.synth.sample import MOST

COLUMNS = {
    "input_ids": pa.list_(pa.int32()),
    "prompt_len": int,
    "finished": bool,
    "reward": float,
    "value": float,
    "length_edges": pa.list_(pa.int32()),
    "reward_values": pa.list_(pa.float32()),
    "first_class": int,
    "last_class": int,
}
MEANING = {
    "input_ids": "Token ids of the prompt and the rollout.",
    "prompt_len": "Where the rollout begins in them.",
    "finished": "Whether the model ended by itself.",
    "reward": "1 for a right rollout, 0 for a wrong or unfinished one.",
    "value": "A smoothed reward in its place, where the recipe asks for one.",
    "length_edges": "Edges of the bins of remaining tokens.",
    "reward_values": "The rewards that the states stand for.",
    "first_class": "Class of the first token: length bin + bins * state.",
    "last_class": "Class of the last token.",
}

N = 2
"""Rollouts of a problem, as in the released code."""


def check(*, n: int, edges: tuple[int, ...], states: int, prompt: str, temperature: float | None, **_: object) -> None:
    """Raise ValueError for options that cannot work."""
    if not 1 <= n <= MOST:
        raise ValueError(f"n = {n}: between 1 and {MOST:,} rollouts of each problem")
    if len(edges) < 2 or edges[0] != 0 or any(a >= b for a, b in pairwise(edges)):
        raise ValueError(f"edges = {list(edges)}: two or more, growing, the first one 0")
    if states < 2:
        raise ValueError(f"states = {states}: 2 tells right from wrong, 7 has steps of a sixth")
    check_prompt(prompt)
    check_temperature(temperature)


async def reward_remaining_labels(
    problem: Problem,
    engine: Engine,
    *,
    n: int = N,
    edges: tuple[int, ...] = EDGES,
    states: int = 2,
    value: Literal["none", "pass_rate"] = "none",
    prompt: str = PROMPT,
    temperature: float | None = None,
) -> Outcome:
    """Draw `n` rollouts and keep what the class of each of their tokens follows from.

    `reward` is 1 for a right rollout, and 0 for a wrong one or one that did not end. With an undecided verdict, or without a token, a
    rollout is turned down. The paper smooths rewards by a head that is trained on them first, and labels anew with 7 states; `value` is the
    place for that number, and `pass_rate` puts the problem's share of right rollouts there. Where there is a value, classes follow it.
    Rollouts are those of `sample`. The paper draws at temperature 1.0 and min_p 0.1 (`[model]`), up to 32,768 tokens.
    """
    asked = shown(problem, prompt)
    drawn = await engine.sample(asked, n=n, sampling=Sampling(temperature=temperature))
    verdicts = await together(engine.verify(c, problem.gold, truncated=c.truncated) for c in drawn)
    before = engine.rendered(asked).token_ids
    right = sum(v.correct is True for v in verdicts)
    smoothed = Fraction(right, n) if value == "pass_rate" else None
    model, traces, rejections = engine.model_name(), [], []
    for i, (completion, verdict) in enumerate(zip(drawn, verdicts, strict=True)):
        if completion.token_ids is None:
            raise ProblemFailed("the engine returns no token ids, and text encoded again may have others")
        reward = int(verdict.correct is True)
        first, last = (
            label(left, reward if smoothed is None else smoothed, states=states, edges=edges)
            for left in (max(completion.n_tokens - 1, 0), 0)
        )
        trace = Trace.of(
            problem,
            completion,
            name=f"solve-{i:04d}",
            prompt=asked,
            model=model,
            input_ids=[*before, *completion.token_ids],
            prompt_len=len(before),
            finished=not completion.truncated,
            reward=float(reward),
            value=None if smoothed is None else float(smoothed),
            length_edges=list(edges),
            reward_values=[state / (states - 1) for state in range(states)],
            first_class=first,
            last_class=last,
        )
        if completion.n_tokens == 0:
            rejections.append((trace, Rejection("empty")))
        elif verdict.correct is None and not completion.truncated:
            rejections.append((trace, Rejection("undecided")))
        else:
            traces.append(trace)
    return Outcome(traces=traces, rejections=rejections)
