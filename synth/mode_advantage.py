"""To think or not to think: rollouts in both modes, each with its reward, and the cheaper mode wherever it is as good.

    reference 12 of 16 right, 0.75      thinking: right +0.25, wrong -0.75      not thinking: right +0.30, wrong -0.70
    label: nothink where its accuracy + delta reaches the reference's, else think

AdaptThink (Zhang et al. 2025, arXiv:2505.13417) and its released code. `variant = "ellipsis"` has AutoThink's rewards (Tu et al. 2025,
arXiv:2505.10832, and its released code): the model chooses the mode itself, behind an ellipsis. The label, the rollout for supervised
training and the pairs are not in the papers, which train on line; they are our default.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from statistics import fmean, stdev
from typing import Any, Literal

import polars as pl

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Sampling
from tracemill.schemas.rows import Mean, Outcome, Problem, Rejection, Share, Summary, Trace
from tracemill.synth import modes
from tracemill.synth.modes import Rollout
from tracemill.synth.prompts import PROMPT, check_prompt, check_temperature, shown
from tracemill.synth.sample import MOST

NEEDS = {"solver": ("complete", "prefix")}
COLUMNS = {
    "mode": str,
    "forced": bool,
    "response": str,
    "n_tok": int,
    "ref_acc": float,
    "ref_len": float,
    "clip_ratio": float,
    "reward": float,
    "label_mode": str,
    "sft": bool,
}
COUNTS = (
    "right_think",
    "n_think",
    "right_nothink",
    "n_nothink",
    "undecided",
    "ref_right",
    "ref_undecided",
    "ref_total",
)
TABLES = {"modes": {"id": str, "label_mode": str, **dict.fromkeys(COUNTS, int)}, "pairs": modes.PAIR_COLUMNS}
MEANING = {
    "mode": "`think` or `nothink`.",
    "forced": "Whether the mode was forced, and not the model's choice.",
    "response": "What follows the prompt, the forced beginning included.",
    "n_tok": "Tokens that the model wrote of it.",
    "ref_acc": "Share of right ones among the thinking reference samples.",
    "ref_len": "Their mean tokens.",
    "clip_ratio": "Share of them that was cut off.",
    "reward": "What the rollout earns.",
    "label_mode": "The mode that the problem is labelled with; null where neither was ever right, or one was not drawn.",
    "sft": "Whether it is the shortest right rollout of that mode.",
    "modes.label_mode": "The problem's label.",
    "modes.undecided": "Rollouts that are neither right nor wrong.",
    **{f"modes.right_{mode}": f"Right rollouts of the mode {mode}." for mode in ("think", "nothink")},
    **{f"modes.n_{mode}": f"Rollouts of the mode {mode}, undecided ones among them." for mode in ("think", "nothink")},
    "modes.ref_right": "Right reference samples.",
    "modes.ref_undecided": "Those that are neither.",
    "modes.ref_total": "All of them.",
    **modes.PAIR_MEANING,
}

# AdaptThink, its released code: 16 reference samples, 8 rollouts a mode, delta, tokens of an answer without thinking
K, N, DELTA, NOTHINK_TOKENS = 16, 8, 0.05, 4096
# AutoThink, its released code: rewards by (thinking, right), and what they become where a mode takes the whole batch
RAW = {(True, True): 1, (True, False): 0, (False, True): 2, (False, False): -1}
CROWDED = {(True, True): 0, (True, False): -1, (False, True): 1, (False, False): -2}
BALANCE, SLOPE, ALPHA = Fraction(1, 2), 2, 0.05
DEGENERATE, REPEATS, LONGEST_NGRAM, LONGEST_WORD = -2, 10, 30, 120


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
    plain, short = (Sampling(temperature=temperature, max_tokens=most) for most in (None, nothink_tokens))
    count = k if own else max(k, n)
    thinking = await modes.roll(engine, problem, asked, n=count, mode="think", prefix=think_prefix, sampling=plain)
    if own:
        begin = think_prefix + modes.ELLIPSIS
        chosen = await modes.roll(engine, problem, asked, n=n, mode="own", prefix=begin, scope="mode_advantage", sampling=plain)  # fmt: skip
        rollouts = [_by_choice(rollout, begin) for rollout in chosen]
    else:
        rollouts = thinking[:n] + await modes.roll(
            engine, problem, asked, n=n, mode="nothink", prefix=nothink_prefix, scope="mode_advantage", sampling=short
        )
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


def _by_choice(rollout: Rollout, begin: str) -> Rollout:
    nothink = modes.closes_at_once(rollout.completion.text.removeprefix(begin))
    return Rollout(rollout.name, "nothink" if nothink else "think", rollout.completion, rollout.verdict, forced=False)


def counted(rollouts: Sequence[Rollout], reference: Sequence[Rollout]) -> dict[str, int]:
    """The whole numbers that a label is decided on; undecided ones stand inside the totals."""
    of = {mode: [r for r in rollouts if r.mode == mode] for mode in ("think", "nothink")}
    return {
        **{f"right_{mode}": sum(r.right for r in group) for mode, group in of.items()},
        **{f"n_{mode}": len(group) for mode, group in of.items()},
        "undecided": sum(r.fault == "undecided" for r in rollouts),
        "ref_right": sum(r.right for r in reference),
        "ref_undecided": sum(r.fault == "undecided" for r in reference),
        "ref_total": len(reference),
    }


def label_of(counts: dict[str, int], delta: Fraction) -> str | None:
    """`nothink` where its accuracy and `delta` reach the reference's; None where nothing was ever right, or it was not drawn."""
    if counts["n_nothink"] == 0 or counts["ref_right"] == counts["right_think"] == counts["right_nothink"] == 0:
        return None
    reached = Fraction(counts["right_nothink"], counts["n_nothink"]) + delta
    return "nothink" if reached >= Fraction(counts["ref_right"], counts["ref_total"]) else "think"


