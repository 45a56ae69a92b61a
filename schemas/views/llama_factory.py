r"""What LLaMA-Factory 0.9.5 reads: sharegpt, alpaca, and the `dataset_info.json` that names file, columns and tags.

{"conversations": [{"from": "human", "value": "6 * 7?"},
                   {"from": "function_call", "value": "[{\"name\": \"mul\", \"arguments\": {\"a\": 6, \"b\": 7}}]"},
                   {"from": "observation", "value": "42"},
                   {"from": "gpt", "value": "It is 42."}],
 "system": "Be brief.", "tools": "[{\"name\": \"mul\", ...}]"}

It takes one side's turn after the other's, the question's first, and skips all else when it trains; so do these views.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from tracemill.schemas.tables import as_given
from tracemill.schemas.views.tables import Tables, chosen, tools_of

Said = tuple[str, str]
"""A turn: its tag, and the text."""

TAGS: Mapping[str, str] = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
"""All of them: of a table of tags that names some, LLaMA-Factory forgets its defaults for the others."""
_SHAREGPT: Mapping[str, str] = {"messages": "conversations", "system": "system"}
_ALPACA: Mapping[str, str] = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "system": "system",
    "history": "history",
}
_TAG_OF: Mapping[str, str] = {
    "system": "system",
    "developer": "system",
    "user": "human",
    "assistant": "gpt",
    "tool": "observation",
}
_SIDES = (("human", "observation"), ("gpt", "function_call"))
_BETWEEN: Mapping[str, str] = {
    "human": "\n\n",
    "observation": "\n</tool_response>\n<tool_response>\n",  # as its own reader of OpenAI's form joins what tools say
}
"""What joins turns of one tag that follow each other."""


def sharegpt(tables: Tables) -> pl.LazyFrame:
    """Chosen traces for LLaMA-Factory, `formatting: sharegpt`: `conversations` of from and value, `system`, `tools` if any.

    Beside them stands `dataset_info.json`; the entry has the dataset's name: `dataset_dir: DIR`, `dataset: NAME`. A call of
    tools is a turn `function_call`, JSON text of names and arguments; what tools say is an `observation`, joined where several
    answer at once, as questions are. Earlier thoughts stand between think tags. Ids of calls and names of speakers have no
    place there. A conversation whose sides do not take turns is left out, since LLaMA-Factory would skip it.
    """

    def row(messages: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        if (talk := _talk(messages)) is None:
            return None
        system, said = talk
        return {"conversations": [{"from": tag, "value": text} for tag, text in said], "system": system}

    turn = pl.Struct({"from": pl.String, "value": pl.String})
    return _each(tables, row, {"conversations": pl.List(turn), "system": pl.String})


def alpaca(tables: Tables) -> pl.LazyFrame:
    """Chosen traces for LLaMA-Factory, `formatting: alpaca`: `instruction`, `input`, `output`, `system`, `history`.

    `input` is empty; earlier turns are pairs in `history`, and `tools` follows where there are any. Beside them stands
    `dataset_info.json`; the entry has the dataset's name: `dataset_dir: DIR`, `dataset: NAME`. A conversation in which a tool
    was called is left out: this layout has no place for it, `sharegpt` has. So is one whose sides do not take turns.
    """

    def row(messages: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        talk = _talk(messages)
        if talk is None or any(tag not in ("human", "gpt") for tag, _ in talk[1]):
            return None
        system, (*earlier, asked, answered) = talk[0], [text for _, text in talk[1]]
        history = [earlier[at : at + 2] for at in range(0, len(earlier), 2)]
        return {"instruction": asked, "input": "", "output": answered, "system": system, "history": history}

    schema: dict[str, Any] = dict.fromkeys(("instruction", "input", "output", "system"), pl.String)
    return _each(tables, row, {**schema, "history": pl.List(pl.List(pl.String))})


def dataset_info(name: str, file_name: str, columns: Sequence[str]) -> dict[str, Any]:
    """The file that LLaMA-Factory finds a dataset by, for a file with these columns."""
    tools = {"tools": "tools"} if "tools" in columns else {}
    if "conversations" in columns:
        how = {"formatting": "sharegpt", "columns": {**_SHAREGPT, **tools}, "tags": dict(TAGS)}
    else:
        how = {"formatting": "alpaca", "columns": {**_ALPACA, **tools}}
    return {name: {"file_name": file_name, **how}}


def _each(
    tables: Tables, row: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any] | None], schema: dict[str, Any]
) -> pl.LazyFrame:
    """The chosen traces by id, each as `row` makes it of its messages, without those of which it makes none."""
    rows = chosen(tables).sort("id")
    tools = tools_of(rows)
    whole = {**schema, **dict.fromkeys(tools, pl.String)}

    def few(frame: pl.DataFrame) -> pl.DataFrame:
        made = [
            {**found, **{name: given[name] or "" for name in tools}}
            for given in frame.iter_rows(named=True)
            if (found := row(given["messages"])) is not None
        ]
        return pl.DataFrame(made, schema=whole)

    def convert(frame: pl.DataFrame) -> pl.DataFrame:  # few at a time: Python's own form of a text is large
        return pl.concat([pl.DataFrame(schema=whole), *map(few, frame.iter_slices(1024))])

    return rows.select("messages", *tools).map_batches(
        convert,
        predicate_pushdown=False,
        projection_pushdown=False,
        slice_pushdown=False,
        schema=whole,
        streamable=True,
    )


def _talk(messages: Sequence[Mapping[str, Any]]) -> tuple[str, list[Said]] | None:
    """The system prompt and the turns after it; None where the sides do not take turns up to an answer."""
    turns = [_said(as_given(turn)) for turn in messages]
    first = next((at for at, (tag, _) in enumerate(turns) if tag != "system"), len(turns))
    said: list[Said] = []
    for tag, text in turns[first:]:
        if said and said[-1][0] == tag and tag in _BETWEEN:
            said[-1] = (tag, said[-1][1] + _BETWEEN[tag] + text)
        else:
            said.append((tag, text))
    if not said or len(said) % 2 or any(tag not in _SIDES[at % 2] for at, (tag, _) in enumerate(said)):
        return None
    return "\n\n".join(text for _, text in turns[:first]), said


def _said(turn: Mapping[str, Any]) -> Said:
    """A turn as tag and text. Text before a call needs the marks that LLaMA-Factory tells it from the call by."""
    text, thoughts = turn["content"] or "", turn.get("reasoning_content")
    thought = f"<think>\n{thoughts}\n</think>\n\n" if thoughts else ""
    if not turn.get("tool_calls"):
        return _TAG_OF[turn["role"]], thought + text
    calls = [{name: call["function"][name] for name in ("name", "arguments")} for call in turn["tool_calls"]]
    called = json.dumps(calls, ensure_ascii=False)
    return "function_call", thought + (f"{text}<tool_call>{called}</tool_call>" if text.strip() else called)
