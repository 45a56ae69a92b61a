"""Points on a line in weight space: how far a model is moved along a direction that was learnt.

    Levels(scales=("0.2", "0.8"), adapter="tiny-reasoner-long")      W + scale * B A, a LoRA adapter
    Levels(scales=("0.2", "0.8"), start="base", end="reasoner")      W1 + scale * (W2 - W1), merged weights
    Levels(scales=("0.2", "0.8"), served={"0.2": "m-short"})         names that a server knows

A method that wants them has a module-level function `levels`, which is given its options and returns this; what it names is
found and checked before the first token, and `engine.level(scale)` is what `engine.sample(adapter=...)` then takes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation

DECIMALS = 6
LARGEST = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """What a method asks of one role's weights."""

    scales: tuple[str, ...]
    """In the canonical text of `canonical_scale`, ascending."""
    adapter: str | None = None
    """A PEFT folder, Hub id or embedded name of a LoRA adapter."""
    start: str | None = None
    """The model at scale 0; the role's own unless given."""
    end: str | None = None
    """The model at scale 1."""
    served: Mapping[str, str] = field(default_factory=dict)
    """Names that an OpenAI-compatible server gives the levels."""
    role: str = "solver"


def canonical_scale(value: float | str) -> str:
    """The one decimal text of a scale: 0.2 for 0.20 and 2e-1, 0 for -0.0, 1 for 1.0.

    ValueError for what is no finite number, is larger than 16 in size, or has more than 6 decimals: that is a sum of floats
    such as 0.1 + 0.2, which would otherwise be another level than 0.3.
    """
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        number = Decimal("nan")
    if isinstance(value, bool) or not number.is_finite():
        raise ValueError(f"{value!r} is not a number; write a decimal such as 0.2")
    if abs(number) > LARGEST:
        raise ValueError(f"{value} is beyond {LARGEST}: 0 is where the direction starts and 1 where it ends")
    text = format(number.normalize(), "f") if number else "0"
    if len(text.partition(".")[2]) > DECIMALS:
        raise ValueError(f"{value} has more than {DECIMALS} decimals; write {round(number, 2).normalize():f}")
    return text


def canonical_scales(values: Iterable[float | str], name: str = "alphas") -> tuple[str, ...]:
    """Canonical texts in ascending order; ValueError where two are one, or there is none."""
    texts = []
    for value in values:
        try:
            texts.append(canonical_scale(value))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    if not texts:
        raise ValueError(f"{name} = []: give at least one, such as [0.2, 0.4, 0.6, 0.8]")
    if twice := sorted({text for text in texts if texts.count(text) > 1}):
        raise ValueError(f"{name}: {twice[0]} is there {texts.count(twice[0])} times; give each level once")
    return tuple(sorted(texts, key=Decimal))
