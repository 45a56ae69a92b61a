"""What comes back: the JSON of a completion, typed.

    /completions       {"choices": [{"text": " Yes", "finish_reason": "stop", "token_ids": [282, 2]}], "usage": {...}}
    /chat/completions  {"choices": [{"message": {"content": "Yes", "reasoning": "4 = 2 * 2"}, ...}], "usage": {...}}

A reply that is not whole, or lacks what was asked for, raises `Unusable`: it may come right when asked again.
"""

from array import array
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from tracemill.schemas.request import Completion, Request, TokenScores

MOST_TOKENS = 1 << 31
"""A count from here on is nonsense."""


class Unusable(Exception):
    """A reply that cannot be stored: torn, empty, aborted, or without what was asked for."""


class _TextLogprobs(msgspec.Struct, gc=False):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None = None


class _TextChoice(msgspec.Struct, gc=False):
    text: str
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    logprobs: _TextLogprobs | None = None


class _Alternative(msgspec.Struct, gc=False):
    token: str
    logprob: float


class _Position(msgspec.Struct, gc=False):
    token: str
    logprob: float
    top_logprobs: list[_Alternative] = []


class _ChatLogprobs(msgspec.Struct, gc=False):
    content: list[_Position] | None = None


class _Message(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class _ChatChoice(msgspec.Struct, gc=False):
    message: _Message
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    logprobs: _ChatLogprobs | None = None


class _Scored(msgspec.Struct, gc=False):
    logprob: float


class _ScoreChoice(msgspec.Struct, gc=False):
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: list[dict[int, _Scored] | None] | None = None


class _Reply(msgspec.Struct, gc=False):
    model: str | None = None
    system_fingerprint: str | None = None
    usage: Any = None
    """Of any type: an answer is good whatever nonsense its server counts."""


class _TextReply(_Reply, gc=False):
    choices: list[_TextChoice] = []


class _ChatReply(_Reply, gc=False):
    choices: list[_ChatChoice] = []


class _ScoreReply(_Reply, gc=False):
    choices: list[_ScoreChoice] = []


_text = msgspec.json.Decoder(_TextReply)
_chat = msgspec.json.Decoder(_ChatReply)
_score = msgspec.json.Decoder(_ScoreReply)

R = TypeVar("R", bound=_Reply)
C = TypeVar("C")


def read_text(body: bytes, request: Request) -> tuple[Completion, _Reply]:
    """The completion in a `/completions` reply."""
    reply = _decoded(_text, body)
    choice = _only(reply.choices)
    scores = None
    if request.sampling.logprobs is not None:
        scores = _text_scores(choice, request.sampling.logprobs)
    return _completion(choice.text, choice, reply, scores), reply


def read_chat(body: bytes, request: Request, think: tuple[str, str]) -> tuple[Completion, _Reply]:
    """The completion in a `/chat/completions` reply, the thoughts that the server took out put back in front."""
    reply = _decoded(_chat, body)
    choice = _only(reply.choices)
    scores = None
    if request.sampling.logprobs is not None:
        scores = _chat_scores(choice, request.sampling.logprobs)
    return _completion(_with_thoughts(choice.message, think), choice, reply, scores), reply


def read_prompt_ids(body: bytes) -> tuple[int, ...]:
    """The token ids of the prompt as the server saw it."""
    ids = _only(_decoded(_score, body).choices).prompt_token_ids
    if ids is None:
        raise Unusable("no prompt_token_ids in the reply: this server cannot score")
    return tuple(ids)


def read_scores(body: bytes, context: Sequence[int], top: int) -> TokenScores:
    """The log-probs of the tokens that follow `context`, as far as the server's tokens begin with it."""
    choice = _only(_decoded(_score, body).choices)
    ids, positions = choice.prompt_token_ids, choice.prompt_logprobs
    if ids is None or positions is None:
        raise Unusable("no prompt_logprobs and prompt_token_ids in the reply: this server cannot score")
    if len(ids) != len(positions):
        raise Unusable(f"{len(positions)} prompt_logprobs for {len(ids)} tokens")
    skip = next((i for i, (one, two) in enumerate(zip(context, ids, strict=False)) if one != two), len(context))
    found: list[dict[int, _Scored]] = []
    for token, position in zip(ids[skip:], positions[skip:], strict=True):
        if position is None or token not in position:
            raise Unusable("a token of the prompt has no log-prob")
        found.append(position)
    return TokenScores(
        token_ids=array("i", ids[skip:]),
        logprobs=array("f", [position[token].logprob for token, position in zip(ids[skip:], found, strict=True)]),
        top=tuple(_best(((t, s.logprob) for t, s in position.items()), top) for position in found) if top else None,
    )


def _decoded(decoder: "msgspec.json.Decoder[R]", body: bytes) -> R:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        shown = body[:60].decode(errors="replace")
        raise Unusable(f"not the reply of a completion ({error}); it begins {shown!r}") from None


def _only(choices: list[C]) -> C:
    if not choices:
        raise Unusable("the reply has no choices")
    return choices[0]


def _completion(text: str, choice: _TextChoice | _ChatChoice, reply: _Reply, scores: TokenScores | None) -> Completion:
    reason = choice.finish_reason
    if reason not in ("stop", "length"):
        raise Unusable(f"finish_reason {reason!r}: the completion is not whole")
    usage = reply.usage if isinstance(reply.usage, dict) else {}
    count = _count(usage.get("completion_tokens"))
    counted: str | None = "usage"
    if choice.token_ids is not None:
        count, counted = len(choice.token_ids), None
    elif count is None:
        count, counted = len(text.split()), "words"
    return Completion(
        text=text,
        finish_reason=reason,  # type: ignore[arg-type]  # narrowed above, through `not in`
        n_tokens=count,
        prompt_tokens=_count(usage.get("prompt_tokens")) or 0,
        token_ids=array("i", choice.token_ids) if choice.token_ids is not None else None,
        scores=scores,
        counted=counted,
    )


def _count(said: object) -> int | None:
    """A count that can be one; None for what is negative, beyond every context, or no integer."""
    return said if type(said) is int and 0 <= said < MOST_TOKENS else None


def _with_thoughts(message: _Message, think: tuple[str, str]) -> str:
    """One text again. A thought that nothing follows stays open: the model was cut off in it, or ended there."""
    content = message.content or ""
    thoughts = message.reasoning or message.reasoning_content
    if not thoughts:
        return content
    opened = f"{think[0]}\n{thoughts.strip(chr(10))}"
    if not content.strip():
        return opened
    return f"{opened}\n{think[1]}\n\n{content.lstrip(chr(10))}"


def _text_scores(choice: _TextChoice, top: int) -> TokenScores:
    said = choice.logprobs
    if said is None:
        raise Unusable("log-probs were asked for and the reply has none")
    tops = said.top_logprobs or [{} for _ in said.tokens]
    return _scores(
        choice.token_ids or [_token_id(token) for token in said.tokens],
        said.token_logprobs,
        [_best(((_token_id(t), p) for t, p in position.items()), top) for position in tops] if top else None,
    )


def _chat_scores(choice: _ChatChoice, top: int) -> TokenScores:
    said = choice.logprobs.content if choice.logprobs else None
    if said is None:
        raise Unusable("log-probs were asked for and the reply has none")
    return _scores(
        choice.token_ids or [_token_id(position.token) for position in said],
        [position.logprob for position in said],
        [_best(((_token_id(a.token), a.logprob) for a in p.top_logprobs), top) for p in said] if top else None,
    )


def _scores(ids: list[int], logprobs: list[float], top: list[tuple[tuple[int, float], ...]] | None) -> TokenScores:
    if len(ids) != len(logprobs):
        raise Unusable(f"{len(logprobs)} log-probs for {len(ids)} tokens")
    return TokenScores(
        token_ids=array("i", ids), logprobs=array("f", logprobs), top=tuple(top) if top is not None else None
    )


def _best(pairs: Iterable[tuple[int, float]], top: int) -> tuple[tuple[int, float], ...]:
    return tuple(sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:top])


def _token_id(token: str) -> int:
    """`token_id:273`, as vLLM writes tokens when asked to: their text would not be unique."""
    try:
        return int(token.removeprefix("token_id:"))
    except ValueError:
        raise Unusable(
            "this server names tokens by their text, not their ids: log-probs need vLLM or its like"
        ) from None
