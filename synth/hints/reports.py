"""What is asked for beside the hints: whether harmless removals harm together, and how much of a solution it takes.

Pruning interaction paradox (KnowRL, arXiv:2604.12627): points that can each be left out need not be so together. Of three points with
10 right answers of 32 for none, 16 for all, and 18, 16 and 15 without each, S-LOO leaves out the first two; the last alone gives
12, less than the 17 that they give on average: a violation, of 5/32.

Critical segment: right answers by the share of a reference solution that the reply is forced to begin with.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tracemill.synth.engine import together
from tracemill.synth.hints.rollouts import Rollouts
from tracemill.synth.hints.strategies import TOLERANCE, Config, Count, Rules, first_stage, removable, singles


def tally(statuses: Sequence[str]) -> Count:
    """Verdicts as counts."""
    return Count(statuses.count("equal"), len(statuses), statuses.count("undecided"))


def plain(count: Count) -> dict[str, int]:
    """A count as tables hold it."""
    return {"correct": count.correct, "total": count.total, "undecided": count.undecided}


@dataclass(frozen=True, slots=True)
class Paradox:
    """The points that one rule leaves out, together and one by one."""

    rule: str
    removed: Config
    joint: Count
    single: Count
    """Summed over the removals of one point each."""

    @property
    def violation(self) -> bool:
        """Whether the points together are missed more than each of them on average; decided on whole numbers."""
        return self.joint.correct * self.single.total < self.single.correct * self.joint.total

    def row(self) -> dict[str, Any]:
        return {
            "rule": self.rule,
            "m": len(self.removed),
            "removed": list(self.removed),
            "joint_correct": self.joint.correct,
            "joint_total": self.joint.total,
            "single_correct": self.single.correct,
            "single_total": self.single.total,
            "violation": self.violation,
        }


async def paradoxes(rollouts: Rollouts, rules: Rules) -> list[Paradox]:
    """For S-LOO and T-LOO, where they leave out two points or more. Draws all `m` of the configurations that this compares."""
    n = len(rollouts.points)
    configs = first_stage(n)
    table = dict(zip(configs, await together(_full(rollouts, c, rules) for c in configs), strict=True))
    found = []
    for rule in TOLERANCE:
        removed = removable(n, table, rule, rules) if n else ()
        if len(removed) < 2:
            continue
        joint = tuple(place for place in range(n) if place not in removed)
        one_out = [table[singles(n)[place]] for place in removed]
        single = Count(sum(c.correct for c in one_out), sum(c.total for c in one_out))
        found.append(Paradox(rule, removed, await _full(rollouts, joint, rules), single))
    return found


async def _full(rollouts: Rollouts, config: Config, rules: Rules) -> Count:
    return tally(await rollouts.statuses(config, 0, rules.m))


async def curve(rollouts: Rollouts, solution: str, shares: Sequence[float], m: int) -> list[dict[str, Any]]:
    """Right answers of `m` by the share of the solution's words that a reply, without hints, is forced to begin with."""
    words = solution.split(" ")
    prefixes = [" ".join(words[: int(share * len(words))]) for share in shares]
    distinct = list(dict.fromkeys(prefixes))
    counts = dict(zip(distinct, await together(_forced(rollouts, prefix, m) for prefix in distinct), strict=True))
    return [
        {"share": f"{share:g}", "characters": len(prefix), **plain(counts[prefix])}
        for share, prefix in zip(shares, prefixes, strict=True)
    ]


async def _forced(rollouts: Rollouts, prefix: str, m: int) -> Count:
    if not prefix:
        return tally(await rollouts.statuses((), 0, m))
    drawn = await rollouts.engine.sample(
        rollouts.prompt_of(()), n=m, prefix=prefix, scope="hints_curve", sampling=rollouts.sampling
    )
    whole = (replace(completion, text=prefix + completion.text) for completion in drawn)
    verdicts = await together(rollouts.engine.verify(completion, rollouts.problem.gold) for completion in whole)
    return tally([verdict.status for verdict in verdicts])
