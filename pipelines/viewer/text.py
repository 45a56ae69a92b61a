r"""Text of models and strangers in a page: as text, with what cannot be seen made visible.

    visible("a\u202eb<script>")  ──▶  a<span class="unseen" title="U+202E RIGHT-TO-LEFT OVERRIDE">\u202e</span>b&lt;script&gt;

Line breaks and tabs stay what they are. All else that Python calls not printable is shown as its escape: control characters, those
that turn the direction of writing, those without width, halves of surrogate pairs, unassigned ones.
"""

import json
import re
import unicodedata
from typing import Any

from markupsafe import Markup, escape

CELL = 160
"""Characters of a text in a table."""
WHOLE = 100_000
"""Characters of a text on the page of its row; the rest is a link away."""

_RUN = re.compile(r"([^\x20-\x7e\n\t])\1*")


def visible(text: object) -> Markup:
    """HTML of the text, safe in an element."""
    return Markup(_RUN.sub(_shown, str(escape(str(text)))))  # noqa: S704 - escaped here, and what is added is ours


def _shown(run: re.Match[str]) -> str:
    character, count = run[1], len(run[0])
    if character.isprintable():
        return run[0]
    code = character.encode("unicode_escape").decode()
    name = unicodedata.name(character, "control character" if ord(character) < 160 else "not assigned")
    times = f" &times;{count:,}" if count > 1 else ""
    return f'<span class="unseen" title="U+{ord(character):04X} {name}">{code}{times}</span>'


def short(value: Any, most: int = CELL) -> str:
    """The first `most` characters of a value, in one line."""
    return " ".join(value[:most].split()) if isinstance(value, str) else as_json(value)[:most]


def as_json(value: Any, *, indent: int | None = None) -> str:
    """A value as people read data: JSON, with letters as they are."""
    return json.dumps(value, ensure_ascii=False, indent=indent, default=str)
