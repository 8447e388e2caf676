"""Async handlers on asyncio."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any


class AsyncioRun:
    """One handler's task, once it has begun."""

    def __init__(self) -> None:
        self.work: asyncio.Future[Any] | None = None
        self.is_cancelled = False

    def cancel(self) -> None:
        """Cancel the handler at its next await."""
        self.is_cancelled = True
        if self.work is not None:
            self.work.cancel()


class AsyncioLoop:
    """What the async runtime needs, of asyncio."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Future[None]] = set()

    def event(self) -> asyncio.Event:
        """Return a new event."""
        return asyncio.Event()

    async def wait_readable(self, sock: socket.socket) -> None:
        """Wait until the socket can be read."""
        await self._wait(self._loop.add_reader, self._loop.remove_reader, sock)

    async def wait_writable(self, sock: socket.socket) -> None:
        """Wait until the socket can be written."""
        await self._wait(self._loop.add_writer, self._loop.remove_writer, sock)

    async def _wait(self, add: Callable[..., Any], remove: Callable[..., Any], sock: socket.socket) -> None:
        ready = asyncio.Event()
        add(sock, ready.set)
        try:
            await ready.wait()
        finally:
            remove(sock)

    def start(self, run: Callable[[AsyncioRun], Awaitable[None]]) -> None:
        """Start a task."""
        task = asyncio.ensure_future(run(AsyncioRun()))
        self._tasks.add(task)  # asyncio itself holds no reference
        task.add_done_callback(self._tasks.discard)

    async def cancellable(self, run: AsyncioRun, work: Awaitable[Any]) -> Any:
        """Await the user's code in a task of its own, which ``run`` cancels."""
        run.work = asyncio.ensure_future(work)
        if run.is_cancelled:
            run.work.cancel()
        await asyncio.wait([run.work])
        return None if run.work.cancelled() else run.work.result()


def run(serve: Callable[[AsyncioLoop], Coroutine[Any, Any, None]]) -> None:
    """Run the loop until the supervisor closes the socket."""

    async def main() -> None:
        try:
            await serve(AsyncioLoop())
        except (EOFError, ConnectionError):
            return

    asyncio.run(main())
