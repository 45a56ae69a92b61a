"""What a strategy decides in each of many completed tables, all at once: the same rules as strategies.py, on columns.

A decision is the set of kept points as a number, bit i for point i; -1 where a table has too many configurations to look at yet.
"""

from collections.abc import Sequence
from functools import reduce

import numpy as np

from tracemill.synth.hints.predictive import Completions, Ints
from tracemill.synth.hints.strategies import TOLERANCE, Config, combined, first_stage, order, singles

AT_MOST = 60
"""Points that fit into one number."""
WORTH = 1024
"""Configurations of a second stage that are looked at at once; with more, the first stage is settled first."""
OPEN = -1

Row = tuple[Config, Ints]


def bits(config: Config) -> int:
    return sum(1 << i for i in config)


def outcomes(strategy: str, tables: Completions) -> tuple[Ints, dict[Config, Ints]]:
    """The decision in each table, and for each configuration of the second stage the tables in which it is a candidate."""
    if strategy in {"css", "random"}:
        return _css(tables)
    if strategy == "cbrs":
        return _cbrs(tables), {}
    columns = [(config, tables.column(config)) for config in sorted(first_stage(tables.n), key=order)]
    kept = _best(columns, tables.size)[0]
    if strategy in TOLERANCE:
        base = np.maximum(tables.column(()), tables.column(tuple(range(tables.n)))) - TOLERANCE[strategy]
        out = np.array([tables.column(config) >= base for config in singles(tables.n)])
        kept = np.where(kept == 0, 0, bits(tuple(range(tables.n))) - _masks(out))
    return kept, {}


def _masks(members: np.ndarray) -> Ints:  # type: ignore[type-arg]
    """(points, tables) of truth values to one number a table."""
    return (members.astype(np.int64) << np.arange(len(members))[:, None]).sum(axis=0)


def _best(columns: Sequence[Row], size: int) -> tuple[Ints, Ints]:
    """The highest column by table, the first of them where several are, and its count."""
    kept, high = np.zeros(size, np.int64), np.full(size, -1, np.int64)
    for config, column in columns:
        better = column > high
        kept[better] = bits(config)
        high = np.maximum(high, column)
    return kept, high


def _cbrs(tables: Completions) -> Ints:
    rules = tables.rules
    configs = sorted(first_stage(tables.n), key=order)
    counts = np.array([[tables.column(config, run) for run in range(rules.runs)] for config in configs])
    often = (counts >= counts.max(axis=0) - rules.delta).sum(axis=1)
    total = counts.sum(axis=1)
    by_total = _best(list(zip(configs, total, strict=True)), tables.size)[0]
    agreed = np.where(often == often.max(axis=0), total, -2)
    return np.where(by_total == 0, 0, _best(list(zip(configs, agreed, strict=True)), tables.size)[0])


def _css(tables: Completions) -> tuple[Ints, dict[Config, Ints]]:
    n, size = tables.n, tables.size
    everything = tuple(range(n))
    base = np.maximum(tables.column(()), tables.column(everything))
    out = np.array([tables.column(config) for config in singles(n)])
    harmless = out >= base
    pruned = harmless & (out >= np.maximum(base, out.max(axis=0)) - tables.rules.tau)
    rows, unclear = _second_stage(n, _masks(pruned), _masks(harmless & ~pruned), tables)
    kept, high = np.zeros(size, np.int64), np.full(size, -1, np.int64)
    for config in sorted({*first_stage(n), *rows}, key=order):
        where = rows.get(config)
        if where is None:
            column = tables.column(config)
        else:
            column = np.full(size, -1, np.int64)
            column[where] = tables.column(config)[where]
        better = column > high
        kept[better] = bits(config)
        high = np.maximum(high, column)
    kept[unclear] = OPEN
    return kept, rows


def _second_stage(n: int, pruned: Ints, tried: Ints, tables: Completions) -> tuple[dict[Config, Ints], Ints]:
    """Configurations beyond the first stage with the tables that measure them, and the tables left unclear."""
    known = {bits(config) for config in first_stage(n)}
    full = (1 << n) - 1
    pairs, which = np.unique(np.stack([pruned, tried]), axis=1, return_inverse=True)
    which = which.reshape(-1)
    by_number = np.bincount(which)
    asked: dict[int, list[int]] = {}
    left_out: list[int] = []
    for pair in sorted(range(pairs.shape[1]), key=lambda pair: (-by_number[pair], pair)):
        if len(asked) > WORTH:
            left_out.append(pair)
            continue
        first = int(pairs[0, pair])
        points = tuple(i for i in range(n) if int(pairs[1, pair]) >> i & 1)
        for x in combined(points, tables.rules):
            kept = full & ~(first | reduce(lambda mask, i: mask | 1 << i, x, 0))
            if kept not in known:
                asked.setdefault(kept, []).append(pair)
    rows = {
        tuple(i for i in range(n) if kept >> i & 1): np.flatnonzero(np.isin(which, found))
        for kept, found in asked.items()
    }
    return rows, np.flatnonzero(np.isin(which, left_out))
