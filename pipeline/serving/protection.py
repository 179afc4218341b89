"""Who may ask, how much a request may hold, and how long it may take to arrive."""

import asyncio
import base64
import hmac
import time
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.serving.measures import DURATION, REQUESTS

LOCAL_NAMES = ("127.0.0.1", "localhost")
OPEN = ("/healthz", "/readyz")
"""Paths that need no key; what `/readyz` says without one names nothing."""
BODY_BYTES = 1 << 20
DROPPED_BYTES = 32 << 20
"""Of a body that is too large, read before the answer at most."""
ARRIVAL_SECONDS = 10.0
"""Within which a request's head, and then each part of its body, must arrive."""


def refusal(status: int, message: str, **headers: str) -> JSONResponse:
    """An error as clients read it."""
    return JSONResponse({"error": message}, status, headers)


class Guard:
    """Lets through who has the key. Without a key the server listens on loopback alone, and another site whose name
    resolves to this machine must not read the store: only requests for this machine's own names pass.

    Sets `state.trusted`: whether the request may know everything.
    """

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app, self.key = app, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 400, 401 or 403, or pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refused = self._refused(headers)
        scope.setdefault("state", {})["trusted"] = refused is None
        if refused is not None and scope["path"] not in OPEN:
            await refused(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _refused(self, headers: Headers) -> JSONResponse | None:
        if self.key:
            if hmac.compare_digest(_given(headers.get("authorization", "")).encode(), self.key.encode()):
                return None
            login = {"WWW-Authenticate": 'Basic realm="cm3", charset="UTF-8"'}
            return refusal(401, "Give the key: Authorization: Bearer KEY, or as the password of a login.", **login)
        try:
            host = urlsplit(f"//{headers.get('host', '')}").hostname
        except ValueError:
            return refusal(400, "This request's Host cannot be read.")
        return None if host in LOCAL_NAMES else refusal(403, "This server answers to 127.0.0.1 and localhost only.")


def _given(authorization: str) -> str:
    """The key in an Authorization header: Bearer's token or Basic's password."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except ValueError:  # neither base64 nor UTF-8
            return ""
    return ""


class Limits:
    """Refuses bodies that are too large or arrive too slowly."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 408 or 413, or pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body, refused = await self._body(scope, receive)
        if refused is not None:
            await refused(scope, receive, send)
            return

        async def whole() -> Message:
            return body.pop() if body else await receive()

        await self.app(scope, whole, send)

    async def _body(self, scope: Scope, receive: Receive) -> tuple[list[Message], JSONResponse | None]:
        """The whole body as one message, or why it is refused.

        What is too large is read to its end, within reason, and dropped: a client that is still sending when its
        connection is closed would not see the answer.
        """
        too_large = refusal(413, f"The body is larger than {BODY_BYTES:,} bytes.", Connection="close")
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdigit() and int(length) > DROPPED_BYTES:
            return [], too_large
        parts, size = bytearray(), 0
        while True:
            try:
                message = await asyncio.wait_for(receive(), ARRIVAL_SECONDS)
            except TimeoutError:
                late = f"The body did not arrive within {ARRIVAL_SECONDS:g} seconds."
                return [], refusal(408, late, Connection="close")
            if message["type"] != "http.request":
                return [message], None
            part = message.get("body", b"")
            size += len(part)
            if size <= BODY_BYTES:
                parts += part
            if size > DROPPED_BYTES or not message.get("more_body", False):
                whole: Message = {"type": "http.request", "body": bytes(parts), "more_body": False}
                return ([], too_large) if size > BODY_BYTES else ([whole], None)


class Measured:
    """Counts requests, and adds the headers that every answer has."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS:
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            REQUESTS.labels(route, status).inc()
            DURATION.labels(route).observe(time.perf_counter() - started)


HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-cache"),
)


class Impatient(H11Protocol):
    """Closes a connection on which a request's head does not arrive in time. uvicorn bounds only the time between two
    requests, so that a client that never ends a line would keep its connection for ever."""

    def connection_made(self, transport: Any) -> None:
        """A connection begins."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Something arrives: a head that is not whole yet keeps the time it was given."""
        requests = self.cycle
        super().data_received(data)
        if self.cycle is not requests:
            self._deadline.cancel()

    def on_response_complete(self) -> None:
        """An answer is sent: the next head may come, after uvicorn's own time between two requests."""
        super().on_response_complete()
        if self.cycle.response_complete:  # else the next request is there already
            self._deadline.cancel()
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended."""
        self._deadline.cancel()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._deadline = self.loop.call_later(ARRIVAL_SECONDS, self.transport.close)


def trusted(request: Request) -> bool:
    """Whether who asks may know everything."""
    return bool(request.scope["state"]["trusted"])
