"""Keeps the summaries of flows."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from ffsuper.engine.places import Places
from ffsuper.engine.scanned import keep_scanning
from ffsuper.messages import SweepReport
from ffsuper.store.housekeeping import Housekeeping, summarize_flows


async def run(
    housekeeping: Housekeeping,
    partitions: Sequence[int],
    interval_s: float,
    reports: trio.MemorySendChannel[SweepReport],
) -> None:
    """Sweep until cancelled."""
    places = Places(housekeeping, ["flow_index"], partitions)
    await keep_scanning(housekeeping, "flow_summary", summarize_flows, places, interval_s, reports)
