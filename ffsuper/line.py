"""The line from finding work to finishing it, as one configuration has it: opens its channels and starts its actors.

Work flows scanner/asker/reclaimer -> claimer -> executors -> deliverer, capacity flows back as slots. To
retire a line is to end the first of these; then each channel that closes ends the next actor, until all running work
is done. A reload retires one line and opens another beside it. A deadline on ``working`` is the hard stop: executors
kill their children and have the executions handed back.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial

import trio
from trio_util import move_on_when

from ffsuper.actors import asker, claimer, deliverer, executor, lease_renewer, lease_watcher, reclaimer, scanner
from ffsuper.channels import Candidates, Demand, Finished, LeaseNews, Slot
from ffsuper.child.hardening import LIMITS
from ffsuper.child.nest import check_handlers
from ffsuper.child.process import Child
from ffsuper.child.server_process import ForkServerSettings
from ffsuper.child.spawning import ForkServer, open_fork_server
from ffsuper.clock import boottime_s
from ffsuper.config import Config, LeaseConfig
from ffsuper.grants import Grants, open_grants
from ffsuper.messages import LaneId, Offer
from ffsuper.sansio.ledger import Ledger
from ffsuper.sansio.partition import PartitionCounts, scan_seed
from ffsuper.sansio.pulse import Pulses
from ffsuper.sansio.scan import ScanOrder
from ffsuper.store.announcements import LEASE_ENDS, open_announcements, open_wake_ups
from ffsuper.store.claims import Identity
from ffsuper.store.finds import Finds
from ffsuper.store.store import Store, announces_eligible, open_store
from ffsuper.store.takeovers import Taker

LOG = logging.getLogger(__name__)

# Between two looks for leases that have ended, as a share of our own: less than any lease lasts, so that the
# reclaimer knows of each before it ends.
RECLAIM_SHARE = 0.1
RECLAIM_INTERVAL_S = (0.8, 3.0)
# Outcomes on their way to the store; more would only pile up behind one that is slow, or away in part.
UNDELIVERED_PER_SLOT = 8
# What a hard stop may take: the kills, their confirmation, the hand-back.
HAND_BACK_S = 10.0


@asynccontextmanager
async def open_line(
    config: Config, counts: PartitionCounts, pulses: Pulses, ledger: Ledger, seats: trio.CapacityLimiter
) -> AsyncIterator[Line]:
    """Make a line ready: what it needs is open, and its first child is warm.

    Args:
        seats: how many children the worker may have, whatever the line: those of a new one wait for those of a
            retired one to end.

    Raises:
        ConfigError: work is to come from a server, and what that needs is not installed; or the children cannot have
            their user or their limits here.
        HandlersError: the handlers do not load, or cannot run so many at once.
        ChildError: no child comes up.
    """
    async with (
        grants_of(config) as grants,
        open_store(config.store, identity_of(config), counts.budget, boottime_s) as store,
        open_fork_server(fork_server_settings(config), log_output) as fork_server,
    ):
        first_child = await fork_server.spawn()
        check_handlers(first_child, config.children)
        is_told = await trio.to_thread.run_sync(announces_eligible, config.store)
        yield Line(config, counts, pulses, ledger, seats, store, grants, fork_server, first_child, is_told)


class Line:
    """One line.

    Attributes:
        offer: what it takes on.
        working: its deadline is the hard stop.
        draining: set when the whole worker ends; the handlers are told.
    """

    def __init__(
        self,
        config: Config,
        counts: PartitionCounts,
        pulses: Pulses,
        ledger: Ledger,
        seats: trio.CapacityLimiter,
        store: Store,
        grants: Grants | None,
        fork_server: ForkServer,
        first_child: Child,
        is_told: bool,
    ) -> None:
        self.offer = offer_of(config, first_child)
        self.working = trio.CancelScope()
        self.draining = trio.Event()
        self.store = store
        self._keeping = trio.CancelScope(shield=True)
        self._config = config
        self._counts = counts
        self._pulses = pulses
        self._ledger = ledger
        self._seats = seats
        self._grants = grants
        self._fork_server = fork_server
        self._first_child: Child | None = first_child
        self._is_told = is_told
        self._undelivered = trio.Semaphore(UNDELIVERED_PER_SLOT * self.offer.slots)
        self._retired = trio.Event()

    def retire(self) -> None:
        """Look for no more work; what runs goes on."""
        self._retired.set()

    def end(self, ends_s: float) -> None:
        """Retire because the whole worker ends; what runs then is handed back.

        Args:
            ends_s: on the trio clock.
        """
        self.working.deadline = ends_s
        self._keeping.deadline = ends_s + HAND_BACK_S
        self.draining.set()
        self.retire()

    async def run(self) -> None:
        """Work until retired, and until what runs then has ended."""
        # No buffer: a scanner that cannot hand on waits.
        candidates_send, candidates_receive = trio.open_memory_channel[Candidates](0)
        # As many messages as there are slots, and what runs in them: the slots are what is scarce. There is room for
        # all of it, because a task that need not wait for another need not be woken either.
        slots_send, slots_receive = trio.open_memory_channel[Slot](math.inf)
        finished_send, finished_receive = trio.open_memory_channel[Finished](math.inf)
        leases_send, leases_receive = trio.open_memory_channel[LeaseNews](math.inf)
        # Since a claimer must not wait for the asker, which may be waiting for it; a few messages a claim.
        demands_send, demands_receive = trio.open_memory_channel[Demand](math.inf)
        async with open_announcements(self._config.store, LEASE_ENDS) as ends, trio.open_nursery() as nursery:
            nursery.start_soon(self._keep, finished_receive, leases_receive, leases_send.clone())
            watching = trio.CancelScope()
            nursery.start_soon(within, watching, lease_watcher.run, ends, leases_send.clone())
            try:
                with self.working:
                    async with (
                        trio.open_nursery() as workers,
                        slots_send,
                        finished_send,
                        leases_send,
                        candidates_receive,
                        demands_send,
                    ):
                        for _ in range(self._config.children.count):
                            workers.start_soon(self._execute, slots_send.clone(), finished_send.clone())
                        workers.start_soon(
                            claimer.run,
                            *(self.store.claims, candidates_receive.clone(), slots_receive),
                            *(leases_send.clone(), boottime_s, self._pulses),
                            demands_send.clone() if self._grants else None,
                            self._wanted_kinds(),
                        )
                        workers.start_soon(self._seek, demands_receive, candidates_send)
            except BaseException:
                self._keeping.deadline = min(self._keeping.deadline, trio.current_time() + HAND_BACK_S)
                raise
            finally:
                watching.cancel()

    async def _keep(
        self,
        finished: trio.MemoryReceiveChannel[Finished],
        news: trio.MemoryReceiveChannel[LeaseNews],
        leases: trio.MemorySendChannel[LeaseNews],
    ) -> None:
        """Keep the leases, and deliver; a hard stop ends neither before what it cuts off is handed back."""
        margin_s = self._config.lease.margin_ms / 1000
        with self._keeping:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lease_renewer.run, self.store.leases, news, margin_s, boottime_s, self._pulses)
                nursery.start_soon(
                    deliverer.run,
                    *(self.store.outcomes, finished, leases, self._undelivered, self._pulses, self._ledger),
                )

    async def _execute(self, slots: trio.MemorySendChannel[Slot], finished: trio.MemorySendChannel[Finished]) -> None:
        """Be an executor, once there is a seat."""
        async with slots, finished:
            async with move_on_when(self._retired.wait) as waiting:
                await self._seats.acquire()
            if waiting.cancelled_caught:
                return
            try:
                child, self._first_child = self._first_child, None
                await executor.run(
                    self._fork_server,
                    child,
                    self.store.outcomes,
                    self.store.attempts,
                    slots.clone(),
                    finished.clone(),
                    self._undelivered,
                    self._retired,
                    self.draining,
                    self._config.lease.margin_ms / 1000,
                    boottime_s,
                    lambda: self._grants is None and self.store.claims.picks,
                    self._config.children,
                    self._pulses,
                    self._ledger,
                )
            finally:
                self._seats.release()

    def _wanted_kinds(self) -> tuple[str, ...]:
        """Return the kinds that are taken on; none for any kind."""
        return () if self._config.claim.unknown_kind == "fail" else self.offer.kinds

    async def _seek(
        self, demands: trio.MemoryReceiveChannel[Demand], candidates: trio.MemorySendChannel[Candidates]
    ) -> None:
        """Find work until retired."""
        lanes, kinds = self.offer.lanes, self._wanted_kinds()
        taker = Taker(lanes, self.offer.capabilities, kinds)
        async with demands, candidates, trio.open_nursery() as askers, trio.open_nursery() as seekers:
            seed = scan_seed(self._config.worker.instance_id, self._counts.flow)
            poll_interval_s = self._config.claim.poll_interval_ms / 1000
            if self._grants:
                # It ends by itself, for it may just be granted something.
                askers.start_soon(
                    asker.run,
                    *(self._grants, lanes, poll_interval_s, demands.clone(), candidates.clone()),
                    *(self._retired, boottime_s, self._pulses),
                )
            else:
                wake_ups = partial(open_wake_ups, self._config.store, lanes) if self._is_told else None
                seekers.start_soon(
                    scanner.run,
                    Finds(self.store.scans, self.store.claims, kinds),
                    ScanOrder(lanes, self._counts.flow, seed),
                    wake_ups,
                    *(poll_interval_s, candidates.clone(), boottime_s, self._pulses),
                )
            seekers.start_soon(
                reclaimer.run,
                *(self.store.takeovers, taker, range(self._counts.flow), reclaim_interval_s(self._config.lease)),
                *(candidates.clone(), boottime_s, self._pulses),
            )
            await self._retired.wait()
            seekers.cancel_scope.cancel()


async def within(scope: trio.CancelScope, run: Callable[..., Awaitable[None]], *args: object) -> None:
    """Run an actor that is to end by itself when all others of its kind have ended."""
    with scope:
        await run(*args)


def reclaim_interval_s(lease: LeaseConfig) -> float:
    """Return how often to look for leases that have ended, at least."""
    shortest_s, longest_s = RECLAIM_INTERVAL_S
    return min(longest_s, max(shortest_s, lease.ttl_ms / 1000 * RECLAIM_SHARE))


def offer_of(config: Config, child: Child) -> Offer:
    """Return what a worker takes on."""
    return Offer(
        lanes=tuple(LaneId(lane) for lane in config.worker.lanes),
        capabilities=",".join(config.worker.capabilities),
        kinds=tuple(child.handlers),
        slots=config.children.count * config.children.tasks_per_process,
    )


def identity_of(config: Config) -> Identity:
    """Return as whom leases are taken."""
    capabilities = ",".join(config.worker.capabilities)
    return Identity(config.worker.id, config.worker.instance_id, capabilities, config.lease.ttl_ms)


def grants_of(config: Config) -> AbstractAsyncContextManager[Grants | None]:
    """Return what asks the server for work; None where the store is looked at instead."""
    return open_grants(config.claim, config.worker) if config.claim.source == "server" else nullcontext()


def fork_server_settings(config: Config) -> ForkServerSettings:
    """Return what the children are made with."""
    return ForkServerSettings(
        handlers=config.worker.handlers,
        python_path=config.worker.python_path,
        preload=config.children.preload,
        boot_timeout_s=config.children.boot_timeout_s,
        environment=config.children.environment,
        owner=config.worker.instance_id,
        user=config.children.user,
        limits={key: getattr(config.children, key) for key in LIMITS},
    )


def log_output(child: Child, stream: str, line: str) -> None:
    """Put a line that a child has printed into the log."""
    LOG.info("output", extra={**child.running, "child": child.pid, "stream": stream, "line": line})
