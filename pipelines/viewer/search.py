"""What a search asks of a row: conditions on columns, and a text that any column of text may hold.

    correct is false, n_tokens at least 4096, and "carry the one" somewhere

A value that is not there fits no condition but `is empty`. A text is found whatever the case of its letters; a condition takes it as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import suggest

OPERATORS: Mapping[str, str] = {
    "is": "is",
    "not": "is not",
    "contains": "contains",
    "least": "at least",
    "most": "at most",
    "empty": "is empty",
    "given": "is not empty",
}
"""By the name in an address how a page calls it."""
_UNTYPED = ("empty", "given")
_OF: Mapping[str, tuple[str, ...]] = {
    "text": ("is", "not", "contains", *_UNTYPED),
    "number": ("is", "not", "least", "most", *_UNTYPED),
    "truth": ("is", "not", *_UNTYPED),
    "list": _UNTYPED,
}


def kind_of(kind: pa.DataType) -> str:
    """text, number, truth or list: what can be asked of a column."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    if pa.types.is_boolean(kind):
        return "truth"
    return "number" if pa.types.is_integer(kind) or pa.types.is_floating(kind) else "list"


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that must hold of one column."""

    column: str
    operator: str
    value: Any

    @classmethod
    def read(cls, schema: pa.Schema, column: str, operator: str, text: str) -> Self:
        """A condition as it was typed; RecipeError where the column is none, or has no such values."""
        if column not in schema.names:
            raise RecipeError(f"no column {column!r}{suggest(column, schema.names)}")
        kind = kind_of(schema.field(column).type)
        if operator not in _OF[kind]:
            said = ", ".join(OPERATORS[name] for name in _OF[kind])
            raise RecipeError(
                f"{column} holds a {kind}: {OPERATORS.get(operator, operator)!r} cannot be asked of it; what can: {said}"
            )
        return cls(
            column, operator, None if operator in _UNTYPED else _typed(column, kind, schema.field(column).type, text)
        )

    def mask(self, values: Any) -> Any:
        """True where it holds; null where there is nothing to compare."""
        if self.operator in _UNTYPED:
            return pc.is_null(values) if self.operator == "empty" else pc.is_valid(values)
        if self.operator == "contains":
            return pc.match_substring(values, self.value)
        compare: Mapping[str, Callable[..., Any]] = {
            "is": pc.equal,
            "not": pc.not_equal,
            "least": pc.greater_equal,
            "most": pc.less_equal,
        }
        return compare[self.operator](values, self.value)

    def excluded(self, statistics: Any) -> bool:
        """Whether no value within these bounds fits."""
        if statistics is None or not statistics.has_min_max:
            return False
        low, high = statistics.min, statistics.max
        if self.operator == "is":
            return bool(self.value < low or self.value > high)
        return bool((self.operator == "least" and high < self.value) or (self.operator == "most" and low > self.value))


def _typed(column: str, kind: str, exact: pa.DataType, text: str) -> Any:
    if kind == "truth":
        if text.strip().lower() not in ("true", "false"):
            raise RecipeError(f"{column} is true or false, not {text!r}")
        return text.strip().lower() == "true"
    if kind == "number":
        try:
            number = (
                float(text) if pa.types.is_floating(exact) or not text.strip().lstrip("+-").isdigit() else int(text)
            )
        except ValueError:
            raise RecipeError(f"{column} holds numbers, and {text!r} is none") from None
        if isinstance(number, int) and abs(number) >= 1 << 63:
            raise RecipeError(f"{column}: {text!r} is beyond every number that a column can hold")
        return number
    return _sound(text)


def _sound(text: str) -> str:
    """The text where a table could hold it: half of a surrogate pair is in none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RecipeError("the text holds half of a surrogate pair, which no table can hold") from None
    return text


@dataclass(frozen=True, slots=True)
class Search:
    """All conditions hold, and the text stands in a column of text, if one is given."""

    conditions: tuple[Condition, ...] = ()
    text: str = ""

    @classmethod
    def equal(cls, column: str, value: str) -> Self:
        return cls((Condition(column, "is", value),))

    @classmethod
    def read(cls, schema: pa.Schema, conditions: Sequence[tuple[str, str, str]], text: str) -> Self:
        """As typed: conditions as (column, operator, value), those without a column left out."""
        return cls(tuple(Condition.read(schema, *one) for one in conditions if one[0]), _sound(text))

    def __bool__(self) -> bool:
        return bool(self.conditions or self.text)

    @property
    def bounded(self) -> frozenset[str]:
        """Columns whose statistics can rule out a row group."""
        return frozenset(c.column for c in self.conditions if c.operator in ("is", "least", "most"))

    def columns(self, schema: pa.Schema) -> list[str]:
        """The columns that have to be read."""
        return list(dict.fromkeys([*(c.column for c in self.conditions), *(texts_of(schema) if self.text else ())]))

    def mask(self, batch: pa.RecordBatch, schema: pa.Schema) -> Any:
        """True where a row fits."""
        masks: list[Any] = [pc.fill_null(c.mask(batch.column(c.column)), False) for c in self.conditions]
        if self.text:
            masks.append(self._anywhere(batch, schema))
        fits = masks[0]
        for mask in masks[1:]:
            fits = pc.and_(fits, mask)
        return fits

    def excluded(self, column: str, statistics: Any) -> bool:
        return any(c.column == column and c.excluded(statistics) for c in self.conditions)

    def _anywhere(self, batch: pa.RecordBatch, schema: pa.Schema) -> Any:
        fits: Any = pa.array([False] * batch.num_rows)
        for name in texts_of(schema):
            here: Any = pc.match_substring(batch.column(name), self.text, ignore_case=True)
            fits = pc.or_(fits, pc.fill_null(here, False))
        return fits


def texts_of(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if kind_of(field.type) == "text"]
