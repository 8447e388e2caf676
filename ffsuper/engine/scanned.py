"""What the slow sweeps over sets have in common: each set that exists is gone through once, page by page."""

from __future__ import annotations

import logging

import trio

from ffsuper.engine.places import Places
from ffsuper.errors import StoreError
from ffsuper.messages import SweepReport
from ffsuper.store.housekeeping import BEGIN, Housekeeping, Look
from ffsuper.store.outage import STORE_AWAY, Outage

LOG = logging.getLogger(__name__)

# Pages in a batch: the server answers nobody else while it works one off.
BATCH = 4


async def keep_scanning(
    housekeeping: Housekeeping,
    name: str,
    look: Look,
    places: Places,
    interval_s: float,
    reports: trio.MemorySendChannel[SweepReport],
) -> None:
    """Go through all sets at every interval, until cancelled."""
    outage = Outage(LOG)
    async with reports:
        while True:
            try:
                await scan_all(housekeeping, name, look, places, reports)
            except STORE_AWAY as error:
                await outage.wait(error)
                continue
            outage.over()
            await trio.sleep(interval_s)


async def scan_all(
    housekeeping: Housekeeping, name: str, look: Look, places: Places, reports: trio.MemorySendChannel[SweepReport]
) -> None:
    """Go through all sets once."""
    left = [(index, BEGIN) for index in await housekeeping.present(await places.known())]
    while left:
        batch, left = left[:BATCH], left[BATCH:]
        pages = await housekeeping.scan([look(index, cursor) for index, cursor in batch])
        for (index, _), page in zip(batch, pages, strict=True):
            if isinstance(page, STORE_AWAY):
                raise page
            if isinstance(page, StoreError):
                await reports.send(SweepReport(name, failed=1, example=index.key, why=str(page)))
                continue
            if page.cursor != BEGIN:
                left.append((index, page.cursor))
            await reports.send(SweepReport(name, page.outcomes, page.failed, page.example, page.why))
