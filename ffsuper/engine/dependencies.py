"""Looks again at executions that wait for others, for the message that one of these has ended may have been lost."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import trio

from ffsuper.engine import timed
from ffsuper.engine.places import Places
from ffsuper.messages import LaneId, SweepReport
from ffsuper.store.outage import STORE_AWAY, Outage
from ffsuper.store.sweeps import Sweeps, resolve_blocked

LOG = logging.getLogger(__name__)


async def run(
    sweeps: Sweeps,
    partitions: Sequence[int],
    lanes: Sequence[LaneId],
    interval_s: float,
    reports: trio.MemorySendChannel[SweepReport],
) -> None:
    """Sweep these lanes, and all that workers have served, until cancelled."""
    outage = Outage(LOG)
    places = Places(sweeps, ["blocked:dependencies"], partitions, lanes)
    async with reports:
        while True:
            try:
                passes = [timed.Pass(index, -math.inf) for index in await sweeps.present(await places.known())]
                async for _ in timed.move_all(sweeps, "dependencies", resolve_blocked, passes, reports):
                    pass
            except STORE_AWAY as error:
                await outage.wait(error)
                continue
            outage.over()
            await trio.sleep(interval_s)
