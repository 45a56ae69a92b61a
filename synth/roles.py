"""One model of a build, ready to be asked: its identity, how it is shown a prompt, and the backend that answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import msgspec

from tracemill.schemas.request import Adapter, Backend, Message, Model, Prompt, Rendered, Request, Sampling
from tracemill.synth.render import Renderer, plain
from tracemill.synth.weights.levels import Level

THINK = ("<think>", "</think>")
"""The delimiters of thoughts unless a recipe names others; a model that writes none is not affected."""


@dataclass(frozen=True)
class Role:
    """One model of a build, ready to be asked."""

    name: str
    model: Model
    backend: Backend
    renderer: Renderer | None
    defaults: Sampling
    send: str
    """What the backend is sent: tokens, text, or chat (messages)."""
    tokenizer: str
    """Whose tokens are counted."""
    only_ids: bool = False
    """Whether the backend goes on from a forced beginning only where it is token ids, as the prompt is: a server has no say in the join."""
    system: str | None = None
    template_kwargs: Mapping[str, Any] | None = None
    think: tuple[str, str] = THINK
    run_seed: int = 0
    seeds: str = "request"
    notes: tuple[str, ...] = ()
    """What a person should know of its template and tokenizer."""
    levels: Mapping[str, Level] = field(default_factory=dict)
    """Other weights that the build's method asks this role for, by their scale."""

    def backend_of(self, adapter: Adapter | None) -> Backend:
        """What answers for these weights: merged ones have a backend of their own."""
        level = self.levels.get(adapter.scale) if adapter else None
        return level.backend if level and level.backend else self.backend

    def backends(self) -> list[Backend]:
        """The role's backend, and those of its merged weights."""
        return [self.backend, *(level.backend for level in self.levels.values() if level.backend)]

    def facts(self) -> dict[str, Any]:
        """What the engine says of itself: that of the last merged weights, where only those were asked."""
        return self.backends()[-1].facts()

    def passes(self) -> list[str]:
        """The scales whose weights are loaded one after another; empty where one backend serves all."""
        return [scale for scale, level in self.levels.items() if level.backend is not None]

    def conversation(self, prompt: str | Sequence[Message]) -> tuple[Message, ...]:
        """The turns that are shown: the recipe's system prompt first, unless the conversation brings one."""
        turns: tuple[Message, ...] = (
            (Message(role="user", content=prompt),) if isinstance(prompt, str) else tuple(prompt)
        )
        if self.system is not None and not (turns and turns[0]["role"] == "system"):
            return (Message(role="system", content=self.system), *turns)
        return turns

    def rendered(
        self, prompt: str | Sequence[Message] | Rendered, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> Rendered:
        """What the model is shown for `prompt`; what is rendered already stays as it is."""
        if isinstance(prompt, Rendered):
            return prompt
        turns = self.conversation(prompt)
        return Rendered(self._rendered(turns, tools), self._text(turns, tools))

    def request(
        self,
        prompt: str | Sequence[Message] | Rendered,
        *,
        sampling: Sampling,
        prefix: str | tuple[int, ...] | None,
        tools: Sequence[Mapping[str, Any]] | None,
        **rest: Any,
    ) -> Request:
        """The request that asks this role to go on after `prompt`."""
        server = self.send == "chat"
        return Request(
            model=self.model,
            prompt=prompt.prompt if isinstance(prompt, Rendered) else self._rendered(self.conversation(prompt), tools),
            prefix=self.renderer.encode(prefix)
            if self.only_ids and self.renderer and isinstance(prefix, str)
            else prefix,
            sampling=sampling.over(self.defaults),
            tools=_canonical(tools) if server and tools else None,
            template_kwargs=_canonical(self.template_kwargs) if server and self.template_kwargs else None,
            run_seed=self.run_seed,
            seeds="none" if self.seeds == "none" else "request",
            **rest,
        )

    def reward_request(self, prompt: str | Sequence[Message], reply: str, *, by_step: bool) -> Request:
        """The request that asks this role what `reply` is worth. It depends on what is read, and on nothing of how others draw."""
        turns = self.conversation(prompt)
        server = self.send == "chat"
        return Request(
            model=self.model,
            prompt=turns if server else self._closed((*turns, Message(role="assistant", content=reply))),
            prefix=reply if server else None,
            sampling=Sampling(),
            kind="step_reward" if by_step else "reward",
            template_kwargs=_canonical(self.template_kwargs) if server and self.template_kwargs else None,
            problem_id="",
            scope="reward",
            seeds="none",
        )

    def _closed(self, turns: tuple[Message, ...]) -> Prompt:
        """A whole conversation, its last turn the assistant's, that waits for nobody."""
        if self.renderer is None:
            return plain(turns)
        text = self.renderer.text(turns, add_generation_prompt=False, **dict(self.template_kwargs or {}))
        if self.send == "text":
            return text
        return self.renderer.encode(text, special=self.renderer.template is None)

    def _rendered(self, turns: tuple[Message, ...], tools: Sequence[Mapping[str, Any]] | None) -> Prompt:
        if self.send == "tokens" and self.renderer is not None:
            return self.renderer.tokens(turns, tools=tools, **dict(self.template_kwargs or {}))
        return turns if (text := self._text(turns, tools)) is None else text

    def _text(self, turns: tuple[Message, ...], tools: Sequence[Mapping[str, Any]] | None) -> str | None:
        if self.send == "chat":
            return None
        if self.renderer is None:
            return plain(turns, tools=tools)
        return self.renderer.text(turns, tools=tools, **dict(self.template_kwargs or {}))

    @cached_property
    def opens_thought(self) -> bool:
        """Whether the chat template itself writes the opening think tag, so that a reply begins inside a thought."""
        if self.renderer is None or self.renderer.template is None:
            return False
        turn = (Message(role="user", content="?"),)
        return self.renderer.text(turn, **dict(self.template_kwargs or {})).rstrip().endswith(self.think[0])

    def count(self, text: str) -> int:
        """Tokens of a given text: the tokenizer's where there is one, else words."""
        return self.renderer.count(text) if self.renderer else len(text.split())

    def token_starts(
        self,
        text: str,
        prompt: str | Sequence[Message] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int] | None:
        """Where each token begins, in characters of `text`, the rendered `prompt` before it; None without a tokenizer."""
        if self.renderer is None:
            return None
        if prompt is None:
            return self.renderer.token_starts(text)
        before = self.renderer.text(self.conversation(prompt), tools=tools, **dict(self.template_kwargs or {}))
        return self.renderer.token_starts(text, before)


def _canonical(value: Any) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


def with_backend(role: Role, backend: Backend) -> Role:
    """The same role on another backend, which answers for all its levels."""
    levels = {scale: replace(level, backend=None) for scale, level in role.levels.items()}
    return replace(role, backend=backend, levels=levels)
