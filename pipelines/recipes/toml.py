"""Writes a resolved recipe as TOML that `tomllib` reads back to the same value: the writer that the standard library lacks.

For the values of recipes only: text, whole and decimal numbers, booleans, lists, tables. What is None is left out, as TOML has no
null; anything else is refused.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(table: Mapping[str, Any]) -> str:
    """A document: plain values first, then `[tables]` and `[[lists of tables]]`, in the order given."""
    return "\n".join(_body(table, ())).strip("\n") + "\n"


def _body(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    given = {key: value for key, value in table.items() if value is not None}
    lines = [
        f"{_key(key)} = {_value(value)}" for key, value in given.items() if not (_is_table(value) or _is_tables(value))
    ]
    for key, value in given.items():
        name = ".".join(_key(part) for part in (*path, key))
        if _is_table(value):
            lines += ["", f"[{name}]", *_body(value, (*path, key))]
        elif _is_tables(value):
            for item in value:
                lines += ["", f"[[{name}]]", *_body(item, (*path, key))]
    return lines


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    if isinstance(value, Mapping):
        given = (f"{_key(key)} = {_value(item)}" for key, item in value.items() if item is not None)
        return f"{{{', '.join(given)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(item) for item in value)}]"
    raise TypeError(f"{value!r} cannot stand in a recipe: write text, a number, true or false, a list or a table")


def _text(text: str) -> str:
    """JSON's escapes are TOML's, but for DEL, which TOML wants escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _text(key)


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_tables(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(_is_table, value))
