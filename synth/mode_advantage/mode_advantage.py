"""To think or not to think: rollouts in both modes, each with its reward, and the cheaper mode wherever it is as good.

    reference 12 of 16 right, 0.75      thinking: right +0.25, wrong -0.75      not thinking: right +0.30, wrong -0.70
    label: nothink where its accuracy + delta reaches the reference's, else think

AdaptThink (Zhang et al. 2025, arXiv:2505.13417) and its released code. `variant = "ellipsis"` has AutoThink's rewards (Tu et al. 2025,
arXiv:2505.10832, and its released code): the model chooses the mode itself, behind an ellipsis. The label, the rollout for supervised
training and the pairs are not in the papers, which train on line; they are our default. It is a folder for having the rewards of two papers.
"""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from statistics import fmean
from typing import Any, Literal

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Sampling
from tracemill.schemas.rows import Outcome, Problem, Rejection, Trace
from tracemill.synth import modes
from tracemill.synth.mode_advantage.rewards import advantage, counted, label_of, staged
from tracemill.synth.modes import Rollout
from tracemill.synth.prompts import PROMPT, check_prompt, check_temperature, shown
from tracemill.synth.sample import MOST

NEEDS = {"solver": ("complete", "prefix")}
# AdaptThink, its released code: 16 reference samples, 8 rollouts a mode, delta, tokens of an answer without thinking
K, N, DELTA, NOTHINK_TOKENS = 16, 8, 0.05, 4096


def check(
    *, variant: str, k: int, n: int, delta: float, stage: int | None, share: float | None,
    nothink_tokens: int, prompt: str, temperature: float | None, **_: object,
) -> None:  # fmt: skip
    """Raise ValueError for options that cannot work."""
    for name, value in (("k", k), ("n", n), ("nothink_tokens", nothink_tokens)):
        if not 1 <= value <= MOST:
            raise ValueError(f"{name} = {value}: between 1 and {MOST:,}")
    if not 0 <= delta <= 1:
        raise ValueError(f"delta = {delta}: what not thinking earns beside, from 0 to 1")
    if variant != "ellipsis" and (stage, share) != (None, None):
        raise ValueError(f"stage = {stage}, share = {share}: AutoThink's; set variant = 'ellipsis', or take them out")
    if share is not None and (stage not in (None, 1) or not 0 <= share <= 1):
        raise ValueError(f"share = {share}: of thinking rollouts in a batch, from 0 to 1, where stage = 1")
    check_prompt(prompt)
    check_temperature(temperature)


async def mode_advantage(
    problem: Problem,
    engine: Engine,
    *,
    variant: Literal["forced", "ellipsis"] = "forced",
    k: int = K,
    n: int = N,
    delta: float = DELTA,
    stage: Literal[1, 2, 3] | None = None,
    share: float | None = None,
    checkpoint: str | None = None,
    think_prefix: str = "",
    nothink_prefix: str = modes.NOTHING,
    nothink_tokens: int = NOTHINK_TOKENS,
    prompt: str = PROMPT,
    temperature: float | None = None,
) -> Outcome:
    """Draw `k` thinking samples as a reference and `n` rollouts of each mode; every rollout has a reward, every problem a label.

    The thinking rollouts are the first of the reference, and without `think_prefix` those of `sample`: nothing is drawn twice. The released
    code draws them anew, forced to begin with `Alright`. `checkpoint` is the revision of the weights that are to be trained; where the model has
    another one the recipe is refused, as a reference of other weights says nothing of them.

    `variant = "ellipsis"` draws `n` rollouts whose mode is the model's own choice. `stage` 1 (default) takes from the rewards of the mode that
    fills more than half of a batch, whose thinking `share` may be given and else is that of the problem's rollouts (our default); 2 leaves the
    rewards alone, 3 has shorter right and longer wrong ones earn more.

    `sft` marks the shortest right rollout of the label's mode; the table `pairs` sets it over the shortest one of the other mode. A rollout
    without a token, or with an undecided verdict, earns nothing and is turned down. Both papers draw at temperature 0.6 and top_p 0.95.
    """
    if checkpoint not in (None, engine.revision()):
        raise RecipeError(
            f"checkpoint = {checkpoint!r}, and [model] is {engine.revision()!r}: draw reference and rollouts from the weights that are trained"
        )
    if not await engine.verifiable(problem.gold):
        return Outcome(rejections=[(None, Rejection("unverifiable_gold", {"gold": problem.gold}))])
    asked, own = shown(problem, prompt), variant == "ellipsis"
    modes.check_prefixes(engine, asked, think_prefix, nothink_prefix)
    ask = partial(modes.roll, engine, problem, asked, n=n, scope="mode_advantage")
    plain, short = (Sampling(temperature=temperature, max_tokens=most) for most in (None, nothink_tokens))
    thinking = await ask(n=k if own else max(k, n), mode="think", prefix=think_prefix, scope="solve", sampling=plain)
    if own:
        begin = think_prefix + modes.ELLIPSIS
        rollouts = by_choice(await ask(mode="own", prefix=begin, sampling=plain), len(begin))
    else:
        rollouts = thinking[:n] + await ask(mode="nothink", prefix=nothink_prefix, sampling=short)
    counts = counted(rollouts, thinking[:k])
    label = label_of(counts, Fraction(str(delta)))
    usable = [rollout for rollout in rollouts if rollout.fault is None]
    rewards = (
        staged(usable, stage or 1, None if share is None else Fraction(str(share)))
        if own
        else [float(advantage(r, Fraction(counts["ref_right"], k), Fraction(str(delta)))) for r in usable]
    )
    sft = modes.shortest(r for r in usable if r.mode == label and r.right and r.whole)
    reward = {rollout.name: value for rollout, value in zip(usable, rewards, strict=True)}

    def trace(rollout: Rollout) -> Trace:
        return Trace.of(
            problem, rollout.completion, name=rollout.name, prompt=asked, model=engine.model_name(), mode=rollout.mode, forced=rollout.forced,
            response=rollout.completion.text, n_tok=rollout.tokens, ref_acc=counts["ref_right"] / k,
            ref_len=fmean(r.tokens for r in thinking[:k]), clip_ratio=sum(r.completion.truncated for r in thinking[:k]) / k,
            reward=reward.get(rollout.name), label_mode=label, sft=rollout is sft,
        )  # fmt: skip

    return Outcome(
        traces=[trace(rollout) for rollout in usable],
        rejections=[(trace(r), Rejection(r.fault, {"verdict": r.verdict.reason})) for r in rollouts if r.fault],
        tables={
            "modes": [{"id": f"{problem.problem_id}/modes", "problem_id": problem.problem_id, "label_mode": label, **counts}],
            "pairs": _pairs(problem, usable, sft),
        },
    )  # fmt: skip


def by_choice(rollouts: Sequence[Rollout], begin: int) -> list[Rollout]:
    """The same with the modes that the model chose: behind the first `begin` characters it closed the thought at once, or went on."""
    return [
        replace(
            r,
            forced=False,
            mode="nothink" if modes.closes_at_once(r.completion.text[begin:]) else "think",
        )
        for r in rollouts
    ]


def _pairs(problem: Problem, usable: Sequence[Rollout], sft: Rollout | None) -> list[dict[str, Any]]:
    other = modes.shortest(r for r in usable if r.whole and sft is not None and r.mode != sft.mode)
    if sft is None or other is None:
        return []
    return [modes.pair(problem, "inter", sft, other, {r.name: Fraction(r.right) for r in usable})]
