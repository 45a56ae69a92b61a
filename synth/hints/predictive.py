"""What the rest of the draws will say: whole tables drawn from the predictive distribution, given the draws so far.

The prior is a mixture over how a problem's configurations hang together: in one part they all have the same accuracy, in the others
their accuracies scatter around a mean of the problem, as Beta(a mu, a (1 - mu)). Mean, scatter and accuracies lie on grids, with the
ends 0 and 1 among them, so all sums are exact but for rounding. Ties, problems that nothing helps with and problems that need no
help so have weight of their own; an independent uniform prior has none and takes small samples for large gaps.

A posterior probability is a martingale, so under this prior it may be looked at after every draw, and stopping where it says 0.95
is right at least 95 times of 100. What it is worth where the prior is wrong is measured: docs/benchmarks.md.
"""

import hashlib
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tracemill.synth.hints.strategies import NOTHING, Config, Rules, Table

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

POINTS = 40
"""The accuracies are sin^2(pi j / 80), j = 0 to 40: dense at both ends, as the spread of a share asks for."""
MEANS = 15
SCATTER = (1.5, 6.0, 24.0)
"""a of the Beta: from nearly anything to a standard deviation of 0.1 around one half."""
EQUAL = 0.25
"""The weight of the part in which all configurations are the same."""

ACCURACY: Floats = np.sin(np.pi * np.arange(POINTS + 1) / (2 * POINTS)) ** 2


@lru_cache(maxsize=1)
def prior() -> tuple[Floats, Floats]:
    """The parts of the mixture: log weight (parts,), and the distribution of an accuracy in each (parts, points)."""
    equal = np.eye(POINTS + 1)
    fine = (np.arange(-8, 8) + 0.5) / 16
    angle = (np.arange(POINTS + 1)[:, None] + fine) * np.pi / (2 * POINTS)
    right, wrong = np.log(np.sin(angle) ** 2), np.log(np.cos(angle) ** 2)
    means = np.sin(np.pi * (2 * np.arange(MEANS) + 1) / (4 * MEANS)) ** 2
    shapes = []
    for a in SCATTER:
        for mean in means:
            log = (a * mean - 0.5) * right + (a * (1 - mean) - 0.5) * wrong
            mass = np.exp(log - log.max()).sum(axis=1)
            shapes.append(mass / mass.sum())
    parts = np.vstack([equal, *shapes])
    weight = np.full(len(parts), (1 - EQUAL) / len(shapes))
    weight[: len(equal)] = EQUAL / len(equal)
    return np.log(weight), parts


@lru_cache(maxsize=64)
def binomial(n: int) -> Floats:
    """Distribution functions of the number of right answers among n, for each accuracy: (points, n + 1)."""
    chance = np.zeros((POINTS + 1, n + 1))
    chance[:, 0] = 1.0
    for _ in range(n):
        chance[:, 1:] = chance[:, 1:] * (1 - ACCURACY)[:, None] + chance[:, :-1] * ACCURACY[:, None]
        chance[:, 0] *= 1 - ACCURACY
    return np.cumsum(chance, axis=1)


class Completions:
    """`size` tables with m draws everywhere, as they may come to be from the one at hand; a column is one configuration's counts."""

    def __init__(self, n: int, table: Table, rules: Rules, seed_key: str, size: int) -> None:
        self.n, self.rules, self.size = n, rules, size
        self._table, self._seed = table, seed_key
        self._columns: dict[tuple[Config, int], Ints] = {}
        self._accuracies: dict[Config, Ints] = {}
        log, parts = prior()
        drawn = {config: count.sum for config, count in table.items() if count.sum.total}
        with np.errstate(divide="ignore"):
            for count in drawn.values():
                log = log + np.log(parts @ _likelihood(count.correct, count.total))
        weight = np.cumsum(np.exp(log - log.max()))
        spread = (np.arange(size) + 0.5) / size
        which = np.searchsorted(weight, spread * weight[-1])
        self._used, self._part = np.unique(which, return_inverse=True)
        self._parts = parts[self._used]

    def column(self, config: Config, run: int = 0) -> Ints:
        """Right answers among the m of a run of a configuration, in each of the completed tables."""
        if (config, run) not in self._columns:
            count = self._table.get(config, NOTHING)
            had = (count, *count.runs)[run] if run <= len(count.runs) else NOTHING
            left = max(0, self.rules.m - had.total)
            more = _pick(binomial(left), self._accuracy(config), self._uniform(f"{config}|{run}")) if left else 0
            self._columns[config, run] = had.correct + more + np.zeros(self.size, np.int64)
        return self._columns[config, run]

    def open_cells(self) -> dict[tuple[Config, int], int]:
        """The cells that were looked at and are not done, with the draws that each lacks."""
        lacks = {}
        for config, run in self._columns:
            count = self._table.get(config, NOTHING)
            had = (count, *count.runs)[run] if run <= len(count.runs) else NOTHING
            if had.total < self.rules.m:
                lacks[config, run] = self.rules.m - had.total
        return lacks

    def _accuracy(self, config: Config) -> Ints:
        if config not in self._accuracies:
            count = self._table.get(config, NOTHING).sum
            mass = np.cumsum(self._parts * _likelihood(count.correct, count.total), axis=1)
            self._accuracies[config] = _pick(mass / mass[:, -1:], self._part, self._uniform(str(config)))
        return self._accuracies[config]

    def _uniform(self, name: str) -> Floats:
        """Numbers between 0 and 1 that depend on problem and name alone, so that rounds are compared on equal luck."""
        return _uniforms(f"{self._seed}|{name}", self.size)


def _pick(cumulative: Floats, row: Ints, luck: Floats) -> Ints:
    """For each number of `luck`, the first column at which the distribution function in its row is above it."""
    wide = cumulative.shape[1]
    flat = (np.minimum(cumulative, 1.0) + 2 * np.arange(len(cumulative))[:, None]).ravel()
    found = np.searchsorted(flat, 2 * row + luck, side="right") - row * wide
    return np.clip(found, 0, wide - 1)


@lru_cache(maxsize=4096)
def _likelihood(correct: int, total: int) -> Floats:
    return ACCURACY**correct * (1 - ACCURACY) ** (total - correct)


@lru_cache(maxsize=2048)
def _uniforms(seed: str, size: int) -> Floats:
    raw = np.frombuffer(hashlib.shake_256(seed.encode()).digest(8 * size), np.uint64)
    return (raw >> np.uint64(11)) / float(1 << 53)
