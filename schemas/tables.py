"""Arrow schemas of the tables that every version holds. Column names are a contract: docs/tables.md explains them."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import GenericAlias
from typing import Any, get_args, get_origin

import polars as pl
import pyarrow as pa

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.request import Message

Kind = type | GenericAlias | pa.DataType
"""How a plug-in declares the type of a column: int, float, str, bool, a list of one of them, or any Arrow type."""

_PLAIN: Mapping[type, pa.DataType] = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}

_CALL = pa.struct(
    [
        ("id", pa.string()),
        ("type", pa.string()),
        ("function", pa.struct([("name", pa.string()), ("arguments", pa.string())])),  # arguments: JSON text
    ]
)
MORE_OF_A_TURN: Mapping[str, pa.DataType] = {
    "reasoning_content": pa.string(),
    "tool_calls": pa.list_(_CALL),
    "tool_call_id": pa.string(),
    "name": pa.string(),
}
"""What a turn of a given conversation may hold beside role and content, in the order of columns."""


def declared(columns: Mapping[str, Kind], *, where: str) -> pa.Schema:
    """The Arrow types of columns that a plug-in declares; RecipeError names the one, in `where`, that has none."""
    return pa.schema([pa.field(name, _arrow(kind, f"{where}[{name!r}]")) for name, kind in columns.items()])


def _arrow(kind: object, where: str) -> pa.DataType:
    if isinstance(kind, pa.DataType):
        return kind
    if isinstance(kind, type) and kind in _PLAIN:
        return _PLAIN[kind]
    if get_origin(kind) is list and len(inner := get_args(kind)) == 1:
        return pa.list_(_arrow(inner[0], where))
    raise RecipeError(
        f"{where} = {kind!r} is no type of a column: int, float, str, bool, a list of one of them such as list[int], or an "
        "Arrow type such as pyarrow.struct(...)"
    )


def polars_types(schema: pa.Schema) -> pl.Schema:
    """The same columns as polars types them."""
    return pl.DataFrame(schema.empty_table()).schema


def turns_type(more: Iterable[str] = ()) -> pa.DataType:
    """The type of a conversation whose turns hold these fields beside role and content."""
    held = set(more)
    plain = [("role", pa.string()), ("content", pa.string())]
    return pa.list_(pa.struct([*plain, *((name, kind) for name, kind in MORE_OF_A_TURN.items() if name in held)]))


MESSAGES = turns_type()
TOOLS = pa.field("tools", pa.string())
"""JSON text of the tools that a conversation may use: tools have schemas of their own, which no column could hold."""


@dataclass(slots=True)
class Talk:
    """What the conversations of one dataset hold: most have turns of role and content, and their tables say no more.

    Only where some turn holds more do the columns of conversations have that field, null in all other turns; only where
    some problem brings tools do their tables have a column `tools`, behind the conversation.
    """

    more: set[str] = field(default_factory=set)
    tools: bool = False

    def see(self, row: Mapping[str, Any], column: str) -> None:
        """Note what a row's conversation holds."""
        for turn in row.get(column) or ():
            if len(turn) > 2:
                self.more |= turn.keys() & MORE_OF_A_TURN.keys()
        self.tools = self.tools or row.get("tools") is not None

    def over(self, schema: pa.Schema) -> pa.Schema:
        """A schema of this module with its conversations as they are here."""
        fields: list[Any] = []
        for column in schema:
            conversation = column.type == MESSAGES
            fields.append(pa.field(column.name, turns_type(self.more)) if conversation else column)
            fields += [TOOLS] if conversation and self.tools else []
        return pa.schema(fields)


def stored(turn: Message) -> dict[str, Any]:
    """A turn as tables hold it: the arguments of calls are JSON text, since no two tools take the same."""
    row: dict[str, Any] = {"role": turn["role"], "content": turn["content"]}
    row |= {name: turn[name] for name in MORE_OF_A_TURN if turn.get(name) is not None}  # type: ignore[literal-required]
    if "tool_calls" in row:
        row["tool_calls"] = [_stored_call(call) for call in row["tool_calls"]]
    return row


