"""Looks again at executions that wait for others, for the message that one of these has ended may have been lost."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import trio

from ffsuper.engine.places import Places
from ffsuper.engine.settling import BATCH, report_failure, settle_all
from ffsuper.messages import ExecutionId, LaneId, SweepReport
from ffsuper.store.dependencies import Dependencies, Members, Step, Work
from ffsuper.store.housekeeping import BEGIN
from ffsuper.store.looks import Index
from ffsuper.store.outage import STORE_AWAY, Outage

LOG = logging.getLogger(__name__)

NAME = "dependencies"


async def run(
    dependencies: Dependencies,
    partitions: Sequence[int],
    lanes: Sequence[LaneId],
    asked: trio.MemoryReceiveChannel[None],
    interval_s: float,
    reports: trio.MemorySendChannel[SweepReport],
) -> None:
    """Sweep these lanes, and all that workers have served, at every interval and when asked, until cancelled."""
    outage = Outage(LOG)
    places = Places(dependencies, ["blocked:dependencies"], partitions, lanes)
    async with asked, reports:
        while True:
            try:
                await sweep(dependencies, await dependencies.present(await places.known()), reports)
            except STORE_AWAY as error:
                await outage.wait(error)
                continue
            outage.over()
            with trio.move_on_after(interval_s):
                try:
                    await asked.receive()
                except trio.EndOfChannel:
                    await trio.sleep_forever()


async def sweep(
    dependencies: Dependencies, wanted: Sequence[Index], reports: trio.MemorySendChannel[SweepReport]
) -> None:
    """Go through indexes of blocked executions once, some of them at a time."""
    waiting, cursors = list(wanted), dict[Index, str]()
    while waiting or cursors:
        while waiting and len(cursors) < BATCH:
            cursors[waiting.pop()] = BEGIN
        works, more = list[Work](), dict[Index, str]()
        for index, page in zip(cursors, await dependencies.blocked(cursors), strict=True):
            if not isinstance(page, Members):
                await report_failure(NAME, index.key, page, reports)
                continue
            works.append(Work(index.key, [Step("in", ExecutionId(one)) for one in page.found]))
            if page.cursor != BEGIN:
                more[index] = page.cursor
        await settle_all(dependencies, NAME, works, reports)
        cursors = more
