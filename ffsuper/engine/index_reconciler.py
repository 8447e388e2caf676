"""Puts executions back into the indexes that they are missing from."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from ffsuper.engine.places import Places
from ffsuper.engine.scanned import keep_scanning
from ffsuper.messages import SweepReport
from ffsuper.sansio.pulse import Pulses
from ffsuper.store.housekeeping import Housekeeping, reconcile_indexes


async def run(
    housekeeping: Housekeeping,
    partitions: Sequence[int],
    interval_s: float,
    reports: trio.MemorySendChannel[SweepReport],
    pulses: Pulses,
) -> None:
    """Sweep until cancelled."""
    places = Places(housekeeping, ["all_executions"], partitions)
    await keep_scanning(housekeeping, "index_reconciler", reconcile_indexes, places, interval_s, reports, pulses)
