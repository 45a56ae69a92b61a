"""What the rest of the draws will say: whole tables drawn from the predictive distribution, given the draws so far.

The prior is a mixture over how a problem's configurations hang together: in one part they all have the same accuracy, in the others
their accuracies scatter around a mean of the problem, as Beta(a mu, a (1 - mu)). Mean, scatter and accuracies lie on grids, with the
ends 0 and 1 among them, so every sum is finite and small. Ties, problems that nothing helps with and problems that need no help so
have weight of their own; an independent uniform prior has none and takes the gaps of small samples for real.

A posterior probability is a martingale: under this prior it may be looked at after every draw, and stopping where it says 0.95 is right
at least 95 times of 100. What it is worth on problems that the prior did not think of is measured, docs/benchmarks.md.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tracemill.synth.hints.strategies import NOTHING, Cell, Config, Count, Rules, Table

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Truths = npt.NDArray[np.bool_]

POINTS = 40
"""The accuracies are sin^2(pi j / 80), j = 0 to 40: dense at both ends, as the spread of a share asks for."""
MEANS = 9
SCATTER = (0.3, 1.5, 6.0, 24.0)
"""a of the Beta: from nearly all or nothing to a standard deviation of 0.1 around one half."""
EQUAL = 0.25
"""The weight of the part in which all configurations are the same."""

ACCURACY: Floats = np.sin(np.pi * np.arange(POINTS + 1) / (2 * POINTS)) ** 2


@lru_cache(maxsize=1)
def prior() -> tuple[Floats, Floats]:
    """The parts of the mixture: log weight (parts,), and the distribution of an accuracy in each (parts, points)."""
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
    equal = np.eye(POINTS + 1)
    weight = [np.full(len(equal), EQUAL / len(equal)), np.full(len(shapes), (1 - EQUAL) / len(shapes))]
    return np.log(np.concatenate(weight)), np.vstack([equal, *shapes])


@lru_cache(maxsize=4)
def binomials(m: int) -> Floats:
    """Distribution functions of right answers among 0 to m draws, by accuracy: flat over (draws, points, m + 1), each one 2 higher."""
    rows = np.zeros((m + 1, POINTS + 1, m + 1))
    rows[0, :, 0] = 1.0
    for k in range(m):
        rows[k + 1] = rows[k] * (1 - ACCURACY)[:, None]
        rows[k + 1, :, 1:] += rows[k, :, :-1] * ACCURACY[:, None]
    return _flat(np.cumsum(rows, axis=2))


class Completions:
    """`size` tables with m draws everywhere, as they may come to be from the one at hand."""

    def __init__(self, n: int, table: Table, rules: Rules, luck: "Luck") -> None:
        self.n, self.table, self.rules, self.luck, self.size = n, table, rules, luck, luck.size
        log, parts = prior()
        drawn = Counter((count.sum.correct, count.sum.total) for count in table.values())
        with np.errstate(divide="ignore"):
            for (right, total), times in drawn.items():
                log = log + times * np.log(parts @ likelihood(right, total))
        weight = np.cumsum(np.exp(log - log.max()))
        spread = (np.arange(self.size) + 0.5) / self.size
        used, self._part = np.unique(np.searchsorted(weight, spread * weight[-1]), return_inverse=True)
        self._parts = parts[used]

    def had(self, cell: Cell) -> Count:
        """What a cell holds so far."""
        count = self.table.get(cell[0], NOTHING)
        return (count, *count.runs)[cell[1]] if cell[1] <= len(count.runs) else NOTHING

    def missing(self, cells: Sequence[Cell], which: Ints, tables: Ints) -> Ints:
        """Right answers among the draws that cells still lack: of cell `which[i]` in table `tables[i]`."""
        lacks = np.array([max(0, self.rules.m - self.had(cell).total) for cell in cells])
        configs = list(dict.fromkeys(config for config, _ in cells))
        number = {config: i for i, config in enumerate(configs)}
        of_cell = np.array([number[config] for config, _ in cells])
        accuracy = self._accuracy(configs, of_cell[which], tables)
        chance = self.luck.of([f"{config}|{run}" for config, run in cells])[which, tables]
        return pick(binomials(self.rules.m), lacks[which] * (POINTS + 1) + accuracy, self.rules.m + 1, chance)

    def _accuracy(self, configs: Sequence[Config], which: Ints, tables: Ints) -> Ints:
        """Draw the accuracy of each configuration from what its problem and its own draws say; a place on the grid."""
        counts = [self.table.get(config, NOTHING).sum for config in configs]
        kinds = {pair: i for i, pair in enumerate(dict.fromkeys((c.correct, c.total) for c in counts))}
        kind = np.array([kinds[c.correct, c.total] for c in counts])
        mass = np.cumsum([self._parts * likelihood(*pair) for pair in kinds], axis=2).reshape(-1, POINTS + 1)
        row = kind[which] * len(self._parts) + self._part[tables]
        chance = self.luck.of([str(config) for config in configs])[which, tables]
        return pick(_flat(mass / mass[:, -1:]), row, POINTS + 1, chance)


class Luck:
    """Numbers between 0 and 1 that depend on problem and name alone, so that rounds are compared on equal luck."""

    def __init__(self, seed_key: str, size: int) -> None:
        self.seed_key, self.size = seed_key, size
        self._made: dict[str, Floats] = {}

    def of(self, names: Sequence[str]) -> Floats:
        """A row of `size` for each name."""
        for name in names:
            if name not in self._made:
                raw = hashlib.shake_256(f"{self.seed_key}|{name}".encode()).digest(4 * self.size)
                self._made[name] = (np.frombuffer(raw, "<u4") + 0.5) / float(1 << 32)
        return np.array([self._made[name] for name in names])


def _flat(cumulative: Floats) -> Floats:
    """Distribution functions one behind the other, each 2 higher than the one before, for one search in all of them."""
    rows: Floats = np.minimum(cumulative, 1.0).reshape(-1, cumulative.shape[-1])
    higher: Floats = rows + 2.0 * np.arange(len(rows))[:, None]
    return higher.ravel()


def pick(flat: Floats, row: Ints, wide: int, chance: Floats) -> Ints:
    """The first place at which the distribution function in a row is above the number drawn."""
    place: Ints = np.searchsorted(flat, 2 * row + chance, side="right") - row * wide
    return np.minimum(place, wide - 1)


@lru_cache(maxsize=4096)
def likelihood(correct: int, total: int) -> Floats:
    """Of the counts, by accuracy."""
    found: Floats = ACCURACY**correct * (1 - ACCURACY) ** (total - correct)
    return found
