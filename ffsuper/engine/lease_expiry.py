"""Marks leases whose time has run out, so that their executions can be taken over."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import trio

from ffsuper.store.outage import STORE_AWAY, Outage
from ffsuper.store.sweeps import Sweeps

LOG = logging.getLogger(__name__)

PAGE = 100


async def run(sweeps: Sweeps, partitions: Sequence[int], interval_s: float) -> None:
    """Sweep all partitions at every interval, until cancelled."""
    outage = Outage(LOG)
    while True:
        try:
            await sweep(sweeps, partitions)
        except STORE_AWAY as error:
            await outage.wait(error)
            continue
        outage.over()
        await trio.sleep(interval_s)


async def sweep(sweeps: Sweeps, partitions: Sequence[int]) -> None:
    """Mark all that is due. Marked leases stay in the index until they are taken over, so every page is followed."""
    now_ms = await sweeps.now_ms()
    offset = 0
    while due := await sweeps.due_leases(partitions, now_ms, offset, PAGE):
        for execution, result in zip(due, await sweeps.mark_expired(due), strict=True):
            if isinstance(result, STORE_AWAY):
                raise result
            if not isinstance(result, str):
                LOG.warning("cannot mark as expired", extra={"execution": execution, "error": result})
            elif result == "marked_expired":
                LOG.info("lease expired", extra={"execution": execution})
        offset += PAGE
