"""What the store announces: a subscription on a connection and in a thread of its own.

What is announced while the connection is down is lost, so announcements only make things quicker.
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
from ffsuper.errors import ConfigError, StoreError
from ffsuper.store.cluster import some_server
from ffsuper.store.wire import connection_maker

# Executions whose leases were taken away; the next renewal finds that out all the same.
LEASE_ENDS = "ffsuper:lease_ends"
# Members of flows that have ended, as JSON; the sweep over blocked executions finds that out all the same.
COMPLETIONS = "ff:dag:completions"
# Workers, by instance id or * for all, that are to look for an order and to write their status at once; both happen
# at the next renewal of their alive keys all the same.
ORDERS = "ffsuper:orders"
# In the place of a message: listening begins, at first or after the connection was lost, and what came before is
# lost.
LISTENING = b""
# How long the thread may take to notice that it is to end.
LOOK_S = 0.5
RECONNECT_S = 2.0
# Announcements that nobody takes in time are dropped, for they are hints only.
BACKLOG = 1_000


@asynccontextmanager
async def open_announcements(
    settings: StoreConfig, channel: str, *, tells_beginning: bool = False
) -> AsyncIterator[trio.MemoryReceiveChannel[bytes]]:
    """Listen while the block lasts; yields the messages of a channel.

    Args:
        tells_beginning: whether LISTENING is among them.
    """
    send, receive = trio.open_memory_channel[bytes](BACKLOG)
    listener = Listener(settings, channel, tells_beginning, send, trio.lowlevel.current_trio_token())
    thread = threading.Thread(target=listener.run, name=f"store-{channel}", daemon=True)
    thread.start()
    try:
        async with receive:
            yield receive
    finally:
        listener.stopping.set()


class Listener:
    """The thread's side."""

    def __init__(
        self,
        settings: StoreConfig,
        channel: str,
        tells_beginning: bool,
        send: trio.MemorySendChannel[bytes],
        token: trio.lowlevel.TrioToken,
    ) -> None:
        self.stopping = threading.Event()
        self._channel = channel
        self._tells_beginning = tells_beginning
        self._settings = settings
        self._send = send
        self._token = token

    def run(self) -> None:
        """Listen, and connect again whenever that ends, until told to stop."""
        while not self.stopping.is_set():
            with contextlib.suppress(StoreError):
                # A cluster hands every announcement to all its servers.
                maker = connection_maker(some_server(self._settings), "ffsuper-announcements")
                connection: Any = maker.make_connection()
                with contextlib.suppress(redis.RedisError, OSError, ConfigError):
                    self._listen(connection)
                connection.disconnect()
            self.stopping.wait(RECONNECT_S)

    def _listen(self, connection: Any) -> None:
        connection.connect()
        connection.send_command("SUBSCRIBE", self._channel)
        while not self.stopping.is_set():
            if connection.can_read(timeout=LOOK_S):
                kind, _, data = connection.read_response(disable_decoding=True)
                if kind == b"message" or self._tells_beginning:
                    with contextlib.suppress(trio.RunFinishedError):
                        self._token.run_sync_soon(self._pass_on, data if kind == b"message" else LISTENING)

    def _pass_on(self, message: bytes) -> None:
        with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError):
            self._send.send_nowait(message)
