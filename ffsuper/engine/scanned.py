"""What the slow sweeps over sets have in common: each set that exists is gone through once, page by page."""

from __future__ import annotations

from functools import partial

import trio

from ffsuper.engine.pace import keep_on
from ffsuper.engine.places import Places
from ffsuper.errors import StoreError
from ffsuper.messages import SweepReport
from ffsuper.sansio.pulse import Pulse, Pulses
from ffsuper.store.housekeeping import BEGIN, Housekeeping, Look
from ffsuper.store.outage import STORE_AWAY

# Pages in a batch: the server answers nobody else while it works one off.
BATCH = 4


async def keep_scanning(
    housekeeping: Housekeeping,
    name: str,
    look: Look,
    places: Places,
    interval_s: float,
    reports: trio.MemorySendChannel[SweepReport],
    pulses: Pulses,
) -> None:
    """Go through all sets at every interval, until cancelled."""
    async with reports, pulses.open(name) as pulse:
        await keep_on(partial(scan_all, housekeeping, look, places, reports, pulse), interval_s, pulse)


async def scan_all(
    housekeeping: Housekeeping,
    look: Look,
    places: Places,
    reports: trio.MemorySendChannel[SweepReport],
    pulse: Pulse,
) -> None:
    """Go through all sets once."""
    left = [(index, BEGIN) for index in await places.present(pulse)]
    while left:
        batch, left = left[:BATCH], left[BATCH:]
        pages = await housekeeping.scan([look(index, cursor) for index, cursor in batch])
        pulse.beat()
        for (index, _), page in zip(batch, pages, strict=True):
            if isinstance(page, STORE_AWAY):
                raise page
            if isinstance(page, StoreError):
                await reports.send(SweepReport(pulse.name, failed=1, example=index.key, why=str(page)))
                continue
            if page.cursor != BEGIN:
                left.append((index, page.cursor))
            await reports.send(SweepReport(pulse.name, page.outcomes, page.failed, page.example, page.why))
