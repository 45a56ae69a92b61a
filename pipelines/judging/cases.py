"""Calibration sets: planted cases, good and bad ones, that a judge is asked about before it decides about rows.

    {"question": "Tom has 3 boxes with 8 pens each. ...", "solution": "3 * 8 = 24. ...", "expected": "good"}
    {"id": "slip-1", "question": "...", "solution": "3 * 8 = 26. ...", "expected": "bad"}

Read and checked before the first token.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracemill.pipelines.recipes.catalog import Plugin
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import Judging, suggest
from tracemill.schemas.tables import ROWS

GOOD, BAD = "good", "bad"
OF_A_CASE = ("id", "expected")
OF_A_TRACE = ("question", "solution", "messages", "gold", "difficulty")
"""What a case says of the trace that a score is to look at; `solution` is its text, `messages` the same as a conversation."""
_HALF = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Case:
    """One planted case: what the judge sees, and what it ought to say."""

    name: str
    given: Mapping[str, Any]
    good: bool | None
    """None where `wanted` says what columns ought to hold."""
    wanted: Mapping[str, Any]
    """By column a value, or a pair of numbers between which it lies."""


@dataclass(frozen=True, slots=True)
class Cases:
    """A calibration set, and the plug-in that it is about."""

    plugin: Plugin
    kind: str
    """`score` or `method`."""
    file: str
    sha256: str
    least_accuracy: float | None
    all: tuple[Case, ...]

    @property
    def sided(self) -> bool:
        """Whether its cases are good or bad; else they name values of columns."""
        return self.all[0].good is not None


def read_cases(step: Judging, plugin: Plugin, kind: str, own_columns: Sequence[str]) -> Cases | None:
    """The calibration set that a step of a recipe names, or a RecipeError that says what is wrong with it.

    `own_columns` are those that the method declares: a filter may read them beside a score's.
    """
    if step.calibration is None:
        return None
    path = Path(step.calibration)
    where = f"{plugin.name}: calibration = {path.name!r}"
    check = _fields_of_hook(plugin, where) if kind == "method" else _fields_of_trace(plugin, own_columns)
    try:
        content = path.read_bytes()
        lines = content.decode("utf-8-sig").split("\n")  # `splitlines` parts at U+2028 too, which JSON leaves in texts
    except OSError as error:
        raise RecipeError(
            f"{where}: {path} cannot be read ({error.strerror}); write it relative to the recipe, with ./"
        ) from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{where}: {path} is no text in UTF-8: {error}") from None
    found = tuple(_cases(lines, where, check))
    _check_sides(found, where)
    digest = hashlib.sha256(content).hexdigest()
    return Cases(plugin, kind, path.name, digest, step.least_accuracy, found)


def _cases(lines: Sequence[str], where: str, check: Callable[[Mapping[str, Any], str], None]) -> Iterator[Case]:
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        at = f"{where}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RecipeError(f"{at}: not JSON: {error}; a case a line, each an object") from None
        if not isinstance(row, dict):
            raise RecipeError(f"{at}: {line.strip()[:60]!r} is no object; a case is one, with `expected` in it")
        if _HALF.search(json.dumps(row, ensure_ascii=False)):
            raise RecipeError(
                f"{at}: half of a surrogate pair, such as \\ud800: no text in UTF-8, and no model reads it"
            )
        given = {name: value for name, value in row.items() if name not in OF_A_CASE}
        check(given, at)
        good, wanted = _expected(row, at)
        name = _name(row.get("id"), given, at)
        if name in seen:
            raise RecipeError(f"{at}: the same case as line {seen[name]}, by its {'id' if 'id' in row else 'content'}")
        seen[name] = number
        yield Case(name, given, good, wanted)


def _name(stated: object, given: Mapping[str, Any], at: str) -> str:
    """The case's id; without one, the hash of what the judge sees, so that another order or label asks nothing again."""
    if stated is None:
        return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()[:16]
    if not isinstance(stated, str) or not stated or "/" in stated:
        raise RecipeError(f"{at}: id = {stated!r}: a text without '/'")
    return stated


