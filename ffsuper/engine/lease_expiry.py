"""Marks leases whose time has run out, so that their executions can be taken over."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from ffsuper.engine import timed
from ffsuper.engine.places import Places
from ffsuper.messages import SweepReport
from ffsuper.sansio.pulse import Pulses
from ffsuper.store.sweeps import Sweeps, mark_expired


async def run(
    sweeps: Sweeps,
    partitions: Sequence[int],
    interval_s: float,
    reports: trio.MemorySendChannel[SweepReport],
    pulses: Pulses,
) -> None:
    """Sweep until cancelled."""
    places = Places(sweeps, ["lease_expiry"], partitions)
    sweep = timed.Sweep("lease_expiry", places, mark_expired)
    await timed.keep_sweeping(sweeps, sweep, interval_s, reports, pulses)
