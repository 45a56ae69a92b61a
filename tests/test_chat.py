"""Chat and reasoning models: what a conversation holds reaches the model and every table, and what cannot work is said first."""

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.loopback import Loopback, reply
from tests.test_bad_input import Desk
from tests.test_render import CHATML, TOOL
from tracemill.pipelines.asking.preview import check, preview
from tracemill.pipelines.build import build
from tracemill.pipelines.choosing.staging import Parts
from tracemill.pipelines.export import export
from tracemill.pipelines.reading.sources import SourceProblem, SourceRejection, read_source
from tracemill.pipelines.store import Dataset, Store
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import EngineTable, ModelTable, Recipe, Source, parse_recipe
from tracemill.schemas.request import Completion, Request
from tracemill.schemas.tables import PROBLEMS, ROWS, Talk
from tracemill.synth.fit import check_fit, check_template
from tracemill.synth.models import EMBEDDED, open_role
from tracemill.synth.render import Renderer
from tracemill.synth.reply import with_opening
from tracemill.synth.roles import THINK, Role

TINY = EMBEDDED / "tiny-reasoner"
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 6, "b": null}'}}
TALK = [
    {"role": "system", "content": "Use the tool."},
    {"role": "user", "content": "What is 6 + 7?"},
    {"role": "assistant", "content": None, "reasoning_content": "I call.", "tool_calls": [CALL]},
    {"role": "tool", "content": "13", "tool_call_id": "c1", "name": "add"},
]
PLAIN = [{"role": "user", "content": "What is 1 + 1?"}]
STORED_CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 6, "b": null}'}}
AS_GIVEN = [
    *TALK[:2],
    {
        "role": "assistant",
        "content": "",
        "reasoning_content": "I call.",
        "tool_calls": [{**CALL, "function": {"name": "add", "arguments": {"a": 6, "b": None}}}],
    },
    TALK[3],
]
TWO = [
    {"id": "calls", "chat": TALK, "tools": [TOOL], "answer": "13"},
    {"id": "plain", "chat": PLAIN, "answer": "2"},
]
SHOWS_TOOLS = {"name": "m", "max_tokens": 64, "tokenizer": "tiny-reasoner", "template": CHATML}


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Recipe]:
    """Makes a recipe over given conversations."""

    def make(rows: list[dict[str, Any]], **changes: Any) -> Recipe:
        path = tmp_path / "chats.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        tools = {"tools": "tools"} if any("tools" in row for row in rows) else {}
        table: dict[str, Any] = {
            "name": "chats",
            "source": {"path": str(path), "messages": "chat", **tools},
            "model": SHOWS_TOOLS,
            "engine": {"kind": "scripted"},
            "synth": {"use": "sample", "n": 1},
        }
        return parse_recipe({**table, **changes})

    return make


def loaded(folder: Path, cache: Path) -> list[dict[str, Any]]:
    """The rows of a folder, as a trainer gets them."""
    import datasets

    datasets.disable_progress_bars()
    return list(datasets.load_dataset(str(folder), split="train", cache_dir=str(cache / "cache")))


def right(request: Request) -> str:
    return r"\boxed{13}" if request.problem_id == "calls" else r"\boxed{3}"


# ---- given conversations


