"""One worker process from its start to its end: presence, lines of work, and what it is told to do.

It starts by making a line ready, then takes the alive key, and then works. A reload opens a new line beside the old
one and retires that; to be quiet is to retire the line, to resume is to open another. A drain retires all lines and
ends when what they run has ended; a deadline on that is the hard stop. Presence and the engine end last.
"""

from __future__ import annotations

import logging
import math
import signal
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass, fields, replace
from enum import Enum
from functools import partial

import trio
from trio_util import move_on_when

from ffsuper import engine_supervisor, logs
from ffsuper.actors import health, library_watcher, presence, watchdog
from ffsuper.child.orphans import kill_orphans
from ffsuper.config import Config
from ffsuper.errors import ChildError, ConfigError, FencedError, StoreUnsuitableError, first_cause
from ffsuper.line import Line, open_line
from ffsuper.messages import Offer, Order
from ffsuper.sansio.ledger import Ledger
from ffsuper.sansio.partition import PartitionCounts
from ffsuper.sansio.pulse import Pulses
from ffsuper.standing import Standing, State
from ffsuper.store.announcements import ORDERS, open_announcements
from ffsuper.store.outage import STORE_AWAY
from ffsuper.store.presence import Presence
from ffsuper.store.store import EngineStore, open_engine_store, open_presence, require_libraries
from ffsuper.systemd import Notifier

LOG = logging.getLogger(__name__)

ORPHANS_DEATH_S = 5.0
# One SIGTERM or SIGINT after the other.
ENDS = (Order.DRAIN, Order.HURRY, Order.STOP)
# Sections of the configuration that hold for the life of the process; of [worker], the names do too.
FIXED = ("store", "lease", "engine", "server", "status", "tracing")
SIGNALS = {
    signal.SIGTSTP: Order.QUIET,
    signal.SIGUSR1: Order.QUIET,
    signal.SIGUSR2: Order.RESUME,
    signal.SIGHUP: Order.RELOAD,
}


class Ending(Enum):
    """How the supervisor came to its end."""

    DRAINED = "all running work finished"
    HANDED_BACK = "the drain's time was over; running work was handed back"


@dataclass(frozen=True, slots=True)
class Stores:
    """What is beside the lines in the store."""

    presence: Presence
    engine: EngineStore
    announced: trio.MemoryReceiveChannel[bytes]


async def run(
    config: Config, counts: PartitionCounts, read_again: Callable[[], Config], notifier: Notifier
) -> Ending:
    """Run the worker until it is told to drain, and has drained.

    Args:
        read_again: reads the configuration, for a reload; raises ConfigError.

    Raises:
        ConfigError: what the configuration needs is not installed; a port is in use.
        HandlersError: the handlers do not load.
        InstanceTakenError: another live process has this instance id.
        FencedError: another process took the instance id over; what ran has ended.
        StoreUnsuitableError: others have replaced the libraries by some that will not do; likewise.
        RestartLimitError: children die faster than is worth restarting them.
    """
    listener = health.open_listener(config.status.listen)
    async with (
        ledger_of(config) as ledger,
        open_presence(config.store, config.worker.instance_id) as store,
        open_engine_store(config.store, counts) as engine_store,
        open_announcements(config.store, ORDERS) as announced,
        trio.open_nursery() as background,
    ):
        async with trio.open_nursery() as lines:
            worker = Worker(config, counts, notifier, ledger, lines, background, read_again)
            await worker.start(Stores(store, engine_store, announced), listener)
            await worker.draining.wait()
        background.cancel_scope.cancel()
    LOG.info("drained", extra=totals(ledger))
    if worker.failure is not None:
        raise worker.failure
    return Ending.HANDED_BACK if ledger.cut_off else Ending.DRAINED


