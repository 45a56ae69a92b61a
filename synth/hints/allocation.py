"""The fewest rollouts that settle what a strategy keeps: which configurations to draw from next, and when to stop.

`fixed` draws m samples of every configuration that the strategies look at. `sequential` draws in rounds. After each it completes
the table many times from what it knows (predictive.py), lets the strategies decide on each of them (outcomes.py), and stops once
the decision on the draws so far is that of so many completions as `confidence` asks for. Otherwise the next round goes to
the configurations whose missing draws the decision hangs on. Draw i of a configuration is the same draw in both, so the
decision that is predicted is one that the full protocol would have come to.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tracemill.synth.engine import together
from tracemill.synth.hints.certain import certain
from tracemill.synth.hints.outcomes import AT_MOST, OPEN, Outcomes, bits, outcomes
from tracemill.synth.hints.predictive import Completions, Floats, Ints, Luck
from tracemill.synth.hints.strategies import (
    NOTHING,
    Cell,
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
Watch = Callable[[Mapping[Config, Count], float], None]
Draw = Callable[[Config, int, int], Awaitable[Sequence[str]]]
"""`await draw(config, start, n)`: the verdicts (equal, different, undecided) of the draws start to start + n - 1."""

FIRST = 3
"""Draws of each configuration of the first stage before anything is predicted."""
STEP, GROWTH = 2, 2
"""A round draws 2 of a configuration, or half of what it has where that is more: fewer rounds, for a few draws too many."""
NEARLY = 1 - 1e-9
"""What a prediction is worth at most: all 400 tables of one mind are no proof."""
TABLES = 400
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
    watch: Watch | None = None,
) -> dict[Config, Count]:
    """Draw what `strategies` need to decide on n points, and return the counts.

    `confidence` is the probability that the full protocol keeps the same on the draws that were left out; 1 leaves out only
    what cannot change the decision. `watch(table, agree)` is told of every round. What was drawn depends on verdicts and `seed_key`, never on the order in which they come.
    """
    rules = rules or Rules(m=m)
    check(m=rules.m, confidence=confidence, allocation=allocation)
    book = Book(draw, rules)
    wanted = [name for name in strategies if name not in {"none", "all"}]
    if n and wanted:
        if allocation == "sequential" and n <= AT_MOST:
            await _sequential(n, book, wanted, confidence, seed_key, watch)
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
    while cells := lacking(n, book, strategies):
        await book.more(dict.fromkeys(cells, rules.m))


def lacking(n: int, book: Book, strategies: Sequence[str]) -> list[Cell]:
    """The cells that the full protocol draws next and that are not done."""
    missing = configs_needed(n, strategies, book.table(), rules=book.rules)
    first, runs = set(first_stage(n)), book.rules.runs if "cbrs" in strategies else 1
    cells = [(config, run) for config in missing for run in range(runs if config in first else 1)]
    return [cell for cell in cells if book.at(cell).total < book.rules.m]


@dataclass(frozen=True, slots=True)
class Forecast:
    """How sure the decisions on the draws so far are, and which cells they hang on."""

    agree: float
    """The smallest share, over the strategies, of completed tables that decide as the table at hand does."""
    weight: Mapping[Cell, float]
    """By cell that is not done: the share of the disagreement that its count explains."""


def forecast(n: int, table: Table, strategies: Sequence[str], rules: Rules, luck: Luck) -> Forecast:
    """Complete the table many times and see what the strategies decide."""
    tables = Completions(n, table, rules, luck)
    agree, weight = 1.0, dict[Cell, float]()
    for name in dict.fromkeys("css" if name == "random" else name for name in strategies):
        found = outcomes(name, tables)
        agree = min(agree, float(np.mean(found.kept == bits(choose(name, n, table, rules=rules).kept))))
        values, number = np.unique(found.kept, return_counts=True)
        other = (found.kept != values[np.argmax(number)]) | (found.kept == OPEN)
        for cell, gain in _telling(found, other - other.mean(), tables).items():
            weight[cell] = max(weight.get(cell, 0.0), gain)
    return Forecast(agree, weight)


def _telling(found: Outcomes, other: Floats, tables: Completions) -> dict[Cell, float]:
    """How much of the disagreement the next draws of each cell explain: covariance squared over variance.

    Given the right ones among all that a cell lacks, those among the next k are hypergeometric. A cell counts in the tables
    that look at it.
    """
    had = np.array([tables.had(cell).total for cell in found.cells])
    lacks = np.maximum(0, tables.rules.m - had)
    k = np.minimum(np.maximum(STEP, had // GROWTH), lacks)
    cells = len(found.cells)

    def by_cell(values: Floats | Ints) -> Floats:
        return np.bincount(found.which, weights=values, minlength=cells).astype(np.float64)

    rows = np.maximum(1, by_cell(np.ones(len(found.which))))
    centred = found.missing - (by_cell(found.missing) / rows)[found.which]
    share = found.missing / np.maximum(1, lacks)[found.which]
    part = k / np.maximum(1, lacks)
    within = part * (lacks - k) / np.maximum(1, lacks - 1) * lacks * by_cell(share * (1 - share))
    between = part**2 * by_cell(centred**2)
    covariance = part * by_cell(centred * other[found.tables])
    gain = np.divide(covariance**2, within + between, out=np.zeros(cells), where=within + between > 0)
    return {cell: float(gain[i]) for i, cell in enumerate(found.cells) if lacks[i]}


async def _sequential(
    n: int, book: Book, strategies: Sequence[str], confidence: float, seed_key: str, watch: Watch | None
) -> None:
    luck = Luck(seed_key, TABLES)
    await book.more({(config, 0): FIRST for config in first_stage(n)})
    while True:
        table = book.table()
        if certain(n, table, strategies, book.rules):
            seen = Forecast(1.0, {})
        else:
            seen = forecast(n, table, strategies, book.rules, luck)
            seen = replace(seen, agree=min(seen.agree, NEARLY))
        if watch:
            watch(table, seen.agree)
        if seen.agree >= confidence:
            return
        await book.more(_next(n, book, strategies, seen))


def _next(n: int, book: Book, strategies: Sequence[str], seen: Forecast) -> dict[Cell, int]:
    """The next round: what explains most; where nothing does, whatever the full protocol would draw."""
    most = max(seen.weight.values(), default=0.0)
    cells = [cell for cell, weight in seen.weight.items() if most and weight >= WORTHY * most]
    return {cell: max(STEP, book.at(cell).total // GROWTH) for cell in cells or lacking(n, book, strategies)}


__all__ = ["Allocation", "Book", "Choice", "Draw", "Forecast", "complete", "forecast", "measure"]
