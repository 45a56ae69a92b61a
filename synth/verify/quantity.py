r"""Numbers as people write them, with exact arithmetic: `\$1,234.50`, `2e3`, `1\frac{4}{5}`, `-3/8`, `12.5\%`, `15\text{ cm}^2`.

A quantity is a fraction, how it was written (a decimal? a percentage?) and a unit. There is no floating point here, and what
would need more than a few thousand digits is not a quantity.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

MAX_EXPONENT = 5000
_MAX_DIGITS = 1000

_INTEGER = r"(?:\d{1,3}(?:,\d{3})+|[1-9]\d{0,2}(?: \d{3})+|\d+)"
_DECIMAL = rf"(?:{_INTEGER}(?:\.\d*)?|\.\d+)"
_EXPONENT = r"[+-]?\d{1,6}"
_TIMES = r"\s*(?:\\times|\\cdot|\*|x)\s*"
_POWER = rf"\^\s*(?:\{{\s*({_EXPONENT})\s*\}}|({_EXPONENT}))"
_NUMBER = re.compile(rf"({_DECIMAL})(?:[eE]({_EXPONENT})(?![\d.])|{_TIMES}10{_POWER})?")
_INTEGER_POWER = re.compile(rf"(\d{{1,6}}){_POWER}")
_MIXED = re.compile(r"(\d+)\s*(?:\\frac\{(\d+)\}\{(\d+)\}|(?:\s| and )(\d+)\s*/\s*(\d+))")
_RATIO = re.compile(rf"\\frac\{{\s*(-?{_DECIMAL})\s*\}}\{{\s*(-?{_DECIMAL})\s*\}}|({_DECIMAL})\s*/\s*({_DECIMAL})")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\s*(?:\{(\d+)\}|(\d))")
_AND_SO_ON = re.compile(r"(\d*)\.(\d*?)(\d+?)\3+\s*(?:\.\.\.|…|\\ldots|\\cdots)")
_HEAD = re.compile(r"[\s$€£¥+-]*")
_PERCENT = re.compile(r"\s*(?:%|percent(?:age)?\b|\\text\{\s*(?:percent|%)\s*\})\s*", re.IGNORECASE)
_POWER_OF_UNIT = r"(?:\s*\^\s*\{?\s*([23])\s*\}?)?"
_TEXT_UNIT = re.compile(rf"\s*\\text\{{\s*([A-Za-z][^{{}}\\]*?)\s*\}}{_POWER_OF_UNIT}\s*\.?")
_PLAIN_UNIT = re.compile(rf"\s*([A-Za-z]+(?:[ /-]+[A-Za-z]+)*)\.?{_POWER_OF_UNIT}\s*")
_DEGREES = re.compile(r"\s*\^\s*\{?\s*\\circ\s*\}?\s*(?:\\text\{\s*)?([CF]?)(?:\s*\})?\s*")

_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")

_WORDS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20,
}  # fmt: skip
_PARTS = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "eighth": 8, "tenth": 10}
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

_UNITS: dict[str, tuple[str, Fraction]] = {
    name: (dimension, Fraction(factor))
    for dimension, names in {
        "length": {"mm": "1/1000", "cm": "1/100", "m": "1", "km": "1000", "millimeter": "1/1000",
                   "centimeter": "1/100", "meter": "1", "kilometer": "1000"},
        "imperial length": {"in": "1", "inch": "1", "ft": "12", "foot": "12", "feet": "12", "yd": "36", "yard": "36",
                            "mi": "63360", "mile": "63360"},
        "mass": {"mg": "1/1000", "g": "1", "gram": "1", "kg": "1000", "kilogram": "1000"},
        "imperial mass": {"oz": "1", "ounce": "1", "lb": "16", "pound": "16"},
        "volume": {"ml": "1/1000", "milliliter": "1/1000", "l": "1", "liter": "1"},
        "time": {"second": "1", "sec": "1", "s": "1", "minute": "60", "min": "60", "hour": "3600", "hr": "3600",
                 "h": "3600", "day": "86400", "week": "604800"},
        "years": {"month": "1", "year": "12"},
        "money": {"cent": "1/100", "dollar": "1", "usd": "1", "$": "1"},
        "money in euros": {"euro": "1", "€": "1"},
        "money in pounds": {"£": "1"},
        "money in yen": {"yen": "1", "¥": "1"},
        "angle": {"degree": "1", "deg": "1"},
        "celsius": {"degree c": "1", "degree celsius": "1"},
        "fahrenheit": {"degree f": "1", "degree fahrenheit": "1"},
        "morning": {"am": "1"},
        "afternoon": {"pm": "1"},
        "speed": {"m/s": "1"},
        "road speed": {"mph": "1", "mile per hour": "1"},
        "metric road speed": {"km/h": "1", "kph": "1", "kilometer per hour": "1"},
    }.items()
    for name, factor in names.items()
}  # fmt: skip
_BRITISH = {"metre": "meter", "litre": "liter"}
_NOT_UNITS = frozenset(
    {"or", "and", "sin", "cos", "tan", "log", "ln", "exp", "sqrt", "pi", "inf", "nan", "mod", "base", "for", "if", "is", "to",
     "over", "under", "dozen"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Quantity:
    """An exact value and how it was written."""

    value: Fraction
    decimals: int | None = None
    """Digits after the point where it was written as a decimal with a point; None for integers and fractions."""
    digits: int = 0
    """Significant digits of that decimal."""
    percent: bool = False
    unit: str | None = None
    """Normalised: singular, lower case, with ^2 or ^3; None where there is none."""


@lru_cache(maxsize=4096)
def parse_quantity(text: str) -> Quantity | None:
    """The quantity that a cleaned text is as a whole, or None."""
    text = _spelt_out(text)
    head = _HEAD.match(text)
    sign, currency = _sign_and_currency(head[0]) if head else (1, None)
    if sign == 0:
        return None
    start = head.end() if head else 0
    read = (
        _repeating(text, start)
        or _mixed(text, start)
        or _ratio(text, start)
        or _integer_power(text, start)
        or _number(text, start)
    )
    if read is None:
        return None
    value, decimals, digits, end = read
    percent = _PERCENT.match(text, end)
    if percent:
        end = percent.end()
    unit, end = (None, end) if percent else _unit(text, end)
    if text[end:].strip():
        return _compound(value * sign, unit, text[end:]) if unit else None
    return Quantity(sign * value, decimals, digits, percent is not None, unit or currency)


def _compound(value: Fraction, unit: str, rest: str) -> Quantity | None:
    """`7 hours 30 minutes` in hours."""
    more = parse_quantity(rest.strip().removeprefix(",").removeprefix("and ").strip())
    if more is None or more.unit is None or value < 0 or more.value < 0:
        return None
    (dimension, factor), (other, smaller) = _measure(unit), _measure(more.unit)
    if not dimension or dimension != other or smaller >= factor:
        return None
    return Quantity(value + more.value * smaller / factor, unit=unit)


def strip_unit(text: str) -> tuple[str, str | None]:
    r"""A cleaned expression without the unit in `\text{}` or the degree sign it ends in, and that unit."""
    for pattern in (_TEXT_UNIT, _DEGREES):
        if pattern is _DEGREES and _TRIGONOMETRY.search(text):
            continue  # the degrees are the argument's
        for found in pattern.finditer(text):
            if found.end() == len(text) and found.start() > 0:
                unit, _ = _unit(text, found.start())
                return (text[: found.start()], unit) if unit else (text, None)
    return text, None


def units_clash(one: str | None, other: str | None) -> bool:
    """Whether two units cannot both be right: of known and different dimension."""
    if one is None or other is None or one == other:
        return False
    if "degree" in (one, other) and one.startswith("degree") and other.startswith("degree"):
        return False  # 20° of whatever scale
    (dimension, _), (other_dimension, _) = _measure(one), _measure(other)
    return bool(dimension and other_dimension) and dimension != other_dimension


def same_quantity(one: Quantity, other: Quantity) -> bool:
    """Whether two quantities are one answer. Symmetric; reflexive; a missing unit or per cent sign is forgiven."""
    if units_clash(one.unit, other.unit) or (one.percent and other.unit) or (other.percent and one.unit):
        return False
    if one.unit is not None and other.unit is not None and one.unit != other.unit:
        (dimension, factor), (other_dimension, other_factor) = _measure(one.unit), _measure(other.unit)
        if dimension and dimension == other_dimension:
            return one.value * factor == other.value * other_factor
    if one.percent == other.percent:
        return _same_value(one, other)
    share, plain = (one, other) if one.percent else (other, one)
    if _same_value(_scaled_down(share), plain):
        return True
    # "what per cent" is often answered without the sign, but nobody means 0.5 by 0.5 %
    return abs(share.value) >= 1 and _same_value(share, plain)


def rounds_to(written: Quantity, value: Fraction) -> bool:
    """Whether a decimal with six places or more is this value, rounded or cut off in its last place."""
    if written.decimals is None or written.digits < 6 or written.decimals < 6:
        return False
    target = value * 100 if written.percent else value
    return abs(written.value - target) < Fraction(1, 10**written.decimals)


def _same_value(one: Quantity, other: Quantity) -> bool:
    if one.value == other.value:
        return True
    if one.decimals is None and other.decimals is None:
        return False
    fine, coarse = (one, other) if (one.decimals or 0) >= (other.decimals or 0) else (other, one)
    if not fine.decimals or coarse.decimals == fine.decimals:
        return False
    # 17.999999999999996 is what binary floating point makes of 18
    artefact = fine.digits >= 15 and abs(fine.value - coarse.value) <= abs(coarse.value) / 10**14
    endless = coarse.decimals is None and coarse.value.denominator > 1 and not _terminates(coarse.value)
    if endless:
        return artefact or rounds_to(fine, coarse.value)
    return artefact or rounds_to(coarse, fine.value)


def _terminates(value: Fraction) -> bool:
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


def _scaled_down(share: Quantity) -> Quantity:
    decimals = None if share.decimals is None else share.decimals + 2
    return Quantity(share.value / 100, decimals, share.digits)


def _sign_and_currency(head: str) -> tuple[int, str | None]:
    """The sign in front of a number, 0 where there are two, and its currency."""
    signs = [char for char in head if char in "+-"]
    currencies = [char for char in head if char in "$€£¥"]
    if len(signs) > 1 or len(currencies) > 1:
        return 0, None
    return (-1 if signs == ["-"] else 1), (currencies[0] if currencies else None)


def _spelt_out(text: str) -> str:
    """`two` as `2`, `3.5 million` as `3.5e6`."""
    if not text or not text[-1].isalpha():
        return text
    first, _, last = text.replace("-", " ").rpartition(" ") if text[0].isalpha() else text.rpartition(" ")
    if last.lower() in _SCALES and first and first[-1].isdigit() and "e" not in first.lower():
        return f"{first}e{len(str(_SCALES[last.lower()])) - 1}"
    part = _PARTS.get(last.lower().removesuffix("s"))
    if part:
        first = first.lower() if first not in ("", "a") else "one"
        return f"{_WORDS[first]}/{part}" if first in _WORDS else text
    return str(_WORDS.get(text.lower(), text))


Read = tuple[Fraction, int | None, int, int]
"""Value, decimals, significant digits, where it ends."""


def _repeating(text: str, start: int) -> Read | None:
    r"""`0.1\overline{6}` and `0.1666...`, exactly."""
    found = _REPEATING.match(text, start) or (_AND_SO_ON.match(text, start) if len(text) < 100 else None)
    if found is None or len(found[0]) > _MAX_DIGITS:
        return None
    whole, once, again = found[1] or "0", found[2], next(filter(None, found.groups()[2:]))
    tail = Fraction(int(again), 10 ** len(again) - 1)
    return (int(whole + once) + tail) / 10 ** len(once), None, 0, found.end()


def _mixed(text: str, start: int) -> Read | None:
    found = _MIXED.match(text, start)
    if found is None or len(found[0]) > _MAX_DIGITS:
        return None
    above, below = int(found[2] or found[4]), int(found[3] or found[5])
    if below == 0:
        return None
    # `3 7/2` is no mixed number, and a careful reader cannot say what it is
    return (int(found[1]) + Fraction(above, below), None, 0, found.end()) if above < below else None


def _ratio(text: str, start: int) -> Read | None:
    found = _RATIO.match(text, start)
    if found is None or len(found[0]) > _MAX_DIGITS:
        return None
    above, below = (_plain(found[1]), _plain(found[2])) if found[1] else (_plain(found[3]), _plain(found[4]))
    return (above / below, None, 0, found.end()) if below else None


def _integer_power(text: str, start: int) -> Read | None:
    found = _INTEGER_POWER.match(text, start)
    if found is None:
        return None
    base, exponent = int(found[1]), int(found[2] or found[3])
    if abs(exponent) * base.bit_length() > 3 * MAX_EXPONENT or (base == 0 and exponent <= 0):
        return None
    return Fraction(base) ** exponent, None, 0, found.end()


def _number(text: str, start: int) -> Read | None:
    found = _NUMBER.match(text, start)
    if found is None or len(found[1]) > _MAX_DIGITS:
        return None
    exponent = int(found[2] or found[3] or found[4] or 0)
    if abs(exponent) > MAX_EXPONENT:
        return None
    digits = found[1].replace(",", "").replace(" ", "")
    whole, point, rest = digits.partition(".")
    value = Fraction(int(whole + rest or "0")) * Fraction(10) ** (exponent - len(rest))
    significant = len((whole + rest).lstrip("0"))
    decimals = max(len(rest) - exponent, 0) if point and rest else None
    return value, decimals, significant, found.end()


def _plain(text: str) -> Fraction:
    return Fraction(text.replace(",", "").replace(" ", ""))


def _unit(text: str, start: int) -> tuple[str | None, int]:
    """The unit that stands at `start` and where it ends."""
    if start == len(text):
        return None, start
    if found := _DEGREES.match(text, start):
        return f"degree {found[1].lower()}".strip(), found.end()
    found = _TEXT_UNIT.match(text, start) or _PLAIN_UNIT.match(text, start)
    if found is None:
        return None, start
    words = re.split(r"[ /-]+", found[1].lower())
    if words[0] in _NOT_UNITS:
        return None, start
    if found.re is _PLAIN_UNIT and not _reads_as_unit(found[1], spaced=text[start] == " "):
        return None, start
    return _unit_name(found[1], found[2]), found.end()


def _reads_as_unit(words: str, *, spaced: bool) -> bool:
    """Whether bare letters after a number are a unit. `5 m` may be a product; `5 cm` and `5 apples` are not."""
    known = bool(_measure(_unit_name(words, None))[0])
    return len(words) > 1 if known else spaced and len(re.split("[ /-]", words)[0]) > 2


@lru_cache(maxsize=512)
def _unit_name(words: str, power: str | None) -> str:
    parts = []
    for word in words.lower().rstrip(".").split():
        kept = word if len(word) <= 2 or word.endswith("ss") else word.removesuffix("s")
        kept = "inch" if kept == "inche" else kept
        parts.append(_BRITISH.get(kept, kept))
    if power is None and parts and parts[0] in ("square", "sq", "sq.", "cubic", "cu"):
        power = "3" if parts[0].startswith("cu") else "2"
        parts = parts[1:]
    name = " ".join(parts)
    return f"{name}^{power}" if power else name


def _measure(unit: str) -> tuple[str, Fraction]:
    """Dimension and size of a known unit; an empty dimension for any other word."""
    name, _, power = unit.partition("^")
    dimension, factor = _UNITS.get(name, ("", Fraction(1)))
    if dimension and power:
        return f"{dimension}^{power}", factor ** int(power)
    return dimension, factor
