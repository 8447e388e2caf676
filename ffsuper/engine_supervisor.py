"""The engine: one leads, and runs the sweeps while it leads. Inside a worker, or as ``ffsuper engine``."""

from __future__ import annotations

import logging
import os
import signal
import uuid
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from ffsuper.clock import boottime_s
from ffsuper.config import Config
from ffsuper.engine import (
    attempt_timeout,
    budget_reconciler,
    budget_reset,
    completions,
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
from ffsuper.store.announcements import COMPLETIONS, open_announcements
from ffsuper.store.store import EngineStore, open_engine_store

LOG = logging.getLogger(__name__)


async def run(config: Config, counts: PartitionCounts) -> None:
    """Be an engine and nothing else, until SIGTERM or SIGINT."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with open_engine_store(config.store, counts) as store, trio.open_nursery() as nursery:
            nursery.start_soon(lead, config, counts, store)
            LOG.info("ready", extra={"holder": holder_name(config), "partitions": counts.flow})
            async for number in signals:
                LOG.info("stopping", extra={"signal": signal.Signals(number).name})
                nursery.cancel_scope.cancel()
                break


def holder_name(config: Config) -> str:
    """Return who this engine is, for people."""
    return f"{config.worker.instance_id}, process {os.getpid()}"


async def lead(config: Config, counts: PartitionCounts, store: EngineStore) -> None:
    """Lead if no other engine does, and sweep while leading, until cancelled."""

    async def sweep() -> None:
        await run_sweeps(config, counts, store)

    holder = f"{holder_name(config)}, {uuid.uuid4().hex}"
    await leader.run(store.leadership, holder, config.engine.leader_ttl_ms, sweep, boottime_s)


async def run_sweeps(config: Config, counts: PartitionCounts, store: EngineStore) -> None:
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
            nursery.start_soon(partial(run, *what, interval_ms / 1000, send.clone()))

        nursery.start_soon(reporter.run, receive)
        nursery.start_soon(completions.run, store.dependencies, ended, ask, send.clone())
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
        start(flow_summary.run, settings.flow_summary_interval_ms, store.dependencies, flows)
        start(budget_reconciler.run, settings.budget_interval_ms, store.housekeeping, budgets)
        start(quota_reconciler.run, settings.quota_interval_ms, store.housekeeping, quotas)
        start(quota_places.run, settings.quota_interval_ms, store.blocked, quotas)
