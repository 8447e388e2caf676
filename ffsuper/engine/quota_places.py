"""Gives the places back that executions had in quotas and do not need any more, also where nobody waits for one.

Who waits has them given back at once, by the scheduler and the unblock sweep; without this one, the sets of quotas
that limit only a rate would grow for ever.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import trio

from ffsuper.engine.places import Places
from ffsuper.messages import SweepReport
from ffsuper.store.blocked import Blocked
from ffsuper.store.outage import STORE_AWAY, Outage

LOG = logging.getLogger(__name__)

NAME = "quota_places"


async def run(
    blocked: Blocked,
    partitions: Sequence[int],
    interval_s: float,
    reports: trio.MemorySendChannel[SweepReport],
) -> None:
    """Sweep until cancelled."""
    outage = Outage(LOG)
    places = Places(blocked, ["quota_policies"], partitions, family="q")
    async with reports:
        while True:
            try:
                for index in await blocked.present(await places.known()):
                    given_back = await blocked.give_back(await blocked.quotas(index))
                    await reports.send(SweepReport(NAME, {"given_back": given_back}))
            except STORE_AWAY as error:
                await outage.wait(error)
                continue
            outage.over()
            await trio.sleep(interval_s)