def _stored_call(call: Mapping[str, Any]) -> dict[str, Any]:
    return {**call, "function": {**call["function"], "arguments": json_arguments(call["function"].get("arguments"))}}


def as_given(turn: Mapping[str, Any]) -> dict[str, Any]:
    """A stored turn as templates and trainers take it: without the nulls that fill its columns, arguments as objects."""
    given = {name: value for name, value in turn.items() if value is not None}
    if "tool_calls" in given:
        given["tool_calls"] = [_given_call(call) for call in given["tool_calls"]]
    return given


def _given_call(call: Mapping[str, Any]) -> dict[str, Any]:
    about = {name: value for name, value in call.items() if value is not None}
    return {**about, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}


def json_arguments(arguments: object) -> str:
    """The arguments of a call as JSON text, the form of the OpenAI API."""
    return arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)


ROWS = pa.schema(
    [
        ("id", pa.string()),
        ("problem_id", pa.string()),
        ("question", pa.string()),
        ("messages", MESSAGES),
        ("reasoning", pa.string()),  # what stands between the think tags; null where the model has none
        ("content", pa.string()),  # what follows them, or the whole text
        ("answer", pa.string()),  # what counted as the final answer; null where none was found
        ("gold", pa.string()),
        ("correct", pa.bool_()),  # null: undecided
        ("verdict", pa.string()),  # equal | different | undecided: <reason>
        ("n_tokens", pa.int64()),
        ("tokenizer", pa.string()),  # whose tokens n_tokens counts
        ("finish_reason", pa.string()),  # stop | length | given
        ("model", pa.string()),
        ("source", pa.string()),
        ("licence", pa.string()),
        ("difficulty", pa.string()),
        ("key", pa.string()),  # the completion it is made of, in `samples` and the journal
    ]
)
"""The common columns of `rows` and `traces`; a method's own columns follow them."""

REJECTED = pa.schema(
    [
        ("id", pa.string()),  # null where a problem, not a trace, was turned down
        ("problem_id", pa.string()),
        ("stage", pa.string()),  # source | problem_filter | method | verify | score | filter:NAME | select:NAME
        ("reason", pa.string()),
        ("evidence", pa.string()),  # JSON
        ("row", pa.string()),  # JSON of the row as it was
    ]
)

ROLES = pa.list_(
    pa.struct(
        [
            ("role", pa.string()),
            ("correct", pa.int64()),
            ("total", pa.int64()),
            ("undecided", pa.int64()),
            ("truncated", pa.int64()),
        ]
    )
)
"""Counts over the samples of each role; undecided and truncated stand inside total, never in correct."""

PROBLEMS = pa.schema(
    [
        pa.field("problem_id", pa.string()),
        pa.field("question", pa.string()),
        pa.field("gold", pa.string()),
        pa.field("source", pa.string()),
        pa.field("difficulty", pa.string()),
        pa.field("outcome", pa.string()),  # chosen | none_chosen | rejected | failed
        pa.field("reason", pa.string()),
        pa.field("roles", ROLES),
        # what the model was shown, up to its answer; the question alone where nothing was shown
        pa.field("prompt", MESSAGES),
    ]
)

_SAMPLE_COLUMNS: list[Any] = [
    pa.field("key", pa.string()),
    pa.field("problem_id", pa.string()),
    pa.field("role", pa.string()),
    pa.field("adapter", pa.string()),
    pa.field("scale", pa.string()),
    pa.field("seed", pa.int64()),
    pa.field("text", pa.string()),
    pa.field("token_ids", pa.list_(pa.int32())),
    pa.field("n_tokens", pa.int64()),
    pa.field("finish_reason", pa.string()),
    pa.field("verdict", pa.string()),
]
SAMPLES = pa.schema(_SAMPLE_COLUMNS)

COMMON = frozenset({"rows", "traces", "rejected", "problems", "samples"})
"""Tables that a version may have whatever its method; a method's own have other names."""