def test_a_conversation_with_calls_is_whole_in_every_table_and_view(made: Any, store: Store, tmp_path: Path):
    recipe = made(TWO, filters=[{"use": "correct"}], views={"trl-sft": True})
    dataset = build(recipe, store, reply=right).dataset
    [row] = dataset.scan("rows").collect().to_dicts()
    assert row["messages"][2]["tool_calls"] == [STORED_CALL]
    assert row["messages"][2]["reasoning_content"] == "I call."
    assert (row["messages"][3]["tool_call_id"], row["messages"][3]["name"]) == ("c1", "add")
    assert row["messages"][4]["role"] == "assistant"
    assert row["messages"][4]["tool_calls"] is None
    assert json.loads(row["tools"]) == [TOOL]
    [down] = dataset.scan("rejected").collect().to_dicts()
    assert [turn["content"] for turn in json.loads(down["row"])["messages"]] == ["What is 1 + 1?", r"\boxed{3}"]
    calls, plain = dataset.scan("problems").collect().to_dicts()
    assert calls["prompt"] == row["messages"][:4]
    assert (json.loads(calls["tools"]), plain["tools"]) == ([TOOL], None)
    assert list(ROWS.names) == [
        name for name in dataset.scan("rows").collect_schema().names() if name not in ("tools", "draw")
    ]
    [view] = loaded(dataset.path / "views" / "trl-sft", tmp_path)
    given = [*AS_GIVEN, {"role": "assistant", "content": r"\boxed{13}"}]
    assert view == {"messages": given, "tools": row["tools"]}
    out = export(dataset.path, "trl-sft", tmp_path / "split", form="prompt-completion")
    assert loaded(out, tmp_path) == [{"prompt": given[:4], "completion": given[4:], "tools": row["tools"]}]
    assert [file.suffix for file in out.iterdir()] == [".parquet"]


def test_a_call_that_was_turned_down_is_in_its_rejected_row(made: Any, store: Store):
    dataset = build(made(TWO, filters=[{"use": "correct"}]), store, reply=lambda _: r"\boxed{0}").dataset
    downs = {row["problem_id"]: json.loads(row["row"]) for row in dataset.scan("rejected").collect().to_dicts()}
    assert downs["calls"]["messages"][2]["tool_calls"] == [STORED_CALL]
    assert json.loads(downs["calls"]["tools"]) == [TOOL]


def test_datasets_loads_conversations_with_tools(made: Any, store: Store, tmp_path: Path):
    calls, plain = loaded(build(made(TWO), store, reply=right).dataset.path, tmp_path)
    assert calls["messages"][2]["tool_calls"] == [STORED_CALL]
    assert plain["messages"][0]["tool_calls"] is None


@pytest.mark.parametrize("to", ["trl-dpo", "trl-kto", "trl-grpo", "verl"])
def test_prompts_with_calls_go_out_as_they_were_given(to: str, made: Any, store: Store, tmp_path: Path):
    def some(request: Request) -> str:
        return right(request) + " indeed" * request.index

    dataset = build(made(TWO, synth={"use": "sample", "n": 2}), store, reply=some).dataset
    rows = loaded(export(dataset.path, to, tmp_path / "out"), tmp_path)
    assert (rows[0]["prompt"], json.loads(rows[0]["tools"])) == (AS_GIVEN, [TOOL])


def test_calls_and_tools_reach_the_layouts_of_other_trainers(made: Any, store: Store, tmp_path: Path):
    recipe = made(TWO, filters=[{"use": "correct"}], views={"sharegpt": True, "openrlhf": {"form": "sft"}})
    dataset = build(recipe, store, reply=right).dataset
    [row] = loaded(dataset.path / "views" / "openrlhf", tmp_path)
    assert row == {
        "input": AS_GIVEN,
        "output": [{"role": "assistant", "content": r"\boxed{13}"}],
        "tools": row["tools"],
    }
    [row] = loaded(dataset.path / "views" / "sharegpt", tmp_path)
    tags = ["human", "function_call", "observation", "gpt"]
    assert [said["from"] for said in row["conversations"]] == tags
    assert '{"name": "add", "arguments": {"a": 6, "b": null}}' in row["conversations"][1]["value"]
    assert (row["system"], json.loads(row["tools"])) == ("Use the tool.", [TOOL])
    assert list(json.loads((dataset.path / "views" / "sharegpt" / "dataset_info.json").read_text())) == ["chats"]
    assert len(loaded(dataset.path, tmp_path)) == 1  # the version opens as it did
    with pytest.raises(RecipeError, match="would have no rows"):
        export(dataset.path, "alpaca", tmp_path / "alpaca")


