"""Plans in the form of code: what of a reply is one, what its syntax tree counts, and whether it copies what it was read off."""

import ast
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

from tracemill.schemas.rows import Rejection

GRAM = 5
"""Words in a row that make a copy; not stated in the paper (arXiv:2409.12452); our default."""
_FENCED = re.compile(r"^```[ \t]*\w*[ \t]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_WORD = re.compile(r"[^\W_]+")
_BRANCHES = (ast.If, ast.IfExp, ast.Match)
_LOOPS = (ast.For, ast.AsyncFor, ast.While, ast.comprehension)


@dataclass(frozen=True, slots=True)
class Code:
    """A plan, and what its syntax tree counts; None where Python cannot parse it."""

    text: str
    counts: Mapping[str, int] | None

    @classmethod
    def read(cls, reply: str, *, whole: bool = True) -> Self:
        """The first fenced block of a reply, or all of it; one that is cut off, not `whole`, is no plan."""
        fenced = _FENCED.search(reply + "\n")
        text = (fenced[1] if fenced else reply).strip("\n").rstrip()
        return cls(text, _counts(text) if whole else None)


def unsound(
    code: Code, tokens: int, of: int, response: str, *, statements: int, ratio: float, copied: float
) -> Rejection | None:
    """Why a plan of so many tokens, of a response of `of` tokens, is none: it does not parse, is too short or too long, or a copy."""
    if code.counts is None:
        return Rejection("not_code", {"plan": code.text[:1000]})
    if code.counts["n_stmt"] < statements:
        return Rejection(
            "few_statements", {"plan": code.text, "statements": code.counts["n_stmt"], "least": statements}
        )
    if tokens > Fraction(str(ratio)) * of:
        return Rejection("too_long_a_plan", {"plan": code.text, "tokens": tokens, "response": of, "ratio": ratio})
    mine = _grams(code.text)
    shared = len(mine & _grams(response))
    if shared > Fraction(str(copied)) * len(mine):
        return Rejection("copied", {"plan": code.text, "shared": shared, "of": len(mine)})
    return None


def _counts(text: str) -> Mapping[str, int] | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the compiler, about what a model wrote
            nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    branches = sum(isinstance(node, _BRANCHES) for node in nodes)
    loops = sum(isinstance(node, _LOOPS) for node in nodes)
    calls = sum(isinstance(node, ast.Call) for node in nodes)
    return {
        "n_stmt": sum(isinstance(node, ast.stmt) and not _says_nothing(node) for node in nodes),
        "n_branch": branches,
        "n_loop": loops,
        "straight": branches + loops == 0,
        "plan_difficulty": branches + loops + calls,
    }


def _says_nothing(node: ast.stmt) -> bool:
    """Whether a statement is `pass`, `...` or a text that stands by itself."""
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def _grams(text: str) -> set[tuple[str, ...]]:
    """Every five words in a row, without regard to case; none of a shorter text."""
    words = [word.lower() for word in _WORD.findall(text)]
    return {tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1)}
