"""Finds executions of this worker's lanes whose holder is gone, so that they are taken over."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

import trio

from ffsuper.channels import Candidates
from ffsuper.messages import Candidate, LaneId
from ffsuper.store.outage import STORE_AWAY, Outage
from ffsuper.store.scans import Scans
from ffsuper.store.sweeps import Sweeps

LOG = logging.getLogger(__name__)

PAGE = 100


async def run(
    scans: Scans,
    sweeps: Sweeps,
    lanes: Collection[LaneId],
    partitions: Sequence[int],
    wanted: Callable[[Candidate], bool],
    interval_s: float,
    candidates: trio.MemorySendChannel[Candidates],
    now_s: Callable[[], float],
) -> None:
    """Mark leases that ran out and send their executions to the claimer. Returns when ``candidates`` closes.

    Marking here as well as in the engine keeps the promise of a second: nobody waits for two intervals. Pages go on
    behind entries that cannot be taken over by this worker, until there are no more.
    """
    outage = Outage(LOG)
    offset = 0
    async with candidates:
        while True:
            try:
                now_ms = await sweeps.now_ms()
                due = await sweeps.due_leases(partitions, now_ms, offset, PAGE)
                if due:
                    await sweeps.mark_expired(due)
                    read_at_s = now_s()
                    expired = await scans.expired(partitions, now_ms, offset, PAGE)
                    found = tuple(one for one in expired if one.lane in lanes and wanted(one))
                    if found:
                        await candidates.send(Candidates(found, read_at_s))
            except STORE_AWAY as error:
                await outage.wait(error)
                continue
            except trio.BrokenResourceError:
                return
            outage.over()
            offset = offset + PAGE if due and not found else 0
            if not offset:
                await trio.sleep(interval_s)
