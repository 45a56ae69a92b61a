"""What a server with a reward model is asked, and what it answers: vLLM's pooling routes, which stand beside `/v1`.

    POST /classify   {"model": "m", "messages": [...], "use_activation": false}      -> {"data": [{"probs": [1.73]}]}
    POST /pooling    {"model": "m", "messages": [...], "task": "token_classify"}     -> {"data": [{"data": [[0.1, 0.9], ...]}]}

The first gives numbers for the whole, the second for each step: vLLM picks the tokens that end a step itself, where it was started with
a pooler of type STEP and the id of that token. Text or token ids go as `input`.
"""

import math
import re
from typing import Any

import msgspec

from tracemill.schemas.errors import RequestRefused
from tracemill.schemas.request import Message, Request, Reward
from tracemill.synth.backends.openai.bodies import Send, rendered, wire
from tracemill.synth.backends.openai.replies import Unusable

WHOLE, BY_STEP = "/classify", "/pooling"
"""With a slash in front: beside the base URL's `/v1`."""
_TOO_LONG = re.compile(
    r"maximum context length|max_model_len|maximum model length|too long|longer than the max", re.IGNORECASE
)


class _Class(msgspec.Struct, gc=False):
    probs: list[float]


class _Classes(msgspec.Struct, gc=False):
    data: list[_Class]
    usage: Any = None


class _Pool(msgspec.Struct, gc=False):
    data: list[list[float]]


class _Pools(msgspec.Struct, gc=False):
    data: list[_Pool]
    usage: Any = None


_classes = msgspec.json.Decoder(_Classes)
_pools = msgspec.json.Decoder(_Pools)


def path_of(request: Request) -> str:
    return BY_STEP if request.kind == "step_reward" else WHOLE


def reward_fields(request: Request, send: Send, served_model: str) -> dict[str, Any]:
    """The body that asks for a reward; RequestRefused where this way of sending cannot say it."""
    fields: dict[str, Any] = {"model": served_model}
    if request.kind == "step_reward":
        fields |= {"task": "token_classify", "use_activation": True}
    else:
        fields["use_activation"] = False
    if send == "chat":
        return fields | _conversation(request)
    if not (whole := rendered(request.prompt)):
        raise RequestRefused("there is nothing to reward: the conversation is empty")
    fields["input"] = whole
    return fields if request.model.template == "plain-1" else fields | {"add_special_tokens": False}


def _conversation(request: Request) -> dict[str, Any]:
    """The reply is the last turn, closed as the server's template closes it."""
    turns = [turn for turn in request.prompt if isinstance(turn, dict)]
    if not isinstance(request.prefix, str) or len(turns) != len(request.prompt):
        raise RequestRefused('a rendered prompt cannot be sent as chat; use send = "text" or "tokens"')
    whole = (*turns, Message(role="assistant", content=request.prefix))
    fields: dict[str, Any] = {"messages": [wire(turn) for turn in whole], "add_generation_prompt": False}
    if request.template_kwargs is not None:
        fields["chat_template_kwargs"] = msgspec.Raw(request.template_kwargs.encode())
    return fields


def smallest(path: str, served_model: str) -> tuple[str, dict[str, Any]]:
    """The smallest thing that proves a server with a reward model answers."""
    return path, {"model": served_model, "input": "1"}


def read_reward(body: bytes, request: Request) -> Reward:
    """The numbers of a reply, one row for the whole or one for each step."""
    try:
        reply = (_pools if request.kind == "step_reward" else _classes).decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        shown = body[:60].decode(errors="replace")
        raise Unusable(f"not the reply of a reward model ({error}); it begins {shown!r}") from None
    if len(reply.data) != 1:
        raise Unusable(f"{len(reply.data)} replies to one request")
    first = reply.data[0]
    rows = first.data if isinstance(first, _Pool) else [first.probs]
    if any(not row or not all(map(math.isfinite, row)) for row in rows):
        raise Unusable("the reply has no numbers, or some that are not finite")
    usage = reply.usage if isinstance(reply.usage, dict) else {}
    tokens = usage.get("prompt_tokens")
    return Reward(values=tuple(map(tuple, rows)), prompt_tokens=tokens if type(tokens) is int and tokens >= 0 else 0)


def too_long(refusal: RequestRefused) -> Reward | None:
    """What a refusal says of the reply where it is about its length: that is a fact about a trace, and no fault."""
    return Reward(too_long=str(refusal)) if _TOO_LONG.search(str(refusal)) else None