class Worker:
    """The worker while it runs.

    Attributes:
        draining: set once it is to end.
        failure: set when another process has taken the instance id, or the libraries will not do any more.
    """

    def __init__(
        self,
        config: Config,
        counts: PartitionCounts,
        notifier: Notifier,
        ledger: Ledger,
        lines: trio.Nursery,
        background: trio.Nursery,
        read_again: Callable[[], Config],
    ) -> None:
        self.draining = trio.Event()
        self.failure: FencedError | StoreUnsuitableError | None = None
        self._config = config
        self._counts = counts
        self._notifier = notifier
        self._nursery = lines
        self._background = background
        self._read_again = read_again
        pulses = Pulses(trio.current_time)
        self._standing = Standing(pulses, ledger, config.status.stuck_after_s, Offer((), "", (), 0))
        self._seats = trio.CapacityLimiter(config.children.count)
        self._lines: list[Line] = []
        self._may_begin = trio.Event()
        # Without limit: orders are few, and none of those who give them waits for the ones before.
        self._orders, self._ordered = trio.open_memory_channel[Order](math.inf)
        self._changes, self._changes_ordered = trio.open_memory_channel[Order](math.inf)
        # One place: who looks sees all that has changed before.
        self._changed, self._changes_seen = trio.open_memory_channel[None](1)

    async def start(self, stores: Stores, listener: socket.socket | None) -> None:
        """Make a line ready, take the alive key, and begin to work; returns early when told to end before that."""
        await self._background.start(self._hear_signals)
        self._background.start_soon(self._obey)
        config, standing = self._config, self._standing
        if listener is not None:
            standing.status_address = health.address_of(listener)
            self._background.start_soon(health.run, listener, standing, stores.presence)
        async with move_on_when(self.draining.wait):
            line = await self._nursery.start(self._run_line, config)
            standing.offer = line.offer
            predecessor = await self._background.start(self._keep_present, stores)
            if predecessor is not None:
                await take_work_back(config.worker.instance_id, predecessor, line, self._counts)
            if config.engine.enabled:
                self._background.start_soon(
                    engine_supervisor.lead, config, self._counts, stores.engine, standing.pulses
                )
            self._background.start_soon(
                watchdog.run, self._notifier, standing.stuck, standing.sentence, self.draining.is_set
            )
            self._background.start_soon(self._change)
            self._background.start_soon(self._watch_libraries)
            self._enter(State.RUNNING)
            self._may_begin.set()
            self._notifier.ready(standing.sentence())
            LOG.info("ready", extra={"instance": config.worker.instance_id, **described(line.offer)})

    async def _keep_present(self, stores: Stores, task_status: trio.TaskStatus[int | None]) -> None:
        """Hold the alive key; when it is another's, end in order: the leases are still ours."""
        try:
            await presence.run(
                *(stores.presence, self._standing, self._alive_ttl_ms()),
                *(self._changes_seen, stores.announced, self._orders.clone()),
                task_status=task_status,
            )
        except FencedError as error:
            LOG.error("fenced", extra={"error": error})
            self.failure = error
            self._orders.send_nowait(Order.DRAIN)

    async def _watch_libraries(self) -> None:
        """End in order when the store's libraries will not do any more: what runs may yet be stored."""
        try:
            await library_watcher.run(partial(require_libraries, self._config.store))
        except StoreUnsuitableError as error:
            LOG.error("store unsuitable", extra={"error": error})
            self.failure = error
            self._orders.send_nowait(Order.DRAIN)

    def _alive_ttl_ms(self) -> int:
        return max(2 * self._config.lease.ttl_ms, 1000)

    def _enter(self, state: State, detail: str = "") -> None:
        """Go over to a state, and have it told."""
        self._standing.state = state
        self._standing.detail = detail
        # One message is as good as two; and there may be no presence any more.
        with suppress(trio.WouldBlock, trio.BrokenResourceError):
            self._changed.send_nowait(None)

    async def _run_line(self, config: Config, task_status: trio.TaskStatus[Line]) -> None:
        """Run one line, from the moment that it may begin, until it has ended."""
        standing = self._standing
        async with open_line(config, self._counts, standing.pulses, standing.ledger, self._seats) as line:
            task_status.started(line)
            self._lines.append(line)
            if self.draining.is_set():
                line.end(self._standing.drain_ends_s)
            await self._may_begin.wait()
            await line.run()
            self._lines.remove(line)

    async def _hear_signals(self, task_status: trio.TaskStatus[None]) -> None:
        """Turn signals into orders."""
        ends = iter(ENDS)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, *SIGNALS) as signals:
            task_status.started()
            async for number in signals:
                LOG.info("signal received", extra={"signal": signal.Signals(number).name})
                order = SIGNALS.get(signal.Signals(number)) or next(ends, Order.STOP)
                self._orders.send_nowait(order)

    async def _obey(self) -> None:
        """Do what is ordered. To end never waits for what was ordered before."""
        async for order in self._ordered:
            match order:
                case Order.DRAIN:
                    self._drain(self._config.drain.timeout_s)
                case Order.HURRY:
                    self._drain(self._config.drain.hurried_timeout_s)
                case Order.STOP:
                    LOG.warning("stopping at once")
                    self._drain(0.0)
                case _:
                    self._changes.send_nowait(order)

    def _drain(self, timeout_s: float) -> None:
        """Look for no more work; hand back what still runs when the time is over, which never becomes more."""
        ends_s = trio.current_time() + timeout_s
        if self.draining.is_set() and ends_s >= self._standing.drain_ends_s:
            return
        self._standing.drain_ends_s = ends_s
        running = len(self._standing.ledger.running)
        LOG.info("draining", extra={"running": running, "timeout_s": timeout_s})
        self._enter(State.DRAINING)
        self._notifier.stopping(self._standing.sentence())
        for line in self._lines:
            line.end(ends_s)
        self.draining.set()
        self._may_begin.set()

    async def _change(self) -> None:
        """Be quiet, resume and reload, one after the other."""
        async for order in self._changes_ordered:
            if self.draining.is_set():
                return
            match order:
                case Order.QUIET if self._standing.state is State.RUNNING:
                    for line in self._lines:
                        line.retire()
                    self._enter(State.QUIET)
                    LOG.info("quiet", extra={"running": len(self._standing.ledger.running)})
                case Order.RESUME if self._standing.state is State.QUIET:
                    if await self._open_line(self._config, "cannot resume; staying quiet"):
                        self._enter(State.RUNNING)
                case Order.RELOAD:
                    self._notifier.reloading("Reading the configuration again")
                    await self._reload()
            if not self.draining.is_set():
                self._notifier.ready(self._standing.sentence())

    async def _reload(self) -> None:
        """Go over to what the configuration says now, or go on as before if that is wrong."""
        try:
            wanted = self._read_again()
        except ConfigError as error:
            self._refuse("configuration refused; going on with the one before", error)
            return
        config, left = with_fixed(wanted, self._config)
        line = await self._open_line(config, "configuration refused; going on with the one before")
        if line is None:
            return
        self._config = config
        logs.set_up(config.log)
        detail = f"A restart is needed for changes of {', '.join(left)}." if left else ""
        if self._standing.state is State.QUIET:
            line.retire()  # it has shown that it would do
        self._enter(self._standing.state, detail)
        LOG.info("reloaded", extra={"restart_needed_for": ",".join(left), **described(self._standing.offer)})

    async def _open_line(self, config: Config, otherwise: str) -> Line | None:
        """Open a line, and retire those before; if it cannot be opened, everything stays as it is.

        Args:
            otherwise: what is logged then.
        """
        line: Line | None = None
        try:
            async with move_on_when(self.draining.wait):
                line = await self._nursery.start(self._run_line, config)
        except* (ConfigError, ChildError) as group:
            self._refuse(otherwise, first_cause(group))
        if line is None or self.draining.is_set():
            return None
        self._seats.total_tokens = config.children.count
        for other in self._lines:
            if other is not line:
                other.retire()
        self._standing.offer = line.offer
        return line

    def _refuse(self, event: str, error: BaseException) -> None:
        """Say that what was ordered is not possible, and go on."""
        LOG.error(event, extra={"error": error})
        self._enter(self._standing.state, f"The last order was refused: {str(error).splitlines()[0]}")


