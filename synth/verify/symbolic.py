"""Whether two expressions are equal by algebra. For worker processes only: sympy may take any amount of time and memory.

math-verify reads the LaTeX. Expressions that have values are then compared by value, to many digits and at several points,
which is faster than simplifying their difference and wrong in neither direction; sets, equations and matrices go to
math-verify's own comparison.
"""

import logging
import re
from fractions import Fraction
from functools import cache
from typing import Any

from tracemill.synth.verify.quantity import Quantity, parse_quantity, rounds_to

_SCIENTIFIC = re.compile(r"(?<=[\d.])[eE]([+-]?\d+)(?![\d.])")
_COMMAND = re.compile(r"\\text\{[^{}]*\}|\\[A-Za-z]+")
_COMMAND_OR_LETTER = re.compile(r"\\text\{[^{}]*\}|\\[A-Za-z]+|[A-Za-z]")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ)")
_CONSTANT = re.compile(r"\+\s*[cC]\s*$")
_DIGITS = 150
_SAME = Fraction(1, 10**100)
_SAME_FLOAT = Fraction(1, 10**12)
_OTHER_FLOAT = Fraction(1, 10**9)
"""Expressions that hold a decimal have only the digits of a double; all others are exact, and 10^60 + 1 is not 10^60."""
_POINTS = ((7, 5), (-11, 13), (19, 8), (-23, 9), (31, 17), (3, 29))
"""Where expressions are evaluated, as fractions; the k-th variable by name takes the point k places further on."""
_ENOUGH_POINTS = 4
_WARM_UP = (
    (r"\frac{x^2-1}{x-1}", "x+1"),
    ("2x+y=3", "y=3-2x"),
    (r"\frac{3\sqrt{3}}{4}+2\pi", r"\sqrt[3]{5}\cdot 2^{10}"),
    (r"(-\infty,\sqrt{2}]\cup(3,\infty)", r"\left[\frac{\pi}{2},5\right)"),
    (r"\left(3,\frac{\pi}{2},-1\right)", r"\{1-\sqrt{5},-2\}"),
    (r"\begin{pmatrix}-1&0\\\frac{1}{3}&y\end{pmatrix}", r"\sin x+\cot 2x-\log_2 8"),
    (r"6-5i+2e^{x}", r"x^5-x^4+2(a+5)(b+2)"),
)
"""The reader builds its tables as it meets new constructs; what it has met before the fork, no worker pays for again."""


def prepare() -> None:
    """Import what comparing needs: seconds of CPU time, paid once before the workers are forked."""
    logging.disable(logging.CRITICAL)  # math-verify warns that its own timeouts are off; ours are in the kernel
    import math_verify  # noqa: F401

    for answer, gold in _WARM_UP:
        equal_by_algebra(answer, gold)


def equal_by_algebra(answer: str, gold: str) -> bool | None:
    """None where one side cannot be read or sympy gives up."""
    from math_verify import verify

    capitals = _capitals(answer, gold)
    one, other = _parse(answer, capitals), _parse(gold, capitals)
    if one is None or other is None:
        return None
    if _same_solutions(one, other):
        return True
    by_value = _by_value(one, other, parse_quantity(answer), parse_quantity(gold))
    if by_value is not None:
        return by_value
    try:
        return bool(verify([other], [one], timeout_seconds=None, allow_set_relation_comp=True, raise_on_error=True))
    except (MemoryError, RecursionError):
        raise
    except Exception:  # noqa: BLE001 - sympy raises whatever it likes; not being able to tell is an outcome here
        return None


def _capitals(answer: str, gold: str) -> frozenset[str]:
    """The capital letters that stand beside their small ones: math-verify takes `R` for `r`, and `R - r` for 0."""
    if _CONSTANT.search(answer) and _CONSTANT.search(gold):
        answer, gold = _CONSTANT.sub("", answer), _CONSTANT.sub("", gold)  # of integration
    letters = set(_COMMAND.sub(" ", answer + " " + gold))
    return frozenset(letter for letter in letters if "A" <= letter <= "Z" and letter.lower() in letters)


