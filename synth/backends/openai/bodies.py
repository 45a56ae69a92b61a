"""What is sent: a `Request` as the JSON body of an OpenAI-compatible server.

    POST /completions       {"model": "m", "prompt": "Is 4 even?" or [1, 555, 225], "max_tokens": 64, "seed": 7, ...}
    POST /chat/completions  {"model": "m", "messages": [{"role": "user", "content": "Is 4 even?"}], ...}

What this way of sending cannot say is refused here, by name. Fields that are None are left out: OpenAI's own servers turn
unknown fields down, and everything that decides an answer was filled in before it came here.
"""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from tracemill.schemas.errors import RequestRefused
from tracemill.schemas.request import Message, Prompt, Request
from tracemill.schemas.tables import stored

Send = Literal["chat", "text", "tokens"]
MOST_LOGPROBS = 20
"""What servers allow for each position, and what the schema promises."""
VLLM_ONLY = ("return_token_ids", "return_tokens_as_token_ids")
"""Left out where a server turns them down: without them the answer is the same, and says less."""


def completion_fields(request: Request, send: Send, served_model: str) -> dict[str, Any]:
    """The body that asks for one completion; RequestRefused where this way of sending cannot say it."""
    fields = {"model": served_model, **_sampling_fields(request, send), "return_token_ids": True}
    if send == "chat":
        return fields | _chat_fields(request)
    fields["prompt"] = _joined(request.prompt, request.prefix)
    return fields | _special_tokens(request, fields["prompt"])


def score_fields(request: Request, served_model: str, *, whole: bool = True) -> dict[str, Any]:
    """The body that asks for the log-probs of the prompt's own tokens; `whole` False leaves the prefix off."""
    prompt = _joined(request.prompt, request.prefix if whole else None)
    fields: dict[str, Any] = {"model": served_model, "prompt": prompt, "max_tokens": 1, "temperature": 0.0}
    fields["return_token_ids"] = True
    if whole:
        fields["prompt_logprobs"] = request.sampling.logprobs or 0
    return fields | _special_tokens(request, prompt)


def encode(fields: dict[str, Any], *, plain: bool) -> bytes:
    """JSON of a body; `plain` leaves off what only vLLM knows."""
    if plain:
        fields = {name: value for name, value in fields.items() if name not in VLLM_ONLY}
    return msgspec.json.encode(fields)


def _sampling_fields(request: Request, send: Send) -> dict[str, Any]:
    sampling = request.sampling
    if sampling.max_tokens is None:
        raise RequestRefused("max_tokens is not set, and servers disagree on what that means; set it under [model]")
    given = {name: getattr(sampling, name) for name in ("temperature", "top_p", "top_k", "min_p", "max_tokens")}
    fields: dict[str, Any] = {name: value for name, value in given.items() if value is not None} | {"n": 1}
    if sampling.stop:
        fields["stop"] = sampling.stop
        fields["include_stop_str_in_output"] = sampling.include_stop
    if request.seeds == "request":
        fields["seed"] = request.rng_seed
    if sampling.logprobs is not None:
        fields["return_tokens_as_token_ids"] = True
        fields |= _logprob_fields(sampling.logprobs, send)
    return fields


def _logprob_fields(k: int, send: Send) -> dict[str, Any]:
    if k > MOST_LOGPROBS:
        raise RequestRefused(f"logprobs = {k}: at most {MOST_LOGPROBS} alternatives a position can be asked for")
    if send != "chat":
        return {"logprobs": k}
    # The sampled token counts among chat's k and pushes the k-th alternative out, so one more is asked for.
    return {"logprobs": True, "top_logprobs": min(k + 1, MOST_LOGPROBS) if k else 0}


def _chat_fields(request: Request) -> dict[str, Any]:
    if isinstance(request.prompt, str) or any(isinstance(item, int) for item in request.prompt[:1]):
        raise RequestRefused('a rendered prompt cannot be sent as chat; use messages, or send = "text" or "tokens"')
    fields: dict[str, Any] = {"messages": [wire(turn) for turn in request.prompt if not isinstance(turn, int)]}
    if request.prefix is not None:
        if not isinstance(request.prefix, str):
            raise RequestRefused('a prefix of token ids cannot be sent as chat; give text, or use send = "tokens"')
        fields["messages"].append({"role": "assistant", "content": request.prefix})
        fields |= {"continue_final_message": True, "add_generation_prompt": False}
    if request.tools is not None:
        # `none`: the template shows the tools and the call stays in the text, where a trainer wants it.
        fields |= {"tools": msgspec.Raw(request.tools.encode()), "tool_choice": "none"}
    if request.template_kwargs is not None:
        fields["chat_template_kwargs"] = msgspec.Raw(request.template_kwargs.encode())
    return fields


def wire(turn: Message) -> Mapping[str, Any]:
    """A turn in the form of the API: arguments of calls are JSON text there, and a call has an id that its answer names."""
    said: dict[str, Any] = dict(stored(turn))
    if "reasoning_content" in said:
        said["reasoning"] = said["reasoning_content"]  # vLLM reads this one, others the older name
    for number, call in enumerate(said.get("tool_calls", ())):
        call.setdefault("id", f"call_{number}")
    return said


def _joined(prompt: Prompt, prefix: str | tuple[int, ...] | None) -> str | tuple[int, ...]:
    before = rendered(prompt)
    if not before:
        raise RequestRefused("the prompt is empty; a server needs at least one token")
    if not prefix:
        return before
    if isinstance(before, str) and isinstance(prefix, str):
        return before + prefix
    if isinstance(before, tuple) and isinstance(prefix, tuple):
        return before + prefix
    raise RequestRefused("prompt and prefix must both be text or both be token ids")


def rendered(prompt: Prompt) -> str | tuple[int, ...]:
    """A prompt that is text or token ids already; messages are refused."""
    if isinstance(prompt, str):
        return prompt
    ids = tuple(item for item in prompt if isinstance(item, int))
    if len(ids) != len(prompt):
        raise RequestRefused('messages can only be sent as chat; use send = "chat", or render the prompt first')
    return ids


def _special_tokens(request: Request, prompt: str | tuple[int, ...]) -> dict[str, Any]:
    """A chat template writes its own beginning-of-text token: a second one would shift every answer."""
    if isinstance(prompt, str) and request.model.template.startswith("chat-"):
        return {"add_special_tokens": False}
    return {}
