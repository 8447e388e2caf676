"""The place of one child: it is replaced when it has died or is to be recycled, and its messages reach their tasks.

Several tasks may run in the child at once. What the child says is sorted by task; a task whose channel ends without
an outcome has lost its child. Only one thing at a time makes or ends a child, under a lock.
"""

from __future__ import annotations

import logging
import math
import random
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import trio

from ffsuper.child.process import Child, ForkServer
from ffsuper.config import ChildrenConfig
from ffsuper.errors import ChildError, HandlersError, RemoteProtocolError
from ffsuper.messages import Drain, Ended, FromTask, Ready, Unfit
from ffsuper.sansio.backoff import Backoff
from ffsuper.sansio.restart import RestartLimit, Times, admit_restart

LOG = logging.getLogger(__name__)

MEMORY_INTERVAL_S = 0.5
# A child that is about to die closes its connection first.
SILENT_S = 1.0
MIB = 1 << 20
# Recycling at exactly the same count would stop all children at once.
JITTER = 0.2


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a child was killed by us.

    Attributes:
        reason: in words.
        culprit: for the sake of which task; None when it is all of them.
    """

    reason: str
    category: str = "crash"
    culprit: int | None = None


class Nest:
    """A child, and the tasks that run in it."""

    def __init__(
        self, fork_server: ForkServer, settings: ChildrenConfig, first_child: Child | None, nursery: trio.Nursery
    ) -> None:
        self.settings = settings
        self._fork_server = fork_server
        self._nursery = nursery
        self._limit = RestartLimit(settings.max_restarts, settings.restart_window_s)
        self._deaths: Times = ()
        self._changing = trio.Lock()
        self._inboxes: dict[int, tuple[Child, trio.MemorySendChannel[FromTask]]] = {}
        self._faults: WeakKeyDictionary[Child, Fault] = WeakKeyDictionary()
        self._idle = trio.Event()
        self._tasks = 0
        self._runs_left = math.inf
        self._draining = False
        self._child: Child | None = None
        self._watch = trio.CancelScope()
        if first_child is not None:
            self._take(first_child)

    async def ready_child(self) -> Child:
        """Return a child that is ready for work, making one if need be.

        Raises:
            HandlersError: the handlers do not load, or cannot run so many at once.
            RestartLimitError: too many have died.
        """
        async with self._changing:
            if self._child is not None and self._child.is_dead:
                await self._part()
                self._deaths = admit_restart(self._deaths, trio.current_time(), self._limit)
            if self._child is not None and self._is_worn():
                while self._inboxes:
                    await self._idle.wait()
                LOG.info("child recycled", extra={"child": self._child.pid})
                await self._part()
            backoff = Backoff(first_s=0.1, longest_s=5.0)
            while self._child is None:
                try:
                    self._take(await self._fork_server.spawn())
                except HandlersError:
                    raise
                except ChildError as error:
                    LOG.error("child did not start", extra={"error": error})
                    self._deaths = admit_restart(self._deaths, trio.current_time(), self._limit)
                    await trio.sleep(backoff.pause_s(1.0))
                    backoff = backoff.failed()
            return self._child

    def open_task(self, child: Child) -> tuple[int, trio.MemoryReceiveChannel[FromTask]]:
        """Return a number for a run in the child, and the channel of what the child will say about it."""
        self._tasks += 1
        send, receive = trio.open_memory_channel[FromTask](0)
        self._inboxes[self._tasks] = (child, send)
        if child.is_dead:
            send.close()
        self._runs_left -= 1
        return self._tasks, receive

    def close_task(self, number: int) -> None:
        """Let go of a run."""
        self._inboxes.pop(number)[1].close()
        if not self._inboxes:
            self._idle.set()
            self._idle = trio.Event()

    def kill(self, child: Child, fault: Fault) -> None:
        """Kill the child; the first fault counts."""
        self._faults.setdefault(child, fault)
        child.kill()

    def fault_of(self, child: Child) -> Fault | None:
        """Return why a child was killed by us; None when it was not."""
        return self._faults.get(child)

    async def kill_and_wait(self) -> None:
        """Kill the child, if there is one, and wait until it is dead."""
        if self._child is not None:
            self._child.kill()
            await self._child.wait_dead()

    async def drain(self) -> None:
        """Tell the child that the worker is draining, and every later one."""
        self._draining = True
        if self._child is not None:
            await self._child.announce(Drain())

    async def close(self) -> None:
        """Part with the child."""
        async with self._changing:
            await self._part()

    async def _part(self) -> None:
        if self._child is not None:
            self._watch.cancel()
            child, self._child = self._child, None
            await child.aclose()

    def _take(self, child: Child) -> None:
        check_handlers(child, self.settings)
        self._child = child
        after = self.settings.recycle_after
        self._runs_left = after * (1 + JITTER * (random.random() - 0.5)) if after else math.inf
        self._nursery.start_soon(self._hear, child)
        self._watch = trio.CancelScope()
        if self.settings.hard_memory_mb:
            self._nursery.start_soon(self._watch_memory, child, self._watch)
        if self._draining:
            self._nursery.start_soon(child.announce, Drain())

    def _is_worn(self) -> bool:
        assert self._child is not None
        soft = self.settings.soft_memory_mb
        return self._runs_left <= 0 or bool(soft and self._child.memory_bytes() > soft * MIB)

    async def _hear(self, child: Child) -> None:
        """Hand what the child says to the tasks that it is about, until it says no more."""
        try:
            while (message := await child.receive()) is not None:
                if isinstance(message, Ready | Unfit):
                    raise RemoteProtocolError(f"{type(message).__name__} while executions run")
                if message.task in self._inboxes:  # a thread that its handler left behind may still speak
                    await hand_on(self._inboxes[message.task][1], message)
            with trio.move_on_after(SILENT_S):
                await child.wait_dead()
            if not child.is_dead:
                self.kill(child, Fault("killed: it lives, but has closed its connection"))
        except RemoteProtocolError as error:
            self.kill(child, Fault(f"killed for speaking nonsense: {error}"))
        await child.wait_dead()
        for owner, inbox in self._inboxes.values():
            if owner is child:
                inbox.close()

    async def _watch_memory(self, child: Child, scope: trio.CancelScope) -> None:
        limit = self.settings.hard_memory_mb
        with scope:
            while not child.is_dead:
                used = child.memory_bytes()
                if used > limit * MIB:
                    told = f"killed at {used // MIB} MiB of memory, over the limit of {limit} MiB"
                    self.kill(child, Fault(told, "memory"))
                    return
                await trio.sleep(MEMORY_INTERVAL_S)


async def hand_on(inbox: trio.MemorySendChannel[FromTask], message: FromTask) -> None:
    """Give a message to its task, if that still listens."""
    try:
        try:
            inbox.send_nowait(message)  # its task mostly waits for it
        except trio.WouldBlock:
            await inbox.send(message)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        if isinstance(message, Ended):
            LOG.debug("outcome came too late", extra={"task": message.task})


def check_handlers(child: Child, settings: ChildrenConfig) -> None:
    """Refuse handlers that cannot run as configured."""
    plain = [kind for kind, one in child.handlers.items() if not one.is_async]
    if settings.tasks_per_process > 1 and plain:
        child.kill()
        raise HandlersError(
            f"handler {plain[0]!r} is not async, and [children] tasks_per_process is {settings.tasks_per_process}:"
            " make it async, or run it in a worker of its own"
        )
