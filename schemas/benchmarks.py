"""The benchmarks that a dataset must not hold: their items as texts, read by the pipeline and handed to steps that look for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.overlap import Index, Rules
from tracemill.schemas.recipe import suggest

PART_QUESTION, PART_SOLUTION = "question", "solution"


@dataclass(frozen=True, slots=True)
class Item:
    """A text of a benchmark that is looked for: an item's question, or its worked solution."""

    benchmark: str
    id: str
    part: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """One benchmark, read to its end."""

    name: str
    items: Sequence[Item]
    rows: int
    sha256: str
    """Of its content."""
    revision: str | None
    """What the recipe calls it, or the commit of a Hub dataset."""


@dataclass(frozen=True)
class Benchmarks:
    """The benchmarks of a recipe; what a step has made of them to search with is kept for the next one."""

    all: Mapping[str, Benchmark]
    _indexes: dict[tuple[tuple[str, ...], Rules], Index] = field(default_factory=dict, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Elsewhere what was made of them is made again: it is larger than they are."""
        return Benchmarks, (self.all,)

    def named(self, against: Sequence[str]) -> list[Benchmark]:
        """The benchmarks of these names, all where none is named; RecipeError for one that the recipe does not have."""
        for name in against:
            if name not in self.all:
                raise RecipeError(f"against: the recipe has no [benchmarks.{name}]{suggest(name, self.all)}")
        return [benchmark for name, benchmark in self.all.items() if name in against or not against]

    def items(self, against: Sequence[str]) -> list[Item]:
        """The texts of these benchmarks in the order of the recipe and of their rows."""
        return [item for benchmark in self.named(against) for item in benchmark.items]

    def index(self, against: Sequence[str], rules: Rules) -> Index:
        """What finds shared words with these benchmarks, made once."""
        key = tuple(benchmark.name for benchmark in self.named(against)), rules
        if key not in self._indexes:
            items = self.items(against)
            self._indexes[key] = Index([item.text for item in items], [item.benchmark for item in items], rules)
        return self._indexes[key]


def given(name: str, benchmarks: Benchmarks | None) -> Benchmarks:
    """The benchmarks, or a RecipeError that says how to name one."""
    if benchmarks is None or not benchmarks.all:
        raise RecipeError(
            f"{name} holds texts against benchmarks and the recipe names none; add [benchmarks.NAME] with path = './test.jsonl' "
            "and question = 'question'"
        )
    return benchmarks