def test_a_dataset_without_calls_and_tools_has_the_plain_layout(made: Any, store: Store):
    dataset = build(made(TWO[1:]), store, reply=right).dataset
    for table, schema in (("rows", ROWS), ("problems", PROBLEMS)):
        found = dataset.scan(table).head(0).collect().to_arrow().schema
        assert set(schema.names) - set(found.names) == set()
        assert "tools" not in found.names
    [row] = dataset.scan("rows").collect().to_dicts()
    assert set(row["messages"][0]) == {"role", "content"}


def test_a_problem_that_failed_still_shows_the_conversation_it_was_asked_with(made: Any, store: Store):
    def fails(request: Request) -> str:
        if request.problem_id == "calls":
            raise ValueError("no")
        return right(request)

    problems = build(made(TWO), store, reply=fails).dataset.scan("problems").collect().to_dicts()
    assert (problems[0]["outcome"], problems[0]["prompt"][2]["tool_calls"]) == ("failed", [STORED_CALL])


def test_parts_written_before_the_first_call_have_its_columns_too(tmp_path: Path):
    talk = Talk()
    parts = Parts(tmp_path / "parts", ROWS, turns="messages", talk=talk)
    named, thought = {**PLAIN[0], "name": "Ann"}, {**PLAIN[0], "reasoning_content": "hm"}
    for row in ({"messages": PLAIN}, {"messages": [named], "tools": "[]"}, {"messages": [thought], "own": 1}):
        parts.add([row])
        parts.flush()
    talk.see({"prompt": [{**PLAIN[0], "tool_call_id": "c1"}]}, "prompt")  # in another table of the dataset
    rows = parts.scan().collect()
    nothing = dict.fromkeys(("reasoning_content", "tool_call_id", "name"))
    assert rows["messages"].to_list() == [[{**nothing, **turn}] for turn in (PLAIN[0], named, thought)]
    assert rows["tools"].to_list() == [None, "[]", None]
    turns = rows.schema["messages"]
    assert isinstance(turns, pl.List)
    assert list(pl.DataFrame(schema={"turn": turns.inner}).unnest("turn").columns) == [
        "role",
        "content",
        *nothing,
    ]
    assert [frame.columns for frame in parts.frames()] == [[*parts.schema.names, "own"]] * 3


def test_templates_are_shown_arguments_as_objects_and_text_where_they_cannot_take_objects():
    calls = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]
    turns: Any = (*PLAIN, {"role": "assistant", "content": "", "tool_calls": calls})
    each = "{% for m in messages %}{% for c in m.tool_calls %}"
    objects = Renderer.load(TINY, "m", each + "{{ c.function.arguments.a }}{% endfor %}{% endfor %}")
    texts = Renderer.load(TINY, "m", each + "{{ 'call ' + c.function.arguments }}{% endfor %}{% endfor %}")
    assert (objects.text(turns), texts.text(turns)) == ("1", 'call {"a": 1}')


async def test_a_server_is_sent_the_conversation_its_tools_and_switches(made: Any, store: Store):
    model = {"name": "tiny", "max_tokens": 8, "system": "unused", "chat_template_kwargs": {"enable_thinking": True}}
    async with Loopback() as server:
        engine = {"kind": "openai", "base_urls": [server.url]}
        await asyncio.to_thread(build, made(TWO, model=model, engine=engine), store)
        calls, plain = sorted(server.bodies, key=lambda body: "tools" not in body)
    assert calls["messages"][0] == TALK[0]
    assert calls["messages"][2]["tool_calls"] == [STORED_CALL]
    assert calls["messages"][2]["reasoning"] == calls["messages"][2]["reasoning_content"] == "I call."
    assert calls["messages"][3] == TALK[3]
    assert (calls["tools"], calls["tool_choice"]) == ([TOOL], "none")
    assert plain["messages"] == [{"role": "system", "content": "unused"}, *PLAIN]
    assert plain["chat_template_kwargs"] == {"enable_thinking": True}


