r"""Multiple choice: `C`, `(c)`, `\text{(C)}`, `C) Paris`, `**C**` and `Paris` are one answer where Paris is the third option."""

import re
from collections.abc import Sequence

from tracemill.synth.verify.latex import MAX_CHARS, clean

_LETTER = re.compile(
    r"(?:(?:option|choice|answer)\s*(?:is\s*)?:?\s*)?[(\[]?\s*([A-Za-z])\s*(?:[)\].:]\s*(.*)|)",
    re.DOTALL | re.IGNORECASE,
)
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")


def read_choice(text: str, options: Sequence[str] | None = None) -> str | None:
    """The letter that a text chooses, in upper case; None where it chooses none or none of the options."""
    if len(text) > MAX_CHARS:
        return None
    if options:
        wanted = _plain(text)
        same = [number for number, option in enumerate(options) if _plain(option) == wanted]
        if len(same) == 1:
            return chr(ord("A") + same[0])
    found = _LETTER.fullmatch(_TEXT.sub(r" \1 ", clean(text)).strip())
    if found is None:
        return None
    letter = found[1].upper()
    return letter if options is None or ord(letter) - ord("A") < len(options) else None


def _plain(text: str) -> str:
    return " ".join(_TEXT.sub(r" \1 ", clean(text[:MAX_CHARS])).lower().split()).strip(" .")
