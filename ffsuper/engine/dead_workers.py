"""Forgets workers that ended without a word, once operators have had time to see that they did."""

from __future__ import annotations

import trio

from ffsuper.engine.pace import keep_on
from ffsuper.errors import StoreError
from ffsuper.messages import SweepReport
from ffsuper.sansio.pulse import Pulse, Pulses
from ffsuper.store.housekeeping import Housekeeping
from ffsuper.store.keys import OWN_WORKERS
from ffsuper.store.outage import STORE_AWAY

NAME = "dead_workers"
# Counted by this engine alone: another that leads begins anew.
SHOWN_S = 3_600.0


async def run(
    housekeeping: Housekeeping, interval_s: float, reports: trio.MemorySendChannel[SweepReport], pulses: Pulses
) -> None:
    """Sweep until cancelled."""
    dead_since_s: dict[str, float] = {}
    async with reports, pulses.open(NAME) as pulse:

        async def sweep() -> None:
            nonlocal dead_since_s
            try:
                dead_since_s = await forget(housekeeping, dead_since_s, reports, pulse)
            except STORE_AWAY:
                raise
            except StoreError as error:
                await reports.send(SweepReport(NAME, failed=1, example=OWN_WORKERS, why=str(error)))

        await keep_on(sweep, interval_s, pulse)


async def forget(
    housekeeping: Housekeeping,
    dead_since_s: dict[str, float],
    reports: trio.MemorySendChannel[SweepReport],
    pulse: Pulse,
) -> dict[str, float]:
    """Forget those that have been dead for long; return since when the others have been seen dead."""
    now_s = trio.current_time()
    left = {}
    for one in await housekeeping.dead_workers():
        pulse.beat()
        since_s = dead_since_s.get(one, now_s)
        if now_s - since_s < SHOWN_S:
            left[one] = since_s
        elif await housekeeping.forget_worker(one):
            await reports.send(SweepReport(NAME, {"forgotten": 1}))
    return left
