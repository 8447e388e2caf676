"""Promotes delayed executions whose time has come."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from ffsuper.engine import timed
from ffsuper.engine.places import Places
from ffsuper.messages import LaneId, SweepReport
from ffsuper.store.sweeps import Sweeps, promote_delayed


async def run(
    sweeps: Sweeps,
    partitions: Sequence[int],
    lanes: Sequence[LaneId],
    interval_s: float,
    reports: trio.MemorySendChannel[SweepReport],
) -> None:
    """Sweep these lanes, and all that workers have served, until cancelled."""
    places = Places(sweeps, ["delayed"], partitions, lanes)
    await timed.keep_sweeping(sweeps, timed.Sweep("delayed", places, promote_delayed), interval_s, reports)
