"""Deletes executions that have ended and were kept for as long as their policies say.

An execution's age is known by its place in the index, its retention only by its policy. So each is looked at when it
is new, which tells what retentions there are, and again when it is as old as each of these: once for every
retention, however many executions there are and however long they are kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from ffsuper.engine.pace import keep_on
from ffsuper.engine.places import Places
from ffsuper.errors import StoreError
from ffsuper.messages import LaneId, SweepReport
from ffsuper.sansio.pulse import Pulse, Pulses
from ffsuper.sansio.retention import Ages
from ffsuper.sansio.sweep import Marks
from ffsuper.store.housekeeping import Housekeeping
from ffsuper.store.looks import Index
from ffsuper.store.outage import STORE_AWAY
from ffsuper.store.sweeps import PAGE, Page

NAME = "retention"
# Pages in a batch: the server answers nobody else while it works one off.
BATCH = 2
# What could not be deleted, since its flow waits for it, is tried again after so long ...
FIRST_RETRY_S = 60.0
# ... and less and less often; everything is looked at again at this pace.
WHOLE_PASS_S = 3_600.0


async def run(
    housekeeping: Housekeeping,
    partitions: Sequence[int],
    lanes: Sequence[LaneId],
    interval_s: float,
    reports: trio.MemorySendChannel[SweepReport],
    pulses: Pulses,
) -> None:
    """Sweep these lanes, and all that workers have served, until cancelled."""
    places = Places(housekeeping, ["terminal"], partitions, lanes)
    ages = Ages[Index]()
    marks = Marks[tuple[Index, int]](FIRST_RETRY_S, WHOLE_PASS_S)
    async with reports, pulses.open(NAME) as pulse:

        async def sweep() -> None:
            present = await places.present(pulse)
            for age_ms in ages.of(present):
                await trim(housekeeping, ages.having(age_ms, present), age_ms, ages, marks, reports, pulse)

        await keep_on(sweep, interval_s, pulse)


async def trim(
    housekeeping: Housekeeping,
    present: Sequence[Index],
    age_ms: int,
    ages: Ages[Index],
    marks: Marks[tuple[Index, int]],
    reports: trio.MemorySendChannel[SweepReport],
    pulse: Pulse,
) -> None:
    """Look at all executions that have come to an age since the last time, and delete what is to be deleted."""
    now_s = trio.current_time()
    bounds = {index: marks.bound_ms((index, age_ms), now_s) for index in present}
    due = await housekeeping.due(bounds)
    pulse.beat()
    left = [(index, bounds[index], 0) for index, first in due.first.items() if first.late_ms >= age_ms]
    held_up = set[Index]()
    while left:
        batch, left = left[:BATCH], left[BATCH:]
        pages = await housekeeping.trim(batch, age_ms)
        pulse.beat()
        for (index, bound_ms, offset), page in zip(batch, pages, strict=True):
            if isinstance(page, STORE_AWAY):
                raise page
            until_ms = due.first[index].now_ms - age_ms
            if isinstance(page, StoreError):
                marks.passed((index, age_ms), bound_ms, until_ms, now_s, failed=True)
                await reports.send(SweepReport(NAME, failed=1, example=index.key, why=str(page)))
                continue
            ages.learn(index, page.outcomes)
            if page.failed or page.outcomes.get("awaited"):
                held_up.add(index)
            if page.outcomes.get("partly"):
                left.append((index, bound_ms, offset))
            elif page.seen == PAGE:
                left.append((index, bound_ms, offset + page.still_due))
            else:
                marks.passed((index, age_ms), bound_ms, until_ms, now_s, failed=index in held_up)
            await reports.send(reported(page))


def reported(page: Page) -> SweepReport:
    """Return what is told about a page; what is merely kept is nothing to tell."""
    outcomes = {kind: count for kind, count in page.outcomes.items() if not kind.startswith("kept:")}
    return SweepReport(NAME, outcomes, page.failed, page.example, page.why)
