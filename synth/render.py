"""From messages to token ids, on this side of the wire: the model's own chat template, without the model.

Rendering here, with the light `tokenizers` library and sandboxed Jinja, gives every backend the same ids, and so the same
keys, whether or not transformers is installed.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from tokenizers import Tokenizer

from tracemill.schemas.errors import ProblemFailed, RecipeError
from tracemill.schemas.request import Message, Sampling
from tracemill.schemas.tables import stored

PLAIN = "plain-1"
"""Version of the layout for models without a chat template: the messages' contents as they are, a blank line between them."""


@dataclass(frozen=True)
class Renderer:
    """One tokenizer with its chat template."""

    name: str
    tokenizer: Tokenizer
    template: str | None
    special: Mapping[str, str]
    """The special tokens that templates name: bos_token, eos_token, ..."""
    generation: Sampling
    """What the model's generation config says about drawing tokens."""

    @classmethod
    def load(cls, folder: Path, name: str, template: str | None = None) -> "Renderer":
        """Read tokenizer.json and, beside it, template and generation config; `template` takes the place of the model's."""
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise RecipeError(f"{folder} has no tokenizer.json; name a folder or Hub id with one: tokenizer = '...'")
        config = _json(folder / "tokenizer_config.json")
        special = {
            key: _token_text(value)
            for key, value in config.items()
            if key.endswith("_token") and isinstance(value, str | dict) and value
        }
        beside = folder / "chat_template.jinja"
        own = beside.read_text(encoding="utf-8") if beside.is_file() else _default_template(config.get("chat_template"))
        return cls(name, _tokenizer(file), template or own, special, read_generation_config(folder))

    @property
    def identity(self) -> str:
        """What a key says of the rendering: `chat-` and a hash of the template, or the version of the plain layout."""
        return f"chat-{hashlib.sha256(self.template.encode()).hexdigest()[:12]}" if self.template else PLAIN

    def tokens(
        self, messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] | None = None, **kwargs: Any
    ) -> tuple[int, ...]:
        """Token ids of a conversation that waits for the assistant's turn."""
        return self.encode(self.text(messages, tools=tools, **kwargs), special=self.template is None)

    def text(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **kwargs: Any,
    ) -> str:
        """The conversation as the chat template writes it, with the opening of the assistant's turn.

        The arguments of calls are shown as objects, as templates expect and vLLM gives them; a template that wants text,
        and fails on objects, gets text.
        """
        if self._compiled is None:
            return plain(messages, tools=tools)
        given = {
            "tools": list(tools) if tools else None,
            "add_generation_prompt": add_generation_prompt,
            **self.special,
            **kwargs,
        }
        try:
            try:
                return str(self._compiled.render(messages=list(messages), **given))
            except TypeError:
                if not any("tool_calls" in turn for turn in messages):
                    raise
                return str(self._compiled.render(messages=[stored(turn) for turn in messages], **given))
        except Exception as error:  # a template is a program, and may raise anything about the turns it is given
            raise ProblemFailed(f"the chat template of {self.name} refuses this conversation: {error}") from error

    @cached_property
    def reads(self) -> frozenset[str]:
        """The names that the template asks for: a template argument that is not among them changes nothing."""
        from jinja2 import meta

        if self._compiled is None:
            return frozenset()
        environment = self._compiled.environment
        return frozenset(meta.find_undeclared_variables(environment.parse(self.template)))

    def encode(self, text: str, *, special: bool = False) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=special).ids)

    def text_of(self, token: int) -> str:
        """The text of one token, special ones too."""
        return self.tokenizer.decode([token], skip_special_tokens=False)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids, special ones too."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=False)

    def count(self, text: str) -> int:
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def token_starts(self, text: str, before: str | None = None) -> list[int]:
        """Where in `text` each of its tokens begins, in characters; those of a rendered prompt `before` it are negative."""
        special = before is not None and self.template is None
        encoded = self.tokenizer.encode((before or "") + text, add_special_tokens=special)
        return [start - len(before or "") for start, _ in encoded.offsets]

    @cached_property
    def _compiled(self) -> Any:
        if self.template is None:
            return None
        from jinja2 import TemplateSyntaxError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _generation_tag()]
        )
        environment.filters["tojson"] = _tojson
        environment.globals.update(raise_exception=_raise, strftime_now=lambda form: datetime.now().strftime(form))  # noqa: DTZ005
        try:
            return environment.from_string(self.template)
        except TemplateSyntaxError as error:
            raise RecipeError(f"the chat template of {self.name} is not valid Jinja: {error}") from error


def plain(messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] | None = None) -> str:
    """The plain layout: what a completion model is shown. It has no way to write tools and calls of them."""
    if tools or any("tool_calls" in message for message in messages):
        raise ProblemFailed(
            "without a chat template there is no way to show a model tools and calls of them; name one: template = '...' "
            "with a tokenizer, or a model that brings one"
        )
    return "\n\n".join(message["content"] for message in messages)


def read_generation_config(folder: Path) -> Sampling:
    """The drawing settings of generation_config.json, with neutral values where it is silent."""
    file = folder / "generation_config.json"
    config = _json(file)
    greedy = config.get("do_sample") is False and "temperature" in config
    try:
        return Sampling(
            temperature=0.0 if greedy else float(config.get("temperature") or 1.0),
            top_p=float(config.get("top_p") or 1.0),
            top_k=max(0, int(config.get("top_k") or 0)),
            min_p=float(config.get("min_p") or 0.0),
            stop=(),
        )
    except (TypeError, ValueError) as error:
        numbers = {name: config.get(name) for name in ("temperature", "top_p", "top_k", "min_p")}
        raise RecipeError(f"{file}: {numbers} are no numbers to draw with: {error}") from error


def _tokenizer(file: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise RecipeError(f"{file}: not a tokenizer: {error}; restore it from where the model came from") from error


def _json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")).items())
    except FileNotFoundError:
        return {}
    except (AttributeError, ValueError, OSError) as error:
        raise RecipeError(f"{file}: not a readable JSON object: {error}") from None


def _token_text(value: Any) -> str:
    return str(value["content"]) if isinstance(value, dict) else str(value)


def _default_template(value: Any) -> str | None:
    """tokenizer_config.json holds one template, or a list of named ones."""
    if isinstance(value, list):
        return next((entry["template"] for entry in value if entry.get("name") == "default"), None)
    return value or None


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as transformers writes it for templates: Jinja's own filter escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _generation_tag() -> Any:
    """An extension for `{% generation %}`, with which templates mark what a trainer learns; here it changes nothing."""
    from jinja2 import nodes
    from jinja2.ext import Extension

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    return Generation


def _raise(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)
