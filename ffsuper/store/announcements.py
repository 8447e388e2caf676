"""What the store announces: a subscription on a connection of its own.

What is announced while the connection is down is lost, so announcements only make things quicker.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

import trio

from ffsuper.config import StoreConfig
from ffsuper.errors import StoreError
from ffsuper.messages import LaneId
from ffsuper.store.cluster import some_server
from ffsuper.store.link import BROKEN, Link, packed
from ffsuper.store.replies import MOST_DIGITS
from ffsuper.store.wire import connection_maker

T = TypeVar("T")

# Executions whose leases were taken away; the next renewal finds that out all the same.
LEASE_ENDS = "ffsuper:lease_ends"
# Members of flows that have ended, as JSON; the sweep over blocked executions finds that out all the same.
COMPLETIONS = "ff:dag:completions"
# Before a lane's name: the partitions, by number, whose index of what the lane has to do is no longer empty; the next
# scan finds that out all the same.
ELIGIBLE = "ffsuper:eligible:"
# Workers, by instance id or * for all, that are to look for an order and to write their status at once; both happen
# at the next renewal of their alive keys all the same.
ORDERS = "ffsuper:orders"
# In the place of a message: listening begins, at first or after the connection was lost, and what came before is
# lost.
LISTENING = b""
RECONNECT_S = 2.0
# After so long without a message the server is asked whether it is still there, and given as long to answer.
SILENT_S = 30.0
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
    beginning = LISTENING if tells_beginning else None
    async with listening(settings, [channel], lambda _, data: data, beginning) as messages:
        yield messages


@asynccontextmanager
async def open_wake_ups(
    settings: StoreConfig, lanes: Sequence[LaneId]
) -> AsyncIterator[trio.MemoryReceiveChannel[tuple[LaneId, int] | None]]:
    """Listen while the block lasts; yields where there is something to do: lane and partition.

    None stands for everywhere: listening begins, at first or after the connection was lost.
    """
    channels = {f"{ELIGIBLE}{lane}".encode(): lane for lane in lanes}

    def read(channel: bytes, data: bytes) -> tuple[LaneId, int] | None:
        is_place = channel in channels and data.isdigit() and len(data) <= MOST_DIGITS
        return (channels[channel], int(data)) if is_place else None

    async with listening(settings, [*channels], read, LISTENING) as places:
        yield places


@asynccontextmanager
async def listening(
    settings: StoreConfig, channels: Sequence[str | bytes], read: Callable[[bytes, bytes], T], beginning: bytes | None
) -> AsyncIterator[trio.MemoryReceiveChannel[T]]:
    """Listen while the block lasts; yields what ``read`` makes of channel and message.

    Args:
        beginning: read in the place of a message when listening begins, with the first channel; None for nothing.
    """
    send, receive = trio.open_memory_channel[T](BACKLOG)
    listener = Listener(settings, channels, read, beginning, send)
    # Of the system, so that what fails inside the block arrives outside as it is.
    trio.lowlevel.spawn_system_task(listener.run, name=f"store-{channels[0]!r}")
    try:
        async with receive:
            yield receive
    finally:
        listener.scope.cancel()


class Listener(Generic[T]):
    """Connects and subscribes whenever that is needed."""

    def __init__(
        self,
        settings: StoreConfig,
        channels: Sequence[str | bytes],
        read: Callable[[bytes, bytes], T],
        beginning: bytes | None,
        send: trio.MemorySendChannel[T],
    ) -> None:
        self.scope = trio.CancelScope()
        self._settings = settings
        self._channels = channels
        self._read = read
        self._beginning = beginning
        self._send = send

    async def run(self) -> None:
        """Listen, and connect again whenever that ends, until cancelled."""
        with self.scope:
            while True:
                with contextlib.suppress(StoreError):
                    # A cluster hands every announcement to all its servers.
                    server = await trio.to_thread.run_sync(some_server, self._settings, abandon_on_cancel=True)
                    link = await Link.open(connection_maker(server, "ffsuper-announcements"))
                    try:
                        await self._listen(link)
                    except BROKEN:
                        pass
                    finally:
                        link.close()
                await trio.sleep(RECONNECT_S)

    async def _listen(self, link: Link) -> None:
        """Hear what is announced until the connection is lost."""
        await link.send(packed([("SUBSCRIBE", *self._channels)]))
        is_asked = False
        while True:
            replies: list[Any] = []
            with trio.move_on_after(SILENT_S):
                replies = await link.receive()
            if not replies and is_asked:
                return
            if not replies:
                await link.send(packed([("PING",)]))
            is_asked = not replies
            for reply in replies:
                if isinstance(reply, Exception):
                    return
                self._take(reply)

    def _take(self, reply: Any) -> None:
        """Pass on what there is to be passed on."""
        match reply:
            case [b"subscribe", bytes(channel), 1] if self._beginning is not None:
                data = self._beginning
            case [b"message", bytes(channel), bytes(data)]:
                pass
            case _:
                return
        with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError):
            self._send.send_nowait(self._read(channel, data))
