"""Is this answer that gold? Texts, numbers and shapes here; leaves that need algebra by way of `symbolic`.

The same function decides in the main process, without algebra, and in a worker process, with it: what the first call
leaves open is exactly what the second call is for.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from tracemill.synth.verify.latex import clean, squeeze
from tracemill.synth.verify.quantity import Quantity, parse_quantity, same_quantity, strip_unit, units_clash
from tracemill.synth.verify.shape import MAX_ITEMS, Shape, read_shape

Symbolic = Callable[[str, str], "bool | None"]
"""Whether two cleaned expressions are equal; None where that cannot be told."""

MAX_NESTING = 40
"""Deepest nesting of brackets that is read at all; past it parsers recurse until they die."""


class Decision(NamedTuple):
    """`equal` is None where algebra is needed (`reason` None), or where nothing can tell (`reason` says why)."""

    equal: bool | None
    how: str = ""
    reason: str | None = None


def decide(answer: str, gold: str, symbolic: Symbolic | None = None) -> Decision:
    """Compare two answers. Without `symbolic` what needs algebra is left open."""
    if answer.strip() == gold.strip():
        return Decision(True, "exact")
    if nesting(answer) > MAX_NESTING or nesting(gold) > MAX_NESTING:
        return Decision(None, reason="too_nested")
    answer, gold = clean(answer), clean(gold)
    if not answer or not gold:
        return Decision(None, reason="no_answer" if not answer else "no_gold")
    comparison = _Comparison(symbolic)
    equal = comparison.numbers(parse_quantity(answer), parse_quantity(gold))
    if equal is None:
        equal = comparison.shapes(read_shape(answer), read_shape(gold))
    if equal is not None:
        return Decision(equal, comparison.how)
    if comparison.reasons:
        return Decision(None, reason=comparison.reasons[0])
    return Decision(None, reason=None if symbolic is None else "unparsed")


def nesting(text: str) -> int:
    """How deep brackets of any kind are nested."""
    level = deepest = 0
    for char in text:
        if char in "{([":
            level += 1
            deepest = max(deepest, level)
        elif char in "})]":
            level -= 1
    return deepest


_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_WORDS = re.compile(r"[A-Za-z][A-Za-z' .,-]*[A-Za-z]")
_LETTER = re.compile(r"\(?([A-Za-z])\)?")
_BASED = re.compile(r"([0-9A-Fa-f]+)\s*_\s*(?:\{\s*(\d{1,2})\s*\}|(\d{1,2}))|([0-9A-Fa-f]+)_\{?\\text\{(\w+)\}\}?")
_INFINITY = re.compile(r"([+-]?)\s*\\infty")
_STANDS_FOR_SEVERAL = re.compile(
    r"\\(?:mathbb|emptyset|cup|cap|setminus|begin|in|pm|mp|ne|text|vec|hat|\{|[lg]e)(?![a-z])|[=<>|]|(?<![A-Za-z\\])[ijk]\b"
)
_SAME_WORDS = (
    {"yes", "true"},
    {"no", "false"},
    {"undefined", "dne", "does not exist"},
    {"none", "no solution", "no solutions", "no real solution", "no real solutions", "empty set"},
)
_LETTERED = re.compile(r"(?:\(([A-E])\)|([A-E])\))\s+\S.*", re.DOTALL)
_ARTICLE = re.compile(r"^(?:the|an|a) (?=\w{2})")
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}


@dataclass(slots=True)
class _Comparison:
    symbolic: Symbolic | None
    how: str = "exact"
    reasons: list[str] = field(default_factory=list)

    def numbers(self, answer: Quantity | None, gold: Quantity | None) -> bool | None:
        if answer is None or gold is None:
            return None
        self._used("numeric")
        return same_quantity(answer, gold)

    def leaves(self, answer: str, gold: str) -> bool | None:
        """Two single values: the same text, two numbers, two words; the rest is algebra's."""
        one, other = parse_quantity(answer), parse_quantity(gold)
        if one is not None and other is not None:
            return self.numbers(one, other)
        if one is None and other is None and squeeze(answer) == squeeze(gold):
            return True
        based = self._based(answer, gold, one, other)
        if based is not None or self.reasons:
            return based
        infinite = _infinities(answer, gold)
        return infinite if infinite is not None else self._words(answer, gold, one, other)

    def algebra(self, answer: str, gold: str) -> bool | None:
        """The last resort, without units: they are compared here."""
        if self.symbolic is None:
            return None
        (answer, unit), (gold, gold_unit) = strip_unit(answer), strip_unit(gold)
        if units_clash(unit, gold_unit):
            return False
        if unit != gold_unit and r"\pi" in answer + gold:
            answer, gold = _in_radians(answer, unit), _in_radians(gold, gold_unit)
        self.how = "math"
        return self.symbolic(answer, gold)

    def shapes(self, answer: Shape, gold: Shape) -> bool | None:
        """Two shapes, element by element."""
        if answer.name and gold.name and not _same_name(answer.name, gold.name):
            return self._renamed(answer, gold)
        if bool(answer.name) is not bool(gold.name) and "=" in (gold.text if answer.name else answer.text):
            return self.algebra(answer.source, gold.source)
        kinds = {answer.kind, gold.kind}
        if kinds == {"leaf"}:
            found = self.leaves(answer.text, gold.text)
            return self.algebra(answer.text, gold.text) if found is None and not self.reasons else found
        if kinds <= {"list", "set"}:
            return self._whole_unless(self._any_order(answer, gold), answer, gold)
        if kinds == {"row"}:
            return self._rows(answer, gold)
        if kinds == {"row", "list"} or kinds == {"row", "matrix"}:
            return self._row_beside(answer, gold)
        if kinds == {"matrix"}:
            return answer.columns == gold.columns and self._in_order(answer.items, gold.items)
        if kinds == {"union"}:
            return self._whole_unless(self._any_order(answer, gold) or None, answer, gold)
        if "leaf" in kinds:
            return self._one_against_several(answer, gold)
        return False if kinds == {"row", "set"} else self.algebra(answer.text, gold.text)

    def _renamed(self, answer: Shape, gold: Shape) -> bool | None:
        """`x = 5` is not `y = 5` and `x > 2` is not `y > 2`, but `y = x + 1` is `x = y - 1` and `A = 5` is `Area = 5`."""
        lone = len(answer.name or "") == len(gold.name or "") == 1
        if lone and (answer.kind != "leaf" or parse_quantity(answer.text) or parse_quantity(gold.text)):
            return False
        if lone:
            return self.algebra(answer.source, gold.source)
        return self.shapes(replace(answer, name=None), replace(gold, name=None))

    def _rows(self, answer: Shape, gold: Shape) -> bool | None:
        """Tuples and intervals. Brackets tell an interval's ends, so they count between two values only."""
        if len(answer.items) != len(gold.items):
            return False
        if len(gold.items) == 2 and answer.brackets != gold.brackets:
            return False
        return self._in_order(answer.items, gold.items)

    def _row_beside(self, answer: Shape, gold: Shape) -> bool | None:
        """A tuple and a bare list, or a tuple and a vector: the same values in the same order."""
        row, other = (answer, gold) if answer.kind == "row" else (gold, answer)
        if row.brackets not in ("()", "[]"):
            return False
        if other.kind == "matrix" and other.columns not in (1, len(other.items)):
            return False
        return self._in_order(answer.items, gold.items)

    def _one_against_several(self, answer: Shape, gold: Shape) -> bool | None:
        """One number is never several; a symbol such as an empty set may stand for anything."""
        leaf, other = (answer, gold) if answer.kind == "leaf" else (gold, answer)
        items = _distinct(other.items) if other.kind in ("list", "set") else other.items
        if len(items) == 1:
            return self.shapes(*((leaf, items[0]) if leaf is answer else (items[0], leaf)))
        if _word(leaf.text) is not None:
            return False if _word(other.text) is None else self._words(answer.text, gold.text, None, None)
        if parse_quantity(leaf.text) is not None or not _STANDS_FOR_SEVERAL.search(leaf.text):
            return False
        return self.algebra(answer.text, gold.text)

    def _whole_unless(self, decided: bool | None, answer: Shape, gold: Shape) -> bool | None:
        """Where elements do not settle it, the two texts as a whole."""
        return self.algebra(answer.text, gold.text) if decided is None and not self.reasons else decided

    def _in_order(self, answers: Sequence[Shape], golds: Sequence[Shape]) -> bool | None:
        if len(answers) != len(golds):
            return False
        open_question = False
        for one, other in zip(answers, golds, strict=True):
            equal = self.shapes(one, other)
            if equal is False:
                return False
            open_question |= equal is None
        return None if open_question else True

    def _any_order(self, answer: Shape, gold: Shape) -> bool | None:
        """Elements paired off; one that is equal to none makes the answer different."""
        answers, golds = _distinct(answer.items), _distinct(gold.items)
        if max(len(answers), len(golds)) > MAX_ITEMS:
            self.reasons.append("too_many_items")
            return None
        named = [len({item.name for item in items if item.name}) > 1 for items in (answers, golds)]
        if named[0] is not named[1]:
            return self._in_order(answers, golds)  # "1, 2" for "a = 1, b = 2"
        if len(answers) != len(golds):
            simple = all(parse_quantity(item.text) is not None for item in (*answers, *golds))
            return False if simple or self.symbolic is not None else None
        return self._pair_off(list(answers), golds)

    def _pair_off(self, answers: list[Shape], golds: Sequence[Shape]) -> bool | None:
        open_question = False
        for wanted in golds:
            verdicts = [self.shapes(candidate, wanted) for candidate in answers]
            if True in verdicts:
                answers.pop(verdicts.index(True))
            elif None in verdicts:
                open_question = True
            else:
                return False
        return None if open_question else True

    def _words(self, answer: str, gold: str, one: Quantity | None, other: Quantity | None) -> bool | None:
        """Names, yes and no, letters of choices: equal without case; a number is no word."""
        said, meant = _word(answer), _word(gold)
        if said is None and meant is None:
            return None
        if said is None or meant is None:
            number = one if said is None else other
            return False if number is not None and number.unit is None else None
        if "\\text" not in answer + gold and sorted(said) == sorted(meant) and said != meant:
            return None  # abc and bca are one product
        if said == meant or any({said, meant} <= same for same in _SAME_WORDS):
            return True
        if len(said) > 1 and len(meant) > 1 and _mentions(said, meant):
            self.reasons.append("free_text")  # "not even" mentions "even"; so does "an even number"
            return None
        both_plain = _LETTER.fullmatch(answer) or _LETTER.fullmatch(gold)
        return None if both_plain and not (_TEXT.search(answer) or _TEXT.search(gold)) else False

    def _based(self, answer: str, gold: str, one: Quantity | None, other: Quantity | None) -> bool | None:
        """`52_8` and `52_{8}`. Where one side leaves the base out, nobody can tell what it means."""
        said, meant = _base(answer), _base(gold)
        if said is None and meant is None:
            return None
        if said is not None and meant is not None:
            self._used("numeric")
            return said[1] == meant[1]
        digits, value = said or meant or ("", 0)
        plain = other if said is not None else one
        text = gold if said is not None else answer
        if plain is None:
            return None
        if squeeze(text) == digits or plain.value == value:
            self.reasons.append("base_missing")
            return None
        self._used("numeric")
        return False

    def _used(self, how: str) -> None:
        if self.how != "math":
            self.how = how


