r"""What counts as the final answer of a text, and the gold of a source's answer column.

boxed        the last balanced \boxed{...} or \fbox{...} after the last closing think tag
gsm8k        what follows the last `####`, or the last line that begins with `A:`
last_number  the last number
tag          the last <answer>...</answer>
"""

import re
from collections.abc import Sequence
from typing import Literal

from tracemill.synth.reply import never_closed
from tracemill.synth.verify.choice import read_choice
from tracemill.synth.verify.latex import balanced

EXTRACTS = ("boxed", "gsm8k", "last_number", "tag")
MAX_ANSWER_CHARS = 50_000
"""An answer longer than this comes back cut off behind it: nobody will look at it, only say that it is too long."""
DEFAULT_THINK = ("<think>", "</think>")

_BOX = re.compile(r"\\(?:boxed|fbox)\s*(\{|[0-9A-Za-z](?![0-9A-Za-z]))")
_MARKER = re.compile(r"####[ \t]*([^\n]*)|^[ \t]*A:[ \t]*([^\n]*)", re.MULTILINE)
_NUMBER = re.compile(
    r"(?<![\w.])(?:(?<![)\]}])[-\u2212])?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][+-]?\d+)?(?:/\d+)?\s?\\?%?|"
    r"(?<![\w.])-?\.\d+"
)
_TAG_OPEN, _TAG_CLOSE = "<answer>", "</answer>"


def extract_answer(text: str, mode: str, think: tuple[str, str] | None = None) -> str | None:
    """The final answer as it was written, or None where there is none. Thoughts hold none, even if they never end."""
    if never_closed(text, think or DEFAULT_THINK):
        return None
    spoken = text.rpartition((think or DEFAULT_THINK)[1])[2]
    found = {"boxed": _boxed, "gsm8k": _marked, "last_number": _last_number, "tag": _tagged}[mode](spoken)
    return found[: MAX_ANSWER_CHARS + 1].strip() or None if found is not None else None


def read_gold(
    text: str, answer_format: Literal["plain", "gsm8k", "boxed", "choice"], options: Sequence[str] | None = None
) -> str | None:
    """The gold as an answer, from how a source writes it; None where it holds none. `choice` gives the letter."""
    found: str | None = text
    if answer_format == "gsm8k":
        found = _marked(text)
    elif answer_format == "boxed":
        found = _boxed(text)
    elif answer_format == "choice":
        found = read_choice(text, options)
    return found.strip() or None if found is not None else None


def _boxed(text: str) -> str | None:
    starts = list(_BOX.finditer(text))
    for found in reversed(starts[-10:]):  # more unclosed boxes in a row than that are noise, and each costs a scan
        if found[1] != "{":
            return found[1]
        cut = found.end() + MAX_ANSWER_CHARS + 1
        end = balanced(text, found.start(1), min(cut, len(text)))
        if end is not None:
            return text[found.end() : end - 1]
        if cut < len(text):
            return text[found.end() : cut]  # too long to be looked at, and said to be so by its length
    return None


def _marked(text: str) -> str | None:
    found = None
    for match in _MARKER.finditer(text):
        found = match[1] if match[1] is not None else match[2]
    return found


def _last_number(text: str) -> str | None:
    tail = text[-20_000:]
    last = None
    for match in _NUMBER.finditer(tail):
        last = match[0]
    return last


def _tagged(text: str) -> str | None:
    end = text.rfind(_TAG_CLOSE)
    start = text.rfind(_TAG_OPEN, 0, end) if end >= 0 else -1
    return text[start + len(_TAG_OPEN) : end] if start >= 0 else None
