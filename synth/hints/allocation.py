"""The fewest rollouts that settle what a strategy keeps: which configurations to draw from next, and when to stop.

`fixed` draws m samples of every configuration that the strategies look at. `sequential` draws in rounds. After each it completes
the table many times from what it knows (predictive.py), lets the strategies decide on each of them (outcomes.py), and stops once
the decision on the draws so far is that of so many completions as `confidence` asks for. Otherwise the next round goes to
the configurations whose missing draws the decision hangs on. Draw i of a configuration is the same draw in both, so the
decision that is predicted is one that the full protocol would have come to.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tracemill.synth.engine import together
from tracemill.synth.hints.outcomes import AT_MOST, OPEN, bits, outcomes
from tracemill.synth.hints.predictive import Completions
from tracemill.synth.hints.strategies import (
    NOTHING,
    Choice,
    Config,
    Count,
    Rules,
    Table,
    choose,
    configs_needed,
    first_stage,
)

Allocation = Literal["sequential", "fixed"]
Draw = Callable[[Config, int, int], Awaitable[Sequence[str]]]
"""`await draw(config, start, n)`: the verdicts (equal, different, undecided) of the draws start to start + n - 1."""
Cell = tuple[Config, int]
"""A configuration and a run of it; run r are the draws r m to (r + 1) m - 1."""

FIRST = 2
"""Draws of each configuration of the first stage before anything is predicted."""
STEP = 2
"""Draws of a configuration in a round."""
TABLES = 1000
"""Completed tables that a prediction is made from."""
WORTHY = 0.4
"""Drawn from next is what explains at least this share of what the most telling configuration explains."""


async def measure(
    n: int,
    draw: Draw,
    *,
    strategies: Sequence[str] = ("css",),
    m: int = 32,
    allocation: Allocation = "sequential",
    confidence: float = 0.95,
    seed_key: str = "",
    rules: Rules | None = None,
) -> dict[Config, Count]:
    """Draw what `strategies` need to decide on n points, and return the counts.

    `confidence` is the probability that the full protocol keeps the same on the draws that were left out; 1 leaves out only
    what cannot change the decision. What was drawn depends on verdicts and `seed_key`, never on the order in which they come.
    """
    rules = rules or Rules(m=m)
    check(m=rules.m, confidence=confidence, allocation=allocation)
    book = Book(draw, rules)
    wanted = [name for name in strategies if name not in {"none", "all"}]
    if n and wanted:
        if allocation == "sequential" and n <= AT_MOST:
            await _sequential(n, book, wanted, confidence, seed_key)
        else:
            await complete(n, book, wanted)
    return book.table()


def check(*, m: int, confidence: float, allocation: str) -> None:
    """Raise ValueError for options that cannot work."""
    if m < 1:
        raise ValueError(f"m = {m}: samples of a configuration, at least 1; the paper has 32")
    if not 0.5 < confidence <= 1:
        raise ValueError(f"confidence = {confidence}: more than 0.5 and at most 1, such as 0.95")
    if allocation not in {"sequential", "fixed"}:
        raise ValueError(f"allocation = {allocation!r}: sequential or fixed")


class Book:
    """The draws so far, and how to get more."""

    def __init__(self, draw: Draw, rules: Rules) -> None:
        self.rules = rules
        self._draw = draw
        self._cells: dict[Cell, Count] = {}

    def at(self, cell: Cell) -> Count:
        return self._cells.get(cell, NOTHING)

    async def more(self, wanted: Mapping[Cell, int]) -> None:
        """So many draws of each cell, at most what is left of its m; all at once."""
        todo = {cell: min(k, self.rules.m - self.at(cell).total) for cell, k in wanted.items()}
        todo = {cell: k for cell, k in todo.items() if k > 0}
        found = await together(self._verdicts(cell, k) for cell, k in todo.items())
        for cell, verdicts in zip(todo, found, strict=True):
            had = self.at(cell)
            self._cells[cell] = Count(
                had.correct + sum(v == "equal" for v in verdicts),
                had.total + len(verdicts),
                had.undecided + sum(v == "undecided" for v in verdicts),
            )

    async def _verdicts(self, cell: Cell, k: int) -> Sequence[str]:
        config, run = cell
        return await self._draw(config, run * self.rules.m + self.at(cell).total, k)

    def table(self) -> dict[Config, Count]:
        """Counts by configuration; further runs stand beside the first."""
        made: dict[Config, Count] = {}
        for config in dict.fromkeys(config for config, _ in self._cells):
            runs = max(run for other, run in self._cells if other == config)
            first = self.at((config, 0))
            more = tuple(self.at((config, run)) for run in range(1, runs + 1))
            made[config] = Count(first.correct, first.total, first.undecided, more)
        return made


async def complete(n: int, book: Book, strategies: Sequence[str]) -> None:
    """Draw all that the full protocol needs, stage by stage."""
    rules = book.rules
    while missing := configs_needed(n, strategies, book.table(), rules=rules):
        first = set(first_stage(n))
        runs = rules.runs if "cbrs" in strategies else 1
        await book.more({(c, run): rules.m for c in missing for run in range(runs if c in first else 1)})


@dataclass(frozen=True, slots=True)
class Forecast:
    """How sure the decisions on the draws so far are, and which cells they hang on."""

    agree: float
    """The smallest share, over the strategies, of completed tables that decide as the table at hand does."""
    weight: Mapping[Cell, float]
    """By cell that is not done: the share of the disagreement that its count explains."""


def forecast(n: int, table: Table, strategies: Sequence[str], rules: Rules, seed_key: str, size: int) -> Forecast:
    """Complete the table `size` times and see what the strategies decide."""
    tables = Completions(n, table, rules, seed_key, size)
    agree, weight = 1.0, dict.fromkeys([], 0.0)
    for name in dict.fromkeys("css" if name == "random" else name for name in strategies):
        decided, rows = outcomes(name, tables)
        kept = bits(choose(name, n, table, rules=rules).kept)
        agree = min(agree, float(np.mean(decided == kept)))
        values, number = np.unique(decided, return_counts=True)
        other = (decided != values[np.argmax(number)]) | (decided == OPEN)
        other = other - other.mean()
        for cell in tables.open_cells():
            gain = _explained(tables.column(*cell), other, rows.get(cell[0]))
            weight[cell] = max(weight.get(cell, 0.0), gain)
    return Forecast(agree, weight)


def _explained(column: np.ndarray, other: np.ndarray, rows: np.ndarray | None) -> float:  # type: ignore[type-arg]
    """The squared covariance with the disagreement over the variance; a column counts only where it is a candidate."""
    centred = column - column.mean() if rows is None else np.zeros(len(column))
    if rows is not None:
        centred[rows] = column[rows] - column[rows].mean()
    variance = float(np.mean(centred**2))
    return float(np.mean(centred * other)) ** 2 / variance if variance else 0.0


async def _sequential(n: int, book: Book, strategies: Sequence[str], confidence: float, seed_key: str) -> None:
    rules = book.rules
    await book.more({(config, 0): FIRST for config in first_stage(n)})
    while True:
        table = book.table()
        if not configs_needed(n, strategies, table, rules=rules):
            return
        seen = forecast(n, table, strategies, rules, seed_key, TABLES)
        if seen.agree >= confidence:
            return
        await book.more(_next(n, table, strategies, rules, seen))


def _next(n: int, table: Table, strategies: Sequence[str], rules: Rules, seen: Forecast) -> dict[Cell, int]:
    """The next round: what explains most; where nothing does, whatever the full protocol would draw."""
    most = max(seen.weight.values(), default=0.0)
    if most > 0:
        return {cell: STEP for cell, weight in seen.weight.items() if weight >= WORTHY * most}
    runs = rules.runs if "cbrs" in strategies else 1
    missing = configs_needed(n, strategies, table, rules=rules)
    return {(config, run): STEP for config in missing for run in range(runs if config in set(first_stage(n)) else 1)}


__all__ = ["Allocation", "Book", "Choice", "Draw", "Forecast", "complete", "forecast", "measure"]
