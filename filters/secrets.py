"""Keys and passwords in a trace, found by detect-secrets: how many, of which kinds, and where, but never what they are.

    {"secrets": 1, "secrets_kinds": [{"key": "aws_access_key", "value": 1}],
     "secrets_spans": [{"kind": "aws_access_key", "start": 17, "end": 37}]}

Its detectors look at the form of a text and ask nobody whether a key works: nothing leaves the machine and nothing is fetched.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any

from tracemill.filters.asking import check_name
from tracemill.filters.spans import Span, span_columns, span_row, text_in, without_overlaps
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.plugins import Engine

GUESSES = ("Base64 High Entropy String", "Hex High Entropy String", "Secret Keyword")
"""Detectors that go by how random a quoted string looks, or by a word such as `password` in front of it."""
OTHERS = ("Public IP (ipv4)",)
"""An address is no secret but personal data, which is another score's."""
LONGEST = 10_000
"""Characters of a line that are looked at together; a longer line is looked at in pieces."""
OVERLAP = 1_000
"""By which pieces overlap: longer than any key."""

_CANDIDATE = re.compile(r"(?<![\w+/=-])(?=[\w+/=-]*[0-9A-Z])[\w+/=-]{10,}|://|PRIVATE KEY")
"""Something that a key could be in: most lines of mathematics have none, and the detectors need not read them. Looked for
from the start of a run only, or a line of one letter takes the square of its length."""
_WORD = re.compile(r"[^a-z0-9]+")


def check(*, name: str, column: str | None, **_: Any) -> None:
    """Raise ValueError for options that cannot work."""
    check_name("name", name)
    if column is not None and not column:
        raise ValueError("column = '': name a text column such as 'question', or leave it out for the whole trace")
    if find_spec("detect_secrets") is None:
        raise RecipeError("the score secrets uses detect-secrets; install it with: pip install 'tracemill[pii]'")


def columns(*, name: str) -> dict[str, Any]:
    """Named by the option `name`, so that question and trace can be looked at side by side."""
    return span_columns(name)


async def secrets(
    trace: Mapping[str, Any],
    engine: Engine,  # noqa: ARG001 - every score has it; no model is asked
    *,
    column: str | None = None,
    guesses: bool = False,
    name: str = "secrets",
) -> dict[str, Any]:
    """Add `secrets`, how many keys, tokens and passwords a text holds, `secrets_kinds`, how many of each kind, and `secrets_spans`.

    A span is a kind with `start` and `end` in characters. Looked at is the whole trace as it was written, or the text in `column`, such as
    `question`; null where there is none. What is found has the form of keys of known services, of private keys or of passwords in URLs.
    `guesses` adds quoted strings that look random, and what stands behind words such as `password`: it finds more, and takes much for a secret
    that is none. No model is asked.
    """
    text = text_in(trace, column)
    return span_row(name, None if text is None else without_overlaps(list(_found(text, guesses))))


def _found(text: str, guesses: bool) -> Iterator[Span]:
    for start, piece in _pieces(text):
        if not guesses and not _CANDIDATE.search(piece):
            continue
        for kind, detector in _detectors(guesses):
            for begin, end in _places(detector, piece):
                yield Span(start + begin, start + end, kind)


def _places(detector: Any, piece: str) -> Iterator[tuple[int, int]]:
    """Where a detector finds something.

    One of regular expressions gives a group of the match, which may be no more than the prefix of a key: the whole match is taken. One that
    looks closer says what it found, and that is looked for.
    """
    from detect_secrets.plugins.base import RegexBasedDetector

    if type(detector).analyze_string is RegexBasedDetector.analyze_string:
        for pattern in detector.denylist:
            yield from (found.span() for found in pattern.finditer(piece))
        return
    limit = getattr(detector, "entropy_limit", None)
    for value in filter(None, set(detector.analyze_string(piece))):
        if limit is not None and detector.calculate_shannon_entropy(value) <= limit:
            continue
        yield from (found.span() for found in re.finditer(re.escape(value), piece))


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a text with where they begin, long ones in pieces that overlap."""
    begin = 0
    for line in text.splitlines(keepends=True):
        for offset in range(0, max(1, len(line)), LONGEST - OVERLAP):
            yield begin + offset, line[offset : offset + LONGEST]
        begin += len(line)


@cache
def _detectors(guesses: bool) -> list[tuple[str, Any]]:
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    left_out = OTHERS if guesses else (*OTHERS, *GUESSES)
    found = get_mapping_from_secret_type_to_class().items()
    return [(_WORD.sub("_", kind.lower()).strip("_"), maker()) for kind, maker in found if kind not in left_out]