def _parse(text: str, capitals: frozenset[str]) -> Any:
    """A sympy object, or None. Only the LaTeX reader: the others pick a number out of text that they cannot read."""
    from math_verify import LatexExtractionConfig, parse
    from sympy import Expr, I  # type: ignore[import-untyped]

    text = _DEGREES.sub(r"(\1\\cdot\\frac{\\pi}{180})", text)
    text = _SCIENTIFIC.sub(r"\\times 10^{\1}", text).replace("$", "")
    if capitals:
        text = _COMMAND_OR_LETTER.sub(
            lambda found: f"{{{found[0].lower()}_{{capital}}}}" if found[0] in capitals else found[0], text
        )
    found = parse(
        f"${text}$",
        [LatexExtractionConfig(normalization_config=_normalization())],
        fallback_mode="no_fallback",
        parsing_timeout=None,
    )
    if not found:
        return None
    imaginary = {symbol: I for symbol in found[0].free_symbols if symbol.name == "i"}
    return found[0].subs(imaginary) if imaginary and isinstance(found[0], Expr) else found[0]


@cache
def _normalization() -> Any:
    """math-verify's, without its units: it takes the h of `r^2 h` for hours. Units are compared before this."""
    from latex2sympy2_extended import NormalizationConfig

    return NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all", equations=False
    )


def _same_solutions(one: Any, other: Any) -> bool:
    """Whether two inequalities in one variable have the same solutions, where sympy can solve them."""
    from sympy import Equality, Symbol
    from sympy.core.relational import Relational  # type: ignore[import-untyped]

    if not all(isinstance(each, Relational) and not isinstance(each, Equality) for each in (one, other)):
        return False
    names = {symbol.name for symbol in one.free_symbols | other.free_symbols}
    if len(names) != 1:
        return False
    variable = Symbol(names.pop(), real=True)
    try:
        sets = [each.subs(dict.fromkeys(each.free_symbols, variable)).as_set() for each in (one, other)]
    except (MemoryError, RecursionError):
        raise
    except Exception:  # noqa: BLE001 - as above
        return False
    return bool(sets[0] == sets[1])


def _by_value(one: Any, other: Any, written: Quantity | None, gold_written: Quantity | None) -> bool | None:
    from sympy import Expr, Float

    if not (isinstance(one, Expr) and isinstance(other, Expr)):
        return None
    exact = not one.has(Float) and not other.has(Float)
    names = sorted({symbol.name for symbol in one.free_symbols | other.free_symbols})
    if names:
        return _at_points(one, other, names, exact=exact)
    value, gold_value = _value(one, {}), _value(other, {})
    if value is None or gold_value is None:
        return None
    for decimal, target in ((written, gold_value), (gold_written, value)):
        if decimal is not None and target[1] == 0 and rounds_to(decimal, target[0]):
            return True
    return _close(value, gold_value, exact=exact)


def _at_points(one: Any, other: Any, names: list[str], *, exact: bool) -> bool | None:
    """Different where they differ anywhere; equal where they agree at enough points of both signs."""
    agreed = 0
    for turn in range(len(_POINTS)):
        point = {name: _POINTS[(turn + k) % len(_POINTS)] for k, name in enumerate(names)}
        here, there = _value(one, point), _value(other, point)
        if here is None or there is None:
            continue
        close = _close(here, there, exact=exact)
        if close is False:
            return False
        agreed += close is True
    return True if agreed >= _ENOUGH_POINTS else None


Value = tuple[Fraction, Fraction]


def _close(one: Value, other: Value, *, exact: bool) -> bool | None:
    """Whether two complex numbers are equal; None near zero, where digits cancel, and in the grey zone of decimals."""
    size = max(abs(part) for part in (*one, *other))
    if size < _SAME:
        return None
    gap = max(abs(a - b) for a, b in zip(one, other, strict=True))
    if gap <= size * (_SAME if exact else _SAME_FLOAT):
        return True
    return False if exact or gap > size * _OTHER_FLOAT else None


def _value(expression: Any, point: dict[str, tuple[int, int]]) -> Value | None:
    """Real and imaginary part to many digits; None where the expression has no finite value there."""
    from sympy import Float, Rational

    values = {symbol: Rational(*point[symbol.name]) for symbol in expression.free_symbols}
    try:
        number = expression.subs(values).doit().evalf(_DIGITS)
        parts = [Float(part, _DIGITS) for part in number.as_real_imag()]
    except (MemoryError, RecursionError):
        raise
    except Exception:  # noqa: BLE001 - see above: no value is an outcome
        return None
    if not all(part.is_finite for part in parts):
        return None
    real, imaginary = (Fraction(*_ratio(part)) for part in parts)
    return real, imaginary


def _ratio(number: Any) -> tuple[int, int]:
    sign, mantissa, exponent, _ = number._mpf_
    mantissa = -mantissa if sign else mantissa
    if abs(exponent) > 100_000:
        raise MemoryError
    return (int(mantissa) << exponent, 1) if exponent >= 0 else (int(mantissa), 1 << -exponent)
