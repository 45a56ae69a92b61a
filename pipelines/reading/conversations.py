r"""A given conversation, from whatever a source holds to turns that a template, a server and a table can take.

[{"role": "user", "content": "6 * 7?"},
 {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "mul", "arguments": "{\"a\": 6, \"b\": 7}"}}]},
 {"role": "tool", "content": "42"}]
    ▶ the same turns; content is text, every call has a type, arguments are an object; nulls that fill tables are gone
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from tracemill.pipelines.reading.rawrow import Unusable, wrong_type
from tracemill.schemas.request import Message

ROLES = ("system", "developer", "user", "assistant", "tool")
"""What the OpenAI API and chat templates know; a turn of another role would vanish or fail in most templates."""
_FORM = "a list of {role, content}"
_OTHER_NAMES = ("reasoning", "thinking")
"""What servers and some data sets call `reasoning_content`."""


def read_messages(value: Any, column: str, *, answered: bool) -> tuple[Message, ...]:
    """The turns before the answer. `answered`: traces are given beside them, so an answer at the end is one more and goes."""
    turns = parsed(value)
    if turns is None or turns in ([], ""):
        raise Unusable("missing_messages", column=column)
    if not isinstance(turns, list):
        raise wrong_type(column, turns, _FORM)
    messages = [_message(turn, number, column) for number, turn in enumerate(turns, start=1)]
    while answered and len(messages) > 1 and messages[-1]["role"] == "assistant":
        messages.pop()
    if messages[-1]["role"] == "assistant":
        raise Unusable("ends_with_assistant", column=column, turns=len(messages))
    return tuple(messages)


def is_conversation(value: Any) -> bool:
    """Whether a value of a column of traces is a conversation that ends in one, rather than a list of texts."""
    if isinstance(value, str):
        return False  # a trace may be JSON: text is text
    return isinstance(value, list | tuple) and any(isinstance(turn, Mapping) for turn in value)


def read_answered(value: Any, column: str) -> tuple[tuple[Message, ...], str]:
    """The turns before the last one, and the text of that, which is the assistant's: its thoughts between tags come first."""
    turns = list(value)
    last = turns[-1] if isinstance(turns[-1], Mapping) else {}
    if last.get("role") != "assistant":
        raise Unusable("ends_without_assistant", column=column, turns=len(turns), role=repr(last.get("role"))[:100])
    answer = _message(last, len(turns), column)
    thoughts, text = answer.get("reasoning_content"), answer["content"]
    if answer.get("tool_calls"):
        raise Unusable("ends_with_tool_call", column=column, turns=len(turns))
    prompt = [_message(turn, number, column) for number, turn in enumerate(turns[:-1], start=1)]
    return tuple(prompt), f"<think>\n{thoughts}\n</think>\n\n{text}" if thoughts else text


def read_tools(value: Any, column: str) -> tuple[Mapping[str, Any], ...] | None:
    """The tools of a conversation; None where it has none."""
    tools = parsed(value)
    if tools is None or tools in ([], ""):
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise wrong_type(column, tools, "a list of objects, or JSON text of one")
    for number, tool in enumerate(tools, start=1):
        function = tool.get("function", tool)
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise Unusable("tool_without_name", column=column, tool=number, keys=sorted(tool))
    return tuple(whole(tool) for tool in tools)


def parsed(value: Any) -> Any:
    """Lists are often stored as JSON text."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def whole(value: Mapping[str, Any]) -> dict[str, Any]:
    """Without the nulls that tables fill their columns with, at any depth."""
    return {
        name: whole(inner) if isinstance(inner, Mapping) else [whole(x) if isinstance(x, Mapping) else x for x in inner]
        if isinstance(inner, list) else inner
        for name, inner in value.items() if inner is not None
    }  # fmt: skip


def _message(turn: Any, number: int, column: str) -> Message:
    if not isinstance(turn, Mapping):
        raise wrong_type(column, turn, _FORM)
    given = whole(turn)
    role, content = given.get("role"), given.get("content", "")
    if not isinstance(role, str) or not role:
        raise Unusable("message_without_role", column=column, turn=number, keys=sorted(given))
    if role not in ROLES:
        raise Unusable("unknown_role", column=column, turn=number, role=role[:100], known=list(ROLES))
    if not isinstance(content, str):
        wanted = "text; join the parts of text first" if isinstance(content, list) else "text"
        found = type(content).__name__
        raise Unusable("content_not_text", column=column, turn=number, role=role, found=found, wanted=wanted)
    message: dict[str, Any] = {"role": role, "content": content, **_further_texts(given, number, column)}
    if "tool_calls" in given and given["tool_calls"] != []:
        message["tool_calls"] = _calls(given["tool_calls"], role, number, column)
    if not (content.strip() or role in ("system", "tool") or {"tool_calls", "reasoning_content"} & message.keys()):
        raise Unusable("message_without_content", column=column, turn=number, role=role)
    return cast("Message", message)


def _further_texts(given: Mapping[str, Any], number: int, column: str) -> dict[str, str]:
    """Thoughts, the name of who speaks, and the call that a tool answers."""
    thoughts = next((given[name] for name in _OTHER_NAMES if name in given), None)
    found = {"reasoning_content": given.get("reasoning_content", thoughts)}
    found |= {name: given.get(name) for name in ("tool_call_id", "name")}
    for name, text in found.items():
        if text is not None and not isinstance(text, str):
            raise Unusable("field_not_text", column=column, turn=number, field=name, found=type(text).__name__)
    return {name: text for name, text in found.items() if text}


def _calls(calls: Any, role: str, number: int, column: str) -> list[dict[str, Any]]:
    def bad(why: str, **more: Any) -> Unusable:
        return Unusable("bad_tool_calls", column=column, turn=number, why=why, **more)

    if role != "assistant":
        raise bad("only the assistant calls tools", role=role)
    if not isinstance(calls, list):
        raise bad("not a list", found=type(calls).__name__)
    found = []
    for call in calls:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
            raise bad("a call is {function: {name, arguments}}", call=repr(call)[:200])
        arguments = _arguments(function.get("arguments"))
        if not isinstance(arguments, dict):
            raise bad(
                "arguments are an object, or JSON text of one", name=function["name"], value=repr(arguments)[:200]
            )
        about = {name: call[name] for name in ("id", "type") if isinstance(call.get(name), str)}
        found.append({"type": "function", **about, "function": {"name": function["name"], "arguments": arguments}})
    return found


def _arguments(value: Any) -> Any:
    return {} if value is None or value == "" else parsed(value)


def last_question(messages: Sequence[Message]) -> str | None:
    """What was asked last."""
    return next((turn["content"] for turn in reversed(messages) if turn["role"] == "user"), None)
