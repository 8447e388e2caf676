"""Gives the places back that executions had in quotas and do not need any more, also where nobody waits for one.

Who waits has them given back at once, by the scheduler and the unblock sweep; without this one, the sets of quotas
that limit only a rate would grow for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import trio

from ffsuper.engine.pace import keep_on
from ffsuper.engine.places import Places
from ffsuper.messages import SweepReport
from ffsuper.sansio.pulse import Pulse, Pulses
from ffsuper.store.blocked import Blocked

NAME = "quota_places"


async def run(
    blocked: Blocked,
    partitions: Sequence[int],
    interval_s: float,
    reports: trio.MemorySendChannel[SweepReport],
    pulses: Pulses,
) -> None:
    """Sweep until cancelled."""
    places = Places(blocked, ["quota_policies"], partitions, family="q")
    async with reports, pulses.open(NAME) as pulse:
        await keep_on(partial(sweep, blocked, places, reports, pulse), interval_s, pulse)


async def sweep(blocked: Blocked, places: Places, reports: trio.MemorySendChannel[SweepReport], pulse: Pulse) -> None:
    """Go through all quotas once."""
    for index in await places.present(pulse):
        quotas = await blocked.quotas(index)
        pulse.beat()
        given_back = await blocked.give_back(quotas, pulse.beat)
        await reports.send(SweepReport(NAME, {"given_back": given_back}))
