"""The announcements of leases that were taken away: a subscription on a connection and in a thread of its own.

What is announced while the connection is down is lost; the next renewal finds it out all the same.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import redis
import trio

from ffsuper.config import StoreConfig
from ffsuper.errors import ConfigError
from ffsuper.messages import ExecutionId
from ffsuper.store.wire import connection_maker

CHANNEL = "ffsuper:lease_ends"
# How long the thread may take to notice that it is to end.
LOOK_S = 0.5
RECONNECT_S = 2.0
# Announcements that nobody takes in time are dropped, for they are hints only.
BACKLOG = 1_000


@asynccontextmanager
async def open_lease_ends(settings: StoreConfig) -> AsyncIterator[trio.MemoryReceiveChannel[ExecutionId]]:
    """Listen while the block lasts; yields the executions whose leases were taken away, of all workers."""
    send, receive = trio.open_memory_channel[ExecutionId](BACKLOG)
    listener = Listener(settings, send, trio.lowlevel.current_trio_token())
    thread = threading.Thread(target=listener.run, name="store-lease-ends", daemon=True)
    thread.start()
    try:
        async with receive:
            yield receive
    finally:
        listener.stopping.set()


class Listener:
    """The thread's side."""

    def __init__(
        self, settings: StoreConfig, send: trio.MemorySendChannel[ExecutionId], token: trio.lowlevel.TrioToken
    ) -> None:
        self.stopping = threading.Event()
        self._maker = connection_maker(settings, "ffsuper-lease-ends")
        self._send = send
        self._token = token

    def run(self) -> None:
        """Listen, and connect again whenever that ends, until told to stop."""
        while not self.stopping.is_set():
            connection: Any = self._maker.make_connection()
            with contextlib.suppress(redis.RedisError, OSError, ConfigError):
                self._listen(connection)
            connection.disconnect()
            self.stopping.wait(RECONNECT_S)

    def _listen(self, connection: Any) -> None:
        connection.connect()
        connection.send_command("SUBSCRIBE", CHANNEL)
        while not self.stopping.is_set():
            if connection.can_read(timeout=LOOK_S):
                kind, _, data = connection.read_response(disable_decoding=True)
                if kind == b"message":
                    with contextlib.suppress(trio.RunFinishedError):
                        self._token.run_sync_soon(self._pass_on, ExecutionId(data.decode(errors="replace")))

    def _pass_on(self, execution_id: ExecutionId) -> None:
        with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError):
            self._send.send_nowait(execution_id)
