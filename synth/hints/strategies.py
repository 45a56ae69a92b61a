"""Which knowledge points a strategy keeps, told from counts of right answers (KnowRL, arXiv 2604.12627).

A configuration is the points that are shown, by index and ascending: () shows none. The table says for each one that was measured
how many of how many answers were right:

    {(): Count(10, 32), (0, 1, 2): Count(16, 32), (1, 2): Count(18, 32), (0, 2): Count(16, 32), (0, 1): Count(15, 32)}

There max_score keeps (1, 2), s_loo keeps (2,), t_loo none, and css asks for (2,) to be measured, too.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import combinations

Config = tuple[int, ...]
Cell = tuple[Config, int]
"""A configuration and a run of it: run r is the draws r m to (r + 1) m - 1, and all strategies but CBRS look at run 0."""

STRATEGIES = ("none", "all", "random", "max_score", "s_loo", "t_loo", "cbrs", "css")
TOLERANCE = {"s_loo": 0, "t_loo": 1}
"""Samples of m by which leaving one point out may be worse than the base: none, and one of 32 for T-LOO."""


@dataclass(frozen=True, slots=True)
class Count:
    """Answers of one configuration: how many were right, of how many, and how many of these nobody could decide."""

    correct: int
    total: int
    undecided: int = 0
    runs: tuple["Count", ...] = ()
    """The further runs of CBRS, of m draws each; the first run is this count itself."""

    @property
    def sum(self) -> "Count":
        """All draws, those of further runs with them."""
        counts = (self, *self.runs)
        return Count(sum(c.correct for c in counts), sum(c.total for c in counts), sum(c.undecided for c in counts))


Table = Mapping[Config, Count]


@dataclass(frozen=True, slots=True)
class Rules:
    """What the strategies leave open, in whole samples; see docs/hints.md."""

    m: int = 32
    """Samples of a configuration in the full protocol."""
    tau: int = 0
    """CSS: a removal is pruned first where its count lies no more than this below the highest."""
    delta: int = 1
    """CBRS: a configuration is near-optimal within this many samples of a run's highest count."""
    runs: int = 8
    """CBRS: runs of m samples each."""
    cap: int = 10
    """CSS: above so many removals to combine, only `most` of them at once are tried."""
    most: int = 3


@dataclass(frozen=True, slots=True)
class Choice:
    """What a strategy keeps, and what its decision rests on."""

    kept: Config
    h_set: Config = ()
    """CSS: the points whose removal does not degrade; for S-LOO and T-LOO: the removable ones."""
    n_set: Config = ()
    """CSS: of these, the ones whose removal is near-optimal; they are pruned first."""
    c_set: Config = ()
    """CSS: the others, of which every combination is tried."""
    guard_empty: bool = False
    """No measured configuration beats showing none, so none is shown."""
    all_zero: bool = False
    """No measured configuration has a right answer."""
    saturated: bool = False
    """Every answer of every measured configuration is right."""
    css_truncated: bool = False
    """Too many combinations: only the small ones were tried."""
    near_optimal: Mapping[Config, int] = field(default_factory=dict)
    """CBRS: the number of runs in which each configuration was near-optimal."""


def singles(n: int) -> list[Config]:
    """All points less one, by the index of the one; for n = 1 that is the empty configuration."""
    return [tuple(j for j in range(n) if j != i) for i in range(n)]


def first_stage(n: int) -> list[Config]:
    """None, all, and all less one, without repetition: n + 2 configurations, 2 for n = 1 and 1 for n = 0."""
    return list(dict.fromkeys([(), tuple(range(n)), *singles(n)]))


def order(config: Config) -> tuple[int, Config]:
    """Ties go to the fewest points, then to the smallest indices: not stated in the paper; our default."""
    return len(config), config


