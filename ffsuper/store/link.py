"""An open connection to one server, for trio: bytes out, replies in.

redis-py makes it (URL, TLS, credentials, handshake), in a thread, for that blocks. From then on its socket is ours.
"""

from __future__ import annotations

import select
import ssl
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
import redis
import trio
from redis.connection import DefaultParser

from ffsuper.store.reader import BoundedReader
from ffsuper.store.wire import Command, opened, sendable

READ_BYTES = 1 << 16
# While TLS wants to read before it can write, the reader does so.
TLS_PAUSE_S = 0.001
# A socket that is not to be read, or not to be written, yet.
NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
# What ends a connection.
BROKEN = (OSError, redis.RedisError, trio.ClosedResourceError)
INCOMPLETE = object()


class Link:
    """The connection. One task sends at a time, and one receives."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._socket = connection._sock  # redis-py has no public name for it
        self._socket.setblocking(False)
        self._hang_up = select.poll()
        self._hang_up.register(self._socket, select.POLLRDHUP)
        # What TLS has deciphered, and the socket does not show any more.
        self._has_more: Callable[[], object] = getattr(self._socket, "pending", bool)
        reader = hiredis.Reader(protocolError=redis.InvalidResponse, replyError=error_reply, notEnoughData=INCOMPLETE)
        self._reader = BoundedReader(reader)

    @classmethod
    async def open(cls, maker: redis.ConnectionPool) -> Link:
        """Connect.

        Raises:
            StoreError: see ``wire.opened``.
        """
        return cls(await trio.to_thread.run_sync(opened, maker, abandon_on_cancel=True))

    @property
    def has_ended(self) -> bool:
        """Whether the server has closed it, as far as is known."""
        return bool(self._hang_up.poll(0))

    async def send(self, data: bytes) -> None:
        """Send all of it.

        Raises:
            OSError, trio.ClosedResourceError: the connection is lost.
        """
        left = memoryview(data)
        while left:
            try:
                left = left[self._socket.send(left) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                await trio.lowlevel.wait_writable(self._socket)
            except ssl.SSLWantReadError:
                await trio.sleep(TLS_PAUSE_S)

    async def receive(self) -> list[Any]:
        """Wait for replies, and return those that are whole; an error reply is a ``redis.RedisError`` in the list.

        Raises:
            OSError, redis.RedisError, trio.ClosedResourceError: the connection is lost.
        """
        replies: list[Any] = []
        while not replies:
            if not self._has_more():
                await trio.lowlevel.wait_readable(self._socket)
            try:
                data = self._socket.recv(READ_BYTES)
            except NOT_YET:
                continue
            if not data:
                raise ConnectionResetError("the server has closed the connection")
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not INCOMPLETE:
                replies.append(reply)
        return replies

    def close(self) -> None:
        """Close it; who sends or receives is told."""
        trio.lowlevel.notify_closing(self._socket)
        self._connection.disconnect()


def error_reply(text: str) -> redis.RedisError:
    """Return the error that a server tells of."""
    parse: Callable[[str], redis.RedisError] = DefaultParser.parse_error
    try:
        return parse(text)
    except ValueError:  # begins like the news that a slot has moved, and does not say where
        return redis.ResponseError(text)


def packed(commands: Sequence[Command]) -> bytes:
    """Return commands as they are sent. What is no text, as a user's message may be, goes with question marks."""
    pack: Callable[..., bytes] = hiredis.pack_command
    try:
        return b"".join(map(pack, commands))
    except UnicodeEncodeError:
        return b"".join(pack(tuple(map(sendable, command))) for command in commands)
