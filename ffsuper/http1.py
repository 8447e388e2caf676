"""Short answers over HTTP/1.1, on a few connections.

A caller may be slow, silent, greedy or no HTTP client at all: it is cut off in time, and while its request is waited
for, it gives its place up to another when all are taken. Nothing that it sends is kept.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus

import h11
import trio

CONNECTIONS = 32
HEADERS_BYTES = 16 * 1024
READ_BYTES = 4 * 1024
# A request has to come to its end within this time, the first one of a connection from the connection's beginning.
REQUEST_S = 5.0
# Prometheus asks again on the same connection, usually within a minute.
UNUSED_S = 75.0
ANSWER_S = 5.0
METHODS = (b"GET", b"HEAD")


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered to a request."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


class Service:
    """Answers all connections of one listener."""

    def __init__(self, answer: Callable[[str], Awaitable[Answer]]) -> None:
        """Begin.

        Args:
            answer: called with the path of a GET or HEAD.
        """
        self._answer = answer
        self._connections = 0
        # The waits for requests, of which the oldest comes first.
        self._waits: dict[trio.CancelScope, None] = {}

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Answer on one connection until it ends; closing it is left to the caller."""
        if self._connections >= CONNECTIONS and not self._make_room():
            return
        self._connections += 1
        try:
            await self._converse(stream)
        except trio.BrokenResourceError:  # the other side is gone
            return
        finally:
            self._connections -= 1

    def _make_room(self) -> bool:
        """End the connection whose next request has been waited for longest; return whether there was one."""
        for wait in self._waits:
            wait.cancel()
            del self._waits[wait]
            return True
        return False

    async def _converse(self, stream: trio.abc.Stream) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEADERS_BYTES)
        patience_s = REQUEST_S
        while True:
            method = b""
            try:
                request = await self._request(stream, connection, patience_s)
                if request is None:
                    return
                method = request.method
                answer = await self._answer_to(request)
                # Nobody needs a body here: instead of reading one we close.
                is_read = isinstance(connection.next_event(), h11.EndOfMessage)
            except h11.RemoteProtocolError as error:
                answer, is_read = plain(error.error_status_hint), False
            with trio.move_on_after(ANSWER_S) as in_time:
                await stream.send_all(encoded(connection, answer, is_head=method == b"HEAD", is_last=not is_read))
            if in_time.cancelled_caught or connection.our_state is not h11.DONE:
                return
            connection.start_next_cycle()
            patience_s = UNUSED_S

    async def _request(
        self, stream: trio.abc.Stream, connection: h11.Connection, patience_s: float
    ) -> h11.Request | None:
        """Return the next request; None when there will be none, or not in time.

        Raises:
            h11.RemoteProtocolError: what came is no request.
        """
        wait = trio.CancelScope(deadline=trio.current_time() + patience_s)
        self._waits[wait] = None
        with wait:
            try:
                while (event := connection.next_event()) is h11.NEED_DATA:
                    connection.receive_data(bytes(await stream.receive_some(READ_BYTES)))
                    wait.deadline = min(wait.deadline, trio.current_time() + REQUEST_S)
            finally:
                self._waits.pop(wait, None)
            return event if isinstance(event, h11.Request) else None
        return None

    async def _answer_to(self, request: h11.Request) -> Answer:
        if request.method not in METHODS:
            return plain(HTTPStatus.METHOD_NOT_ALLOWED)
        return await self._answer(request.target.partition(b"?")[0].decode("ascii"))


def plain(status: int) -> Answer:
    """Return an answer that says no more than its status."""
    return Answer(status, f"{HTTPStatus(status).phrase}\n".encode())


def encoded(connection: h11.Connection, answer: Answer, *, is_head: bool, is_last: bool) -> bytes:
    """Return an answer as it is sent.

    Args:
        is_last: say that the connection is closed then.
    """
    headers = [("Content-Type", answer.content_type), ("Content-Length", str(len(answer.body)))]
    headers += [("Cache-Control", "no-store")]
    if answer.status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers.append(("Allow", "GET, HEAD"))
    if is_last:
        headers.append(("Connection", "close"))
    reason = HTTPStatus(answer.status).phrase
    events: list[h11.Event] = [h11.Response(status_code=answer.status, headers=headers, reason=reason)]
    if not is_head:
        events.append(h11.Data(data=answer.body))
    events.append(h11.EndOfMessage())
    return b"".join(connection.send(event) or b"" for event in events)
