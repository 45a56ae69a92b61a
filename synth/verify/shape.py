r"""The outer shape of an answer: one value, a list, a set, a tuple, an interval, a union of these, a matrix.

    (1, \frac{\pi}{2}]      row ( ]   two leaves           in order
    \{3, 1\}   3, 1   1 \pm 2         set or list          in any order
    -2 < x \le 7            row ( ]   of -2 and 7          the interval it means
    \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}           matrix of two rows

Algebra is needed for leaves only; order, brackets and numbers of elements are decided here.
"""

import re
from dataclasses import dataclass
from typing import Literal

from tracemill.synth.verify.latex import squeeze

MAX_ITEMS = 64
_MAX_DEPTH = 6

Kind = Literal["leaf", "list", "set", "row", "matrix", "union"]


@dataclass(frozen=True, slots=True)
class Shape:
    """One node. `text` is what it was read from, so that any node can be handed on as a leaf."""

    kind: Kind
    text: str
    items: "tuple[Shape, ...]" = ()
    brackets: str = ""
    """`()`, `(]`, `[)` or `[]` of a row."""
    name: str | None = None
    """The variable that the text names: `x` in `x = 5` and in `x > 2`."""
    columns: int = 0
    source: str = ""
    """The text with the name: what an equation is compared by."""


_NAME = re.compile(
    r"\([A-Za-z](?:,\s*[A-Za-z])+\)|(?:[A-Za-z]|\\[A-Za-z]+)(?:_(?:\{\w+\}|\w))?(?:\([a-z]\))?|\\text\{[A-Za-z ]+\}"
)
_ASSIGNED = re.compile(rf"((?:{_NAME.pattern}))\s*=\s*(?=[^=\s])")
_MEMBER = re.compile(rf"({_NAME.pattern})\s*\\in\s+(?=\S)|({_NAME.pattern})\s*\\in(?=[\[(\\])")
_RELATION = re.compile(r"\\le(?![A-Za-z])|\\ge(?![A-Za-z])|<=|>=|<|>")
_JOINED = re.compile(r",?\s*\\text\{\s*(?:and|or)\s*\}\s*|,?\s+(?:and|or)\s+|\s*;\s*")
_OR = re.compile(r"\\text\{\s*or\s*\}|\sor\s")
_SET_BUILDER = re.compile(rf"({_NAME.pattern})\s*(?:\||:)\s*")
_MATRIX = re.compile(r"\\begin\{([pbvBV]?matrix|array)\}(?:\{[lcr|]*\})?(.*)\\end\{\1\}", re.DOTALL)
_PLUS_MINUS = re.compile(r"\\(?:pm|mp)(?![A-Za-z])")
_CUP = re.compile(r"\\cup(?![A-Za-z])")
_THOUSANDS = re.compile(r"[-+$\s]*\d{1,3}(?:,\d{3})+(?![\d,])[^,()\[\]]*")


def read_shape(text: str, depth: int = 0) -> Shape:
    """The shape of a cleaned text. Whatever is not understood is one leaf."""
    text = text.strip()
    if depth > _MAX_DEPTH:
        return Shape("leaf", text)
    name, source = None, text
    if (found := _ASSIGNED.match(text) or _MEMBER.match(text)) and "=" not in text[found.end() :]:
        listed = _split(text[found.end() :])
        if all("=" not in item for item in listed):
            name, text = squeeze(found[1] or found[2]), text[found.end() :].strip()
    shape = _interval(text) or _enclosed(text, depth) or _series(text, depth) or Shape("leaf", text)
    return Shape(shape.kind, shape.text, shape.items, shape.brackets, shape.name or name, shape.columns, source)


def _interval(text: str) -> Shape | None:
    r"""`x > 2` and `-1 \le x < 3` as the intervals they are."""
    relations = [squeeze(found[0]).replace("<=", r"\le").replace(">=", r"\ge") for found in _RELATION.finditer(text)]
    if not 1 <= len(relations) <= 2 or "," in text:
        return None
    parts = [part.strip() for part in _RELATION.split(text)]
    if not all(parts):
        return None
    up = [relation in ("<", r"\le") for relation in relations]
    closed = [relation in (r"\le", r"\ge") for relation in relations]
    if len(parts) == 3:
        if up[0] is not up[1] or not _NAME.fullmatch(parts[1]):
            return None
        low, high = (0, 2) if up[0] else (2, 0)
        ends = closed if up[0] else closed[::-1]
        return _row(text, parts[low], parts[high], *ends, name=parts[1])
    if _NAME.fullmatch(parts[0]) and not _NAME.fullmatch(parts[1]):
        name, bound, above = parts[0], parts[1], not up[0]
    elif _NAME.fullmatch(parts[1]) and not _NAME.fullmatch(parts[0]):
        name, bound, above = parts[1], parts[0], up[0]
    else:
        return None
    if above:
        return _row(text, bound, r"\infty", closed[0], False, name=name)
    return _row(text, r"-\infty", bound, False, closed[0], name=name)


