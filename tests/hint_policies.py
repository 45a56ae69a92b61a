"""A simulated policy whose accuracy under every subset of a problem's knowledge points is known.

A world is a function from subsets to accuracies, with interactions: on the log-odds, points add (`additive`), stand in for one another
(`redundant`), or help alone and hurt together (`conflicting`). `flat` knows no difference at all: the least favourable world for whoever
wants to stop early, since there the full protocol itself decides by luck.
"""

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations

from tracemill.synth.hints.strategies import Config, order

FAMILIES = ("additive", "redundant", "conflicting")
STRESS = ("flat",)


@dataclass(frozen=True)
class World:
    """Log-odds of a right answer: base, a gain a point, a gain a group of which one is shown, a loss a pair shown together."""

    n: int
    base: float
    points: tuple[float, ...]
    groups: tuple[tuple[Config, float], ...] = ()
    pairs: tuple[tuple[Config, float], ...] = ()
    ceiling: float = 1.0
    """The accuracy that no hint lifts above: the policy slips."""
    name: str = ""
    known: dict[Config, float] = field(default_factory=dict, compare=False, repr=False)

    def accuracy(self, shown: Config) -> float:
        if shown not in self.known:
            s = set(shown)
            odds = self.base + sum(self.points[i] for i in shown)
            odds += sum(gain for group, gain in self.groups if s & set(group))
            odds -= sum(loss for pair, loss in self.pairs if set(pair) <= s)
            self.known[shown] = self.ceiling / (1 + math.exp(-odds))
        return self.known[shown]

    def subsets(self) -> list[Config]:
        return sorted(chain.from_iterable(combinations(range(self.n), k) for k in range(self.n + 1)), key=order)

    def draws(self, shown: Config, start: int, n: int, salt: str = "") -> list[str]:
        """The verdicts of draws by number: the same whoever asks, and when."""
        chance = self.accuracy(shown)
        return [
            "equal" if luck(f"{self.name}|{salt}|{shown}|{i}") < chance else "different"
            for i in range(start, start + n)
        ]


def luck(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / (1 << 48)


def world(family: str, n: int, number: int) -> World:
    """World `number` of a family, with n points."""
    name = f"{family}-{n}-{number}"
    rng = random.Random(name)
    ceiling = rng.choice((1.0, rng.uniform(0.6, 1), rng.uniform(0.6, 1)))
    cost = rng.choice((0.0, 0.0, -0.2))
    if family == "flat":
        return World(n, rng.uniform(-2, 2), (0.0,) * n, ceiling=ceiling, name=name)
    if family == "additive":
        base = rng.uniform(-6, 1.5)
        points = tuple(rng.choices((0.0, rng.uniform(1, 5), -rng.uniform(0.5, 3)), (2, 5, 2))[0] for _ in range(n))
        return World(n, base, points, ceiling=ceiling, name=name)
    if family == "redundant":
        base = rng.uniform(-6, 1)
        order_of = rng.sample(range(n), n)
        groups, rest = [], order_of
        while rest and len(groups) < 3:
            size = rng.choice((1, 1, 2, 3))
            groups.append((tuple(sorted(rest[:size])), rng.uniform(2, 6)))
            rest = rest[size:]
        return World(n, base, (cost,) * n, groups=tuple(groups), ceiling=ceiling, name=name)
    base = rng.uniform(-5, 1)
    points = tuple(rng.choices((0.0, rng.uniform(1, 4)), (1, 2))[0] for _ in range(n))
    pairs = [tuple(sorted(rng.sample(range(n), 2))) for _ in range(rng.randint(1, max(1, n // 2)))]
    return World(
        n,
        base,
        points,
        pairs=tuple((pair, rng.uniform(2, 7)) for pair in dict.fromkeys(pairs)),
        ceiling=ceiling,
        name=name,
    )


def worlds(
    number: int, families: Sequence[str] = FAMILIES, sizes: Sequence[int] = range(3, 10), start: int = 0
) -> list[World]:
    """`number` worlds from number `start` on, families and sizes in turn."""
    return [
        world(families[i % len(families)], sizes[i // len(families) % len(sizes)], i)
        for i in range(start, start + number)
    ]
