"""Closes waitpoints that were made ahead of a suspension which has not come in time."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from ffsuper.engine import timed
from ffsuper.engine.places import Places
from ffsuper.messages import SweepReport
from ffsuper.sansio.pulse import Pulses
from ffsuper.store.sweeps import Sweeps, close_waitpoints


async def run(
    sweeps: Sweeps,
    partitions: Sequence[int],
    interval_s: float,
    reports: trio.MemorySendChannel[SweepReport],
    pulses: Pulses,
) -> None:
    """Sweep until cancelled."""
    places = Places(sweeps, ["pending_waitpoint_expiry"], partitions)
    sweep = timed.Sweep("pending_waitpoints", places, close_waitpoints)
    await timed.keep_sweeping(sweeps, sweep, interval_s, reports, pulses)
