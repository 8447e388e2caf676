"""Opens the channels, starts the actors, stops them in order; nothing else.

Work flows scanner/asker/reclaimer -> claimers -> executors, capacity flows back as slots. A drain ends the first of
these; then each channel that closes ends the next actor, until all running work is done. A deadline on that line is
the hard stop: executors kill their children and hand the executions back. Presence and sweeps end last.
"""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from enum import Enum

import trio

from ffsuper import engine_supervisor
from ffsuper.actors import asker, claimer, executor, lease_renewer, lease_watcher, presence, reclaimer, scanner
from ffsuper.channels import Candidates, Demand, LeaseNews, Slot
from ffsuper.child.process import Child, ForkServer, ForkServerSettings, kill_orphans, open_fork_server
from ffsuper.clock import boottime_s
from ffsuper.config import Config
from ffsuper.grants import Grants, open_grants
from ffsuper.messages import Candidate, LaneId
from ffsuper.sansio.partition import PartitionCounts, scan_seed
from ffsuper.sansio.scan import ScanOrder
from ffsuper.store.announcements import LEASE_ENDS, open_announcements
from ffsuper.store.claims import Identity
from ffsuper.store.outage import STORE_AWAY
from ffsuper.store.store import Store, open_engine_store, open_store
from ffsuper.store.takeovers import Taker

LOG = logging.getLogger(__name__)

# Two, so that one call is on its way while the answer to the other is being handed out.
CLAIMERS = 2
# Less than any lease lasts, so that the reclaimer knows of each before it ends.
RECLAIM_INTERVAL_S = 0.8
ORPHANS_DEATH_S = 5.0


class Ending(Enum):
    """How the supervisor came to its end."""

    DRAINED = "all running work finished"
    HANDED_BACK = "the drain's time was over; running work was handed back"


@dataclass(frozen=True, slots=True)
class Line:
    """What a stop acts upon: two scopes, and what tells the handlers."""

    seeking: trio.CancelScope
    working: trio.CancelScope
    draining: trio.Event


async def run(config: Config, counts: PartitionCounts) -> Ending:
    """Run the worker until a signal has drained it.

    Raises:
        ConfigError: work is to come from a server, and what that needs is not installed.
        HandlersError: the handlers do not load.
        InstanceTakenError: another live process has this instance id.
        FencedError: another process took the instance id over.
        RestartLimitError: children die faster than is worth restarting them.
    """
    async with (
        grants_of(config) as grants,
        open_store(config.store, identity_of(config), counts.budget, boottime_s) as store,
        open_engine_store(config.store, counts) as engine_store,
        open_fork_server(fork_server_settings(config), log_output) as fork_server,
        trio.open_nursery() as background,
    ):
        first_child = await fork_server.spawn()
        alive_ttl_ms = max(2 * config.lease.ttl_ms, 1000)
        predecessor = await background.start(
            presence.run, store.presence, ",".join(config.worker.capabilities), alive_ttl_ms, lanes_of(config)
        )
        if predecessor is not None:
            await take_work_back(config.worker.instance_id, predecessor, store, counts)
        if config.engine.enabled:
            background.start_soon(engine_supervisor.lead, config, counts, engine_store)
        LOG.info(
            "ready",
            extra={
                "instance": config.worker.instance_id,
                "lanes": ",".join(config.worker.lanes),
                "kinds": ",".join(first_child.handlers),
                "children": config.children.count,
            },
        )
        line = Line(trio.CancelScope(), trio.CancelScope(), trio.Event())
        background.start_soon(obey_signals, line, config.drain.timeout_s)
        await work(config, counts, store, grants, fork_server, first_child, line)
        background.cancel_scope.cancel()
    return Ending.HANDED_BACK if line.working.cancelled_caught else Ending.DRAINED


async def take_work_back(instance_id: str, predecessor: int, store: Store, counts: PartitionCounts) -> None:
    """Let the leases of this instance's dead predecessor end, once its children are certain to be dead too."""
    if not await trio.to_thread.run_sync(kill_orphans, instance_id, predecessor, ORPHANS_DEATH_S):
        LOG.warning(
            "children of a dead process live on: its leases are left to expire", extra={"predecessor": predecessor}
        )
        return
    try:
        ended = await store.takeovers.end_leases(instance_id, range(counts.flow))
    except STORE_AWAY as error:
        LOG.warning("leases of a dead process are left to expire", extra={"predecessor": predecessor, "error": error})
    else:
        LOG.info("leases of a dead process ended", extra={"predecessor": predecessor, "leases": ended})