def configs_needed(n: int, strategies: Sequence[str], table: Table, *, rules: Rules = Rules()) -> list[Config]:
    """What the full protocol still has to measure, in the order in which it is asked for; empty where it is done.

    A configuration is done with m draws, in each of its runs. CSS has a second stage, which is known once the first is done.
    """
    check(strategies)
    if n == 0 or not (set(strategies) - {"none", "all"}):
        return []
    first = first_stage(n)
    missing = [config for config in first if not _measured(table, config, strategies, rules)]
    if missing or not needs_second_stage(strategies):
        return missing
    _, pruned, tried = css_sets(n, table, rules)
    found = second_stage(n, pruned, tried, rules)
    return [config for config in found if table.get(config, NOTHING).total < rules.m]


def needs_second_stage(strategies: Iterable[str]) -> bool:
    """Whether combinations of removals are measured: for CSS, and for Random, which takes its size."""
    return not {"css", "random"}.isdisjoint(strategies)


def second_stage(n: int, pruned: Config, tried: Config, rules: Rules = Rules()) -> list[Config]:
    """The configurations K less N and X, for every X among C, that are not of the first stage."""
    known = set(first_stage(n))
    removed = (frozenset((*pruned, *x)) for x in combined(tried, rules))
    kept = (tuple(i for i in range(n) if i not in out) for out in removed)
    return sorted((config for config in dict.fromkeys(kept) if config not in known), key=order)


def combined(tried: Config, rules: Rules) -> Iterator[Config]:
    """Every subset of the removals to combine; the small ones where there are too many."""
    most = len(tried) if len(tried) <= rules.cap else rules.most
    for size in range(most + 1):
        yield from combinations(tried, size)


def css_sets(n: int, table: Table, rules: Rules = Rules()) -> tuple[Config, Config, Config]:
    """H, N and C of CSS, from the first stage: non-degrading removals, the near-optimal ones, and the rest."""
    score = {config: share(table[config], rules.m) for config in first_stage(n)}
    base, best = max(score[()], score[tuple(range(n))]), max(score.values())
    out = singles(n)
    harmless = tuple(i for i in range(n) if score[out[i]] >= base)
    pruned = tuple(i for i in harmless if score[out[i]] >= best - rules.tau)
    return harmless, pruned, tuple(i for i in harmless if i not in pruned)


def share(count: Count, m: int) -> Fraction:
    """Right answers of m: the count itself where m were drawn, and its share of m where fewer were, exactly."""
    return Fraction(count.correct * m, count.total)


def choose(strategy: str, n: int, table: Table, *, seed_key: str = "", rules: Rules = Rules()) -> Choice:
    """What a strategy keeps of n points.

    With all that the full protocol needs in the table, that is its decision. With fewer draws, counts are compared as shares of m,
    and a configuration of the second stage that was never drawn is no candidate. `seed_key` names the problem: Random hashes it.
    """
    check([strategy])
    everything = tuple(range(n))
    if n == 0 or strategy == "none":
        return Choice(())
    if strategy == "all":
        return Choice(everything)
    if strategy == "random":
        size = len(choose("css", n, table, rules=rules).kept)
        return Choice(at_random(n, size, seed_key))
    if absent := [config for config in first_stage(n) if not table.get(config, NOTHING).total]:
        raise ValueError(f"{strategy} needs the configuration {absent[0]}, which was never drawn")
    if strategy in TOLERANCE:
        return _leave_one_out(strategy, n, table, rules)
    return {"max_score": _max_score, "cbrs": _cbrs, "css": _css}[strategy](n, table, rules)


def check(strategies: Iterable[str]) -> None:
    """Raise ValueError for a strategy that there is none of."""
    for name in strategies:
        if name not in STRATEGIES:
            raise ValueError(f"strategies: {name!r} is none; choose among {', '.join(STRATEGIES)}")


def at_random(n: int, size: int, seed_key: str) -> Config:
    """The `size` points whose hashes are smallest."""

    def luck(i: int) -> bytes:
        return hashlib.sha256(f"random|{seed_key}|{i}".encode()).digest()

    return tuple(sorted(sorted(range(n), key=luck)[:size]))


