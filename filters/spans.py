"""What scores that mark places in a text share: which text, and columns that say where something is and of which kind.

Nothing of what was found is repeated: whoever needs it has the text and the span.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from tracemill.schemas.errors import RecipeError

_COUNTS = pa.list_(pa.struct([("key", pa.string()), ("value", pa.int64())]))
_SPANS = pa.list_(pa.struct([("kind", pa.string()), ("start", pa.int64()), ("end", pa.int64())]))


class Span(NamedTuple):
    """A place in a text, in characters: `text[start:end]`."""

    start: int
    end: int
    kind: str


def span_columns(name: str) -> dict[str, Any]:
    """How many, how many of each kind, and where."""
    return {name: int, f"{name}_kinds": _COUNTS, f"{name}_spans": _SPANS}


def span_row(name: str, found: Sequence[Span] | None) -> dict[str, Any]:
    """The columns for what was found, in the order of the text; nulls where there was no text to look at."""
    if found is None:
        return {name: None, f"{name}_kinds": None, f"{name}_spans": None}
    counts = sorted(Counter(span.kind for span in found).items())
    return {
        name: len(found),
        f"{name}_kinds": [{"key": kind, "value": count} for kind, count in counts],
        f"{name}_spans": [{"kind": span.kind, "start": span.start, "end": span.end} for span in found],
    }


def without_overlaps(found: Sequence[Span]) -> list[Span]:
    """The spans in the order of the text; of two that overlap the one that begins first, then the longer."""
    kept: list[Span] = []
    for span in sorted(set(found), key=lambda span: (span.start, -span.end, span.kind)):
        if not kept or span.start >= kept[-1].end:
            kept.append(span)
    return kept


def text_in(trace: Mapping[str, Any], column: str | None) -> str | None:
    """The text of a column, or the trace as it was written; RecipeError where the column holds something else."""
    if column is None:
        return str(trace["messages"][-1]["content"])
    if column not in trace:
        raise RecipeError(f"a trace has no column {column!r}; it has: {', '.join(sorted(trace))}")
    text = trace[column]
    if text is not None and not isinstance(text, str):
        raise RecipeError(f"column {column!r} holds {type(text).__name__}, not text; name one such as 'question'")
    return text
