"""Trims the windows of quotas, and sets their counters to what is admitted."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from ffsuper.engine.places import Places
from ffsuper.engine.scanned import keep_scanning
from ffsuper.messages import SweepReport
from ffsuper.sansio.pulse import Pulses
from ffsuper.store.housekeeping import Housekeeping, reconcile_quotas


async def run(
    housekeeping: Housekeeping,
    partitions: Sequence[int],
    interval_s: float,
    reports: trio.MemorySendChannel[SweepReport],
    pulses: Pulses,
) -> None:
    """Sweep until cancelled."""
    places = Places(housekeeping, ["quota_policies"], partitions, family="q")
    await keep_scanning(housekeeping, "quota_reconciler", reconcile_quotas, places, interval_s, reports, pulses)