def _expected(row: Mapping[str, Any], at: str) -> tuple[bool | None, Mapping[str, Any]]:
    if "expected" not in row:
        raise RecipeError(f'{at}: no `expected`; write "good", "bad", or {{"column": [low, high]}}')
    expected = row["expected"]
    if expected in (GOOD, BAD):
        return expected == GOOD, {}
    if isinstance(expected, dict) and expected:
        for column, value in expected.items():
            if isinstance(value, list) and not _is_range(value):
                raise RecipeError(f"{at}: expected.{column} = {value}: a range is two numbers, the lower one first")
        return None, expected
    raise RecipeError(
        f'{at}: expected = {expected!r}: "good", "bad", or by column a value or a range: {{"p_true": [0.5, 1]}}'
    )


def _is_range(value: Sequence[Any]) -> bool:
    numbers = all(isinstance(part, int | float) and not isinstance(part, bool) for part in value)
    return len(value) == 2 and numbers and value[0] <= value[1]


def _fields_of_hook(plugin: Plugin, where: str) -> Callable[[Mapping[str, Any], str], None]:
    """What a case of a method says: all that its CASE names, and nothing else."""
    if plugin.about("calibrate", None) is None:
        raise RecipeError(
            f"{where}: {plugin.name} has no function `calibrate`, so nobody can ask its judge about a case; take it out"
        )
    fields: tuple[str, ...] = plugin.about("CASE", ())

    def check(given: Mapping[str, Any], at: str) -> None:
        for stray in sorted(given.keys() - {*fields}):
            raise RecipeError(f"{at}: unknown field {stray!r}{suggest(stray, (*fields, *OF_A_CASE))}")
        for name in fields:
            if not isinstance(given.get(name), str):
                raise RecipeError(f"{at}: {name} = {given.get(name)!r}: {plugin.name} wants a text")

    return check


def _fields_of_trace(plugin: Plugin, own_columns: Sequence[str]) -> Callable[[Mapping[str, Any], str], None]:
    """What a case of a score says: a question, a solution, perhaps the gold, and columns of the method's own."""
    known = {*OF_A_TRACE, *own_columns}
    columns = plugin.columns()

    def check(given: Mapping[str, Any], at: str) -> None:
        for stray in sorted(given.keys() - known):
            made = f"; {stray!r} is made from these" if stray in ROWS.names or stray in (columns or {}) else ""
            raise RecipeError(f"{at}: unknown field {stray!r}{suggest(stray, (*known, *OF_A_CASE))}{made}")
        for name in ("question", "solution", "gold", "difficulty"):
            if given.get(name) is not None and not isinstance(given[name], str):
                raise RecipeError(f"{at}: {name} = {given[name]!r} is no text")
        if not str(given.get("question") or "").strip():
            raise RecipeError(f"{at}: no `question`; write what was asked")
        if (given.get("solution") is None) == (given.get("messages") is None):
            raise RecipeError(
                f"{at}: write either `solution`, the text to judge, or `messages`, a conversation that ends in it"
            )
        if given.get("messages") is not None:
            _check_messages(given["messages"], at)

    return check


def _check_messages(messages: object, at: str) -> None:
    turns = messages if isinstance(messages, list) else []
    plain = all(
        isinstance(turn, dict) and turn.keys() == {"role", "content"} and all(isinstance(t, str) for t in turn.values())
        for turn in turns
    )
    if not plain or len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise RecipeError(f"{at}: messages: turns of role and content, at least two, the last of the role assistant")


def _check_sides(cases: Sequence[Case], where: str) -> None:
    """A set that a judge who always says the same would pass measures nothing."""
    if not cases:
        raise RecipeError(f"{where}: no case in it; write good and bad ones, a JSON object a line")
    goods = {case.good for case in cases}
    if None in goods and len(goods) > 1:
        raise RecipeError(f'{where}: some cases expect "good" or "bad" and some name columns; one set has one kind')
    if None in goods:
        if all(case.wanted == cases[0].wanted for case in cases):
            raise RecipeError(
                f"{where}: all {len(cases)} cases expect {json.dumps(cases[0].wanted)}: a judge that always says so would "
                "be right each time; add cases that expect something else"
            )
    elif len(goods) == 1:
        only, other = (GOOD, BAD) if goods == {True} else (BAD, GOOD)
        raise RecipeError(
            f"{where}: all {len(cases)} cases are {only}: a judge that always says so would be right each time; add {other} ones"
        )
