"""How a completion, its scores, a reward, a verdict or a failure become bytes in the journal, and back: msgpack around zstd.

    ["completion", [text], finish_reason, n_tokens, prompt_tokens, [ids, low halves], [ids, high halves], scores]

Each [part] is [length before compression, bytes]; equal lengths mean that compressing did not pay.

Token ids are split into their low and high 16 bits. The low halves keep the repetitions of the text in one stream that zstd
can match, the high halves are nearly constant: 9 to 17 % smaller than plain int32 or four byte planes, measured on maths
solutions. Log-probs have no repetitions, so floats go by byte planes: exponents apart from mantissas. All is little-endian.
"""

import threading
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import pyarrow as pa

from tracemill.schemas.request import Completion, Reward, TokenScores
from tracemill.schemas.rows import Verdict


@dataclass(frozen=True, slots=True)
class Failure:
    """That a problem failed, and why: what one machine tells another, for a failure leaves no other trace in the journal."""

    reason: str


Value = Completion | Reward | TokenScores | Verdict | Failure

LEVEL = 3
"""zstd level: 6 saves 8 % more of the text of maths solutions and costs two to three times the CPU time."""
WORTH_COMPRESSING = 64

Top = tuple[tuple[tuple[int, float], ...], ...]
_Blob = tuple[int, bytes]
_Ids = tuple[_Blob, _Blob]
_Floats = tuple[_Blob, ...]


class _Scores(msgspec.Struct, array_like=True, tag="scores"):
    token_ids: _Ids | None  # None: those of the completion around it
    logprobs: _Floats
    top: tuple[_Ids, _Ids, _Floats] | None  # how many at each position, their ids, their log-probs


class _Completion(msgspec.Struct, array_like=True, tag="completion"):
    text: _Blob
    finish_reason: Literal["stop", "length"]
    n_tokens: int
    prompt_tokens: int
    token_ids: _Ids | None
    scores: _Scores | None
    counted: str | None = None


class _Verdict(msgspec.Struct, array_like=True, tag="verdict"):
    status: Literal["equal", "different", "undecided"]
    reason: _Blob | None
    answer: _Blob | None
    how: _Blob


class _Reward(msgspec.Struct, array_like=True, tag="reward"):
    values: list[list[float]]
    prompt_tokens: int
    too_long: str | None


class _Failure(msgspec.Struct, array_like=True, tag="failure"):
    reason: _Blob


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Completion | _Reward | _Scores | _Verdict | _Failure)
_local = threading.local()


def encode(value: Value) -> bytes:
    """The bytes of a value. The key of a completion is not among them: it is what the bytes are filed under."""
    if isinstance(value, Completion):
        return _encoder.encode(
            _Completion(
                text=_pack_text(value.text),
                finish_reason=value.finish_reason,
                n_tokens=value.n_tokens,
                prompt_tokens=value.prompt_tokens,
                token_ids=None if value.token_ids is None else _pack_ids(value.token_ids),
                scores=None if value.scores is None else _pack_scores(value.scores, value.token_ids),
                counted=value.counted,
            )
        )
    if isinstance(value, TokenScores):
        return _encoder.encode(_pack_scores(value, None))
    if isinstance(value, Failure):
        return _encoder.encode(_Failure(reason=_pack_text(value.reason)))
    if isinstance(value, Reward):
        return _encoder.encode(_Reward([list(row) for row in value.values], value.prompt_tokens, value.too_long))
    return _encoder.encode(
        _Verdict(
            status=value.status,
            reason=None if value.reason is None else _pack_text(value.reason),
            answer=None if value.answer is None else _pack_text(value.answer),
            how=_pack_text(value.how),
        )
    )


def decode(payload: bytes, key: str) -> Value:
    """The value that `encode` was given; a completion gets `key`."""
    packed = _decoder.decode(payload)
    if isinstance(packed, _Completion):
        ids = None if packed.token_ids is None else _unpack_ids(packed.token_ids)
        return Completion(
            text=_unpack_text(packed.text),
            finish_reason=packed.finish_reason,
            n_tokens=packed.n_tokens,
            prompt_tokens=packed.prompt_tokens,
            token_ids=ids,
            scores=None if packed.scores is None else _unpack_scores(packed.scores, ids),
            counted=packed.counted,
            key=key,
        )
    if isinstance(packed, _Scores):
        return _unpack_scores(packed, None)
    if isinstance(packed, _Failure):
        return Failure(_unpack_text(packed.reason))
    if isinstance(packed, _Reward):
        return Reward(
            values=tuple(map(tuple, packed.values)), prompt_tokens=packed.prompt_tokens, too_long=packed.too_long
        )
    return Verdict(
        status=packed.status,
        reason=None if packed.reason is None else _unpack_text(packed.reason),
        answer=None if packed.answer is None else _unpack_text(packed.answer),
        how=_unpack_text(packed.how),
    )


