"""What samples will cost that nobody has drawn yet, from those that are like them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

Z95 = 1.96


@dataclass(slots=True)
class Lengths:
    """Tokens of recorded samples, as the sums that their mean and spread come from."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, tokens: float, times: int = 1) -> None:
        self.count += times
        self.total += tokens * times
        self.squares += tokens * tokens * times

    @property
    def mean(self) -> float:
        return self.total / self.count

    @property
    def spread(self) -> float:
        """Standard deviation; the mean itself where one sample is all there is."""
        if self.count < 2:
            return self.mean
        return math.sqrt(max(0.0, (self.squares - self.count * self.mean**2) / (self.count - 1)))


@dataclass(slots=True)
class Cost:
    """Tokens of samples to come: what like ones took (`lengths`), and no more than `most` each."""

    samples: int = 0
    most: int = 0
    """The sum of what max_tokens allows them."""
    lengths: Lengths = field(default_factory=Lengths)
    open_ended: int = 0
    """Of the recorded ones, the tokens that those which were cut off could now go on for."""

    def tokens(self, like: Lengths) -> dict[str, int | None]:
        """Low, expected and high, a 95 % interval; `like` stands in where no sample was compared. Expected null: nobody knows."""
        known = self.lengths if self.lengths.count else like
        if not self.samples:
            return {"low": 0, "expected": 0, "high": 0}
        if not known.count:
            return {"low": 0, "expected": None, "high": self.most}
        expected = known.mean * self.samples
        reach = Z95 * known.spread * self.samples * math.sqrt(1 / known.count + 1 / self.samples)
        high = min(expected + reach + self.open_ended, self.most)
        return {
            "low": round(max(0.0, expected - reach)),
            "expected": round(min(expected, self.most)),
            "high": round(max(high, min(expected, self.most))),
        }


def summed(parts: Iterable[dict[str, int | None]]) -> dict[str, int | None]:
    """The tokens of several groups together: bounds add up, which is wide and never too narrow."""
    every = list(parts)
    unknown = any(part["expected"] is None for part in every)
    total: dict[str, Any] = {name: sum(part[name] or 0 for part in every) for name in ("low", "expected", "high")}
    return {**total, "expected": None if unknown else total["expected"]}