def _word(text: str) -> str | None:
    r"""The words that a text is, in lower case: `\text{East}`, `(C)`; None for anything with symbols in it."""
    bare = _TEXT.sub(lambda found: f" {found[1]} ", text)
    bare = " ".join(bare.split()).strip(".,:;!?\"'`* ")
    if text == r"\emptyset":
        return "empty set"
    if found := _LETTERED.fullmatch(bare):
        return (found[1] or found[2]).lower()
    if found := _LETTER.fullmatch(bare):
        return found[1].lower() if _TEXT.search(text) or "(" in text or found[1] in "ABCDE" else None
    if bare.startswith("(") and bare.endswith(")"):
        bare = bare[1:-1].strip()
    found = _WORDS.fullmatch(bare)
    if found is None or (len(bare) < 3 and bare == bare.lower() and "\\text" not in text and bare != "no"):
        return None
    return _ARTICLE.sub("", " ".join(bare.lower().replace(",", " ").split()), count=1)


def _infinities(answer: str, gold: str) -> bool | None:
    """Two infinities by sign; one beside a number is different."""
    said, meant = _INFINITY.fullmatch(answer), _INFINITY.fullmatch(gold)
    if said and meant:
        return (said[1] == "-") is (meant[1] == "-")
    number = parse_quantity(gold if said else answer) if said or meant else None
    return False if number is not None else None


def _in_radians(text: str, unit: str | None) -> str:
    return rf"({text})\cdot\frac{{\pi}}{{180}}" if unit == "degree" else text


def _mentions(said: str, meant: str) -> bool:
    one, other = f" {said} ", f" {meant} "
    return one in other or other in one


def _base(text: str) -> tuple[str, int] | None:
    found = _BASED.fullmatch(text)
    if found is None:
        return None
    digits = found[1] or found[4]
    base = int(found[2] or found[3] or 0) or _BASES.get(found[5] or "", 0)
    try:
        return digits, int(digits, base) if 2 <= base <= 16 else -1
    except ValueError:  # a digit that the base does not have
        return None


def _same_name(one: str, other: str) -> bool:
    return one.lower() == other.lower()


def _distinct(items: Sequence[Shape]) -> list[Shape]:
    """Without repeats: a set that names an element twice is the same set."""
    kept: dict[tuple[str | None, object], Shape] = {}
    for item in items:
        quantity = parse_quantity(item.text)
        kept.setdefault((item.name, quantity.value if quantity else squeeze(item.text)), item)
    return list(kept.values())
