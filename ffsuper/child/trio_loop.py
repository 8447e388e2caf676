"""Async handlers on trio."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import trio

from ffsuper.child.async_runtime import Run


class TrioLoop:
    """What the async runtime needs, of trio."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def event(self) -> trio.Event:
        """Return a new event."""
        return trio.Event()

    async def wait_readable(self, sock: socket.socket) -> None:
        """Wait until the socket can be read."""
        await trio.lowlevel.wait_readable(sock)

    async def wait_writable(self, sock: socket.socket) -> None:
        """Wait until the socket can be written."""
        await trio.lowlevel.wait_writable(sock)

    def start(self, run: Callable[[Run], Awaitable[None]]) -> None:
        """Start a task."""
        self._nursery.start_soon(run, trio.CancelScope())

    async def cancellable(self, run: Run, work: Awaitable[Any]) -> Any:
        """Await the user's code within the scope that ``run`` is."""
        assert isinstance(run, trio.CancelScope)
        with run:
            return await work
        return None


def run(serve: Callable[[TrioLoop], Coroutine[Any, Any, None]]) -> None:
    """Run the loop until the supervisor closes the socket."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            try:
                await serve(TrioLoop(nursery))
            except (EOFError, ConnectionError):
                nursery.cancel_scope.cancel()

    trio.run(main)
