"""A row as a source file gives it, before any column has a meaning, and the one policy that every format is held to.

{"question": "6 * 7?", "answer": 42, "a": {"solution": "..."}}   a Row: plain Python values
{"question": "6 * 7?", "question": "8 * 9?"}                     a BadRow: duplicate_key, with the line it stands in
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

EXCERPT = 4096
"""Characters of a row that cannot be parsed that its rejection shows."""
KEPT = 1 << 20
"""Characters up to which the rejection of a parsed row holds it whole."""
_SHOWN = 200
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a source file may cost. Real data stays far below; bombs and broken exports do not."""

    row_bytes: int = 16 << 20
    depth: int = 100
    ratio: int = 200
    """Decoded bytes for each stored byte, looked at from `ratio_from` decoded bytes on."""
    ratio_from: int = 16 << 20
    total_bytes: int = 1 << 40
    """Decoded bytes of one file."""


LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Row:
    """`number` counts from 1: lines of a JSONL file, rows of a table."""

    number: int
    columns: Mapping[str, Any]
    file: str = ""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that no reader may let through; `row` is JSON text of what can be shown of it."""

    number: int
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    row: str = "null"
    file: str = ""


class Unusable(Exception):
    """A row that cannot become a problem: a short fixed reason, and what a person needs to agree."""

    def __init__(self, reason: str, **evidence: Any) -> None:
        super().__init__(reason)
        self.reason, self.evidence = reason, evidence


def wrong_type(column: str, value: Any, wanted: str) -> Unusable:
    """A value of a type that its column may not have."""
    return Unusable("wrong_type", column=column, found=type(value).__name__, wanted=wanted, value=repr(value)[:_SHOWN])


def fault_in(columns: Mapping[str, Any], limits: Limits) -> tuple[str, dict[str, Any]] | None:
    """The first thing in a row that could not be stored, shown or sent to a model: reason and evidence."""
    stack: list[tuple[Any, int, str]] = [(columns, 0, "")]
    while stack:
        value, depth, column = stack.pop()
        if depth > limits.depth:
            return "too_deep", {"column": column, "at_most": limits.depth}
        if isinstance(value, str):
            if found := _bad_text(value):
                return found, {"column": column}
        elif isinstance(value, Mapping):
            for name, inner in value.items():
                if found := _bad_text(name):
                    return found, {"column": column or ascii(name)}
                stack.append((inner, depth + 1, column or name))
        elif isinstance(value, list | tuple):
            stack.extend((inner, depth + 1, column) for inner in value)
    return None


def _bad_text(text: str) -> str | None:
    if "\0" in text:
        return "nul"
    return "lone_surrogate" if not text.isascii() and _SURROGATE.search(text) else None


def pick(columns: Mapping[str, Any], column: str, missing: Any = None) -> Any:
    """The value of a column, which may be nested: `a.solution`; `missing` where the row has no such column."""
    if column in columns:
        return columns[column]
    value: Any = columns
    for part in column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return missing
        value = value[part]
    return value


def scalars(columns: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All columns that hold one value, nested ones under dotted names."""
    for name, value in columns.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{name}.")
        elif not isinstance(value, list | tuple | bytes):
            yield f"{prefix}{name}", value


def text_of(value: Any) -> str | None:
    """The one text of a scalar: 18, 18.0 and 1.8e1 are all `18`; None for what is no scalar, or no number."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float() if math.isfinite(value):
            return _decimal_text(Decimal(repr(value)))
        case Decimal() if value.is_finite():
            return _decimal_text(value)
        case _:
            return None


def _decimal_text(number: Decimal) -> str:
    text = f"{number:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def json_text(columns: Mapping[str, Any]) -> str:
    """A row as it was, as JSON; one that is too long becomes a JSON text of its beginning."""
    text = json.dumps(columns, default=str, skipkeys=True)
    return text if len(text) <= KEPT else json.dumps(text[:EXCERPT])
