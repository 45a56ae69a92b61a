"""What was asked, kept beside the answer: what many requests share once, under its hash, and a row of some 40 bytes for each.

    parts    hash, body                                          setting: model, sampling, adapter, scope, seeds ... a few in all
                                                                 shown:   problem, tools, prompt     one for all draws of a prompt
                                                                 forced:  the prefix
    asked    id of the entry, problem, setting, shown, forced, salt, draw

A key is the hash of all fields of its request, so fields that were put together again prove themselves: those of a damaged
or a mistaken part hash to another key. Whatever a request has besides the fields named here is part of its setting.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from tracemill.schemas.request import Adapter, Model, Request, Sampling
from tracemill.synth.journal.codec import pack, unpack

SHOWN = ("problem_id", "tools", "prompt")
FORCED = "prefix"
DRAW = ("salt", "index")
_REST = (*SHOWN, FORCED, *DRAW)

Row = tuple[int, int, int, int | None, str, int]
"""problem, setting, shown, forced, salt, draw: a row of `asked` without its id; the first four are hashes."""

_blob = msgspec.msgpack.Decoder(tuple[int, bytes])


@dataclass(frozen=True, slots=True)
class Asked:
    """A request taken apart: its row, and the parts that the row names, by their hash."""

    row: Row
    parts: Mapping[int, bytes]
    """Canonical JSON, not compressed: most of them are there already."""


def take_apart(request: Request) -> Asked:
    """The row and the parts of a request."""
    named = {name: getattr(request, name) for name in request.__dataclass_fields__}
    setting = _part("setting", {name: value for name, value in named.items() if name not in _REST})
    shown = _part("shown", {name: named[name] for name in SHOWN})
    parts = [setting, shown]
    forced = None
    if request.prefix is not None:
        parts.append(_part("forced", request.prefix))
        forced = parts[-1][0]
    row = (hash_of(request.problem_id.encode()), setting[0], shown[0], forced, request.salt, request.index)
    return Asked(row, dict(parts))


def fields_of(row: Row, part: Callable[[int], Any]) -> dict[str, Any]:
    """All fields of a request as JSON has them; `part` finds the decoded body of a hash, and may raise KeyError."""
    _, setting, shown, forced, salt, index = row
    return {
        **part(setting),
        **part(shown),
        FORCED: None if forced is None else part(forced),
        **dict(zip(DRAW, (salt, index), strict=True)),
    }


def key_of(fields: Mapping[str, Any]) -> str:
    """The key of a request with these fields, as `Request.key` makes it."""
    return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()


def request_of(fields: Mapping[str, Any]) -> Request:
    """The request itself. TypeError: another release wrote it, whose requests had other fields."""
    sampling, adapter = dict(fields["sampling"]), fields["adapter"]
    if sampling.get("stop") is not None:
        sampling["stop"] = tuple(sampling["stop"])
    typed = {
        "model": Model(**fields["model"]),
        "sampling": Sampling(**sampling),
        "adapter": None if adapter is None else Adapter(**adapter),
        "prompt": _as_tuple(fields["prompt"]),
        "prefix": _as_tuple(fields["prefix"]),
    }
    return Request(**{**fields, **typed})


def hash_of(data: bytes) -> int:
    """64 bits of SHA-256, as SQLite's signed integer."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big", signed=True)


def pack_part(body: bytes) -> bytes:
    """A part as it is stored: compressed where that pays."""
    return msgspec.msgpack.encode(pack(body))


def unpack_part(stored: bytes) -> Any:
    """The decoded JSON of a part. ValueError or OSError: damaged."""
    return msgspec.json.decode(unpack(_blob.decode(stored)))


def _part(kind: str, value: Any) -> tuple[int, bytes]:
    body = msgspec.json.encode(value, order="sorted")
    return hash_of(kind.encode() + b"\0" + body), body


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
