"""Ends executions whose attempt has taken longer than it may."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from ffsuper.engine import timed
from ffsuper.engine.places import Places
from ffsuper.messages import SweepReport
from ffsuper.sansio.pulse import Pulses
from ffsuper.store.sweeps import Sweeps, expire_executions


async def run(
    sweeps: Sweeps,
    partitions: Sequence[int],
    interval_s: float,
    reports: trio.MemorySendChannel[SweepReport],
    pulses: Pulses,
) -> None:
    """Sweep until cancelled."""
    places = Places(sweeps, ["attempt_timeout"], partitions)
    sweep = timed.Sweep("attempt_timeout", places, expire_executions)
    await timed.keep_sweeping(sweeps, sweep, interval_s, reports, pulses)
