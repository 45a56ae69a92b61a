"""What a rollout earns in AdaptThink and in AutoThink, and which mode a problem is labelled with."""

import math
from collections.abc import Sequence
from fractions import Fraction
from statistics import fmean, stdev

from tracemill.synth.modes import Rollout

# AutoThink, its released code: rewards by (thinking, right), and what they become where a mode takes the whole batch
RAW = {(True, True): 1, (True, False): 0, (False, True): 2, (False, False): -1}
CROWDED = {(True, True): 0, (True, False): -1, (False, True): 1, (False, False): -2}
BALANCE, SLOPE, ALPHA = Fraction(1, 2), 2, 0.05
DEGENERATE, REPEATS, LONGEST_NGRAM, LONGEST_WORD = -2, 10, 30, 120


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
