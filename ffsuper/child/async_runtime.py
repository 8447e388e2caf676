"""Inside a child whose handlers are async: many run at once, on one loop that lives as long as the child.

The loop reads the socket whenever it can, and a task of its own writes what handlers have to say, so that a handler
that is cancelled leaves no message half sent. Plain functions among the handlers run when nothing else does.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, Protocol

from ffsuper.child import codec, registry
from ffsuper.child.context import Facts, Task, Usage, Waitpoint
from ffsuper.child.conversation import READ_BYTES, Conversation, interrupt_error
from ffsuper.child.payload import read_payload
from ffsuper.child.runtime import Runtime, failure_of, flush_output, handler_of, outcome_of
from ffsuper.messages import Ended, FromChild, InterruptReason, Outcome, Start
from ffsuper.sansio import frame

# A handler that speaks faster than the supervisor listens waits when so many messages are in the outbox.
OUTBOX = 100


class Event(Protocol):
    """As trio and asyncio have it."""

    def set(self) -> None:
        """Wake who waits."""

    async def wait(self) -> Any:
        """Wait until it is set."""


class Run(Protocol):
    """A handler that runs on a loop."""

    def cancel(self) -> None:
        """Cancel it at its next checkpoint."""


class Loop(Protocol):
    """What the runtime needs of trio or asyncio."""

    def event(self) -> Event:
        """Return a new event."""

    async def wait_readable(self, sock: socket.socket) -> None:
        """Wait until the socket can be read."""

    async def wait_writable(self, sock: socket.socket) -> None:
        """Wait until the socket can be written."""

    def start(self, run: Callable[[Any], Awaitable[None]]) -> None:
        """Start a task, which is given what cancels the user's code in it."""

    async def cancellable(self, run: Any, work: Awaitable[Any]) -> Any:
        """Await the user's code; return None when it was cancelled through ``run``."""


def serve(runtime: Runtime, library: str) -> None:
    """Run executions until the socket ends."""
    if library == "trio":
        from ffsuper.child import trio_loop

        trio_loop.run(lambda loop: AsyncRuntime(runtime, loop).serve())
    else:
        from ffsuper.child import asyncio_loop

        asyncio_loop.run(lambda loop: AsyncRuntime(runtime, loop).serve())


class AsyncRuntime(Conversation):
    """Runs async functions, many at a time."""

    def __init__(self, runtime: Runtime, loop: Loop) -> None:
        super().__init__(runtime.conversation.supervisor)
        self._plain = runtime
        self._loop = loop
        self._runs: dict[int, Run] = {}
        self._reasons: dict[int, InterruptReason] = {}
        self._changed = loop.event()
        self._outbox: deque[bytes] = deque()
        self._to_send = loop.event()

    async def serve(self) -> None:
        """Run executions until the socket ends.

        Raises:
            EOFError: it has ended.
        """
        self._loop.start(lambda _run: self._write())
        while True:
            while self.starts:
                self._begin(self.starts.popleft())
            await self._loop.wait_readable(self.supervisor)
            try:
                self.feed(self.supervisor.recv(READ_BYTES, socket.MSG_DONTWAIT))
            except BlockingIOError:
                continue

    def _begin(self, start: Start) -> None:
        found = registry.HANDLERS.get(start.execution_kind)
        if found is not None and found.library is None:
            self._run_plain(start)
        else:
            self._loop.start(lambda run: self._execute(run, start))

    def _run_plain(self, start: Start) -> None:
        """Run a plain function, which has the whole child: it speaks and listens by itself meanwhile."""
        blocking = self._plain.conversation
        blocking.draining, blocking.decoder = self.draining, self.decoder
        self._plain.execute(start)
        self.draining = blocking.draining
        self.starts.extend(blocking.starts)
        blocking.starts.clear()

    async def _execute(self, run: Run, start: Start) -> None:
        task = Task(start)
        self._runs[task.number] = run
        try:
            self.begin(task)
            outcome = await self._outcome_of(run, start, task)
        finally:
            task.over = True
            del self.tasks[task.number], self._runs[task.number]
            self._reasons.pop(task.number, None)
        flush_output()
        self.send(Ended(task.number, outcome))

    async def _outcome_of(self, run: Run, start: Start, task: Task) -> Outcome:
        try:
            found = handler_of(start)
            arguments = (read_payload(start.payload, found.payload_type),) if found.takes_payload else ()
            value = await self._loop.cancellable(run, found.function(AsyncContext(task, self), *arguments))
            if value is None and (reason := self._reasons.get(task.number)) is not None:
                return failure_of(interrupt_error(reason))
            return outcome_of(value)
        except BaseException as error:  # noqa: BLE001 -- the user's code may raise anything; the child goes on
            return failure_of(error)

    def interrupt(self, task: Task, reason: InterruptReason) -> None:
        """Cancel the handler at its next checkpoint."""
        self._reasons[task.number] = reason
        self._runs[task.number].cancel()

    def answered(self, task: Task) -> None:
        """Let every handler look whether this is what it waits for."""
        self._wake()

    def send(self, message: FromChild) -> None:
        """Have a message written."""
        self._outbox.append(frame.encode(codec.to_frame(message)))
        self._to_send.set()

    async def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait until a condition holds that messages and writing bring about."""
        while not ready():
            await self._changed.wait()

    async def wait_room(self) -> None:
        """Wait until the outbox has room."""
        await self.wait_until(lambda: len(self._outbox) < OUTBOX)

    def wait(self, ready: Callable[[], bool]) -> None:
        """Nothing here may block."""
        raise NotImplementedError

    def _wake(self) -> None:
        self._changed.set()
        self._changed = self._loop.event()

    async def _write(self) -> None:
        while True:
            while self._outbox:
                data = memoryview(self._outbox[0])
                while data:
                    try:
                        data = data[self.supervisor.send(data, socket.MSG_DONTWAIT) :]
                    except BlockingIOError:
                        await self._loop.wait_writable(self.supervisor)
                    except ConnectionError:
                        return  # reading ends, too, and with it the child
                self._outbox.popleft()
                self._wake()
            await self._to_send.wait()
            self._to_send = self._loop.event()


class AsyncContext(Facts):
    """The attempt that an ``async def`` runs, and what it can ask for meanwhile: Context's methods, to be awaited."""

    _conversation: AsyncRuntime

    async def progress(self, percent: float, message: str = "") -> None:
        """As ``Context.progress``."""
        self._say(self._task.progress(percent, message))
        await self._conversation.wait_room()

    async def emit(self, payload: bytes | str, frame_type: str = "output", metadata: str = "") -> None:
        """As ``Context.emit``."""
        frame_ = self._task.frame(payload, frame_type, metadata)
        await self._conversation.wait_until(lambda: self._task.frames_left > 0)
        self._task.take_refusal()
        self._task.frames_left -= 1
        self._say(frame_)
        await self._conversation.wait_room()

    async def report_usage(self, budget_id: str, usage: Mapping[str, int], *, dedup_key: str = "") -> Usage:
        """As ``Context.report_usage``."""
        report = self._task.usage(budget_id, usage, dedup_key)
        self._say(report)
        await self._conversation.wait_until(lambda: report.request in self._task.answers)
        return self._task.usage_of(report.request)

    async def create_waitpoint(self, expires_in: float | timedelta = 86_400.0, *, key: str = "") -> Waitpoint:
        """As ``Context.create_waitpoint``."""
        request = self._task.waitpoint(expires_in, key)
        self._say(request)
        await self._conversation.wait_until(lambda: request.request in self._task.answers)
        return self._task.waitpoint_of(request.request)
