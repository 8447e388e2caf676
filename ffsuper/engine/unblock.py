"""Lets executions go on that were blocked for a capability, a budget or a quota, once that is there.

What the blocked executions wait for comes first: of ten thousand, most wait for the same few things. Each of these is
looked up once, and then all that wait for something that is there are let go. Capabilities count when one worker that
lives has all of them. A quota lets only so many go as it has room for; nothing is reserved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

import trio

from ffsuper.engine.pace import keep_on
from ffsuper.engine.places import Places
from ffsuper.errors import StoreError
from ffsuper.messages import LaneId, SweepReport
from ffsuper.sansio import unblock
from ffsuper.sansio.pulse import Pulse, Pulses
from ffsuper.store.blocked import PAGE, Blocked
from ffsuper.store.looks import Index
from ffsuper.store.outage import STORE_AWAY

NAME = "unblock"
# Of the indexes; what becomes of each is reported under its own.
NAMES = ("blocked:budget", "blocked:quota", "blocked:route")
# Pages in a batch: the server answers nobody else while it works one off.
BATCH = 4


async def run(
    blocked: Blocked,
    partitions: Sequence[int],
    lanes: Sequence[LaneId],
    interval_s: float,
    reports: trio.MemorySendChannel[SweepReport],
    pulses: Pulses,
) -> None:
    """Sweep these lanes, and all that workers have served, until cancelled."""
    places = Places(blocked, NAMES, partitions, lanes)
    async with reports, pulses.open(NAME) as pulse:
        await keep_on(partial(sweep_all, blocked, places, reports, pulse), interval_s, pulse)


async def sweep_all(
    blocked: Blocked, places: Places, reports: trio.MemorySendChannel[SweepReport], pulse: Pulse
) -> None:
    """Let go what can go on."""
    present = await places.present(pulse)
    for name in NAMES:
        await sweep(blocked, [index for index in present if index.name == name], reports, pulse)


async def sweep(
    blocked: Blocked, present: Sequence[Index], reports: trio.MemorySendChannel[SweepReport], pulse: Pulse
) -> None:
    """Let go what can go on of the indexes for one reason."""
    if not present:
        return
    name = present[0].name
    waiting = await causes(blocked, present, reports, pulse)
    if waiting:
        room = await there(blocked, name, waiting, pulse)
        pulse.beat()
        if room:
            await release(blocked, present, room, reports, pulse)


async def causes(
    blocked: Blocked, present: Sequence[Index], reports: trio.MemorySendChannel[SweepReport], pulse: Pulse
) -> Counter[str]:
    """Return what the executions of all indexes wait for, and how many for each."""
    waiting = Counter[str]()
    places = [(index, 0) for index in present]
    while places:
        batch, places = places[:BATCH], places[BATCH:]
        pages = await blocked.causes(batch)
        pulse.beat()
        for (index, offset), page in zip(batch, pages, strict=True):
            if isinstance(page, STORE_AWAY):
                raise page
            if isinstance(page, StoreError):
                await reports.send(SweepReport(index.name, failed=1, example=index.key, why=str(page)))
                continue
            waiting.update(page.counts)
            if page.seen == PAGE:
                places.append((index, offset + PAGE))
    return waiting


async def there(blocked: Blocked, name: str, waiting: Mapping[str, int], pulse: Pulse) -> dict[str, int]:
    """Return which of the causes are there, and for how many executions at most."""
    if name == "blocked:route":
        return unblock.capable(waiting, await blocked.live_capabilities(pulse.beat))
    if name == "blocked:budget":
        wanted = frozenset[str]().union(*map(unblock.budget_ids, waiting))
        return unblock.within_budget(waiting, await blocked.used_up(wanted))
    return unblock.within_quota(waiting, await blocked.quota_room(waiting, pulse.beat))


async def release(
    blocked: Blocked,
    present: Sequence[Index],
    room: dict[str, int],
    reports: trio.MemorySendChannel[SweepReport],
    pulse: Pulse,
) -> None:
    """Let executions go, page by page; what was let go has left the index when the next page is read."""
    places = [(index, 0) for index in present]
    while places and any(room.values()):
        (index, offset), places = places[0], places[1:]
        (page,) = await blocked.release([(index, offset, room)])
        pulse.beat()
        if isinstance(page, STORE_AWAY):
            raise page
        if isinstance(page, StoreError):
            await reports.send(SweepReport(index.name, failed=1, example=index.key, why=str(page)))
            continue
        room = {cause: count - page.used.get(cause, 0) for cause, count in room.items()}
        if page.seen == PAGE:
            places.insert(0, (index, offset + page.seen - page.released))
        report = SweepReport(index.name, {"unblocked": page.released}, page.failed, page.example, page.why)
        await reports.send(report)
