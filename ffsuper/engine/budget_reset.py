"""Resets the budgets that are due for it."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from ffsuper.engine import timed
from ffsuper.engine.places import Places
from ffsuper.messages import SweepReport
from ffsuper.sansio.pulse import Pulses
from ffsuper.store.sweeps import Sweeps, reset_budgets


async def run(
    sweeps: Sweeps,
    partitions: Sequence[int],
    interval_s: float,
    reports: trio.MemorySendChannel[SweepReport],
    pulses: Pulses,
) -> None:
    """Sweep until cancelled."""
    places = Places(sweeps, ["budget_resets"], partitions, family="b")
    sweep = timed.Sweep("budget_reset", places, reset_budgets)
    await timed.keep_sweeping(sweeps, sweep, interval_s, reports, pulses)
