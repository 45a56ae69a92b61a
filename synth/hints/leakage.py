r"""Whether a knowledge point gives away its problem: the four rules that need no model.

    L1  the gold does not stand in the point                          "so the legs are 7" for the gold 7
    L2  no number of the problem or its solution does                 but 0, 1, 2, 10, 100, 1000, 180, 360, and numbers of an identity
    L3  no eight words in a row are those of problem or solution
    L4  no name and no identifier of the problem does                 "Tom's", "triangle $ABC$"

KnowRL (arXiv:2604.12627) asks that no point hold what belongs to one instance: numbers, names of variables, intermediate
results. It does not state how that is found out; these rules are ours. They read text and are wrong in both directions: a number
in words is not seen, and a constant that problem and theorem share is.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

GENERIC = frozenset(map(Fraction, (0, 1, 2, 10, 100, 1000, 180, 360)))
"""Numbers that stand in principles whatever the problem."""
SMALL = frozenset(map(Fraction, (0, 1, 2)))
"""Golds that any text may hold: a warning."""
GRAM = 8

_NUMBER = re.compile(r"(?<![\w.])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\w)")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}|(?<![\w./])(\d+)\s*/\s*(\d+)(?![\w/])")
_WORD = re.compile(r"[^\W_]+")
_MATH = re.compile(r"\$\$.+?\$\$|\$[^$]+\$|\\\(.+?\\\)|\\\[.+?\\\]", re.DOTALL)
_COMMAND = re.compile(r"\\[A-Za-z]+")
_SENTENCE = re.compile(r"(?<=[.!?:;])\s+|\n+")
_RELATION = re.compile(r"[=<>≤≥≡]|\\(?:le|ge|leq|geq|equiv|approx|sim)\b")
_UNIVERSAL = re.compile(r"\b(?:for )?(?:all|any|every|each|arbitrary)\b|∀|\\forall", re.IGNORECASE)
_VARIABLE = re.compile(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])")
_IDENTIFIER = re.compile(r"(?<![A-Za-z\\])[A-Z]{2,}(?![A-Za-z])")
_FIELD = re.compile(r"\*\*[A-Z][A-Za-z ]*\*\*[ \t]*:")
_NAME = re.compile(r"(?<![\w\\$])[A-Z][a-z]+(?:'s)?")
_EPONYMS = frozenset(
    re.findall(
        r"\w+",
        """abel arabic archimedes bayes bernoulli bezout binet brahmagupta cantor cartesian cauchy ceva chebyshev cramer descartes
        diophantine dirichlet eisenstein english euclid euclidean euler eulerian fermat fibonacci gauss gaussian greek heron hermite
        hilbert jensen lagrange laplace latin legendre leibniz markov menelaus mersenne minkowski moivre muirhead newton pascal pell
        poisson ptolemy pythagoras pythagorean ramsey riemann roman schwarz simson stewart stirling taylor vandermonde venn vieta
        wilson""",
    )
)
"""Names that belong to mathematics and to no problem."""


@dataclass(frozen=True)
class Secrets:
    """What a point may not hold: all of one problem's that a rule looks for."""

    gold: str | None
    question: str
    solution: str | None = None

    @cached_property
    def numbers(self) -> frozenset[Fraction]:
        """The numbers of problem and solution that are not generic."""
        return frozenset(numbers(f"{self.question}\n{self.solution or ''}")) - GENERIC

    @cached_property
    def grams(self) -> frozenset[tuple[str, ...]]:
        return _grams(self.question) | _grams(self.solution or "")

    @cached_property
    def identifiers(self) -> frozenset[str]:
        return frozenset(_identifiers(self.question))

    @cached_property
    def names(self) -> tuple[set[str], set[str]]:
        return _names(self.question)


@dataclass(frozen=True, slots=True)
class Leak:
    """One rule that a point does not keep, and what it was found by."""

    rule: str
    evidence: str
    fails: bool = True
    """False: a warning."""


def leaks(text: str, secrets: Secrets) -> list[Leak]:
    """What L1 to L4 find in a knowledge point, in that order; at most one of each."""
    text = _FIELD.sub("\n", text)
    found = (_gold(text, secrets.gold), _number(text, secrets), _gram(text, secrets), _name(text, secrets))
    return [leak for leak in found if leak is not None]


def guessable(gold: str | None) -> bool:
    """Whether a gold stands in texts that know nothing of its problem: 0, 1, 2, or a single letter."""
    value = _value(gold or "")
    return value in SMALL if value is not None else len(_bare(gold or "")) <= 1


