"""The engine: one leads, and runs the sweeps while it leads. Inside a worker, or as ``ffsuper engine``."""

from __future__ import annotations

import logging
import os
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import trio

from ffsuper.actors import library_watcher, watchdog
from ffsuper.clock import boottime_s
from ffsuper.config import Config
from ffsuper.engine import (
    attempt_timeout,
    budget_reconciler,
    budget_reset,
    completions,
    dead_workers,
    delayed,
    dependencies,
    execution_deadline,
    flow_summary,
    index_reconciler,
    leader,
    lease_expiry,
    pending_waitpoints,
    quota_places,
    quota_reconciler,
    reporter,
    retention,
    suspension_timeout,
    unblock,
)
from ffsuper.messages import LaneId, SweepReport
from ffsuper.sansio.partition import PartitionCounts
from ffsuper.sansio.pulse import Pulses
from ffsuper.store.announcements import COMPLETIONS, open_announcements
from ffsuper.store.store import EngineStore, open_engine_store, require_libraries
from ffsuper.systemd import Notifier

LOG = logging.getLogger(__name__)

# What an engine or a server that runs alone hears; ``wait_told_to_end`` tells them apart.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class EngineStanding:
    """How an engine stands.

    Attributes:
        pulses: its actors' signs of life.
        is_known: set when it has tried to lead, or found that the store is away.
    """

    def __init__(self, stuck_after_s: float) -> None:
        self.pulses = Pulses(trio.current_time)
        self.is_known = trio.Event()
        self._stuck_after_s = stuck_after_s
        self._said = "starts"

    def hear(self, said: str) -> None:
        """Take in what the leader says of itself."""
        self._said = said
        self.is_known.set()

    def stuck(self) -> list[str]:
        """Return the names of the actors that are stuck."""
        return self.pulses.stuck(self._stuck_after_s)

    def sentence(self) -> str:
        """Say how things stand, in one line."""
        stuck = self.stuck()
        return f"Engine is stuck: {', '.join(stuck)}" if stuck else f"Engine {self._said}"


async def run(config: Config, counts: PartitionCounts, notifier: Notifier) -> None:
    """Be an engine and nothing else, until SIGTERM or SIGINT.

    Raises:
        StoreUnsuitableError: others have replaced the libraries by some that will not do.
    """
    standing = EngineStanding(config.status.stuck_after_s)
    with trio.open_signal_receiver(*SIGNALS) as signals:
        async with open_engine_store(config.store, counts) as store, trio.open_nursery() as nursery:

            async def be_ready() -> None:
                await standing.is_known.wait()
                notifier.ready(standing.sentence())
                LOG.info("ready", extra={"holder": holder_name(config), "partitions": counts.flow})
                await watchdog.run(notifier, standing.stuck, standing.sentence)

            nursery.start_soon(lead, config, counts, store, standing.pulses, standing.hear)
            nursery.start_soon(be_ready)
            nursery.start_soon(library_watcher.run, partial(require_libraries, config.store))
            await wait_told_to_end(signals)
            notifier.stopping("Engine stops")
            nursery.cancel_scope.cancel()


async def wait_told_to_end(signals: AsyncIterator[int]) -> None:
    """Wait for SIGTERM or SIGINT; SIGHUP, which has a worker read its configuration again, changes nothing here."""
    async for number in signals:
        name = signal.Signals(number).name
        if number != signal.SIGHUP:
            LOG.info("stopping", extra={"signal": name})
            return
        LOG.warning("only a worker can reload: restart for changes of the configuration", extra={"signal": name})


def holder_name(config: Config) -> str:
    """Return who this engine is, for people."""
    return f"{config.worker.instance_id}, process {os.getpid()}"


async def lead(
    config: Config,
    counts: PartitionCounts,
    store: EngineStore,
    pulses: Pulses,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Lead if no other engine does, and sweep while leading, until cancelled.

    Args:
        say: see ``leader.run``.
    """
    sweep = partial(run_sweeps, config, counts, store, pulses)
    holder = f"{holder_name(config)}, {uuid.uuid4().hex}"
    await leader.run(store.leadership, holder, config.engine.leader_ttl_ms, sweep, boottime_s, pulses, say)


async def run_sweeps(config: Config, counts: PartitionCounts, store: EngineStore, pulses: Pulses) -> None:
    """Run all sweeps until cancelled."""
    settings = config.engine
    lanes = [LaneId(lane) for lane in config.worker.lanes]
    flows, budgets, quotas = range(counts.flow), range(counts.budget), range(counts.quota)
    # No buffer: a sweep that is ahead of the log can wait for it.
    send, receive = trio.open_memory_channel[SweepReport](0)
    # One place: a sweep answers all that asked before it began.
    ask, asked = trio.open_memory_channel[None](1)
    async with (
        open_announcements(config.store, COMPLETIONS, tells_beginning=True) as ended,
        trio.open_nursery() as nursery,
        send,
    ):

        def start(run: Callable[..., Awaitable[None]], interval_ms: int, *what: object) -> None:
            nursery.start_soon(partial(run, *what, interval_ms / 1000, send.clone(), pulses))

        nursery.start_soon(reporter.run, receive, pulses)
        nursery.start_soon(completions.run, store.dependencies, ended, ask, send.clone(), pulses)
        start(delayed.run, settings.delayed_interval_ms, store.sweeps, flows, lanes)
        start(lease_expiry.run, settings.lease_expiry_interval_ms, store.sweeps, flows)
        start(attempt_timeout.run, settings.attempt_timeout_interval_ms, store.sweeps, flows)
        start(execution_deadline.run, settings.execution_deadline_interval_ms, store.sweeps, flows)
        start(suspension_timeout.run, settings.suspension_timeout_interval_ms, store.sweeps, flows)
        start(pending_waitpoints.run, settings.pending_waitpoint_interval_ms, store.sweeps, flows)
        start(dependencies.run, settings.dependency_interval_ms, store.dependencies, flows, lanes, asked)
        start(budget_reset.run, settings.budget_reset_interval_ms, store.sweeps, budgets)
        start(unblock.run, settings.unblock_interval_ms, store.blocked, flows, lanes)
        start(retention.run, settings.retention_interval_ms, store.housekeeping, flows, lanes)
        start(index_reconciler.run, settings.index_interval_ms, store.housekeeping, flows)
        start(dead_workers.run, settings.retention_interval_ms, store.housekeeping)
        start(flow_summary.run, settings.flow_summary_interval_ms, store.dependencies, flows)
        start(budget_reconciler.run, settings.budget_interval_ms, store.housekeeping, budgets)
        start(quota_reconciler.run, settings.quota_interval_ms, store.housekeeping, quotas)
        start(quota_places.run, settings.quota_interval_ms, store.blocked, quotas)
