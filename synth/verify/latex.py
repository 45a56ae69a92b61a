r"""One spelling for what people and models write in many: `clean` turns `$\dfrac12\,$` and `½` into `\frac{1}{2}`.

Nothing here changes a value. What cannot be read is left as it is: the next stage decides what it is worth.
"""

# ruff: noqa: RUF001 - ambiguous characters are what this file is about

import re
import unicodedata

MAX_CHARS = 2000
"""Longest answer that the fast path looks at; every pattern in this package is linear or nearly so up to there."""

_COMMANDS = {
    "dfrac": r"\frac", "tfrac": r"\frac", "cfrac": r"\frac",
    "mbox": r"\text", "textrm": r"\text", "textbf": r"\text", "textit": r"\text", "textnormal": r"\text",
    "mathrm": r"\text", "mathbf": r"\text", "rm": r"\text", "operatorname": r"\text",
    "left": "", "right": "", "big": "", "Big": "", "bigg": "", "Bigg": "", "bigl": "", "bigr": "", "Bigl": "", "Bigr": "",
    "large": "", "Large": "", "huge": "", "small": "", "bf": "", "boldsymbol": "", "displaystyle": "", "textstyle": "", "limits": "", "quad": " ", "qquad": " ", "thinspace": " ",
    "leq": r"\le ", "leqslant": r"\le ", "geq": r"\ge ", "geqslant": r"\ge ", "lt": "<", "gt": ">", "neq": r"\ne ",
    "lbrace": r"\{", "rbrace": r"\}", "lbrack": "[", "rbrack": "]", "langle": "(", "rangle": ")",
    "infin": r"\infty ", "degree": r"^\circ ", "div": "/", "dots": r"\ldots ", "colon": ":", "mid": "|", "vert": "|",
}  # fmt: skip
_SYMBOLS = {
    "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "×": r"\times ", "·": r"\cdot ",
    "⋅": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "°": r"^\circ ",
    "±": r"\pm ", "∓": r"\mp ", "∅": r"\emptyset ", "θ": r"\theta ", "−": "-", "–": "-", "‐": "-", "‑": "-",
    "﹣": "-", "－": "-", "’": "'", "‘": "'", "ℝ": r"\mathbb{R}", "\u200b": "", "\u2060": "", "\ufeff": "",
}  # fmt: skip
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_WRAPPERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`"))

_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\d+(?:\.\d+)?|\w))")
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_COLOUR = re.compile(r"\\(?:text)?color\s*\{\w+\}")
_SPACING = re.compile(r"(?<!\\)\\[,;: ]|~")
_NEGATIVE_SPACE = re.compile(r"\\!\s*")
_SPACES = re.compile(r"\s+")
_NUMBER_AS_TEXT = re.compile(r"\\text\{([^A-Za-z{}\\]*)\}")
_ANNOUNCED = re.compile(
    r"(?:\\text\{\s*)?(?:the )?(?:final |correct )?answer\s*(?:is\b|:)(?:\s*:)?(?:\s*\})?\s*", re.IGNORECASE
)
_RM = re.compile(r"\\text\s+(?=[A-Za-z{])")


def clean(text: str) -> str:
    """The text without mark-up and in one spelling; idempotent on what it returns in all but exotic cases."""
    text = text if text.isascii() else _ascii(text)
    if "\\" in text:
        text = _NEGATIVE_SPACE.sub("", text).replace("{,}", ",")
        text = _COLOUR.sub("", text)
        text = _SPACING.sub(" ", text)
        text = _COMMAND.sub(lambda found: _COMMANDS.get(found[1], found[0]), text)
        text = text.replace(r"\%", "%").replace(r"\$", "$").replace(r"\&", "&")
        text = _NUMBER_AS_TEXT.sub(r"\1", _RM.sub(r"\\text", text))
        text = text.replace(r"\{\}", r"\emptyset").replace(r"\varnothing", r"\emptyset")
    text = _unwrap(_SPACES.sub(" ", text))
    return _explicit_arguments(text) if r"\frac" in text or r"\sqrt" in text else text


def squeeze(text: str) -> str:
    """Without white space, for comparing two texts that are not numbers."""
    return text.replace(" ", "")


def balanced(text: str, start: int, end: int | None = None) -> int | None:
    """The index after the brace that closes the one at `start`; None where it is never closed. Escaped braces are text."""
    depth = 0
    for found in _BRACES.finditer(text, start, len(text) if end is None else end):
        if len(found[0]) == 2:
            continue
        depth += 1 if found[0] == "{" else -1
        if depth == 0:
            return found.end()
    return None


def _ascii(text: str) -> str:
    """Digits of every script, full-width forms, superscripts, vulgar fractions, minus signs and common symbols."""
    text = _SUPERSCRIPT.sub(lambda found: "^{" + found[0].translate(_SUPERSCRIPTS) + "}", text)
    text = _ROOT.sub(lambda found: r"\sqrt{" + (found[1] or found[2]) + "}", text)
    return "".join(char if char.isascii() else _ascii_char(char) for char in text)


def _ascii_char(char: str) -> str:
    if char in _SYMBOLS:
        return _SYMBOLS[char]
    digit = unicodedata.decimal(char, None)
    if digit is not None:
        return str(digit)
    decomposition = unicodedata.decomposition(char)
    if decomposition.startswith("<fraction>"):
        above, _, below = unicodedata.normalize("NFKC", char).partition("⁄")
        return rf"\frac{{{above}}}{{{below}}}"
    if decomposition.startswith(("<wide>", "<noBreak>", "<compat> 0020")):
        return unicodedata.normalize("NFKC", char)
    return " " if char.isspace() else char


def _unwrap(text: str) -> str:
    """Take off dollar signs, display brackets, outer braces, nested boxes and the full stop of the sentence."""
    while True:
        before = text
        text = text.strip()
        if text.endswith(".") and not text.endswith(("..", r"\.")):
            text = text[:-1]
        text = _announced(text.removesuffix("\\").removeprefix("=")).strip()
        for start, end in _WRAPPERS:
            inner = text[len(start) : -len(end)]
            if (
                len(text) > len(start) + len(end)
                and text.startswith(start)
                and text.endswith(end)
                and start not in inner
            ):
                text = inner
        for start in (r"\boxed{", r"\fbox{", "{", r"\text{"):
            if start == r"\text{" and not text[len(start) :].strip()[:1].isdigit():
                continue
            if text.startswith(start) and balanced(text, len(start) - 1) == len(text):
                text = text[len(start) : -1]
        if text == before:
            return text


def _announced(text: str) -> str:
    """Without the words "the answer is" in front, unless there is nothing else."""
    found = _ANNOUNCED.match(text)
    return text[found.end() :] or text if found else text


def _explicit_arguments(text: str) -> str:
    r"""`\frac12`, `\frac1{2}`, `\frac 59` and `\sqrt2` with all their braces."""
    out: list[str] = []
    position = 0
    for found in re.finditer(r"\\(frac|sqrt)(?![A-Za-z])", text):
        if found.start() < position:
            continue
        out.append(text[position : found.end()])
        position = found.end()
        if text.startswith("[", position) and found[1] == "sqrt":
            end = text.find("]", position) + 1 or len(text)
            out.append(text[position:end])
            position = end
        for _ in range(2 if found[1] == "frac" else 1):
            argument, position = _argument(text, position)
            out.append(argument)
    return "".join(out) + text[position:]


def _argument(text: str, position: int) -> tuple[str, int]:
    """One argument, in braces, and where it ends."""
    while position < len(text) and text[position] == " ":
        position += 1
    if position >= len(text):
        return "", position
    if text[position] == "{":
        end = balanced(text, position)
        if end is None:
            return text[position:], len(text)
        inner = text[position + 1 : end - 1]
        needs = r"\frac" in inner or r"\sqrt" in inner
        # the length at least halves no slower than the nesting deepens, and clean() is only given bounded text
        return "{" + (_explicit_arguments(inner) if needs else inner.strip()) + "}", end
    if text[position] == "\\":
        found = _COMMAND.match(text, position)
        end = found.end() if found else position + 1
        return "{" + text[position:end] + "}", end
    return "{" + text[position] + "}", position + 1
