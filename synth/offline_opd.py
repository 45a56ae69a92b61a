"""On-policy distillation without a live teacher: the student's own rollouts, with the teacher's log-prob of each token.

    teacher -0.1 -2.0 -0.5     student -0.2 -0.5 -0.5     advantage of each token: +0.1 -1.5 0.0 (teacher less the current student)

Lightning OPD (arXiv:2604.13010) and its released code. The student is `[model]`, the teacher `[models.teacher]`; both have one tokenizer.
The teacher has to be the one whose answers the student was trained on: name its revision in `sft_teacher`, and another is refused.
"""

import math
from array import array
from typing import Any

import polars as pl
import pyarrow as pa

from tracemill.schemas.errors import ProblemFailed, RecipeError
from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Completion, Rendered, Sampling
from tracemill.schemas.rows import Mean, Outcome, Problem, Rejection, Summary, Trace
from tracemill.synth.engine import together
from tracemill.synth.prompts import PROMPT, check_prompt, check_temperature, shown
from tracemill.synth.sample import MOST as DRAWS

NEEDS = {"solver": ("complete",), "teacher": ("score",)}
ONE_TOKENIZER = ("solver", "teacher")
IDS, LOGPROBS = pa.list_(pa.int32()), pa.list_(pa.float32())
COLUMNS = {
    "prompt_text": str,
    "prompt_ids": IDS,
    "response_ids": IDS,
    "loss_mask": pa.list_(pa.int8()),
    "teacher_logp": LOGPROBS,
    "student_logp": LOGPROBS,
    "truncated": bool,
    "n_clamped": int,
    "sft_teacher": str,
    "opd_teacher": str,
}
MEANING = {
    "prompt_text": "What both models read before the response.",
    "prompt_ids": "The same as token ids.",
    "response_ids": "Token ids that the student wrote.",
    "loss_mask": "1 for each of them.",
    "teacher_logp": "The teacher's natural log-prob of each, before temperature.",
    "student_logp": "The student's own.",
    "truncated": "Whether the response is cut off.",
    "n_clamped": "Log-probs below -100, or no numbers, that became -100.",
    "sft_teacher": "Revision of the teacher that the student was trained on before.",
    "opd_teacher": "Revision of the teacher that scored.",
}

MOST = 4096
"""Tokens of a response that are scored, as in the released code."""
LEAST = -100.0
"""In the place of minus infinity; not stated in the paper."""


def check(*, n: int, most: int, prompt: str, temperature: float | None, **_: object) -> None:
    """Raise ValueError for options that cannot work."""
    if not 1 <= n <= DRAWS or most < 1:
        raise ValueError(f"n = {n}, most = {most}: between 1 and {DRAWS:,} rollouts, and at least one token of each")
    check_prompt(prompt)
    check_temperature(temperature)


async def offline_opd(
    problem: Problem,
    engine: Engine,
    *,
    n: int = 1,
    most: int = MOST,
    sft_teacher: str | None = None,
    score_student: bool = False,
    prompt: str = PROMPT,
    temperature: float | None = None,
) -> Outcome:
    """Draw `n` rollouts of the student and have the teacher score their first `most` tokens, the very ids that were drawn.

    `sft_teacher` is the revision of the teacher whose answers the student was trained on, as manifests show it; null: nobody knows.
    `score_student` adds the student's own log-probs, from which the card tells the mean reverse KL. Wrong answers stay: no answer is asked
    for. A rollout without a token is turned down as `empty`. Rollouts are those of `sample`. The paper draws at temperature 0.7 and
    top_p 0.9; then `[model]` says so.
    """
    teacher = engine.revision("teacher")
    if sft_teacher not in (None, teacher):
        raise RecipeError(
            f"sft_teacher = {sft_teacher!r}, and [models.teacher] is {teacher!r}: scores of another teacher than the one that the "
            "student learned from pull it to a wrong optimum (arXiv:2604.13010); name that teacher, or train with this one"
        )
    asked = shown(problem, prompt)
    drawn = await engine.sample(asked, n=n, sampling=Sampling(temperature=temperature))
    roles = ("teacher", "solver") if score_student else ("teacher",)
    read = engine.rendered(asked)
    scored = await together(_columns(engine, read, completion, most, roles) for completion in drawn)
    model = engine.model_name()
    made = [
        Trace.of(problem, completion, name=f"solve-{i:04d}", prompt=asked, model=model, **columns,
                 sft_teacher=sft_teacher, opd_teacher=teacher)
        for i, (completion, columns) in enumerate(zip(drawn, scored, strict=True))
    ]  # fmt: skip
    return Outcome(
        traces=[trace for trace in made if trace.columns["response_ids"]],
        rejections=[(trace, Rejection("empty")) for trace in made if not trace.columns["response_ids"]],
    )


async def _columns(
    engine: Engine, read: Rendered, completion: Completion, most: int, roles: tuple[str, ...]
) -> dict[str, Any]:
    """The columns of one rollout; those of scores are null where it has no token."""
    if completion.token_ids is None:
        raise ProblemFailed("the student's engine returns no token ids, and text encoded again may have others")
    ids = tuple(completion.token_ids[:most])
    found = await together(engine.score(read, ids, role=role) for role in roles if ids)
    if any(len(scores.logprobs) != len(ids) for scores in found):
        raise ProblemFailed(f"{[len(scores.logprobs) for scores in found]} log-probs came back for {len(ids)} tokens")
    logp = {role: clamped(scores.logprobs) for role, scores in zip(roles, found, strict=False)}
    return {
        "prompt_text": read.text,
        "prompt_ids": read.token_ids or None,
        "response_ids": list(ids),
        "loss_mask": [1] * len(ids),
        "teacher_logp": logp.get("teacher"),
        "student_logp": logp.get("solver"),
        "truncated": completion.truncated or len(ids) < completion.n_tokens,
        "n_clamped": sum(not p >= LEAST for scores in found for p in scores.logprobs),
    }


def clamped(logprobs: "array[float]") -> list[float]:
    """Log-probs of which none is below `LEAST`, nor no number."""
    return [LEAST if math.isnan(p) else max(p, LEAST) for p in logprobs]


def summary(traces: pl.LazyFrame) -> Summary:
    """How far the student is from the teacher where both were scored: the mean of student less teacher over a rollout's tokens."""
    gap = pl.col("student_logp").list.mean() - pl.col("teacher_logp").list.mean()
    stats = traces.select(
        rollouts=pl.len(), tokens=pl.col("response_ids").list.len().sum(), cut=pl.col("truncated").sum(), clamped=pl.col("n_clamped").sum(),
        scored=gap.count(), total=gap.sum(), squares=(gap * gap).sum(),
    ).collect().row(0, named=True)  # fmt: skip
    kl = Mean(stats["total"], stats["squares"], stats["scored"]) if stats["scored"] else None
    row = {name: stats[name] for name in ("rollouts", "tokens", "cut", "clamped")}
    return Summary(title="Rollouts scored by the teacher", rows=[{**row, "reverse KL, nats a token": kl}])
