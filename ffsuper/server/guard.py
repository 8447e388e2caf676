"""What stands before all routes: the token, the limits of a body, and counting. Plain ASGI, as every request pays."""

from __future__ import annotations

import hmac
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import trio
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ffsuper.server.metrics import Metrics
from ffsuper.server.service import failure

MAX_BODY_BYTES = 2 * 1024 * 1024
# A caller that is slower than that with its body is not waited for.
BODY_S = 30.0
BODY_AT_END_S = 0.5
PUBLIC = ("/healthz",)
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT")
BEARER = b"Bearer "
CONTRADICTORY = {b"content-length", b"transfer-encoding"}
TOO_LARGE = "invalid JSON: Content Too Large"


class Arrivals:
    """Limits how long bodies are waited for, and all the more when the server stops.

    Hypercorn may hand a request over whose connection it is about to close; the body never comes then.
    """

    def __init__(self) -> None:
        self._awaited = set[trio.CancelScope]()
        self._last_s = math.inf

    @contextmanager
    def limit(self, give_up_s: float) -> Iterator[None]:
        """Wait in the block until then at the longest, on trio's clock."""
        with trio.CancelScope(deadline=min(give_up_s, self._last_s)) as scope:
            self._awaited.add(scope)
            try:
                yield
            finally:
                self._awaited.remove(scope)

    async def hurry_after(self, stopping: trio.Event) -> None:
        """Shorten all waiting, once the server stops."""
        await stopping.wait()
        self._last_s = trio.current_time() + BODY_AT_END_S
        for scope in self._awaited:
            scope.deadline = min(scope.deadline, self._last_s)


class Guard:
    """Lets requests through to the application.

    Args:
        token: what requests have to bring, but for those about health; empty for nothing.
    """

    def __init__(self, app: ASGIApp, token: str, metrics: Metrics, stopping: trio.Event, arrivals: Arrivals) -> None:
        self._app = app
        self._stopping = stopping
        self._arrivals = arrivals
        self._expected = BEARER + token.encode() if token else b""
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s, status = time.monotonic(), 0

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._stopping.is_set() and scope["http_version"].startswith("1"):
                    # Hypercorn forgets a connection on which the next request has come already.
                    message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        try:
            await self._answer(scope, receive, send_counted)
        finally:
            route = getattr(scope.get("route"), "path", "")
            # Hypercorn answers where the application fails; and callers may invent as many methods as they like.
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._metrics.requests.labels(method, route, status or 500).inc()
            self._metrics.seconds.labels(route).observe(time.monotonic() - began_s)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        given = headers.get(b"authorization", b"")
        if headers.keys() >= CONTRADICTORY:
            # A proxy may have gone by the one and we by the other: what follows can be another caller's.
            refusal = failure(400, "both Content-Length and Transfer-Encoding")
            refusal.headers["connection"] = "close"
            await refusal(scope, receive, send)
        elif self._expected and scope["path"] not in PUBLIC and not hmac.compare_digest(given, self._expected):
            await failure(401, "missing or invalid Authorization header")(scope, receive, send)
        elif too_large(headers.get(b"content-length", b"")):
            await failure(413, TOO_LARGE)(scope, receive, send)
        else:
            await self._app(scope, Body(receive, self._arrivals).receive, send)


def too_large(content_length: bytes) -> bool:
    """Tell whether a body is announced that nobody wants; text that is no number is none of HTTP's."""
    return content_length.isdigit() and int(content_length) > MAX_BODY_BYTES


class Body:
    """Counts what arrives of a body, and how long that takes."""

    def __init__(self, receive: Receive, arrivals: Arrivals) -> None:
        self._receive = receive
        self._arrivals = arrivals
        self._give_up_s = trio.current_time() + BODY_S
        self._bytes = 0
        self._is_complete = False

    async def receive(self) -> Message:
        """Return the next part.

        Raises:
            HTTPException: it was too large or too slow.
        """
        if self._is_complete:
            return await self._receive()
        message: Any = None
        with self._arrivals.limit(self._give_up_s):
            message = await self._receive()
        if message is None:
            raise HTTPException(408, "the body did not arrive in time")
        self._bytes += len(message.get("body", b""))
        self._is_complete = not message.get("more_body", False)
        if self._bytes > MAX_BODY_BYTES:
            raise HTTPException(413, TOO_LARGE)
        return dict(message)
