"""One server: how it is spoken to, what its answers mean, and whether it still moves.

answer     what it is taken for                       what happens
200        a reply, read by the caller                -
429, 503   pushback: it is alive and has enough       the request waits, Retry-After first, and goes again
408, 409, 425, 5xx, a torn reply                      a fault: the request goes again, elsewhere if it can
no connection                                         unreachable: quarantined, its requests go elsewhere
401, 403, 404                                         the whole run is wrong: TurnedDown, at once
other 4xx                                             RequestRefused, never sent again
"""

import asyncio
import base64
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeVar

import aiohttp
import msgspec
from yarl import URL

from tracemill.schemas.errors import EngineLost, RecipeError, RequestRefused
from tracemill.synth.backends.openai.bodies import encode
from tracemill.synth.backends.openai.window import Window

T = TypeVar("T")
LONGEST_REST = 300.0
"""A Retry-After beyond this is not believed."""
ASK = 10.0
"""Seconds for small questions: the list of models, the metrics."""


class Setback(Exception):
    """A try that failed and may be repeated."""

    def __init__(self, kind: Literal["pushback", "fault", "unreachable", "requeued"], message: str, after: float = 0.0):
        """`after`: seconds that the server asked to be left alone."""
        super().__init__(message)
        self.kind = kind
        self.after = after


class TurnedDown(EngineLost):
    """The server takes no request at all: the key, the model or the address is wrong."""


@dataclass(frozen=True, slots=True)
class Gauges:
    """What `/metrics` says: tokens written since the server started, and requests that wait inside it."""

    tokens: float
    waiting: float | None


