"""Promotes delayed executions whose time has come."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from ffsuper.engine import timed
from ffsuper.engine.places import Places
from ffsuper.messages import LaneId, SweepReport
from ffsuper.sansio.pulse import Pulses
from ffsuper.store.sweeps import Sweeps, promote_delayed


async def run(
    sweeps: Sweeps,
    partitions: Sequence[int],
    lanes: Sequence[LaneId],
    interval_s: float,
    reports: trio.MemorySendChannel[SweepReport],
    pulses: Pulses,
) -> None:
    """Sweep these lanes, and all that workers have served, until cancelled."""
    places = Places(sweeps, ["delayed"], partitions, lanes)
    sweep = timed.Sweep("delayed", places, promote_delayed)
    await timed.keep_sweeping(sweeps, sweep, interval_s, reports, pulses)
