"""From messages to token ids: the same as transformers makes them, template by template."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tracemill.schemas.errors import ProblemFailed, RecipeError
from tracemill.synth.models import EMBEDDED
from tracemill.synth.render import PLAIN, Renderer, plain, read_generation_config

TINY = EMBEDDED / "tiny-reasoner"
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds <two> numbers & says “so”",
        "parameters": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}},
    },
}
TALK = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 1 + 1?  "},
    {"role": "assistant", "content": "It is 2."},
    {"role": "user", "content": "Grüße, 数学 and \\frac{1}{2}\n"},
)
CALLED = (
    {"role": "user", "content": "What is 1 + 1?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 1}}}],
    },
    {"role": "tool", "name": "add", "content": "2"},
)
CHATML = """
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] + '\\n\\n' }}{%- endif %}
    {{- '# Tools\\n<tools>' }}
    {%- for tool in tools %}
        {{- '\\n' }}{{- tool | tojson }}
    {%- endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'system' and tools %}{%- continue %}{%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content }}
    {%- if message.tool_calls %}
        {%- for call in message.tool_calls %}
            {{- '\\n<tool_call>' + call.function.name + ' ' + call.function.arguments | tojson(indent=2) + '</tool_call>' }}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
"""
TEMPLATES: dict[str, tuple[str, Sequence[Mapping[str, Any]], Mapping[str, Any]]] = {
    "plain turns": ("{% for m in messages %}\n{{ m['content'] }}{{ eos_token }}\n{% endfor %}", TALK, {}),
    "bos by name": ("{{ bos_token }}{% for m in messages %}[{{ m.role | upper }}] {{ m.content | trim }}{% endfor %}", TALK, {}),
    "chatml": (CHATML, TALK, {}),
    "chatml with tools": (CHATML, TALK, {"tools": [TOOL]}),
    "chatml with a tool that was called": (CHATML, CALLED, {"tools": [TOOL]}),
    "chatml without thinking": (CHATML, TALK, {"enable_thinking": False}),
    "the date": ("{{ strftime_now('%d %b %Y') }}{{ messages[-1].content }}", TALK, {}),
    "namespace and loop control": (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
        "{% set ns.n = ns.n + 1 %}{{ ns.n }}: {{ m.content }}\n{% if ns.n == 2 %}{% break %}{% endif %}{% endfor %}",
        TALK,
        {},
    ),
    "the assistant's part marked for training": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}"
        "{% endgeneration %}{% else %}{{ m.content }}\n{% endif %}{% endfor %}",
        TALK,
        {},
    ),
    "json of its own making": (
        "{{ messages[0] | tojson(sort_keys=True, separators=(',', ':')) }}{{ messages | tojson(ensure_ascii=True) }}",
        TALK,
        {},
    ),
    "a kwarg of the recipe": ("{{ reasoning_effort }}|{{ messages[-1].content }}", TALK, {"reasoning_effort": "high"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def theirs() -> Any:
    transformers = pytest.importorskip("transformers", reason="needs transformers to compare with")
    return transformers.AutoTokenizer.from_pretrained(str(TINY))


def ours(template: str | None = None) -> Renderer:
    return Renderer.load(TINY, "tiny-reasoner", template)


def test_the_models_own_template_gives_the_ids_of_transformers(theirs: Any):
    for messages in (TALK[1:2], TALK[1:], TALK):
        expected = theirs.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False)
        assert list(ours().tokens(messages)) == expected


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_kind_of_template_gives_the_text_and_ids_of_transformers(name: str, theirs: Any):
    template, messages, kwargs = TEMPLATES[name]
    how = {"chat_template": template, "add_generation_prompt": True, **kwargs}
    renderer = ours(template)
    assert renderer.text(messages, **kwargs) == theirs.apply_chat_template(list(messages), tokenize=False, **how)
    assert list(renderer.tokens(messages, **kwargs)) == theirs.apply_chat_template(
        list(messages), return_dict=False, **how
    )


def test_a_template_that_refuses_a_conversation_fails_that_problem_and_says_why():
    strict = ours("{% if messages[0].role == 'system' %}{{ raise_exception('no system prompts here') }}{% endif %}ok")
    assert strict.text(TALK[1:]) == "ok"
    with pytest.raises(ProblemFailed, match="refuses this conversation: no system prompts here"):
        strict.tokens(TALK)


@pytest.mark.parametrize(
    "template",
    ["{{ messages[0].content.nothing.at.all }}", "{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ 1 / 0 }}"],
)  # fmt: skip
def test_a_template_that_goes_wrong_fails_the_problem_and_gets_at_nothing(template: str):
    with pytest.raises(ProblemFailed, match="the chat template of tiny-reasoner refuses"):
        ours(template).text(TALK)


def test_a_template_that_is_no_jinja_is_the_recipes_fault():
    with pytest.raises(RecipeError, match="not valid Jinja"):
        ours("{% if %}").text(TALK)


def test_the_template_is_in_the_identity_and_its_absence_too(tmp_path: Path):
    assert ours("a").identity != ours("b").identity
    assert ours().identity.startswith("chat-")
    (tmp_path / "tokenizer.json").write_bytes((TINY / "tokenizer.json").read_bytes())
    bare = Renderer.load(tmp_path, "bare")
    assert bare.identity == PLAIN
    assert bare.text(TALK) == plain(TALK)
    assert bare.tokens(TALK) == bare.encode(plain(TALK), special=True)
    with pytest.raises(ProblemFailed, match="no way to show a model tools"):
        bare.tokens(TALK, tools=[TOOL])


@pytest.mark.parametrize("where", ["chat_template.jinja", "text", "list"])
def test_a_template_is_found_wherever_models_keep_it(where: str, tmp_path: Path):
    (tmp_path / "tokenizer.json").write_bytes((TINY / "tokenizer.json").read_bytes())
    config: dict[str, Any] = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": None}
    if where == "chat_template.jinja":
        (tmp_path / where).write_text("{{ bos_token }}mine")
    elif where == "text":
        config["chat_template"] = "{{ bos_token }}mine"
    else:
        named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "{{ bos_token }}mine"}]
        config["chat_template"] = named
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert Renderer.load(tmp_path, "m").text(TALK) == "<s>mine"


@pytest.mark.parametrize(
    ("config", "drawn"),
    [
        (None, (1.0, 1.0, 0, 0.0)),
        ({"temperature": 0.6, "top_p": 0.95, "top_k": 20, "do_sample": True}, (0.6, 0.95, 20, 0.0)),
        ({"top_k": -1, "min_p": 0.1}, (1.0, 1.0, 0, 0.1)),
        ({"temperature": None, "top_p": None}, (1.0, 1.0, 0, 0.0)),
    ],
)
def test_the_models_own_way_of_drawing_is_read_from_its_generation_config(
    config: dict[str, Any] | None, drawn: tuple[float, float, int, float], tmp_path: Path
):
    if config is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(config))
    found = read_generation_config(tmp_path)
    assert (found.temperature, found.top_p, found.top_k, found.min_p) == drawn


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", "{}", "not a tokenizer"),
        ("tokenizer_config.json", "[1, 2]", "not a readable JSON object"),
        ("generation_config.json", '{"temperature": "hot"}', "generation_config.json: .*temperature"),
    ],
)
def test_a_damaged_file_of_a_model_is_named(file: str, content: str, message: str, tmp_path: Path):
    (tmp_path / "tokenizer.json").write_bytes((TINY / "tokenizer.json").read_bytes())
    (tmp_path / file).write_text(content)
    with pytest.raises(RecipeError, match=message):
        Renderer.load(tmp_path, "m")
