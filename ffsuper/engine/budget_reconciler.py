"""Keeps the breach marks of budgets that are never reset."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from ffsuper.engine.places import Places
from ffsuper.engine.scanned import keep_scanning
from ffsuper.messages import SweepReport
from ffsuper.sansio.pulse import Pulses
from ffsuper.store.housekeeping import Housekeeping, reconcile_budgets


async def run(
    housekeeping: Housekeeping,
    partitions: Sequence[int],
    interval_s: float,
    reports: trio.MemorySendChannel[SweepReport],
    pulses: Pulses,
) -> None:
    """Sweep until cancelled."""
    places = Places(housekeeping, ["budget_policies"], partitions, family="b")
    await keep_scanning(housekeeping, "budget_reconciler", reconcile_budgets, places, interval_s, reports, pulses)
