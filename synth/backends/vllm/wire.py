"""What a build and its engine host say to each other: frames of four bytes of length and a msgpack body.

    build ── Setup, then Ask, Abort, Stop ──▶ host
    build ◀── Ready or Unfit, then Answer, Scores, Refusal, Hiccup, Beat, Dead ── host

Light on purpose: the host imports it before vLLM, and a test's stand-in for the host imports nothing else.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import msgspec

HEADER = 4


class Setup(msgspec.Struct, tag="setup", array_like=True, frozen=True):
    """What to start."""

    args: dict[str, Any]
    """Engine arguments that the recipe gives, the model and its settings among them."""
    loras: list[tuple[str, str]] = []
    """Name and folder of each adapter that is loaded before anything is asked. The first has no effect, its scale being 0."""


class Ask(msgspec.Struct, tag="ask", array_like=True, frozen=True):
    """One request. `params` are vLLM's SamplingParams by name, only those that were said."""

    id: int
    prompt: str | list[int]
    prefix: str | list[int] | None
    params: dict[str, Any]
    score: bool = False
    lora: str | None = None
    """The name of the adapter to run on; None is the model itself."""


class Abort(msgspec.Struct, tag="abort", array_like=True, frozen=True):
    """Nobody waits for this answer any more."""

    id: int


class Stop(msgspec.Struct, tag="stop", array_like=True, frozen=True):
    """Shut the engine down in order."""


class Ready(msgspec.Struct, tag="ready", array_like=True, frozen=True):
    """The engine has answered a request of the host's own."""

    facts: dict[str, Any]
    seats: int
    """How many requests the engine works on at once."""


class Unfit(msgspec.Struct, tag="unfit", array_like=True, frozen=True):
    """The engine cannot be started as asked. `said` where the message explains it all without the log."""

    message: str
    said: bool = False


class Answer(msgspec.Struct, tag="answer", array_like=True, frozen=True):
    """A completion. Ids are packed 32-bit integers, log-probs packed 32-bit floats as vLLM computes them."""

    id: int
    text: str
    finish_reason: str
    prompt_tokens: int
    token_ids: bytes
    logprobs: bytes | None = None
    top: tuple[tuple[tuple[int, float], ...], ...] | None = None
    cached_tokens: int = 0
    """Of the prompt, those that the engine took from its prefix cache."""


class Scores(msgspec.Struct, tag="scores", array_like=True, frozen=True):
    """Log-probs of the tokens of a prefix."""

    id: int
    token_ids: bytes
    logprobs: bytes
    top: tuple[tuple[tuple[int, float], ...], ...] | None = None


class Refusal(msgspec.Struct, tag="refusal", array_like=True, frozen=True):
    """The engine will never answer this one."""

    id: int
    message: str


class Hiccup(msgspec.Struct, tag="hiccup", array_like=True, frozen=True):
    """The engine failed this one and lives on; asking again may help."""

    id: int
    message: str


class Beat(msgspec.Struct, tag="beat", array_like=True, frozen=True):
    """Sent once a second. `mark` moves with every token read or written; a hung engine leaves it where it was."""

    mark: int


class Dead(msgspec.Struct, tag="dead", array_like=True, frozen=True):
    """The engine's own process is gone; the host ends next."""

    why: str


ToHost = Setup | Ask | Abort | Stop
FromHost = Ready | Unfit | Answer | Scores | Refusal | Hiccup | Beat | Dead


class Frames(asyncio.Protocol):
    """Sends and receives frames on a stream, all that one turn of the loop produced in one write."""

    def __init__(self, kind: Any, received: Callable[[Any], None], lost: Callable[[], None]) -> None:
        """`kind` is the union that arrives here; `lost` is called once, when the other side has gone."""
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self._encode = msgspec.msgpack.Encoder().encode
        self._received, self._lost = received, lost
        self._arrived, self._leaving = bytearray(), bytearray()
        self._transport: asyncio.Transport | None = None

    async def attach(self, sock: socket.socket) -> None:
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=sock)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a stream socket has no other
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        arrived = self._arrived
        arrived += data
        start, bodies = 0, []
        while len(arrived) - start >= HEADER:
            end = start + HEADER + int.from_bytes(arrived[start : start + HEADER], "big")
            if len(arrived) < end:
                break
            bodies.append(bytes(arrived[start + HEADER : end]))
            start = end
        del arrived[:start]
        for body in bodies:
            self._received(self._decode(body))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - how it went is no news
        self._transport = None
        self._lost()

    def send(self, frame: ToHost | FromHost) -> None:
        """Queue a frame; silently dropped where nobody listens any more, because `lost` has said so."""
        if self._transport is None:
            return
        if not self._leaving:
            asyncio.get_running_loop().call_soon(self.flush)
        self._leaving += pack(frame, self._encode)

    def flush(self) -> None:
        if self._transport is not None and self._leaving:
            self._transport.write(bytes(self._leaving))
        self._leaving.clear()

    def close(self) -> None:
        self.flush()
        if self._transport is not None:
            self._transport.close()


def pack(frame: ToHost | FromHost, encode: Callable[[Any], bytes] = msgspec.msgpack.encode) -> bytes:
    body = encode(frame)
    return len(body).to_bytes(HEADER, "big") + body


def read_one(sock: socket.socket, kind: Any) -> Any:
    """One frame from a blocking socket; EOFError where it ends before."""

    def exactly(size: int) -> bytes:
        data = sock.recv(size, socket.MSG_WAITALL)
        if len(data) < size:
            raise EOFError
        return data

    return msgspec.msgpack.decode(exactly(int.from_bytes(exactly(HEADER), "big")), type=kind)
