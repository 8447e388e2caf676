"""The engine: one leads, and runs the sweeps while it leads. Inside a worker, or as ``ffsuper engine``."""

from __future__ import annotations

import logging
import os
import signal
import uuid
from collections.abc import Callable

import trio

from ffsuper.clock import boottime_s
from ffsuper.config import Config
from ffsuper.engine import (
    attempt_timeout,
    delayed,
    execution_deadline,
    leader,
    lease_expiry,
    pending_waitpoints,
    reporter,
    suspension_timeout,
    unblock,
)
from ffsuper.messages import LaneId, SweepReport
from ffsuper.sansio.partition import PartitionCounts
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
    sweeps, settings = store.sweeps, config.engine
    lanes = [LaneId(lane) for lane in config.worker.lanes]
    partitions = range(counts.flow)
    # No buffer: a sweep that is ahead of the log can wait for it.
    send, receive = trio.open_memory_channel[SweepReport](0)
    async with trio.open_nursery() as nursery, send:

        def start(run: Callable[..., object], interval_ms: int, *before: object) -> None:
            nursery.start_soon(run, sweeps, *before, interval_ms / 1000, send.clone())  # type: ignore[arg-type]

        nursery.start_soon(reporter.run, receive)
        start(delayed.run, settings.delayed_interval_ms, partitions, lanes)
        start(lease_expiry.run, settings.lease_expiry_interval_ms, partitions)
        start(attempt_timeout.run, settings.attempt_timeout_interval_ms, partitions)
        start(execution_deadline.run, settings.execution_deadline_interval_ms, partitions)
        start(suspension_timeout.run, settings.suspension_timeout_interval_ms, partitions)
        start(pending_waitpoints.run, settings.pending_waitpoint_interval_ms, partitions)
        nursery.start_soon(
            unblock.run, store.blocked, partitions, lanes, settings.unblock_interval_ms / 1000, send.clone()
        )
