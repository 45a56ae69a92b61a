r"""Dynamic thinking pattern optimisation: a thought against itself without what it did not need.

    A is 24. | Wait, 8 * 3 is 24. | B is 16. | So C is 8. | Hmm, once more: 24 - 16 is 8. |     closed behind each: right 0 0 .2 1 1
    A is 24. |                      B is 16. | So C is 8. </think> The answer is \boxed{8}.    exit 4; the auxiliary model drops 2

An et al. 2025 (arXiv:2505.21765): segments at the cues of thinking patterns, the exit by Monte Carlo estimates, pruning by an auxiliary
model (here `[models.judge]`), SimPO on pairs of optimised and original. It is a package because finding the exit, judging what is needed
and putting a row together have rules of their own, each to be read and tested alone.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal

from tracemill.schemas.cues import CUES, TURNS
from tracemill.schemas.filling import check_places
from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Sampling
from tracemill.schemas.rows import Outcome, Problem, Trace
from tracemill.synth.engine import together
from tracemill.synth.pattern_prune_pairs.needed import JUDGE
from tracemill.synth.pattern_prune_pairs.thought import Task, Thought
from tracemill.synth.prompts import PROMPT, check_prompt, check_temperature, shown
from tracemill.synth.sample import MOST

NEEDS = {"solver": ("complete", "prefix"), "judge": ("complete",)}

# the paper's numbers were not at hand: our defaults
ANSWERS = 8
SHORT = 512
THRESHOLD, FALL = 0.75, 0.1
LEAST = 20
LEAD = "The answer is \\boxed{"


def check(
    *,
    n: int,
    answers: int,
    short: int,
    threshold: float,
    fall: float,
    cues: Sequence[str],
    split: str,
    min_tokens: int,
    think: tuple[str, str],
    judge: str,
    prompt: str,
    temperature: float | None,
    **_: Any,
) -> None:
    """Raise ValueError for options that cannot work."""
    if not (1 <= n <= MOST and 1 <= answers <= MOST and short >= 1):
        raise ValueError(
            f"n = {n}, answers = {answers}, short = {short}: between 1 and {MOST:,} thoughts and answers, and at least one token"
        )
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold = {threshold}: the share of right answers that an exit takes, above 0 and up to 1")
    if not 0 <= fall < threshold:
        raise ValueError(
            f"fall = {fall}: how far pruning may bring the share down, from 0 to below threshold = {threshold}"
        )
    if min_tokens < 0:
        raise ValueError(f"min_tokens = {min_tokens}: tokens of the shortest segment, 0 or more")
    if split == "cues" and not cues:
        raise ValueError('cues = []: name at least one cue, or say split = "steps"')
    if not all(part.strip() for part in (*cues, *think)):
        raise ValueError(f"cues = {list(cues)}, think = {list(think)}: none of them may be empty")
    check_places("judge", judge, "solution", "segment")
    check_prompt(prompt)
    check_temperature(temperature)


async def pattern_prune_pairs(
    problem: Problem,
    engine: Engine,
    *,
    n: int = 1,
    answers: int = ANSWERS,
    short: int = SHORT,
    threshold: float = THRESHOLD,
    fall: float = FALL,
    cues: tuple[str, ...] = (*CUES, *TURNS),
    split: Literal["cues", "steps"] = "cues",
    min_tokens: int = LEAST,
    lead: str = LEAD,
    think: tuple[str, str] = ("<think>", "</think>"),
    judge: str = JUDGE,
    prompt: str = PROMPT,
    temperature: float | None = None,
) -> Outcome:
    """Draw `n` replies with a thought, and set each against its thought up to the exit, less what the auxiliary model calls needless.

    Segments begin at sentences that begin with one of `cues`, with `split = "steps"` at every paragraph, too; one of fewer than `min_tokens`
    belongs to the one before it. Behind each the thought is closed and `answers` short ones are drawn, of at most `short` tokens behind
    `lead`; the exit is the first segment where a share of `threshold` is right, at the next one as well. What the auxiliary model would
    drop is dropped at once; where the share then falls by more than `fall`, segments come back from the end until it does not.

    Turned down: `no_thought`, `undecided`, `one_segment`, `unsolved` (no exit), and `not_shorter` where the original is right. A reply that was cut inside its thought is an original like others, and wrong. The replies
    are those of `sample`. The paper's temperatures were not at hand; 0.6 and top_p 0.95 under [model] are what such models are run with.
    """
    asked = shown(problem, prompt)
    drawn = await engine.sample(asked, n=n, sampling=Sampling(temperature=temperature))
    verdicts = await together(engine.verify(c, problem.gold, truncated=c.truncated) for c in drawn)
    task = Task(
        problem, engine, asked, answers, Fraction(str(threshold)), Fraction(str(fall)), min_tokens, tuple(cues), split == "steps", lead,
        think, judge, Sampling(temperature=temperature, max_tokens=short),
    )  # fmt: skip
    made = await together(
        Thought(task, completion, verdict, i).pair()
        for i, (completion, verdict) in enumerate(zip(drawn, verdicts, strict=True))
    )
    return Outcome(
        traces=[one for one in made if isinstance(one, Trace)],
        rejections=[one for one in made if not isinstance(one, Trace)],
    )