def lanes_of(config: Config) -> list[LaneId]:
    """Return the lanes that work is taken from."""
    return [LaneId(lane) for lane in config.worker.lanes]


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
    )


def log_output(pid: int, stream: str, line: str) -> None:
    """Put a line that a child has printed into the log."""
    LOG.info("output", extra={"child": pid, "stream": stream, "line": line})


async def work(
    config: Config,
    counts: PartitionCounts,
    store: Store,
    grants: Grants | None,
    fork_server: ForkServer,
    first_child: Child,
    line: Line,
) -> None:
    """Run the line from finding work to finishing it; return when it has run dry."""
    # No buffers: an actor that cannot hand on waits, and what is upstream of it waits too.
    candidates_send, candidates_receive = trio.open_memory_channel[Candidates](0)
    slots_send, slots_receive = trio.open_memory_channel[Slot](0)
    leases_send, leases_receive = trio.open_memory_channel[LeaseNews](0)
    # Without limit, since a claimer must not wait for the asker, which may be waiting for it; a few messages a claim.
    demands_send, demands_receive = trio.open_memory_channel[Demand](math.inf)
    kinds = () if config.claim.unknown_kind == "fail" else tuple(first_child.handlers)
    taker = Taker(lanes_of(config), ",".join(config.worker.capabilities), kinds)

    with line.working:
        async with open_announcements(config.store, LEASE_ENDS) as ends, trio.open_nursery() as nursery:
            margin_s = config.lease.margin_ms / 1000
            nursery.start_soon(lease_renewer.run, store.leases, leases_receive, margin_s, boottime_s)
            watching = trio.CancelScope()
            nursery.start_soon(within, watching, lease_watcher.run, ends, leases_send.clone())
            async with (
                trio.open_nursery() as workers,
                slots_send,
                leases_send,
                slots_receive,
                candidates_receive,
                demands_send,
            ):
                for child in [first_child, *[None] * (config.children.count - 1)]:
                    workers.start_soon(
                        executor.run,
                        *(fork_server, child, store.outcomes, store.attempts, slots_send.clone()),
                        *(leases_send.clone(), line.draining, margin_s, config.children),
                    )
                for _ in range(CLAIMERS):
                    workers.start_soon(
                        claimer.run,
                        *(store.claims, candidates_receive.clone(), slots_receive.clone()),
                        *(leases_send.clone(), boottime_s, demands_send.clone() if grants else None),
                    )
                workers.start_soon(
                    seek, config, counts, store, grants, taker, demands_receive, candidates_send, line.seeking
                )
            watching.cancel()


async def within(scope: trio.CancelScope, run: Callable[..., Awaitable[None]], *args: object) -> None:
    """Run an actor that is to end by itself when all others of its kind have ended."""
    with scope:
        await run(*args)


async def seek(
    config: Config,
    counts: PartitionCounts,
    store: Store,
    grants: Grants | None,
    taker: Taker,
    demands: trio.MemoryReceiveChannel[Demand],
    candidates: trio.MemorySendChannel[Candidates],
    seeking: trio.CancelScope,
) -> None:
    """Find work until that is over."""

    def wanted(candidate: Candidate) -> bool:
        return not taker.kinds or candidate.execution_kind in taker.kinds

    async with demands, candidates:
        with seeking:
            async with trio.open_nursery() as seekers:
                seed = scan_seed(config.worker.instance_id, counts.flow)
                poll_interval_s = config.claim.poll_interval_ms / 1000
                if grants:
                    seekers.start_soon(
                        asker.run,
                        *(grants, taker.lanes, poll_interval_s, demands.clone(), candidates.clone(), boottime_s),
                    )
                else:
                    seekers.start_soon(
                        scanner.run,
                        *(store.scans, ScanOrder(taker.lanes, counts.flow, seed), wanted, poll_interval_s),
                        *(candidates.clone(), boottime_s),
                    )
                seekers.start_soon(
                    reclaimer.run,
                    *(store.takeovers, taker, range(counts.flow), RECLAIM_INTERVAL_S),
                    *(candidates.clone(), boottime_s),
                )


async def obey_signals(line: Line, drain_timeout_s: float) -> None:
    """Drain at the first SIGTERM or SIGINT; at the second stop at once."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            if line.seeking.cancel_called:
                LOG.warning("stopping at once", extra={"signal": signal.Signals(number).name})
                line.working.cancel()
            else:
                LOG.info("draining", extra={"signal": signal.Signals(number).name, "timeout_s": drain_timeout_s})
                line.working.deadline = trio.current_time() + drain_timeout_s
                line.draining.set()
                line.seeking.cancel()
