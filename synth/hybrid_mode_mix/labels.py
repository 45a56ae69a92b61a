"""Replies in the tags of their mode, the better mode of a prompt, and its pairs."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from tracemill.schemas.rows import Problem
from tracemill.synth import modes
from tracemill.synth.modes import CLOSE, OPEN, Rollout


def tagged(rollout: Rollout) -> str:
    """The reply in the tags of its mode, whatever tags the model itself writes."""
    thought, closed, answer = rollout.completion.text.partition(CLOSE)
    if rollout.mode == "think":
        inside = (thought if closed else rollout.completion.text).strip().removeprefix(OPEN).strip()
        return f"{OPEN}\n{inside}\n{CLOSE}\n\n{answer.strip()}" if closed else f"{OPEN}\n{inside}"
    return f"<no_think>\n{(answer if closed else thought).strip()}\n</no_think>"


def mean(scores: Sequence[Fraction]) -> Fraction | None:
    return sum(scores, Fraction(0)) / len(scores) if scores else None


def label_of(
    means: Mapping[str, Fraction | None], scores: Mapping[str, Fraction], *, solvable: bool, delta: Fraction
) -> str | None:
    """The better mode, the cheap one unless thinking gains more than `delta`; None where a mode was not scored."""
    think, nothink = means["think"], means["no_think"]
    if think is None or nothink is None:
        return None
    if solvable and not any(scores.values()):
        return "unsolved"
    return "think" if think - nothink > delta else "no_think"


def pairs(
    problem: Problem, scored: Mapping[str, Sequence[Rollout]], label: str | None, scores: Mapping[str, Fraction]
) -> list[dict[str, Any]]:
    """Between the modes and within them. None where all score the same, and none whose chosen reply scores less, or was cut off."""
    if label is None or label not in scored or len(set(scores.values())) < 2:
        return []
    whole = {mode: [r for r in group if r.tokens and not r.completion.truncated] for mode, group in scored.items()}
    other = "think" if label == "no_think" else "no_think"
    wanted = [("inter", modes.best(whole[label], scores), modes.best(whole[other], scores))]
    wanted += [("intra", modes.best(group, scores), modes.worst(group, scores)) for group in whole.values()]
    return [
        modes.pair(problem, kind, one, two, scores, (tagged(one), tagged(two)))
        for kind, one, two in wanted
        if one is not None
        and two is not None
        and scores[one.name] >= scores[two.name] + (kind == "intra") * Fraction(1, 10**9)
    ]