def _row(text: str, low: str, high: str, low_closed: bool, high_closed: bool, *, name: str) -> Shape:
    brackets = ("[" if low_closed else "(") + ("]" if high_closed else ")")
    return Shape("row", text, (Shape("leaf", low), Shape("leaf", high)), brackets, squeeze(name))


def _enclosed(text: str, depth: int) -> Shape | None:
    """What brackets or an environment hold together: a row, a set, a matrix; one value in parentheses is that value."""
    if text.startswith(r"\begin{"):
        return _matrix(text)
    if text.startswith(r"\{") and text.endswith(r"\}") and _closes_last(text, 1, r"{}"):
        inside = text[2:-2].strip()
        if found := _SET_BUILDER.match(inside):
            return read_shape(inside[found.end() :], depth + 1)
        return Shape("set", text, _items(inside, depth))
    if len(text) < 3 or text[0] not in "([" or text[-1] not in ")]" or not _closes_last(text, 0, text[0] + text[-1]):
        return None
    items = _items(text[1:-1], depth)
    if len(items) == 1:
        return read_shape(text[1:-1], depth + 1) if text[0] + text[-1] == "()" else None
    return Shape("row", text, items, text[0] + text[-1])


def _series(text: str, depth: int) -> Shape | None:
    """Several values without brackets, or a union."""
    pieces = _split(text, _CUP)
    if len(pieces) > 1:
        return Shape("union", text, tuple(read_shape(piece, depth + 1) for piece in pieces))
    if _THOUSANDS.fullmatch(text):
        return None
    items = _items(text, depth)
    if len(items) > 1 and all(item.kind == "row" and item.name for item in items):
        return _conditions(text, items)
    return Shape("list", text, items) if len(items) > 1 else None


def _conditions(text: str, items: tuple[Shape, ...]) -> Shape:
    """`x < 2 or x > 3` is a union, `x > 3 and x < 5` one interval; anything else is read by algebra as a whole."""
    if _OR.search(text):
        return Shape("union", text, items, name=items[0].name)
    low = [item for item in items if item.items[1].text == r"\infty"]
    high = [item for item in items if item.items[0].text == r"-\infty"]
    if len(items) == 2 and len(low) == len(high) == 1 and items[0].name == items[1].name:
        ends = (low[0].items[0], high[0].items[1])
        return Shape("row", text, ends, low[0].brackets[0] + high[0].brackets[1], items[0].name)
    return Shape("leaf", text)


def _matrix(text: str) -> Shape | None:
    found = _MATRIX.fullmatch(text)
    if found is None or r"\begin" in found[2]:
        return None
    rows = [row.split("&") for row in re.split(r"\\\\(?:\[[^\]]*\])?", found[2]) if row.strip()]
    if not rows or len({len(row) for row in rows}) != 1:
        return None
    leaves = tuple(Shape("leaf", cell.strip()) for row in rows for cell in row)
    return Shape("matrix", text, leaves, columns=len(rows[0]))


def _items(text: str, depth: int) -> tuple[Shape, ...]:
    pieces = [piece for part in _split(text) for piece in _plus_and_minus(part)]
    if len(pieces) <= 1:
        return (Shape("leaf", text.strip()),)
    return tuple(read_shape(piece, depth + 1) for piece in pieces)


def _plus_and_minus(text: str) -> list[str]:
    r"""Both values of an expression with one `\pm`; two of them leave open which signs belong together."""
    if len(_PLUS_MINUS.findall(text)) != 1:
        return [text]
    return [_PLUS_MINUS.sub(sign, text).removeprefix("+").strip() for sign in "+-"]


def _split(text: str, separator: re.Pattern[str] | None = None) -> list[str]:
    """The parts between separators that stand outside all brackets; commas, semicolons, `and` and `or` by default."""
    if separator is None and not any(sign in text for sign in ",;") and "and" not in text and "or" not in text:
        return [text]
    if separator is not None and not separator.search(text):
        return [text]
    parts, start, position, level = [], 0, 0, 0
    while position < len(text):
        char = text[position]
        if level == 0 and (found := _separator(text, position, separator)):
            parts.append(text[start:position])
            position = start = found
            continue
        level += (char in "([{") - (char in ")]}")
        position += 2 if char == "\\" and text[position + 1 : position + 2] in ("\\", ",") else 1
    parts.append(text[start:])
    stripped = [part.strip() for part in parts]
    return stripped if all(stripped) else [part for part in stripped if part] or [text]


def _separator(text: str, position: int, separator: re.Pattern[str] | None) -> int | None:
    """Where the separator that stands at `position` ends."""
    if separator is not None:
        found = separator.match(text, position)
        return found.end() if found else None
    if text[position] not in ", ;\\":
        return None
    if found := _JOINED.match(text, position):
        return found.end()
    return position + 1 if text[position] == "," else None


def _closes_last(text: str, start: int, pair: str) -> bool:
    """Whether the bracket at `start` is closed by the last character; `(0, 1]` counts any closing bracket."""
    level = 0
    opening, closing = ("{", "}") if pair == "{}" else ("([", ")]")
    for position in range(start, len(text)):
        level += (text[position] in opening) - (text[position] in closing)
        if level == 0:
            return position == len(text) - 1
    return False
