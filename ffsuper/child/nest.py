"""The place of one child: it is replaced when it has died or is to be recycled, and its messages reach their tasks.

Several tasks may run in the child at once. What the child says is sorted by task; a task whose channel ends without
an outcome has lost its child. Only one thing at a time makes or ends a child, under a lock.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import trio

from ffsuper.child.process import Child
from ffsuper.child.spawning import ForkServer
from ffsuper.config import ChildrenConfig
from ffsuper.errors import ChildError, ForkServerGoneError, HandlersError, RemoteProtocolError, RestartLimitError
from ffsuper.messages import Death, Drain, Ended, FromTask, Ready, Unfit
from ffsuper.sansio.attempt import manner
from ffsuper.sansio.backoff import Backoff
from ffsuper.sansio.crash import signal_name
from ffsuper.sansio.ledger import Ledger
from ffsuper.sansio.restart import RestartLimit, Times, admit_restart

LOG = logging.getLogger(__name__)

MEMORY_INTERVAL_S = 0.5
# A child that is about to die closes its connection first.
SILENT_S = 1.0
# What it may take until a child that is asked to go, and then killed, is seen dead.
PART_S = 5.0
MIB = 1 << 20
# Causes of a death that neither the kernel nor a fault names.
STILLBORN = "start"
OVERRUN = "handler"
# Recycling at exactly the same count would stop all children at once.
JITTER = 0.2


@dataclass(frozen=True, slots=True)
class Run:
    """A run in a child.

    Attributes:
        inbox: for what the child says about it.
        told: what the log says of it.
    """

    child: Child
    inbox: trio.MemorySendChannel[FromTask]
    told: Mapping[str, object]


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


# No task has this number: what runs is handed back.
HARD_STOP = Fault("killed: what it runs is handed back", culprit=0)


class Nest:
    """A child, and the tasks that run in it."""

    def __init__(
        self,
        fork_server: ForkServer,
        settings: ChildrenConfig,
        first_child: Child | None,
        nursery: trio.Nursery,
        ledger: Ledger,
    ) -> None:
        self.settings = settings
        self._fork_server = fork_server
        self._nursery = nursery
        self._ledger = ledger
        self._limit = RestartLimit(settings.max_restarts, settings.restart_window_s)
        self._deaths: Times = ()
        self._changing = trio.Lock()
        self._runs: dict[int, Run] = {}
        self._lives_s: dict[int, float] = {}
        self._faults: WeakKeyDictionary[Child, Fault] = WeakKeyDictionary()
        self._idle = trio.Event()
        self._tasks = 0
        self._runs_left = math.inf
        self._draining = False
        self._child: Child | None = None
        self._watch = trio.CancelScope()
        if first_child is not None:
            self._take(first_child)

    def is_ready(self) -> bool:
        """Tell whether ``ready_child`` would return at once."""
        child = self._child
        return child is not None and not (child.is_dead or self._changing.locked() or self._is_worn())

    def is_closing(self) -> bool:
        """Tell whether there is another child only when all that runs in this one has ended, however long that is."""
        child = self._child
        return bool(self._runs) and child is not None and not child.is_dead and self._is_worn()

    async def ready_child(self) -> Child:
        """Return a child that is ready for work, making one if need be.

        Raises:
            HandlersError: the handlers do not load, or cannot run so many at once.
            ForkServerGoneError: there will be no more children.
            RestartLimitError: too many have died.
        """
        async with self._changing:
            if self._child is not None and self._child.is_dead:
                death, fault = await self._child.wait_dead(), self.fault_of(self._child)
                self._ledger.deaths[cause(death, fault)] += 1
                await self._part()
                how = manner(death) if fault is None else f"was {fault.reason}"
                self._deaths = admit_restart(self._deaths, trio.current_time(), self._limit, how)
            if self._child is not None and self._is_worn():
                while self._runs:
                    await self._idle.wait()
                LOG.info("child recycled", extra={"child": self._child.pid})
                await self._part()
            backoff = Backoff(first_s=0.1, longest_s=5.0)
            while self._child is None:
                try:
                    self._take(await self._fork_server.spawn())
                except (HandlersError, ForkServerGoneError):
                    raise
                except ChildError as error:
                    LOG.error("child did not start", extra={"error": error})
                    self._ledger.deaths[STILLBORN] += 1
                    how = f"did not start: {str(error).splitlines()[0]}"
                    self._deaths = admit_restart(self._deaths, trio.current_time(), self._limit, how)
                    backoff = backoff.failed()
                    if backoff.tries > self.settings.max_restarts:
                        # Tries that take long, or wait long for one another, never become many within the window.
                        many = f"{backoff.tries} children in a row did not start ([children] max_restarts)"
                        raise RestartLimitError(f"{many}: the last one {how}") from None
                    await trio.sleep(backoff.pause_s(1.0))
            return self._child

    def open_task(self, child: Child, told: Mapping[str, object]) -> tuple[int, trio.MemoryReceiveChannel[FromTask]]:
        """Return a number for a run in the child, and the channel of what the child will say about it.

        Args:
            told: what the log says of it.
        """
        self._tasks += 1
        send, receive = trio.open_memory_channel[FromTask](0)
        self._runs[self._tasks] = Run(child, send, told)
        if child.is_dead:
            send.close()
        self._note_running(child, told)
        self._runs_left -= 1
        return self._tasks, receive

    def close_task(self, number: int) -> None:
        """Let go of a run."""
        run = self._runs.pop(number)
        if self._lives_s.pop(number, None) is not None:
            self._note_lifespan(run.child)
        run.inbox.close()
        self._note_running(run.child, {})
        if not self._runs:
            self._idle.set()
            self._idle = trio.Event()

    def may_run_until(self, number: int, until_s: float) -> None:
        """Have the child of a run killed then, on the lease clock, if we have not ended the run ourselves."""
        self._lives_s[number] = until_s
        self._note_lifespan(self._runs[number].child)

    def _note_lifespan(self, child: Child) -> None:
        ends_s = (ends_s for number, ends_s in self._lives_s.items() if self._runs[number].child is child)
        child.lifespan.put(min(ends_s, default=math.inf))

    def _note_running(self, child: Child, told: Mapping[str, object]) -> None:
        if self.settings.tasks_per_process == 1:
            child.note_running(told)

    def kill(self, child: Child, fault: Fault) -> None:
        """Kill the child; the first fault counts."""
        if self._faults.setdefault(child, fault) is fault and not child.is_dead:
            LOG.warning("child killed", extra={"child": child.pid, "reason": fault.reason})
        child.kill()

    def fault_of(self, child: Child) -> Fault | None:
        """Return why a child was killed by us; None when it was not."""
        return self._faults.get(child)

    async def kill_and_wait(self) -> None:
        """Kill the child, if there is one, and wait until it is dead; of what runs in it, nothing is at fault."""
        if self._child is not None:
            if not self._child.is_dead:
                self.kill(self._child, HARD_STOP)
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
            self._ledger.children.discard(child.pid)
            # Whoever wanted another child may be retired meanwhile: this one is seen off all the same.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + PART_S):
                await child.aclose()

    def _take(self, child: Child) -> None:
        check_handlers(child, self.settings)
        self._child = child
        self._ledger.children.add(child.pid)
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
                if message.task in self._runs:  # a thread that its handler left behind may still speak
                    await hand_on(self._runs[message.task], message)
            with trio.move_on_after(SILENT_S):
                await child.wait_dead()
            if not child.is_dead:
                self.kill(child, Fault("killed: it lives, but has closed its connection"))
        except RemoteProtocolError as error:
            self.kill(child, Fault(f"killed for speaking nonsense: {error}"))
        await child.wait_dead()
        for run in self._runs.values():
            if run.child is child:
                run.inbox.close()

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


def cause(death: Death, fault: Fault | None) -> str:
    """Return why a child has died unasked: one of few words, for metrics."""
    if fault is None:
        return "exit" if death.signal is None else signal_name(death.signal)
    return fault.category if fault.culprit is None else OVERRUN


async def hand_on(run: Run, message: FromTask) -> None:
    """Give a message to its task, if that still listens."""
    try:
        try:
            run.inbox.send_nowait(message)  # its task mostly waits for it
        except trio.WouldBlock:
            await run.inbox.send(message)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        if isinstance(message, Ended):
            LOG.debug("outcome came too late", extra=run.told)


def check_handlers(child: Child, settings: ChildrenConfig) -> None:
    """Refuse handlers that cannot run as configured."""
    plain = [kind for kind, one in child.handlers.items() if not one.is_async]
    if settings.tasks_per_process > 1 and plain:
        child.kill()
        raise HandlersError(
            f"handler {plain[0]!r} is not async, and [children] tasks_per_process is {settings.tasks_per_process}:"
            " make it async, or run it in a worker of its own"
        )
