"""The way from one process to the store, on which things happen to what is said."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from collections.abc import Callable

import trio

CHUNK_BYTES = 1 << 16


class Network:
    """A proxy.

    Attributes:
        slow_s: everything is delayed by up to so long.
        swallows: replies are lost.
        tears: the next reply of each connection is cut in the middle, and the connection with it.
        target: returns the port of the server to connect to.
    """

    def __init__(self, target: Callable[[], int], seed: int) -> None:
        self.slow_s = 0.0
        self.swallows = False
        self.tears = False
        self.target = target
        self._chance = random.Random(seed)
        self._open = trio.Event()
        self._open.set()
        self._connections: dict[trio.CancelScope, tuple[trio.SocketStream, trio.SocketStream]] = {}
        self._listeners: list[trio.SocketListener] = []
        self.port = 0

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry what is said, until cancelled."""
        self._listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = self._listeners[0].socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._serve, self._listeners)

    def hold(self) -> None:
        """Let nothing through, until ``let_through``; what was said meanwhile arrives then."""
        self._open = trio.Event()

    def let_through(self) -> None:
        """Let everything through again."""
        self._open.set()

    def cut(self) -> None:
        """Reset all connections."""
        for scope, streams in list(self._connections.items()):
            for stream in streams:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            scope.cancel()

    async def half_close(self, *, towards_store: bool) -> None:
        """End one direction of all connections."""
        for client, server in list(self._connections.values()):
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
                await (server if towards_store else client).send_eof()

    async def _serve(self, client: trio.SocketStream) -> None:
        with contextlib.suppress(OSError, trio.BrokenResourceError):
            await self._open.wait()
            server = await trio.open_tcp_stream("127.0.0.1", self.target())
            async with client, server:
                with trio.CancelScope() as scope:
                    self._connections[scope] = client, server
                    try:
                        async with trio.open_nursery() as nursery:
                            nursery.start_soon(self._carry, client, server, scope, False)
                            nursery.start_soon(self._carry, server, client, scope, True)
                    finally:
                        del self._connections[scope]

    async def _carry(
        self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope, are_replies: bool
    ) -> None:
        """Carry one direction to its end."""
        try:
            while data := await source.receive_some(CHUNK_BYTES):
                if self.slow_s:
                    await trio.sleep(self._chance.uniform(0, self.slow_s))
                await self._open.wait()
                if are_replies and self.swallows:
                    continue
                if are_replies and self.tears:
                    data = data[: self._chance.randrange(len(data))]
                    await sink.send_all(data)
                    break
                await sink.send_all(data)
            else:
                await sink.send_eof()
                return
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            pass  # it is cut, or about to be half closed while something is on its way
        scope.cancel()
