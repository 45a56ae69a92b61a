"""What scores that ask a model in words share: prompts with places to fill, and numbers read from replies without guessing."""

import re
from collections.abc import Mapping
from typing import Any, Literal

Shown = Literal["trace", "content"]
Fault = Literal["cut_off", "no_number", "not_on_scale"]

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_DECORATION = r"[\s*_`#>$]*"
_LAST_LINE = re.compile(
    rf"{_DECORATION}(?:(?:final )?(?:score|grade|rating|confidence|answer)(?: is)?{_DECORATION}[:=]?{_DECORATION})?"
    rf"(?:\\boxed\{{)?(?P<number>[+-]?\d+(?:[.,]\d+)?)\}}?(?:{_DECORATION}(?:/{_DECORATION}(?P<of>\d+)|%))?{_DECORATION}\.?{_DECORATION}",
    re.IGNORECASE,
)


def shown(trace: Mapping[str, Any], show: Shown) -> str:
    """The whole trace as it was written, thoughts and tags included, or only what follows the thoughts."""
    return (trace["content"] or "") if show == "content" else str(trace["messages"][-1]["content"])


def check_name(option: str, name: str) -> None:
    """Raise ValueError for what cannot begin the name of a column."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{option} = {name!r}: small letters, digits and _, a letter first: columns are named after it"
        )


def number_in(reply: str, lowest: int, highest: int, *, truncated: bool) -> tuple[int | None, Fault | None]:
    """The whole number from `lowest` to `highest` that the last line of a reply consists of, or what is wrong.

    A label in front (`Score: 4`), `/5` or `%` behind and marks of Markdown are allowed; other words are not, for `not 4` and
    `4 or 5` would be read as 4. A reply that was cut off has none: `10` may be the beginning of `100`.
    """
    if truncated:
        return None, "cut_off"
    line = next((line for line in reversed(reply.splitlines()) if line.strip()), "")
    found = _LAST_LINE.fullmatch(line)
    if found is None:
        return None, "no_number"
    out_of = found["of"]
    if not found["number"].isdecimal() or (out_of and int(out_of) != highest):
        return None, "not_on_scale"
    number = int(found["number"])
    return (number, None) if lowest <= number <= highest else (None, "not_on_scale")
