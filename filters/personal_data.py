"""Personal data in a trace that can be told by its form: how much, of which kinds, and where, but never what it is.

    {"personal_data": 2, "personal_data_kinds": [{"key": "email", "value": 1}, {"key": "phone", "value": 1}],
     "personal_data_spans": [{"kind": "email", "start": 8, "end": 21}, ...]}

Phone numbers are those of the numbering plans in phonenumbers; bank and card numbers have the right check digits (ISO 13616, ISO/IEC 7812).
Names and addresses of people have no form and are not found: that takes a model.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from ipaddress import ip_address
from typing import Any, Literal

from tracemill.filters.asking import check_name
from tracemill.filters.spans import Span, span_columns, span_row, text_in, without_overlaps
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.plugins import Engine

Kind = Literal["email", "phone", "card", "iban", "ip_address"]
KINDS: tuple[Kind, ...] = ("email", "phone", "card", "iban", "ip_address")

_EMAIL = re.compile(r"(?<![\w.+%-])[\w.%+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w@-])")
_NOBODYS = re.compile(r"@(?:.*\.)?(?:example(?:\.(?:com|net|org))?|test|invalid|localhost)$", re.IGNORECASE)
"""Domains that RFC 2606 keeps for examples."""
_CARD = re.compile(r"(?<![\w.,/-])(?:\d{13,19}|\d{4}(?:[ -]\d{4}){3}|\d{4}[ -]\d{6}[ -]\d{5})(?![\w/-]|[.,]\d)")
_ISSUER = re.compile(r"4|5[1-5]|2[2-7]|3[47]|3[068]|35|6011|64|65")
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?:[A-Z0-9]{11,30}|(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,4})?)(?!\w)")
_IP = re.compile(r"(?<![\w.:])(?:(?:\d{1,3}\.){3}\d{1,3}|(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{1,4})(?![\w:]|\.\w)")
_PLUS = re.compile(r"[+\uff0b][ (]{0,2}\d")


def check(*, name: str, column: str | None, kinds: tuple[Kind, ...], region: str | None) -> None:
    """Raise ValueError for options that cannot work."""
    check_name("name", name)
    if column is not None and not column:
        raise ValueError("column = '': name a text column such as 'question', or leave it out for the whole trace")
    if not kinds:
        raise ValueError(f"kinds is empty: name some of {', '.join(KINDS)}")
    if "phone" not in kinds:
        return
    if find_spec("phonenumbers") is None:
        raise RecipeError("the score personal_data uses phonenumbers; install it with: pip install 'tracemill[pii]'")
    from phonenumbers import SUPPORTED_REGIONS

    if region is not None and region not in SUPPORTED_REGIONS:
        raise ValueError(f"region = {region!r}: two capital letters of a country, such as 'US' or 'DE'")


def columns(*, name: str) -> dict[str, Any]:
    """Named by the option `name`, so that question and trace can be looked at side by side."""
    return span_columns(name)


async def personal_data(
    trace: Mapping[str, Any],
    engine: Engine,  # noqa: ARG001 - every score has it; no model is asked
    *,
    column: str | None = None,
    kinds: tuple[Kind, ...] = KINDS,
    region: str | None = None,
    name: str = "personal_data",
) -> dict[str, Any]:
    """Add `personal_data`, how many pieces of it a text holds, `personal_data_kinds`, how many of each kind, and `personal_data_spans`.

    The kinds are mail addresses, phone, card and bank numbers, and public IP addresses. A span is a kind with `start` and `end` in characters. Looked at is the whole trace as it was written, or the text in `column`, such as
    `question`; null where there is none. Phone numbers are found in their international form, `+49 30 ...`; `region = "US"` finds those of that
    country without it, too, and in some countries long decimals look like one. Mail addresses under example.com and the like are nobody's.
    No model is asked.
    """
    text = text_in(trace, column)
    if text is None:
        return span_row(name, None)
    return span_row(name, without_overlaps([span for kind in kinds for span in _found(kind, text, region)]))


def _found(kind: Kind, text: str, region: str | None) -> Iterator[Span]:
    if kind == "phone":
        yield from _phones(text, region)
        return
    pattern, holds = _FORMS[kind]
    for found in pattern.finditer(text):
        if holds(found[0]):
            yield Span(found.start(), found.end(), kind)


def _phones(text: str, region: str | None) -> Iterator[Span]:
    """Those of valid numbers; without a region only lines that hold a + before a digit are looked at."""
    from phonenumbers import PhoneNumberMatcher

    begin = 0
    for line in text.splitlines(keepends=True):
        if region is not None or _PLUS.search(line):
            for found in PhoneNumberMatcher(line, region):
                yield Span(begin + found.start, begin + found.end, "phone")
        begin += len(line)


def _is_card(found: str) -> bool:
    """Luhn's check digit, and a number that an issuer has."""
    digits = [int(character) for character in found if character.isdecimal()]
    doubled = [
        digit if place % 2 == 0 else (2 * digit - 9 if digit > 4 else 2 * digit)
        for place, digit in enumerate(reversed(digits))
    ]
    return sum(doubled) % 10 == 0 and _ISSUER.match(found) is not None and len(set(digits)) > 1


def _is_iban(found: str) -> bool:
    """ISO 13616: the first four characters moved behind, letters as numbers, the remainder by 97 is 1."""
    plain = found.replace(" ", "")
    return 15 <= len(plain) <= 34 and int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def _is_public(found: str) -> bool:
    try:
        return ip_address(found).is_global
    except ValueError:
        return False


_FORMS: Mapping[Kind, tuple[re.Pattern[str], Callable[[str], bool]]] = {
    "email": (_EMAIL, lambda found: _NOBODYS.search(found) is None),
    "card": (_CARD, _is_card),
    "iban": (_IBAN, _is_iban),
    "ip_address": (_IP, _is_public),
}