def numbers(text: str) -> Iterator[Fraction]:
    """Every number that is written in digits: 1,000 and 1000.0 are one, and a fraction of two is a number as well."""
    for match in _NUMBER.finditer(text):
        yield Fraction(match[0].replace(",", ""))
    for match in _FRACTION.finditer(text):
        above, below = match[1] or match[3], match[2] or match[4]
        if int(below):
            yield Fraction(int(above), int(below))


def _gold(text: str, gold: str | None) -> Leak | None:
    """L1. A gold that is a number is looked for as a number, any other as words."""
    if gold is None or not (plain := _bare(gold)):
        return None
    if (value := _value(gold)) is not None:
        return Leak("L1", gold, fails=not guessable(gold)) if value in set(numbers(text)) else None
    sought = re.compile(rf"(?<![^\W_]){re.escape(plain)}(?![^\W_])", re.IGNORECASE)
    return Leak("L1", gold, fails=not guessable(gold)) if sought.search(_bare(text)) else None


def _number(text: str, secrets: Secrets) -> Leak | None:
    """L2, but for numbers in what holds for all values of its variables."""
    bound = " ".join(sentence for sentence in _SENTENCE.split(text) if not _is_identity(sentence))
    shared = sorted(set(numbers(bound)) & secrets.numbers)
    return Leak("L2", ", ".join(map(str, shared))) if shared else None


def _gram(text: str, secrets: Secrets) -> Leak | None:
    """L3, on words and numbers without regard to case."""
    shared = min(_grams(text) & secrets.grams, default=None)
    return Leak("L3", " ".join(shared)) if shared else None


def _name(text: str, secrets: Secrets) -> Leak | None:
    """L4. Single letters are nobody's: x, n or P may stand for anything. A word that only begins sentences may be no name."""
    inside, anywhere = _names(text)
    fails = (set(_identifiers(text)) & secrets.identifiers) | (inside & secrets.names[1])
    shared = sorted(fails or anywhere & secrets.names[0])
    return Leak("L4", ", ".join(shared), fails=bool(fails)) if shared else None


def _is_identity(sentence: str) -> bool:
    """Whether a relation in it holds for all values: it says so, or there is a variable on both sides."""
    sides = _RELATION.split(_COMMAND.sub(lambda m: m[0] if _RELATION.match(m[0]) else " ", sentence))
    if len(sides) < 2:
        return False
    return bool(_UNIVERSAL.search(sentence)) or all(_VARIABLE.search(side) for side in sides[:2])


def _bare(text: str) -> str:
    """Text without the marks of mathematics around and inside it."""
    plain = re.sub(r"\\(?:boxed|fbox|text|mathrm|left|right|,|!|;)|[${}]", " ", text)
    return " ".join(plain.split())


def _value(gold: str) -> Fraction | None:
    """The number that a gold is, its sign left out; None where it is something else."""
    boxed = re.fullmatch(r"\\(?:boxed|fbox)\s*\{(.*)\}", gold.strip(" $"), re.DOTALL)
    plain = (boxed[1] if boxed else gold).strip(" $").lstrip("-+ ")
    if fraction := _FRACTION.fullmatch(plain):
        above, below = fraction[1] or fraction[3], fraction[2] or fraction[4]
        return Fraction(int(above), int(below)) if int(below) else None
    return Fraction(plain.replace(",", "")) if _NUMBER.fullmatch(plain) else None


def _grams(text: str) -> frozenset[tuple[str, ...]]:
    words = [word.casefold() for word in _WORD.findall(text)]
    return frozenset(tuple(words[at : at + GRAM]) for at in range(len(words) - GRAM + 1))


def _identifiers(text: str) -> Iterator[str]:
    """Names of several capitals in the mathematics of a text: AB, ABC."""
    for span in _MATH.findall(text):
        yield from _IDENTIFIER.findall(_COMMAND.sub(" ", span))


def _names(text: str) -> tuple[set[str], set[str]]:
    """Words with a capital that are in small letters nowhere: those inside a sentence, and those anywhere."""
    prose = _MATH.sub(" x ", text)
    found = [match for sentence in _SENTENCE.split(prose) for match in _NAME.finditer(sentence.strip())]
    others = set(re.findall(r"\b[a-z]+", prose)) | _EPONYMS
    inside = {_folded(match[0]) for match in found if match.start() > 0 or match[0].endswith("'s")}
    return inside - others, {_folded(match[0]) for match in found} - others


def _folded(name: str) -> str:
    return name.removesuffix("'s").casefold()
