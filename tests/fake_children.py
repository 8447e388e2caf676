"""Children without processes, for the executor's tests on virtual time."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping

import trio

from ffsuper.child.lifespans import Lifespan
from ffsuper.child.process import Child
from ffsuper.child.spawning import ForkServer
from ffsuper.errors import ChildError
from ffsuper.messages import (
    CancelledByHandler,
    Completed,
    Death,
    Deferred,
    Ended,
    Failed,
    FromChild,
    HandlerSettings,
    InterruptReason,
    NotBegun,
    Outcome,
    OutputLine,
    Start,
    Suspended,
    ToChild,
    WaitingForChildren,
)

OUTCOMES = (Completed, Failed, Deferred, Suspended, WaitingForChildren, CancelledByHandler, NotBegun)
Behaviour = Callable[["FakeChild", Start], Awaitable[None]]


class FakeLifespan(Lifespan):
    """Keeps all that it is told."""

    def __init__(self, told: list[float]) -> None:
        self._told = told

    def put(self, until_s: float) -> None:
        self._told.append(until_s)


class FakeChild(Child):
    """A child that does what a test says.

    Attributes:
        behaviour: called for each execution; speaks by ``say`` and ends the child by ``die``.
        sent: what the supervisor has told it. ``memory``: how large it is.
        done_to_it: what the supervisor has done besides talking: interrupt, dump, kill.
        lives_until_s: until when it was to live, in order.
    """

    def __init__(self, pid: int, nursery: trio.Nursery, behaviour: Behaviour, kinds: dict[str, float | None]) -> None:
        self.pid = pid
        self.handlers = {
            kind: HandlerSettings(kind, timeout_s, None, is_async=True) for kind, timeout_s in kinds.items()
        }
        self.running: Mapping[str, object] = {}
        self.done_to_it: list[str] = []
        self.sent: list[ToChild] = []
        self.lives_until_s: list[float] = []
        self.lifespan = FakeLifespan(self.lives_until_s)
        self.task = 0
        self.memory = 0
        self.interrupted = trio.Event()
        self.immortal = False
        self._nursery = nursery
        self._behaviour = behaviour
        self._scope = trio.CancelScope()
        self._said_send, self._said = trio.open_memory_channel[FromChild](100)
        self._death: Death | None = None
        self._dead = trio.Event()

    async def send(self, message: ToChild) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append(message)
        if isinstance(message, Start) and not self.is_dead:
            self.task = message.task
            self._nursery.start_soon(self._run, message)

    async def _run(self, start: Start) -> None:
        with trio.CancelScope() as self._scope:
            await self._behaviour(self, start)

    def say(self, message: FromChild | Outcome) -> None:
        """Send a message to the supervisor; an outcome is the end of the task that began last."""
        said = Ended(self.task, message) if isinstance(message, OUTCOMES) else message
        self._said_send.send_nowait(said)

    async def receive(self) -> FromChild | None:
        try:
            return await self._said.receive()
        except trio.EndOfChannel:
            return None

    async def announce(self, message: ToChild) -> None:
        await self.send(message)

    def memory_bytes(self) -> int:
        return self.memory

    def interrupt(self, task: int, reason: InterruptReason) -> None:
        self.done_to_it.append(f"interrupt {reason.value}")
        self.interrupted.set()

    def note_running(self, running: Mapping[str, object]) -> None:
        self.running = running

    def dump_stacks(self) -> None:
        self.done_to_it.append("dump")

    def kill(self) -> None:
        self.done_to_it.append("kill")
        if not self.immortal:
            self.die(by_signal=9)

    def die(self, exit_code: int | None = None, by_signal: int | None = None, *, was_overdue: bool = False) -> None:
        """End the child."""
        if self._death is None:
            last_words = OutputLine("stdout", int(time.time() * 1000), "its last words")
            self._death = Death(self.pid, exit_code, by_signal, 0, (last_words,), was_overdue=was_overdue)
            self._dead.set()
            self._scope.cancel()
            self._said_send.close()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self.die(exit_code=0)


class FakeForkServer(ForkServer):
    """Makes fake children.

    Attributes:
        failures: so many coming children do not start.
        children: all that were made.
    """

    def __init__(self, nursery: trio.Nursery, behaviour: Behaviour, kinds: dict[str, float | None]) -> None:
        self._nursery = nursery
        self._behaviour = behaviour
        self._kinds = kinds
        self.failures = 0
        self.children: list[FakeChild] = []

    async def spawn(self) -> Child:
        await trio.lowlevel.checkpoint()
        if self.failures:
            self.failures -= 1
            raise ChildError("the test lets it fail")
        child = FakeChild(1000 + len(self.children), self._nursery, self._behaviour, self._kinds)
        self.children.append(child)
        return child
