"""Keeps the summaries of flows.

All members are counted, a page in each call; those of a large flow not at the same moment, then. A flow leaves the
index only when all have ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial

import trio

from ffsuper.engine.pace import keep_on
from ffsuper.engine.places import Places
from ffsuper.engine.settling import BATCH, report_failure
from ffsuper.errors import StoreError
from ffsuper.messages import SweepReport
from ffsuper.sansio.pulse import Pulse, Pulses
from ffsuper.store.dependencies import Counted, Dependencies, Members
from ffsuper.store.housekeeping import BEGIN
from ffsuper.store.keys import FlowKeys
from ffsuper.store.looks import Index

NAME = "flow_summary"


async def run(
    dependencies: Dependencies,
    partitions: Sequence[int],
    interval_s: float,
    reports: trio.MemorySendChannel[SweepReport],
    pulses: Pulses,
) -> None:
    """Summarize all flows at every interval, until cancelled."""
    places = Places(dependencies, ["flow_index"], partitions)
    async with reports, pulses.open(NAME) as pulse:
        await keep_on(partial(sweep, dependencies, places, reports, pulse), interval_s, pulse)


async def sweep(
    dependencies: Dependencies, places: Places, reports: trio.MemorySendChannel[SweepReport], pulse: Pulse
) -> None:
    """Summarize all flows once."""
    for index in await places.present(pulse):
        await sweep_partition(dependencies, index, reports, pulse)


async def sweep_partition(
    dependencies: Dependencies, index: Index, reports: trio.MemorySendChannel[SweepReport], pulse: Pulse
) -> None:
    """Summarize the flows of one partition."""
    page = await dependencies.flows(index, BEGIN)
    pulse.beat()
    while isinstance(page, Members):
        await summarize(dependencies, [FlowKeys(index.tag, flow_id) for flow_id in page.found], reports, pulse)
        if page.cursor == BEGIN:
            return
        page = await dependencies.flows(index, page.cursor)
        pulse.beat()
    await report_failure(NAME, index.key, page, reports)


async def summarize(
    dependencies: Dependencies,
    flows: Sequence[FlowKeys],
    reports: trio.MemorySendChannel[SweepReport],
    pulse: Pulse,
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
        results = await dependencies.summarize(counted)
        pulse.beat()
        for flow, result in zip(counted, results, strict=True):
            if isinstance(result, StoreError):
                await report_failure(NAME, flow.core, result, reports)
            else:
                await reports.send(SweepReport(NAME, {result: 1}))