def _pack_scores(scores: TokenScores, around: "array[int] | None") -> _Scores:
    return _Scores(
        token_ids=None if around is not None and scores.token_ids == around else _pack_ids(scores.token_ids),
        logprobs=_pack_floats(scores.logprobs),
        top=None if scores.top is None else _pack_top(scores.top),
    )


def _unpack_scores(packed: _Scores, around: "array[int] | None") -> TokenScores:
    if packed.token_ids is not None:
        ids = _unpack_ids(packed.token_ids)
    elif around is not None:
        ids = array("i", around)
    else:
        raise ValueError("scores without token ids")
    top = None if packed.top is None else _unpack_top(packed.top)
    return TokenScores(token_ids=ids, logprobs=_unpack_floats(packed.logprobs), top=top)


def _pack_top(top: Top) -> tuple[_Ids, _Ids, _Floats]:
    pairs = [pair for position in top for pair in position]
    exact = array("d", [logprob for _, logprob in pairs])
    narrow = array("f", [logprob if abs(logprob) < 1e38 else 0.0 for logprob in exact])
    fits = array("d", narrow).tobytes() == exact.tobytes()  # as bytes: a NaN equals itself
    return (
        _pack_ids(array("i", map(len, top))),
        _pack_ids(array("i", [token for token, _ in pairs])),
        _pack_floats(narrow if fits else exact),
    )


def _unpack_top(packed: tuple[_Ids, _Ids, _Floats]) -> Top:
    pairs = zip(_unpack_ids(packed[1]), _unpack_floats(packed[2]), strict=True)
    return tuple(tuple(next(pairs) for _ in range(width)) for width in _unpack_ids(packed[0]))


def _pack_ids(ids: "array[int]") -> _Ids:
    halves = array("H", ids.tobytes())
    return pack(halves[0::2].tobytes()), pack(halves[1::2].tobytes())


def _unpack_ids(packed: _Ids) -> "array[int]":
    low = unpack(packed[0])
    halves = array("H", bytes(2 * len(low)))
    halves[0::2] = array("H", low)
    halves[1::2] = array("H", unpack(packed[1]))
    return array("i", halves.tobytes())


def _pack_floats(values: "array[float]") -> _Floats:
    raw, width = values.tobytes(), values.itemsize
    return tuple(pack(raw[plane::width]) for plane in range(width))


def _unpack_floats(packed: _Floats) -> "array[float]":
    planes: Sequence[bytes] = [unpack(blob) for blob in packed]
    raw = bytearray(len(planes) * len(planes[0]))
    for number, plane in enumerate(planes):
        raw[number :: len(planes)] = plane
    return array("f" if len(planes) == 4 else "d", bytes(raw))


def _pack_text(text: str) -> _Blob:
    return pack(text.encode("utf-8", "surrogatepass"))  # servers do send lone surrogates


def _unpack_text(packed: _Blob) -> str:
    return unpack(packed).decode("utf-8", "surrogatepass")


def pack(raw: bytes) -> _Blob:
    """Bytes, compressed where that pays, with their length before."""
    if len(raw) < WORTH_COMPRESSING:
        return len(raw), raw
    small: bytes = _zstd().compress(raw, asbytes=True)
    return len(raw), small if len(small) < len(raw) else raw


def unpack(blob: _Blob) -> bytes:
    """The bytes that `pack` was given."""
    size, body = blob
    if len(body) == size:
        return body
    raw: bytes = _zstd().decompress(body, decompressed_size=size, asbytes=True)
    return raw


def _zstd() -> pa.Codec:
    """One codec a thread: pyarrow does not promise that they can be shared."""
    codec: pa.Codec | None = getattr(_local, "codec", None)
    if codec is None:
        codec = _local.codec = pa.Codec("zstd", LEVEL)
    return codec
