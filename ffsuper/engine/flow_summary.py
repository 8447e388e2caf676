"""Keeps the summaries of flows.

All members are counted, a page in each call; those of a large flow not at the same moment, then. A flow leaves the
index only when all have ended.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

import trio

from ffsuper.engine.places import Places
from ffsuper.engine.settling import BATCH, report_failure
from ffsuper.errors import StoreError
from ffsuper.messages import SweepReport
from ffsuper.store.dependencies import Counted, Dependencies, Members
from ffsuper.store.housekeeping import BEGIN
from ffsuper.store.keys import FlowKeys
from ffsuper.store.looks import Index
from ffsuper.store.outage import STORE_AWAY, Outage

LOG = logging.getLogger(__name__)

NAME = "flow_summary"


async def run(
    dependencies: Dependencies,
    partitions: Sequence[int],
    interval_s: float,
    reports: trio.MemorySendChannel[SweepReport],
) -> None:
    """Summarize all flows at every interval, until cancelled."""
    outage = Outage(LOG)
    places = Places(dependencies, ["flow_index"], partitions)
    async with reports:
        while True:
            try:
                for index in await dependencies.present(await places.known()):
                    await sweep(dependencies, index, reports)
            except STORE_AWAY as error:
                await outage.wait(error)
                continue
            outage.over()
            await trio.sleep(interval_s)


async def sweep(dependencies: Dependencies, index: Index, reports: trio.MemorySendChannel[SweepReport]) -> None:
    """Summarize the flows of one partition."""
    page = await dependencies.flows(index, BEGIN)
    while isinstance(page, Members):
        await summarize(dependencies, [FlowKeys(index.tag, flow_id) for flow_id in page.found], reports)
        if page.cursor == BEGIN:
            return
        page = await dependencies.flows(index, page.cursor)
    await report_failure(NAME, index.key, page, reports)


async def summarize(
    dependencies: Dependencies, flows: Sequence[FlowKeys], reports: trio.MemorySendChannel[SweepReport]
) -> None:
    """Count the members of some flows, and write what that comes to."""
    waiting, cursors, counts = list(flows), dict[FlowKeys, str](), dict[FlowKeys, Counter[str]]()
    while waiting or cursors:
        while waiting and len(cursors) < BATCH:
            cursors[waiting.pop()] = BEGIN
        more, counted = dict[FlowKeys, str](), dict[FlowKeys, Counter[str]]()
        for flow, page in zip(cursors, await dependencies.count(cursors), strict=True):
            if not isinstance(page, Counted):
                await report_failure(NAME, flow.core, page, reports)
                continue
            counts.setdefault(flow, Counter()).update(page.counts)
            if page.cursor != BEGIN:
                more[flow] = page.cursor
            elif page.total:
                counted[flow] = counts[flow]
        cursors = more
        for flow, result in zip(counted, await dependencies.summarize(counted), strict=True):
            if isinstance(result, StoreError):
                await report_failure(NAME, flow.core, result, reports)
            else:
                await reports.send(SweepReport(NAME, {result: 1}))
