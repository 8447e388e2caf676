"""Looks again at executions that wait for others, for the message that one of these has ended may have been lost."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import trio

from ffsuper.engine.pace import keep_on
from ffsuper.engine.places import Places
from ffsuper.engine.settling import BATCH, report_failure, settle_all
from ffsuper.messages import ExecutionId, LaneId, SweepReport
from ffsuper.sansio.pulse import Pulse, Pulses
from ffsuper.store.dependencies import Dependencies, Members, Step, Work
from ffsuper.store.housekeeping import BEGIN
from ffsuper.store.looks import Index

NAME = "dependencies"


async def run(
    dependencies: Dependencies,
    partitions: Sequence[int],
    lanes: Sequence[LaneId],
    asked: trio.MemoryReceiveChannel[None],
    interval_s: float,
    reports: trio.MemorySendChannel[SweepReport],
    pulses: Pulses,
) -> None:
    """Sweep these lanes, and all that workers have served, at every interval and when asked, until cancelled."""
    places = Places(dependencies, ["blocked:dependencies"], partitions, lanes)
    async with asked, reports, pulses.open(NAME) as pulse:
        once = partial(sweep, dependencies, places, reports, pulse)
        await keep_on(once, interval_s, pulse, partial(asked_within, asked))


async def asked_within(asked: trio.MemoryReceiveChannel[None], pause_s: float) -> None:
    """Return when a sweep is asked for, and at the latest after so long."""
    with trio.move_on_after(pause_s):
        try:
            await asked.receive()
        except trio.EndOfChannel:
            await trio.sleep_forever()


async def sweep(
    dependencies: Dependencies, places: Places, reports: trio.MemorySendChannel[SweepReport], pulse: Pulse
) -> None:
    """Go through indexes of blocked executions once, some of them at a time."""
    waiting, cursors = await places.present(pulse), dict[Index, str]()
    while waiting or cursors:
        while waiting and len(cursors) < BATCH:
            cursors[waiting.pop()] = BEGIN
        works, more = list[Work](), dict[Index, str]()
        pages = await dependencies.blocked(cursors)
        pulse.beat()
        for index, page in zip(cursors, pages, strict=True):
            if not isinstance(page, Members):
                await report_failure(NAME, index.key, page, reports)
                continue
            works.append(Work(index.key, [Step("in", ExecutionId(one)) for one in page.found]))
            if page.cursor != BEGIN:
                more[index] = page.cursor
        await settle_all(dependencies, works, reports, pulse)
        cursors = more
