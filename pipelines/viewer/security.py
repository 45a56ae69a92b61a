"""Who may ask the viewer, and what a page of it may do.

It answers on 127.0.0.1, to requests that name that host and whose path begins with the token of this run; to all others it
says nothing about the data. The token stays in the path: browsers send cookies of 127.0.0.1 to every port of it, where
somebody else may listen. What a dataset holds comes from models and strangers, so a page runs no script at all, loads
nothing from elsewhere, and no other page can frame it or read what it answers.
"""

from collections.abc import Mapping, MutableMapping
from secrets import compare_digest
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; sandbox allow-scripts"
)
"""A report is one file with its styles and scripts in it; the sandbox makes it a stranger to the viewer."""
HEADERS: Mapping[str, str] = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
REFUSED = "The address needs the token that `tracemill view` printed; open the whole line.\n"


class Guard:
    """Lets requests through to the viewer that may see it, and puts HEADERS on every answer that has none of its own."""

    def __init__(self, app: "ASGIApp", *, token: str, port: int) -> None:
        self._app, self._token = app, token
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            return
        if (refusal := self._refusal(scope)) is not None:
            await _say(send, *refusal)
            return
        scope["root_path"] = f"/{self._token}"
        await self._app(scope, receive, _with_headers(send))

    def _refusal(self, scope: MutableMapping[str, Any]) -> tuple[int, str, dict[str, str]] | None:
        """What is answered in place of a page: status, text, headers."""
        hosts = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
        given, slash, _ = scope["path"].removeprefix("/").partition("/")
        if len(hosts) != 1 or hosts[0] not in self._hosts or not compare_digest(given.encode(), self._token.encode()):
            return 403, REFUSED, {}
        if scope["method"] not in ("GET", "HEAD"):
            return 405, "The viewer only shows: GET or HEAD.\n", {"allow": "GET, HEAD"}
        return None if slash else (307, "", {"location": f"/{self._token}/"})


def _with_headers(send: "Send") -> "Send":
    async def sending(message: "Message") -> None:
        if message["type"] == "http.response.start":
            have = {name.decode("latin-1").lower() for name, _ in message.get("headers", ())}
            more = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name not in have]
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await send(message)

    return sending


async def _say(send: "Send", status: int, text: str, headers: Mapping[str, str]) -> None:
    body = text.encode()
    every = {**HEADERS, "content-type": "text/plain; charset=utf-8", "content-length": str(len(body)), **headers}
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(name.encode(), value.encode()) for name, value in every.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})