def advantage(rollout: Rollout, reference: Fraction, delta: Fraction) -> Fraction:
    """AdaptThink's reward: right or not, less the reference's accuracy, and `delta` where it did not think."""
    return rollout.right - reference + (delta if rollout.mode == "nothink" else 0)


def staged(rollouts: Sequence[Rollout], stage: int, share: Fraction | None) -> list[float]:
    """AutoThink's rewards of one problem's rollouts."""
    thinks = [rollout.mode == "think" for rollout in rollouts]
    raw = [
        DEGENERATE if RAW[t, r.right] < 0 and goes_round(r.completion.text) else RAW[t, r.right]
        for t, r in zip(thinks, rollouts, strict=True)
    ]
    if stage == 1:
        part = Fraction(sum(thinks), max(1, len(thinks))) if share is None else share
        return [
            float(balanced(Fraction(value), part if t else 1 - part, CROWDED[t, r.right]))
            for value, t, r in zip(raw, thinks, rollouts, strict=True)
        ]
    moved = shaped([r.tokens for r in rollouts], [r.right for r in rollouts]) if stage == 3 else [0.0] * len(raw)
    return [value + by for value, by in zip(raw, moved, strict=True)]


def balanced(reward: Fraction, share: Fraction, crowded: int) -> Fraction:
    """A reward on its way to `crowded`, the farther the more than half of the batch its own mode fills."""
    f = min(max((share - BALANCE) * SLOPE, Fraction(0)), Fraction(1))
    return (1 - f) * reward + f * crowded


def shaped(lengths: Sequence[int], right: Sequence[bool]) -> list[float]:
    """What length adds: each against those that are right, or wrong, like it; 0 where it is alone or all are of one length."""
    moved = [0.0] * len(lengths)
    for kind in (True, False):
        group = [i for i, value in enumerate(right) if value is kind]
        if len({lengths[i] for i in group}) < 2:
            continue
        mean, deviation = fmean(lengths[i] for i in group), stdev(lengths[i] for i in group)
        for i in group:
            factor = math.exp(-ALPHA * (lengths[i] - mean) / deviation)
            moved[i] = factor - 1 if kind else 1 - factor
    return moved


def goes_round(text: str) -> bool:
    """Whether up to 30 words are said ten times running, or a word has 120 characters."""
    words = text.split()
    if max(map(len, words), default=0) >= LONGEST_WORD:
        return True
    for size in range(1, min(LONGEST_NGRAM, len(words) // REPEATS) + 1):
        run = 0
        for here, before in zip(words[size:], words, strict=False):
            run = run + 1 if here == before else 0
            if run >= size * (REPEATS - 1):
                return True
    return False


def _pairs(problem: Problem, usable: Sequence[Rollout], sft: Rollout | None) -> list[dict[str, Any]]:
    other = modes.shortest(r for r in usable if r.whole and sft is not None and r.mode != sft.mode)
    if sft is None or other is None:
        return []
    return [modes.pair(problem, "inter", sft, other, {r.name: Fraction(r.right) for r in usable})]


def summary(traces: pl.LazyFrame, *, tables: dict[str, pl.LazyFrame]) -> Summary:
    """Each mode: how often it is right, how long, what it earns, and how many problems are labelled with it."""
    length, reward = pl.col("n_tok").cast(pl.Float64), pl.col("reward")
    stats = {
        row["mode"]: row
        for row in traces.filter(pl.col("reward").is_not_null()).group_by("mode").agg(
            rollouts=pl.len(), right=(pl.col("correct") == True).sum(), tokens=length.sum(), tokens2=(length * length).sum(),  # noqa: E712
            rewards=reward.sum(), rewards2=(reward * reward).sum(),
        ).collect().to_dicts()
    }  # fmt: skip
    labels = dict(tables["modes"].group_by("label_mode").len().collect().rows())
    problems = sum(labels.values())
    rows = [
        {
            "mode": mode,
            "rollouts": row["rollouts"],
            "right": Share(row["right"], row["rollouts"]),
            "mean tokens": Mean(row["tokens"], row["tokens2"], row["rollouts"]),
            "mean reward": Mean(row["rewards"], row["rewards2"], row["rollouts"]),
            "problems labelled so": Share(labels.get(mode, 0), problems),
        }
        for mode, row in sorted(stats.items(), reverse=True)
    ]
    return Summary(title="Rollouts in both modes", rows=rows, note=f"{labels.get(None, 0)} problems have no label.")
