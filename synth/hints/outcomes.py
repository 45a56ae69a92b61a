"""What a strategy decides in each of many completed tables, all at once: the same rules as strategies.py, on columns.

A decision is the set of kept points as a number, bit i for point i; OPEN where the tables of a problem ask for too many
configurations to look at yet.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tracemill.synth.hints.predictive import Completions, Ints, Truths
from tracemill.synth.hints.strategies import TOLERANCE, Cell, Config, Rules, combined, first_stage, order, singles

AT_MOST = 12
"""Points up to which decisions are predicted: with more, CSS combines removals by the thousand, and is measured in full."""
WORTH = 100_000
"""Counts of a second stage that are looked at at once; with more, the first stage is settled first."""
OPEN = -1


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Decisions by table, and the counts they rest on, one entry a count.

    Entry i: of what cell `which[i]` of `cells` lacks, `missing[i]` answers are right in table `tables[i]`.
    """

    kept: Ints
    cells: list[Cell]
    which: Ints
    tables: Ints
    missing: Ints


def bits(config: Config) -> int:
    return sum(1 << i for i in config)


def points(kept: int) -> Config:
    return tuple(i for i in range(kept.bit_length()) if kept >> i & 1)


def outcomes(strategy: str, tables: Completions) -> Outcomes:
    """Decide on every completed table."""
    n, size, rules = tables.n, tables.size, tables.rules
    configs = first_stage(n)
    runs = rules.runs if strategy == "cbrs" else 1
    cells = [(config, run) for config in configs for run in range(runs)]
    which, where = np.repeat(np.arange(len(cells)), size), np.tile(np.arange(size), len(cells))
    missing = tables.missing(cells, which, where)
    had = np.array([tables.had(cell).correct for cell in cells])
    counts = (had[which] + missing).reshape(len(configs), runs, size)
    first = Outcomes(np.zeros(0, np.int64), cells, which, where, missing)
    if strategy == "css":
        return _css(tables, counts[:, 0], first)
    if strategy == "cbrs":
        kept = _cbrs(n, counts, rules)
    else:
        kept = _best(n, counts[:, 0])
        if strategy in TOLERANCE:
            by = dict(zip(configs, counts[:, 0], strict=True))
            base = np.maximum(by[()], by[tuple(range(n))]) - TOLERANCE[strategy]
            out = _masks(np.array([by[config] >= base for config in singles(n)]))
            kept = np.where(kept == 0, 0, bits(tuple(range(n))) - out)
    return Outcomes(kept, cells, which, where, missing)


def _masks(members: Truths) -> Ints:
    """(points, tables) of truth values to one number a table."""
    masks: Ints = (members.astype(np.int64) << np.arange(len(members))[:, None]).sum(axis=0)
    return masks


def _ranked(n: int, counts: Ints) -> Ints:
    """Counts of the first stage (configurations, tables) with the rank of their configuration below them: the highest wins."""
    ranks: Ints = np.array([_rank(n, bits(config)) for config in first_stage(n)])[:, None]
    return (counts << (n + 5)) | ranks


def _best(n: int, counts: Ints) -> Ints:
    return _kept(n, _ranked(n, counts).max(axis=0))


def _rank(n: int, kept: int) -> int:
    """Higher for fewer points, then for smaller indices: below 2^(n + 5) for n up to 30."""
    turned = sum(1 << (n - 1 - i) for i in points(kept))
    return ((n - kept.bit_count()) << n) | turned


def _kept(n: int, ranked: Ints) -> Ints:
    """The configuration whose rank stands in the low bits."""
    turned = ranked & ((1 << n) - 1)
    return sum(((turned >> (n - 1 - i) & 1) << i for i in range(n)), np.zeros_like(turned))


def _cbrs(n: int, counts: Ints, rules: Rules) -> Ints:
    often = (counts >= counts.max(axis=0) - rules.delta).sum(axis=1)
    total = counts.sum(axis=1)
    agreed = np.where(often == often.max(axis=0), total + 1, 0)
    return np.where(_best(n, total) == 0, 0, _best(n, agreed))


def _css(tables: Completions, counts: Ints, first: Outcomes) -> Outcomes:
    n, rules = tables.n, tables.rules
    by = dict(zip(first_stage(n), counts, strict=True))
    base, high = np.maximum(by[()], by[tuple(range(n))]), counts.max(axis=0)
    out = np.array([by[config] for config in singles(n)])
    harmless = out >= base
    pruned = harmless & (out >= high - rules.tau)
    sets, which, clear = _asked(n, _masks(pruned), _masks(harmless & ~pruned), rules)
    ranked = _ranked(n, counts).max(axis=0)
    cells, where, missing = list(first.cells), first.tables, first.missing
    if len(sets):
        masks = np.unique(sets, return_inverse=True)
        more: list[Cell] = [(points(int(mask)), 0) for mask in masks[0]]
        second = tables.missing(more, masks[1], which)
        had = np.array([tables.had(cell).correct for cell in more])
        rank = np.array([_rank(n, int(mask)) for mask in masks[0]])
        np.maximum.at(ranked, which, ((had[masks[1]] + second) << (n + 5)) | rank[masks[1]])
        cells += more
        where, missing = np.concatenate([where, which]), np.concatenate([missing, second])
        first_which = np.concatenate([first.which, masks[1] + len(first.cells)])
    else:
        first_which = first.which
    kept = _kept(n, ranked)
    kept[~clear] = OPEN
    return Outcomes(kept, cells, first_which, where, missing)


def _asked(n: int, pruned: Ints, tried: Ints, rules: Rules) -> tuple[Ints, Ints, Ints]:
    """Configurations of the second stage, the tables that ask for them, and by table whether it was looked at."""
    keys, which, by_number = np.unique((pruned << n) | tried, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(which, kind="stable"), np.cumsum(by_number)[:-1])
    sets, where, clear, spent = [], [], np.ones(len(pruned), bool), 0
    for pair in sorted(range(len(keys)), key=lambda pair: (-by_number[pair], pair)):
        found = _second_stage(n, int(keys[pair]) >> n, int(keys[pair]) & ((1 << n) - 1), rules)
        if spent + len(found) * by_number[pair] > WORTH and by_number[pair] < len(pruned):
            clear[members[pair]] = False
            continue
        spent += len(found) * by_number[pair]
        sets.append(np.repeat(found, by_number[pair]))
        where.append(np.tile(members[pair], len(found)))
    empty = np.zeros(0, np.int64)
    return np.concatenate([empty, *sets]), np.concatenate([empty, *where]), clear


@lru_cache(maxsize=4096)
def _second_stage(n: int, pruned: int, tried: int, rules: Rules) -> Ints:
    """What CSS measures beyond the first stage, where these removals are pruned and those are tried."""
    known = {bits(config) for config in first_stage(n)}
    full = (1 << n) - 1
    found = {full & ~(pruned | bits(x)) for x in combined(points(tried), rules)} - known
    return np.array(sorted(found, key=lambda kept: order(points(kept))), np.int64)
