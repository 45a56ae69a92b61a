"""What the sequential allocation saves, and how often it decides as the full protocol does: policies whose accuracies are known.

    python tests/bench/hints_simulated.py [--problems 500] [--strategy css] [--families additive,redundant,conflicting]

Each problem is decided by the full protocol on eight fresh sets of draws; it is stable where all eight agree. Then both
allocations decide on one set of draws (`same draws`), and the sequential decision is held against the first of the eight, too
(`fresh draws`), which no rule can match more often than the protocol matches itself.
"""

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.bench.common import table
from tests.hint_policies import FAMILIES, World, worlds
from tracemill.synth.hints.allocation import measure
from tracemill.synth.hints.strategies import Config, choose

LEVELS = (0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99, 1.0)
REPEATS = 8
START = 10_000
"""The rule was made on worlds with smaller numbers."""


@dataclass(frozen=True)
class Result:
    """One problem: what the full protocol keeps on each set of draws, and the sequential one by level of confidence."""

    family: str
    n: int
    fresh: list[Config]
    full: Config
    cost: int
    kept: list[Config]
    spent: list[int]
    accuracy: list[float]
    full_accuracy: float

    @property
    def stable(self) -> bool:
        return len(set(self.fresh)) == 1


async def full(world: World, strategy: str, salt: str) -> tuple[Config, int]:
    """The full protocol's choice, and its rollouts."""
    found = await measure(world.n, drawing(world, salt), strategies=(strategy,), allocation="fixed")
    return choose(strategy, world.n, found, seed_key=world.name).kept, sum(c.sum.total for c in found.values())


def drawing(world: World, salt: str):  # type: ignore[no-untyped-def]
    async def draw(config: Config, start: int, n: int) -> list[str]:
        return world.draws(config, start, n, salt)

    return draw


def simulate(world: World, strategy: str) -> Result:
    """Both allocations on one problem; every level is read off one pass, for what is drawn does not depend on it."""
    fresh = [asyncio.run(full(world, strategy, f"fresh-{i}"))[0] for i in range(REPEATS)]
    same, cost = asyncio.run(full(world, strategy, "same"))
    trail: list[tuple[float, Config, int]] = []

    def watch(found, agree) -> None:  # type: ignore[no-untyped-def]
        kept = choose(strategy, world.n, found, seed_key=world.name).kept
        trail.append((agree, kept, sum(c.sum.total for c in found.values())))

    drawn = measure(
        world.n, drawing(world, "same"), strategies=(strategy,), confidence=1.0, seed_key=world.name, watch=watch
    )
    asyncio.run(drawn)
    stops = [next(stop for stop in trail if stop[0] >= level) for level in LEVELS]
    kept = [stop[1] for stop in stops]
    return Result(
        world.name.split("-")[0],
        *(world.n, fresh, same, cost, kept, [stop[2] for stop in stops]),
        accuracy=[world.accuracy(config) for config in kept],
        full_accuracy=world.accuracy(same),
    )


def line(title: object, results: Sequence[Result], at: int) -> list[object]:
    """Agreement, rollouts and the loss of accuracy at one level."""
    number = max(1, len(results))
    same = sum(r.kept[at] == r.full for r in results) / number
    fresh = sum(r.kept[at] == r.fresh[0] for r in results) / number
    spent = sum(r.spent[at] for r in results) / max(1, sum(r.cost for r in results))
    per_problem = sum(r.spent[at] / r.cost for r in results) / number
    loss = sum(r.full_accuracy - r.accuracy[at] for r in results) / number
    return [
        title,
        len(results),
        f"{100 * same:.1f}",
        f"{100 * fresh:.1f}",
        f"{100 * repeats(results):.1f}",
        f"{100 * spent:.0f}",
        f"{100 * per_problem:.0f}",
        f"{100 * loss:+.2f}",
    ]


def repeats(results: Sequence[Result]) -> float:
    """How often two sets of draws lead the full protocol to the same."""
    pairs = [a == b for r in results for a, b in combinations(r.fresh, 2)]
    return sum(pairs) / max(1, len(pairs))


HEAD = (
    *("problems", "same draws %", "fresh draws %", "full protocol with itself %"),
    *("rollouts %", "mean by problem %", "accuracy lost, points"),
)


def levels(results: Sequence[Result]) -> Iterable[list[object]]:
    for at, level in enumerate(LEVELS):
        yield line(f"{level:g}", results, at)


def groups(results: Sequence[Result], of: Callable[[Result], object]) -> Iterable[list[object]]:
    for level in (0.8, 0.95):
        for name in sorted({of(r) for r in results}, key=str):
            yield line(f"{name} at {level}", [r for r in results if of(r) == name], LEVELS.index(level))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--strategy", default="css")
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    todo = worlds(options.problems, options.families.split(","), start=START)
    with ProcessPoolExecutor(options.workers) as pool:
        results = list(pool.map(partial(simulate, strategy=options.strategy), todo, chunksize=5))
    stable, rest = [r for r in results if r.stable], [r for r in results if not r.stable]
    table(("stable problems, confidence", *HEAD), levels(stable))
    table(("all problems, confidence", *HEAD), levels(results))
    table(("other problems, confidence", *HEAD), levels(rest))
    table(("stable problems, family", *HEAD), groups(stable, lambda r: r.family))
    table(("stable problems, points", *HEAD), groups(stable, lambda r: r.n))
    table(("all problems, family", *HEAD), groups(results, lambda r: r.family))


if __name__ == "__main__":
    main()