MALFORMED: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "nothing": ([], "missing_messages", {}),
    "null": (None, "missing_messages", {}),
    "a text": ("hello", "wrong_type", {}),
    "a turn that is a text": (["hello"], "wrong_type", {}),
    "no role": ([{"content": "q"}], "message_without_role", {"turn": 1}),
    "another role": ([{"role": "human", "content": "q"}], "unknown_role", {"turn": 1, "role": "human"}),
    "a number for content": ([{"role": "user", "content": 7}], "content_not_text", {"found": "int"}),
    "parts of content": ([{"role": "user", "content": [{"type": "text", "text": "q"}]}], "content_not_text", {"found": "list"}),
    "an empty question": ([{"role": "user", "content": " "}], "message_without_content", {"turn": 1}),
    "the answer": ([*PLAIN, {"role": "assistant", "content": "2"}], "ends_with_assistant", {"turns": 2}),
    "calls that are an object": ([*PLAIN, {"role": "assistant", "content": "", "tool_calls": CALL}], "bad_tool_calls", {"turn": 2, "why": "not a list"}),
    "a call without a function": ([*PLAIN, {"role": "assistant", "content": "", "tool_calls": [{"id": "x"}]}], "bad_tool_calls", {"turn": 2}),
    "arguments that are no JSON": ([*PLAIN, {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{a"}}]}], "bad_tool_calls", {"name": "f"}),
    "a user who calls": ([{"role": "user", "content": "q", "tool_calls": [CALL]}], "bad_tool_calls", {"role": "user"}),
    "a name that is a number": ([{"role": "user", "content": "q", "name": 7}], "field_not_text", {"field": "name"}),
    "no question": ([{"role": "system", "content": "s"}], "missing_question", {}),
}  # fmt: skip


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_conversation_is_a_rejected_row_that_says_where_and_why(what: str, made: Any, store: Store):
    turns, reason, evidence = MALFORMED[what]
    dataset = build(made([TWO[1], {"id": "bad", "chat": turns, "answer": "1"}]), store, reply=right).dataset
    [down] = dataset.scan("rejected").filter(pl.col("stage") == "source").collect().to_dicts()
    assert (down["problem_id"], down["reason"]) == ("bad", reason)
    assert evidence.items() <= json.loads(down["evidence"]).items()
    assert json.loads(down["row"])["chat"] == turns


@pytest.mark.parametrize(
    ("tools", "reason"),
    [("sum", "wrong_type"), ({"name": "f"}, "wrong_type"), ([{"type": "function"}], "tool_without_name")],
)
def test_malformed_tools_are_a_rejected_row(tools: Any, reason: str, made: Any, store: Store):
    dataset = build(made([TWO[1], {**TWO[1], "id": "bad", "tools": tools}]), store, reply=right).dataset
    assert dataset.scan("rejected").collect()["reason"].to_list() == [reason]


def test_empty_content_is_fine_where_it_says_something(tmp_path: Path):
    turns = [{"role": "system", "content": ""}, *PLAIN, TALK[2], {"role": "tool", "content": ""}]
    [row] = read_rows(tmp_path, {"chat": turns})
    assert isinstance(row, SourceProblem)
    assert [turn["content"] for turn in row.problem.messages or ()] == ["", "What is 1 + 1?", "", ""]


def test_where_responses_are_given_the_answer_that_a_conversation_ends_in_is_no_part_of_the_prompt(tmp_path: Path):
    turns = [*PLAIN, {"role": "assistant", "content": "2"}]
    [row] = read_rows(tmp_path, {"chat": turns, "r": "3"}, response="r")
    assert isinstance(row, SourceProblem)
    assert row.problem.messages == tuple(PLAIN)


def read_rows(folder: Path, row: Mapping[str, Any], **mapping: Any) -> list[SourceProblem | SourceRejection]:
    (folder / "x.jsonl").write_text(json.dumps(row) + "\n")
    return list(read_source(Source(path=str(folder / "x.jsonl"), messages="chat", **mapping), 0))


@pytest.mark.parametrize(
    ("model", "of"),
    [({"name": "m", "max_tokens": 8}, "the plain layout"), ({**SHOWS_TOOLS, "template": "{{ messages[-1].content }}"}, "template of tiny-reasoner")],
)  # fmt: skip
def test_tools_that_no_prompt_would_show_are_refused_first(model: Any, of: str, made: Any, store: Store):
    with pytest.raises(RecipeError, match=rf"source\.0\.tools: .*{of} shows no tools"):
        build(made(TWO, model=model), store)


# ---- switches, system prompts, templates


def role(**changes: Any) -> Role:
    table: dict[str, Any] = {"name": "m", "max_tokens": 64, "tokenizer": "tiny-reasoner", "template": CHATML}
    return open_role("solver", ModelTable(**{**table, **changes}), EngineTable(kind="scripted"), runtime=Path())


def prompt(of: Role) -> str:
    from tracemill.schemas.request import Sampling

    request = of.request("1 + 1?", sampling=Sampling(), prefix=None, tools=None, problem_id="p")
    assert isinstance(request.prompt, str)
    return request.prompt


def test_a_thinking_switch_changes_the_prompt_that_is_rendered_here():
    closed = "<think>\n\n</think>\n\n"
    assert prompt(role(chat_template_kwargs={"enable_thinking": False})).endswith(closed)
    assert closed not in prompt(role(chat_template_kwargs={"enable_thinking": True}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chat_template_kwargs": {"enable_thinkin": True}}, "never reads 'enable_thinkin'; did you mean 'enable_thinking'"),
        ({"chat_template_kwargs": {"tools": []}}, "'tools' is set by every request"),
        ({"tokenizer": None, "template": None, "chat_template_kwargs": {"x": 1}}, "no chat template to read x"),
        ({"template": CHATML.replace("add_generation_prompt", "false")}, "writes nothing for add_generation_prompt.*begins with '<|im_start|>assistant"),
        ({"template": "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ messages[-1].content }}", "system": "s"}, r"models\.solver\.system: .*no system; take `system` out"),
        ({"template": "{{ messages[-1].content }}", "system": "s"}, "does not show a system prompt"),
        ({"template": "{{ raise_exception('never') }}"}, "never; it was shown nothing but"),
        ({"template": "Solve it.{{ eos_token }}"}, "shows nothing of the question"),
    ],
)  # fmt: skip
def test_what_a_template_cannot_do_is_said_before_the_first_token(changes: Any, message: str):
    with pytest.raises(RecipeError, match=message.replace("|", r"\|")):
        role(**changes)


@pytest.mark.parametrize(
    "template",
    [
        None,
        "Q: {{ messages[-1].content }}\nA:",
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}</s>{% endif %}{% endfor %}",
        "{{ messages | map(attribute='content') | join('\n\n') }}",
    ],
)
def test_templates_that_open_the_answer_behind_every_question_are_fine(template: str | None):
    assert "1 + 1?" in prompt(role(template=template))


def test_a_template_whose_output_is_no_token_is_refused(tmp_path: Path):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": {}, "merges": []}}))
    with pytest.raises(RecipeError, match="is no token to its tokenizer"):
        check_template("models.solver", Renderer.load(tmp_path, "empty", CHATML), None, {})


def test_a_recipes_system_prompt_stands_first_unless_the_conversation_brings_one(made: Any, store: Store):
    model = {**SHOWS_TOOLS, "system": "Be brief."}
    rows = build(made(TWO, model=model), store, reply=right).dataset.scan("rows").collect().to_dicts()
    first = {row["problem_id"]: row["messages"][0]["content"] for row in rows}
    assert first == {"calls": "Use the tool.", "plain": "Be brief."}


# ---- tokenizers


def edited(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of the tokenizer that ships, changed."""
    tokenizer = json.loads((TINY / "tokenizer.json").read_text(encoding="utf-8"))
    change(tokenizer)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("normalizer", "lost"),
    [
        ({"type": "Lowercase"}, "upper and lower case"),
        ({"type": "Replace", "pattern": {"String": "\n"}, "content": " "}, "line breaks"),
        ({"type": "Replace", "pattern": {"Regex": "[0-9]"}, "content": "?"}, r"'1234567890.*of which it makes '\?\?\?"),
        ({"type": "Replace", "pattern": {"String": " "}, "content": ""}, "the spaces between words"),
    ],
)
def test_a_tokenizer_that_loses_what_reasoning_is_made_of_is_refused(normalizer: Any, lost: str, tmp_path: Path):
    with pytest.raises(RecipeError, match=rf"models\.solver: the tokenizer of .* loses .*{lost}.*name another one"):
        role(tokenizer=str(edited(tmp_path, lambda t: t.update(normalizer=normalizer))), template=None)


def test_what_a_tokenizer_only_writes_otherwise_is_a_note(tmp_path: Path):
    assert role().notes == ()
    squared = {"type": "NFKC"}
    noted = role(tokenizer=str(edited(tmp_path, lambda t: t.update(normalizer=squared)))).notes
    assert any("²" in note for note in noted)


def test_sentencepiece_that_puts_a_space_in_front_is_no_damage(tmp_path: Path):
    from tokenizers import Tokenizer, decoders, models, normalizers

    letters = {"<unk>": 0, "▁": 1} | {chr(i): i for i in range(2, 127)} | {f"<0x{i:02X}>": 200 + i for i in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    renderer = Renderer.load(tmp_path, "llama")
    [note] = check_fit("models.solver", renderer, system=None, kwargs={}, renders=True)
    assert "a space before a forced prefix" in note


# ---- thoughts


@pytest.mark.parametrize(
    ("think", "message"),
    [
        (["<t>", "<t>"], "hold one another"),
        (["", "</t>"], "neither empty"),
        (["<t>", " "], "neither empty"),
        (["think", "</think>"], "hold one another"),
    ],
)
def test_think_marks_that_nobody_can_tell_apart_are_refused(think: list[str], message: str, made: Any):
    with pytest.raises(RecipeError, match=rf"models\.solver\.think: .*{message}"):
        made(TWO, model={**SHOWS_TOOLS, "think": think})


MARKS = ["[THINK]", "[/THINK]"]
REPLIES = {
    "thought and answer": (r"[THINK]\boxed{9}[/THINK]\boxed{2}", r"\boxed{9}", r"\boxed{2}", "equal"),
    "several thoughts": (r"[THINK]a[/THINK]b[THINK]c[/THINK]\boxed{2}", "a[/THINK]b[THINK]c", r"\boxed{2}", "equal"),
    "only closed": (r"a[/THINK]\boxed{2}", "a", r"\boxed{2}", "equal"),
    "never closed": (r"[THINK]\boxed{2}", r"\boxed{2}", "", "undecided: unclosed_thought"),
    "opened again": (r"[THINK]a[/THINK]\boxed{2}[THINK]b", r"a[/THINK]\boxed{2}[THINK]b", "", "undecided: unclosed_thought"),
    "other marks": (r"<think>\boxed{3}</think>\boxed{2}", None, r"<think>\boxed{3}</think>\boxed{2}", "equal"),
}  # fmt: skip


@pytest.mark.parametrize("what", REPLIES)
def test_the_recipes_marks_split_a_reply_and_only_what_follows_the_last_thought_answers(
    what: str, made: Any, store: Store
):
    text, reasoning, content, verdict = REPLIES[what]
    recipe = made(TWO[1:], model={**SHOWS_TOOLS, "think": MARKS})
    dataset = build(recipe, store, reply=lambda _: text).dataset
    [row] = dataset.scan("rows").collect().to_dicts()
    assert (row["reasoning"], row["content"], row["verdict"]) == (reasoning, content, verdict)
    assert row["messages"][-1]["content"] == text
    assert dataset.manifest()["roles"][0]["unclosed"] == (verdict == "undecided: unclosed_thought")


@pytest.mark.parametrize(
    ("text", "verdict"),
    [(r"so \boxed{2}", "undecided: unclosed_thought"), (r"so</think>\boxed{2}", "equal")],
)
def test_where_the_template_opens_the_thought_a_reply_begins_in_it_for_the_verdict_too(
    text: str, verdict: str, made: Any, store: Store
):
    opens = CHATML.replace("assistant\\n'", "assistant\\n<think>\\n'")
    dataset = build(made(TWO[1:], model={**SHOWS_TOOLS, "template": opens}), store, reply=lambda _: text).dataset
    [row] = dataset.scan("rows").collect().to_dicts()
    assert (row["reasoning"], row["verdict"]) == ("so" if verdict == "equal" else text, verdict)


def test_a_given_trace_begins_outside_of_a_thought_and_may_never_close_one(made: Any, store: Store):
    rows = [{**TWO[1], "id": str(i), "r": text} for i, text in enumerate((r"\boxed{2}", r"<think>\boxed{2}"))]
    recipe = made(rows)
    source = recipe.source[0].model_copy(update={"response": "r"})
    given = recipe.model_copy(update={"source": (source,), "synth": None, "models": {}, "engines": {}})
    dataset = build(given, store, given=True).dataset
    assert dataset.scan("rows").collect()["verdict"].to_list() == ["equal", "undecided: unclosed_thought"]
    assert dataset.manifest()["roles"][0]["unclosed"] == 1


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
async def test_thoughts_that_a_server_hands_over_apart_stand_between_the_recipes_marks(
    field: str, made: Any, store: Store
):
    def answer(body: Mapping[str, Any]) -> Mapping[str, Any]:
        said = {"role": "assistant", "content": r"\boxed{2}", field: "1 + 1 = 2"}
        if body["messages"][0]["content"] != PLAIN[0]["content"]:
            said["content"] = None  # it ended in its thought
        return reply(body, [1, 2], "", message=said)

    async with Loopback(answer) as server:
        model = {"name": "tiny", "max_tokens": 8, "think": MARKS}
        recipe = made(TWO, model=model, engine={"kind": "openai", "base_urls": [server.url]})
        dataset = (await asyncio.to_thread(build, recipe, store)).dataset
    calls, plain = dataset.scan("rows").collect().to_dicts()
    assert (plain["reasoning"], plain["content"]) == ("1 + 1 = 2", r"\boxed{2}")
    assert plain["messages"][-1]["content"] == "[THINK]\n1 + 1 = 2\n[/THINK]\n\n\\boxed{2}"
    assert (calls["reasoning"], calls["content"], calls["verdict"]) == ("1 + 1 = 2", "", "undecided: unclosed_thought")


# ---- truncation


def cut(request: Request) -> Completion:
    """Boxes the answer and goes on until it is cut off; the plain one ends by itself."""
    ended = request.problem_id == "plain"
    text = r"\boxed{2}" if ended else r"<think>so \boxed{13}</think>\boxed{13} but wait"
    return Completion(text=text, finish_reason="stop" if ended else "length", n_tokens=3)


def test_a_chain_that_was_cut_off_is_never_correct_and_is_counted_everywhere(made: Any, store: Store):
    built = build(made(TWO, filters=[{"use": "truncated"}]), store, reply=cut)
    dataset = built.dataset
    [down] = dataset.scan("rejected").collect().to_dicts()
    row = json.loads(down["row"])
    assert (down["stage"], down["reason"]) == ("filter:truncated", "truncated")
    assert (row["finish_reason"], row["correct"], row["verdict"]) == ("length", False, "different: truncated")
    roles = {row["problem_id"]: row["roles"][0] for row in dataset.scan("problems").collect().to_dicts()}
    assert (roles["calls"]["truncated"], roles["calls"]["correct"], roles["plain"]["truncated"]) == (1, 0, 0)
    assert dataset.manifest()["roles"] == [
        {"role": "solver", "total": 2, "correct": 1, "undecided": 0, "truncated": 1, "unclosed": 0}
    ]
    assert "cut off   solver: 1 of 2 samples truncated, 0 thoughts never closed" in shown(dataset)
    assert "| solver | 2 | 1 | 0 |" in (dataset.path / "README.md").read_text()
    assert built.tally.meter.truncated == 1


def shown(dataset: Dataset) -> str:
    from tracemill.pipelines.asking.screens import show_lines

    return "\n".join(show_lines(dataset))


def test_progress_says_how_many_were_cut_off(made: Any, store: Store):
    from tracemill.pipelines.running.progress import line, snapshot

    tally = build(made(TWO), store, reply=cut).tally
    assert "1 truncated" in line(tally)
    assert snapshot(tally)["truncated"] == 1


# ---- check and preview


def test_check_and_preview_show_what_a_model_is_shown(made: Any, store: Store):
    model = {**SHOWS_TOOLS, "system": "Be brief.", "chat_template_kwargs": {"enable_thinking": False}}
    recipe = made(TWO, model=model)
    for said in ("\n".join(check(recipe, store)), "\n".join(preview(recipe, store, n=2))):
        assert "system    'Be brief.'" in said
        assert "enable_thinking = false" in said
        assert "between <think> and </think>" in said
    assert '<tool_call>add {\n  "a": 6' in said
    assert "<think>\n\n</think>" in said
    assert "Be brief.<|im_end|>" in said


async def test_preview_shows_what_a_server_is_sent(made: Any, store: Store):
    model = {"name": "tiny", "max_tokens": 8, "chat_template_kwargs": {"enable_thinking": True}}
    async with Loopback() as server:
        recipe = made(TWO, model=model, engine={"kind": "openai", "base_urls": [server.url]})
        said = "\n".join(await asyncio.to_thread(lambda: list(preview(recipe, store, n=2))))
    assert '[chat_template_kwargs] {"enable_thinking":true}' in said
    assert "[tools] [{" in said
    assert '"tool_calls": [{"' in said


def test_a_switch_that_the_named_template_does_not_read_is_a_note_where_the_server_renders():
    engine = EngineTable(kind="openai", base_urls=("http://127.0.0.1:9/v1",))
    table = ModelTable(
        name="m", max_tokens=8, tokenizer="tiny-reasoner", chat_template_kwargs={"thinking_effort": "high"}
    )
    [note] = open_role("solver", table, engine, runtime=Path()).notes
    assert "thinking_effort" in note
    assert "only the server knows" in note


def test_a_template_without_an_opening_is_an_error_of_the_command_line(tmp_path: Path):
    desk = Desk(tmp_path)
    desk.rows({"id": "a", "question": "1?", "answer": "1"})
    (tmp_path / "t.jinja").write_text(CHATML.replace("add_generation_prompt", "false"))
    desk.recipe(
        'name = "sums"\nsource = [{ path = "problems.jsonl" }]\nsynth = { use = "sample" }\nengine = { kind = "scripted" }\n'
        '[model]\nname = "m"\nmax_tokens = 8\ntokenizer = "tiny-reasoner"\ntemplate = "./t.jinja"\n'
    )
    assert "add {% if add_generation_prompt %}" in desk.refused()


def test_a_reply_behind_a_prompt_that_opened_its_thought_is_a_whole_turn():
    assert with_opening("a</think>2", THINK, opened=True) == "<think>\na</think>2"
    assert with_opening("cut in its thou", THINK, opened=True) == "<think>\ncut in its thou"
    assert with_opening("<think>a</think>2", THINK, opened=True) == "<think>a</think>2"
    assert with_opening("a</think>2<think>b</think>", THINK, opened=True) == "<think>\na</think>2<think>b</think>"
    assert with_opening("a</think>2", THINK) == "a</think>2", "the prompt opened nothing: the reply is as it was drawn"
    assert with_opening("a</think>2", None, opened=True) == "a</think>2"
