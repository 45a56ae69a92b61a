"""Whether the draws that are missing can still change a decision: curtailment, exact and without any model.

A configuration with c right answers of t ends between c and c + m - t. A decision that is the same wherever all of them end is certain.
The rules below are sufficient: what they call certain is, and some of what is they do not see.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from tracemill.synth.hints.strategies import (
    NOTHING,
    TOLERANCE,
    Config,
    Count,
    Rules,
    Table,
    configs_needed,
    first_stage,
    order,
    second_stage,
    singles,
)

Ends = Mapping[Config, tuple[int, int]]
"""Lowest and highest count at the end."""
AT_MOST = 12
"""Removals of which it is open whether they are harmless; with more, no second stage is certain."""


def certain(n: int, table: Table, strategies: Sequence[str], rules: Rules) -> bool:
    """Whether every strategy's decision stands, whatever the missing draws say."""
    return all(_certain(n, table, "css" if name == "random" else name, rules) for name in strategies)


def _certain(n: int, table: Table, strategy: str, rules: Rules) -> bool:
    if strategy in {"none", "all"} or not configs_needed(n, [strategy], table, rules=rules):
        return True
    ends = {config: _ends(table.get(config, NOTHING), rules) for config in first_stage(n)}
    if strategy == "cbrs":
        return _cbrs(n, table, rules)
    if strategy in TOLERANCE:
        return _leave_one_out(n, ends, TOLERANCE[strategy])
    if strategy == "max_score":
        return _winner(ends, ends) is not None
    return _css(n, table, ends, rules)


def _ends(count: Count, rules: Rules) -> tuple[int, int]:
    return count.correct, count.correct + max(0, rules.m - count.total)


def _winner(sure: Iterable[Config], ends: Ends) -> Config | None:
    """The candidate for sure that no possible one can beat or draw level with, unless ties go to it."""
    for config in sure:
        low, rank = ends[config][0], order(config)
        if all(high < low or (high == low and rank <= order(c)) for c, (_, high) in ends.items() if c != config):
            return config
    return None


def _leave_one_out(n: int, ends: Ends, tolerance: int) -> bool:
    if _winner([()], ends) == ():
        return True
    everything = tuple(range(n))
    lowest, highest = (max(ends[()][at], ends[everything][at]) - tolerance for at in (0, 1))
    out = [ends[config] for config in singles(n)]
    if any(low < highest and high >= lowest for low, high in out):
        return False
    beaten = any(low > ends[()][1] for low, _ in ends.values())
    return beaten or all(low >= highest for low, _ in out)


def _cbrs(n: int, table: Table, rules: Rules) -> bool:
    runs = {config: _runs(table.get(config, NOTHING), rules) for config in first_stage(n)}
    total = {config: (sum(low for low, _ in ends), sum(high for _, high in ends)) for config, ends in runs.items()}
    if _winner([()], total) == ():
        return True
    low = [max(ends[run][0] for ends in runs.values()) - rules.delta for run in range(rules.runs)]
    high = [max(ends[run][1] for ends in runs.values()) - rules.delta for run in range(rules.runs)]
    always = [c for c, ends in runs.items() if all(e[0] >= top for e, top in zip(ends, high, strict=True))]
    possible = [c for c, ends in runs.items() if all(e[1] >= top for e, top in zip(ends, low, strict=True))]
    agreed = _winner(always, {config: total[config] for config in possible})
    return agreed is not None and (agreed == () or any(least > total[()][1] for least, _ in total.values()))


def _runs(count: Count, rules: Rules) -> list[tuple[int, int]]:
    runs = [count, *count.runs][: rules.runs]
    return [_ends(run, rules) for run in runs + [NOTHING] * (rules.runs - len(runs))]


def _css(n: int, table: Table, ends: Ends, rules: Rules) -> bool:
    if ends[()][0] >= rules.m:
        return True
    everything = tuple(range(n))
    base = [max(ends[()][at], ends[everything][at]) for at in (0, 1)]
    best = max(low for low, _ in ends.values())
    harmless, maybe, pruned, may_be_pruned = [], [], [], []
    for i, config in enumerate(singles(n)):
        low, high = ends[config]
        others = max((end[1] for other, end in ends.items() if other != config), default=0)
        if high >= base[0]:
            maybe.append(i)
            if high >= best - rules.tau:
                may_be_pruned.append(i)
            if low >= base[1]:
                harmless.append(i)
                if low >= others - rules.tau:
                    pruned.append(i)
    if harmless == maybe and pruned == may_be_pruned:
        tried = tuple(i for i in harmless if i not in pruned)
        found = second_stage(n, tuple(pruned), tried, rules)
        sure = [*first_stage(n), *found]
    else:
        free = [i for i in maybe if i not in pruned]
        if len(free) > AT_MOST:
            return False
        sure = list(first_stage(n))
        out = ({*pruned, *x} for size in range(len(free) + 1) for x in combinations(free, size))
        found = [tuple(i for i in range(n) if i not in removed) for removed in out]
    possible = {**{config: _ends(table.get(config, NOTHING), rules) for config in found}, **ends}
    return _winner(sure, possible) is not None
