"""What is asked of a model, and what comes back.

One request, one completion: `n` samples are `n` requests that differ in `index`. Its key is the hash of everything that
can change the answer, so equal requests are one request, on any machine, in any order, for ever.
"""

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NotRequired, Protocol, TypedDict, runtime_checkable

import msgspec


class Message(TypedDict):
    """One turn of a conversation, in the field names of chat templates and trainers."""

    role: str
    content: str
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[dict[str, Any]]]
    """[{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]: arguments as an object, whoever writes them out."""
    tool_call_id: NotRequired[str]
    name: NotRequired[str]


Prompt = str | tuple[int, ...] | tuple[Message, ...]
"""Text or token ids that were rendered here, or messages that the server renders."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as one role's model is shown it. Given to a second role as a prompt, it stays what it is."""

    prompt: Prompt
    text: str | None
    """The same as text, special tokens written out; None where the server renders."""

    @property
    def token_ids(self) -> list[int]:
        """The prompt as token ids; empty where it is not."""
        return [token for token in self.prompt if isinstance(token, int)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to draw tokens. None means: as the recipe's `[model]` says, else the model's generation config."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] | None = None
    include_stop: bool = False
    """Whether the stop string that ended the text is part of it."""
    logprobs: int | None = None
    """Return log-probs of the sampled tokens (0), and of so many alternatives at each position (at most 20)."""

    def over(self, defaults: "Sampling") -> "Sampling":
        """These settings, with `defaults` where they say nothing."""
        mine = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return Sampling(**{name: getattr(defaults, name) if value is None else value for name, value in mine.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """All that decides what a model answers, and nothing of where it runs."""

    name: str
    revision: str
    """Hash of the weights folder, Hub commit, or `unverified` where a server cannot prove one."""
    dtype: str = "auto"
    quantization: str | None = None
    kv_cache_dtype: str | None = None
    max_model_len: int | None = None
    template: str = "plain-1"
    """How prompts become tokens: `chat-<hash>` (rendered here), `server`, or the version of the plain layout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A model's weights moved along a direction. `scale` is its one canonical decimal text: 0.2, never 0.20."""

    name: str
    revision: str
    """What proves the direction: the hash of an adapter, or of the two models between which the weights lie."""
    scale: str = "1"
    kind: Literal["lora", "merged", "served"] = "lora"
    """A LoRA adapter; merged weights; or a name of which only the server knows what is behind it."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that decides a completion. `key` hashes every field, so a new field is in it by itself."""

    model: Model
    prompt: Prompt
    sampling: Sampling
    problem_id: str
    kind: Literal["complete", "score", "reward", "step_reward"] = "complete"
    prefix: str | tuple[int, ...] | None = None
    """What the completion is forced to begin with (complete), the tokens to score (score), or the reply of messages (reward)."""
    adapter: Adapter | None = None
    tools: str | None = None
    """Canonical JSON of the tools that the template shows, where the server renders."""
    template_kwargs: str | None = None
    """Canonical JSON of further template arguments, where the server renders."""
    scope: str = "solve"
    salt: str = ""
    index: int = 0
    run_seed: int = 0
    seeds: Literal["request", "none"] = "request"

    @cached_property
    def key(self) -> str:
        """SHA-256 of the canonical JSON of all fields, 64 hex digits."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()

    @property
    def lora(self) -> Adapter | None:
        """The adapter that an engine has to put on the weights it has loaded; merged ones are those weights."""
        return None if self.adapter is not None and self.adapter.kind == "merged" else self.adapter

    @property
    def rng_seed(self) -> int:
        """48 bits of the key: different requests draw from unrelated streams, in any order of arrival."""
        return int(self.key[:12], 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenScores:
    """Natural-log probabilities before temperature and truncation, one a token."""

    token_ids: "array[int]"
    logprobs: "array[float]"
    top: tuple[tuple[tuple[int, float], ...], ...] | None = None
    """The most likely (token id, log-prob) pairs at each position, best first, where they were asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What the model wrote, without the prompt and without the forced prefix."""

    text: str
    finish_reason: Literal["stop", "length"]
    n_tokens: int
    prompt_tokens: int = 0
    token_ids: "array[int] | None" = None
    """As sampled, the stop token included; None where the server does not tell. Never re-encoded from the text."""
    scores: TokenScores | None = None
    counted: str | None = None
    """Whose count `n_tokens` is where it is not the role's tokenizer's: `usage` (the server's word) or `words`."""
    key: str = ""
    """The key of its request; filled in by the engine."""

    @property
    def truncated(self) -> bool:
        return self.finish_reason == "length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """What a reward model gives a reply: numbers as it gives them, for the whole or for each step of it."""

    values: tuple[tuple[float, ...], ...] = ()
    """One row for the whole reply, or one for each step; as many numbers in each as the model has outputs."""
    prompt_tokens: int = 0
    """Tokens that were read, prompt and reply."""
    too_long: str | None = None
    """What the server says of a reply that is longer than the model reads; `values` is then empty."""


Capability = Literal["complete", "prefix", "logprobs", "score", "adapter", "embed", "reward"]


class Backend(Protocol):
    """What answers requests. Implementations are safe to call from many tasks of one event loop.

    `complete` and `score` raise RequestRefused for a request that can never be answered and EngineLost when the
    whole backend is gone; everything between (retries, back-off, rebuilding) is the backend's own work. Cancelling a
    call frees what it holds.
    """

    @property
    def capabilities(self) -> frozenset[Capability]: ...

    @property
    def at_once(self) -> int:
        """How many requests are worth having in flight now; the driver reads it again as it goes."""

    async def start(self) -> None:
        """Make ready, or raise RecipeError saying what is wrong. Called once, before the first request."""

    async def complete(self, request: Request) -> Completion: ...

    async def score(self, request: Request) -> TokenScores:
        """Log-probs of `request.prefix` after `request.prompt`."""

    async def close(self) -> None:
        """Let go of every process, socket and file; safe to call twice."""

    def facts(self) -> dict[str, Any]:
        """Engine name, version and settings, for the manifest; no addresses, no secrets."""

    def progress(self) -> Sequence[str]:
        """What a person should see now, a line each: an endpoint in quarantine, an engine being rebuilt. Often empty."""


@runtime_checkable
class Rewarding(Protocol):
    """What a backend with the capability `reward` can do beside."""

    async def reward(self, request: Request) -> Reward:
        """What the model gives to `request.prefix` as the reply to `request.prompt`, by `request.kind`: whole, or by steps.

        Where the conversation was rendered here, prompt and reply are one and there is no prefix. A reply that is too long for the model is no failure: it comes back so.
        """
