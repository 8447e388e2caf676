"""Promotes delayed executions whose time has come."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import trio

from ffsuper.messages import LaneId
from ffsuper.store.outage import STORE_AWAY, Outage
from ffsuper.store.sweeps import Sweeps

LOG = logging.getLogger(__name__)

PAGE = 100


async def run(sweeps: Sweeps, lanes: Sequence[LaneId], partitions: Sequence[int], interval_s: float) -> None:
    """Sweep all lanes and partitions at every interval, until cancelled."""
    outage = Outage(LOG)
    while True:
        try:
            for lane in lanes:
                await sweep_lane(sweeps, lane, partitions)
        except STORE_AWAY as error:
            await outage.wait(error)
            continue
        outage.over()
        await trio.sleep(interval_s)


async def sweep_lane(sweeps: Sweeps, lane: LaneId, partitions: Sequence[int]) -> None:
    """Promote all that is due; entries that do not move are paged past, so that they hide nothing."""
    now_ms = await sweeps.now_ms()
    offset = 0
    while due := await sweeps.due_delayed(lane, partitions, now_ms, offset, PAGE):
        results = await sweeps.promote_delayed(lane, due, now_ms)
        moved = sum(isinstance(result, str) and result != "not_yet_due" for result in results)
        for execution, result in zip(due, results, strict=True):
            if isinstance(result, STORE_AWAY):
                raise result
            if not isinstance(result, str):
                LOG.warning("cannot promote", extra={"execution": execution, "error": result})
        if not moved:
            offset += PAGE