NOTHING = Count(0, 0)


def _measured(table: Table, config: Config, strategies: Sequence[str], rules: Rules) -> bool:
    count = table.get(config, NOTHING)
    runs = [count, *count.runs]
    wanted = rules.runs if "cbrs" in strategies else 1
    return len(runs) >= wanted and all(run.total >= rules.m for run in runs[:wanted])


def _best(score: Mapping[Config, Fraction]) -> Config:
    return min(score, key=lambda config: (-score[config], order(config)))


def _flags(table: Table, configs: Iterable[Config]) -> tuple[bool, bool]:
    """Whether all answers are wrong, and whether all are right."""
    counts = [table[config] for config in configs]
    return all(c.correct == 0 for c in counts), all(c.correct == c.total for c in counts)


def _max_score(n: int, table: Table, rules: Rules) -> Choice:
    score = {config: share(table[config], rules.m) for config in first_stage(n)}
    zero, full = _flags(table, score)
    return Choice(_best(score), guard_empty=_best(score) == (), all_zero=zero, saturated=full)


def _leave_one_out(strategy: str, n: int, table: Table, rules: Rules) -> Choice:
    score = {config: share(table[config], rules.m) for config in first_stage(n)}
    zero, full = _flags(table, score)
    out = removable(n, table, strategy, rules)
    guard = _best(score) == ()
    kept = () if guard else tuple(i for i in range(n) if i not in out)
    return Choice(kept, h_set=out, guard_empty=guard, all_zero=zero, saturated=full)


def removable(n: int, table: Table, strategy: str, rules: Rules = Rules()) -> Config:
    """R of S-LOO and T-LOO: the points without which the count is no lower than the base, less the tolerance."""
    base = max(share(table[()], rules.m), share(table[tuple(range(n))], rules.m)) - TOLERANCE[strategy]
    return tuple(i for i, config in enumerate(singles(n)) if share(table[config], rules.m) >= base)


def _cbrs(n: int, table: Table, rules: Rules) -> Choice:
    """Consensus of runs: what is near-optimal in most of them, all of them where there is such a configuration."""
    by_run = {config: _runs(table[config], rules) for config in first_stage(n)}
    total = {config: sum(scores, Fraction()) for config, scores in by_run.items()}
    highest = [max(scores[run] for scores in by_run.values()) for run in range(rules.runs)]
    often = {
        config: sum(score >= high - rules.delta for score, high in zip(scores, highest, strict=True))
        for config, scores in by_run.items()
    }
    agreed = {config: total[config] for config, times in often.items() if times == max(often.values())}
    guard = _best(total) == ()
    zero, full = _flags({config: table[config].sum for config in by_run}, by_run)
    kept = () if guard else _best(agreed)
    return Choice(kept, guard_empty=guard, all_zero=zero, saturated=full, near_optimal=often)


def _runs(count: Count, rules: Rules) -> list[Fraction]:
    """The count of each run; what a run still lacks is expected at the share of all draws."""
    pooled = Fraction(count.sum.correct, count.sum.total)
    runs = [count, *count.runs][: rules.runs]
    runs += [NOTHING] * (rules.runs - len(runs))
    return [run.correct + max(0, rules.m - run.total) * pooled for run in runs]


def _css(n: int, table: Table, rules: Rules) -> Choice:
    """Constrained subset search: prune the near-optimal removals, try every combination of the other harmless ones."""
    harmless, pruned, tried = css_sets(n, table, rules)
    candidates = [*first_stage(n), *second_stage(n, pruned, tried, rules)]
    score = {c: share(table[c], rules.m) for c in candidates if table.get(c, NOTHING).total}
    zero, full = _flags(table, score)
    return Choice(
        _best(score),
        h_set=harmless,
        n_set=pruned,
        c_set=tried,
        guard_empty=_best(score) == (),
        all_zero=zero,
        saturated=full,
        css_truncated=len(tried) > rules.cap,
    )