def ledger_of(config: Config) -> AbstractAsyncContextManager[Ledger]:
    """Return what opens the ledger: where that is wanted, one that keeps a span for each attempt.

    Raises:
        ConfigError: what this needs is not installed.
    """
    if not config.tracing.enabled:
        return nullcontext(Ledger())
    try:
        from ffsuper import tracing
    except ImportError as error:
        raise ConfigError([f'[tracing] enabled: needs {error.name}: pip install "ffsuper[otel]"']) from None
    return tracing.open_ledger(config.worker.instance_id)


def with_fixed(wanted: Config, before: Config) -> tuple[Config, list[str]]:
    """Return a new configuration with what cannot change while a worker runs as it was before, and what that is."""
    worker = replace(wanted.worker, id=before.worker.id, instance_id=before.worker.instance_id)
    config = replace(wanted, worker=worker, **{name: getattr(before, name) for name in FIXED})
    left = [
        f"[{field.name}]" for field in fields(config) if getattr(config, field.name) != getattr(wanted, field.name)
    ]
    return config, left


async def take_work_back(instance_id: str, predecessor: int, line: Line, counts: PartitionCounts) -> None:
    """Let the leases of this instance's dead predecessor end, once its children are certain to be dead too."""
    if not await trio.to_thread.run_sync(kill_orphans, instance_id, predecessor, ORPHANS_DEATH_S):
        LOG.warning(
            "children of a dead process live on: its leases are left to expire", extra={"predecessor": predecessor}
        )
        return
    try:
        ended = await line.store.takeovers.end_leases(instance_id, range(counts.flow))
    except STORE_AWAY as error:
        LOG.warning("leases of a dead process are left to expire", extra={"predecessor": predecessor, "error": error})
    else:
        LOG.info("leases of a dead process ended", extra={"predecessor": predecessor, "leases": ended})


def totals(ledger: Ledger) -> dict[str, object]:
    """Return how many attempts were begun, and what became of them."""
    finished = Counter[str]()
    for (_, outcome), count in ledger.finished.items():
        finished[outcome] += count
    return {"begun": ledger.begun.total(), **finished}


def described(offer: Offer) -> dict[str, object]:
    """Return what the log says about an offer."""
    return {"lanes": ",".join(offer.lanes), "kinds": ",".join(offer.kinds), "slots": offer.slots}