class Endpoint:
    """One base URL. Its state is kept here and decided by the pool."""

    def __init__(self, number: int, base_url: str, *, api_key: str | None, at_once: int | None) -> None:
        """Refuses what is no URL; a password in the URL is used and never shown."""
        self.number = number
        self.base, self._headers, self._secrets = _taken_apart(base_url, api_key)
        self.window = Window(size=at_once, fixed=True) if at_once else Window()
        self.usable = True
        self.plain = False
        """Turned down vLLM's own fields once, so is asked without them."""
        self.heard = 0.0
        """When anything last came from it, or its counters last moved."""
        self.rests_until = 0.0
        self.failures = 0
        """Faults since its last good answer."""
        self.pushbacks = 0
        self.pushed_at = 0.0
        self.pushed_since: float | None = None
        self.last_error = ""
        self.tokens_seen: float | None = None
        self.has_gauges = True
        """Until it was asked and had none."""
        self.condemned = False
        self.patience = 1.0
        """Grows with each false alarm: how many times `stall` it may be silent."""
        self._scopes: set[asyncio.Timeout] = set()
        self._session: aiohttp.ClientSession | None = None

    def __str__(self) -> str:
        return f"endpoint {self.number} ({self.base})"

    def connect(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def post(self, path: str, fields: dict[str, Any]) -> bytes:
        """The body of a good answer. Setback, RequestRefused or EngineLost otherwise."""
        loop = asyncio.get_running_loop()
        if not self._scopes:
            self.heard = loop.time()
        plain = self.plain
        try:
            async with asyncio.timeout(None) as scope:
                self._scopes.add(scope)
                try:
                    status, headers, body = await self._exchange("POST", self._at(path), fields, work=True)
                finally:
                    self._scopes.discard(scope)
        except TimeoutError:
            raise Setback("requeued", self.last_error) from None
        if status == 200:
            return body
        if status in (400, 422) and not plain and b"return_token" in body:
            self.plain = True
            return await self.post(path, fields)
        raise self._meaning(status, headers, body, path)

    @property
    def busy(self) -> bool:
        return bool(self._scopes)

    def requeue(self) -> None:
        """Interrupt everything in flight here; the requests go on elsewhere."""
        now = asyncio.get_running_loop().time()
        for scope in list(self._scopes):
            scope.reschedule(now)

    async def models(self) -> tuple[int, bytes]:
        """Status and body of `GET /models`; Setback where there is no answer."""
        status, _, body = await self._asked(self._at("models"))
        return status, body

    async def version(self) -> str | None:
        """What vLLM says under `/version`; None elsewhere."""
        try:
            status, _, body = await self._asked(self._beside("version"))
            return msgspec.json.decode(body, type=dict[str, str]).get("version") if status == 200 else None
        except (Setback, msgspec.DecodeError):
            return None

    async def gauges(self) -> Gauges | None:
        """Its counters, or None where it shows none; Setback where it does not answer at all."""
        status, _, body = await self._asked(self._beside("metrics"))
        text = body.decode(errors="replace") if status == 200 else ""
        tokens = [float(value) for value in _WRITTEN.findall(text)]
        waiting = [float(value) for value in _WAITING.findall(text)]
        self.has_gauges = bool(tokens)
        return Gauges(sum(tokens), sum(waiting) if waiting else None) if tokens else None

    async def writes(self, path: str, fields: dict[str, Any], within: float) -> str | None:
        """Ask for one token, and say what is wrong; None where it came. Any refusal is a sign of life too."""
        try:
            async with asyncio.timeout(within):
                status, headers, body = await self._exchange("POST", self._at(path), fields)
        except TimeoutError:
            return f"no answer to a request for one token within {within:g} s"
        except Setback as setback:
            return str(setback)
        if status == 200 and not body.lstrip().startswith(b"{"):
            return f"answers 200 with something that is not JSON: {body[:60].decode(errors='replace')!r}"
        meaning = None if status == 200 else self._meaning(status, headers, body, path)
        return str(meaning) if isinstance(meaning, Setback) else None

    def clean(self, text: str) -> str:
        """`text` without the key and the password, should the server repeat them."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    async def _asked(self, url: URL) -> tuple[int, Mapping[str, str], bytes]:
        try:
            async with asyncio.timeout(ASK):
                return await self._exchange("GET", url, None)
        except TimeoutError:
            raise Setback("unreachable", f"no answer within {ASK:g} s") from None

    async def _exchange(
        self, method: str, url: URL, fields: dict[str, Any] | None, *, work: bool = False
    ) -> tuple[int, Mapping[str, str], bytes]:
        if self._session is None:
            raise EngineLost("the openai backend was not started, or is closed")
        data = None if fields is None else encode(fields, plain=self.plain)
        loop = asyncio.get_running_loop()
        try:
            async with self._session.request(
                method, url, data=data, headers=self._headers, allow_redirects=False
            ) as response:
                chunks = []
                async for chunk in response.content.iter_any():
                    chunks.append(chunk)
                    if work:
                        self.heard = loop.time()
                return response.status, response.headers, b"".join(chunks)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Setback("unreachable", self.clean(_plainly(error))) from None
        except (aiohttp.ClientError, ConnectionError) as error:
            raise Setback("fault", self.clean(f"the connection broke: {_plainly(error)}")) from None

    def _meaning(self, status: int, headers: Mapping[str, str], body: bytes, path: str) -> Exception:
        said = self.clean(server_message(body))
        if status in (404, 405) and path.startswith("/"):
            return TurnedDown(
                f"{self} answers {status} to {path}: {said}. It serves no such model: a reward model is served by vLLM with "
                "--runner pooling. Put it right and run again to resume"
            )
        if status in (401, 403, 404, 405) or 300 <= status < 400 or b"insufficient_quota" in body:
            return TurnedDown(f"{self} answers {status} to every request: {said}. Put it right and run again to resume")
        if status in (429, 503):
            return Setback("pushback", f"{status}: {said}", retry_after(headers.get("Retry-After")))
        if status >= 500 or status in (408, 409, 425) or status < 300:
            return Setback("fault", f"{status}: {said}", retry_after(headers.get("Retry-After")))
        # No address and no clock in here: the text ends in the `rejected` table, whose hash is the version.
        return RequestRefused(f"the server refuses this request ({status}): {said}")

    def _at(self, path: str) -> URL:
        return self._beside(path[1:]) if path.startswith("/") else self.base.joinpath(path)

    def _beside(self, path: str) -> URL:
        """Health, metrics, version and the pooling routes stand beside `/v1`, not under it."""
        return (self.base.parent if self.base.name == "v1" else self.base).joinpath(path)


_WRITTEN = re.compile(r"^\w+:(?:generation_tokens|tokens_predicted)_total(?:\{[^}]*\})? ([\d.eE+-]+)$", re.MULTILINE)
_WAITING = re.compile(r"^\w+:(?:num_requests_waiting|num_queue_reqs)(?:\{[^}]*\})? ([\d.eE+-]+)$", re.MULTILINE)


def keep_alive(address: Any) -> socket.socket:
    """A socket that notices within two minutes that the other machine is gone, and that no gateway takes for idle.

    A chain of thought of twenty minutes sends not one byte until it is done.
    """
    opened = socket.socket(family=address[0], type=address[1], proto=address[2])
    opened.setblocking(False)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4)):
        opened.setsockopt(socket.IPPROTO_TCP, option, value)
    return opened


def retry_after(value: str | None) -> float:
    """Seconds to wait, from the seconds or the date of a Retry-After header; 0 where it says nothing usable."""
    if value is None:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return 0.0
    return min(max(seconds, 0.0), LONGEST_REST) if seconds == seconds else 0.0


def server_message(body: bytes) -> str:
    """What a server says is wrong: `{"error": {"message"}}`, `{"error": "..."}`, `{"detail": ...}`, or its bare text."""
    try:
        table = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _shortened(body[:500].decode(errors="replace")) or "no message"
    said = table.get("error", table.get("detail", table.get("message", table)))
    if isinstance(said, dict):
        said = said.get("message", said)
    return _shortened(said if isinstance(said, str) else msgspec.json.encode(said).decode())


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 500 else text[:500] + " ..."


def _plainly(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, ConnectionRefusedError):
        return "connection refused"
    return str(error) or type(error).__name__


def _taken_apart(base_url: str, api_key: str | None) -> tuple[URL, dict[str, str], list[str]]:
    """The URL without userinfo, the headers to send, and what must never be shown."""
    try:
        url = URL(base_url.rstrip("/"))
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise RecipeError("engine.base_urls: one entry is no http(s) URL; write it like http://127.0.0.1:8000/v1")
    bare = url.with_user(None)
    if url.query_string or url.fragment:
        raise RecipeError(f"engine.base_urls: {bare.with_query(None)}: a base URL takes no ?query and no #fragment")
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    elif url.user or url.password:
        login = f"{url.user or ''}:{url.password or ''}"
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    return bare, headers, [secret for secret in (api_key, url.password, url.raw_password) if secret]
