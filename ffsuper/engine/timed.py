"""What the sweeps over time-ordered indexes have in common: look at all of them at once, move what is due.

A look is one call to each node of the store, whatever the number of partitions and lanes, and tells the time of the
next entry as well: the sweep is there when it falls due. What is due is moved in pages, the pages of several indexes
in one batch; an index with more is gone on with after the others have had their turn.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from ffsuper.engine.lanes import LaneList
from ffsuper.errors import StoreError
from ffsuper.messages import SweepReport
from ffsuper.sansio.sweep import Marks
from ffsuper.store.looks import Due, Index, indexes
from ffsuper.store.outage import STORE_AWAY, Outage
from ffsuper.store.sweeps import PAGE, Move, Page, Sweeps

LOG = logging.getLogger(__name__)

# Pages in a batch: the server answers nobody else while it works one off.
BATCH = 8


@dataclass(frozen=True, slots=True)
class Sweep:
    """One sweep: which indexes, and how a page of one is moved.

    Attributes:
        name: the indexes'.
        lanes: for indexes of lanes; None for those of whole partitions.
    """

    name: str
    partitions: Sequence[int]
    move: Move
    lanes: LaneList | None = None


async def keep_sweeping(
    sweeps: Sweeps, sweep: Sweep, interval_s: float, reports: trio.MemorySendChannel[SweepReport]
) -> None:
    """Sweep at every interval, and when the next entry falls due, until cancelled."""
    outage = Outage(LOG)
    marks = Marks[Index]()
    wanted = indexes(sweep.name, sweep.partitions)
    async with reports:
        while True:
            try:
                if sweep.lanes is not None:
                    wanted = indexes(sweep.name, sweep.partitions, await sweep.lanes.known())
                pause_s = await look_and_move(sweeps, sweep, wanted, marks, interval_s, reports)
            except STORE_AWAY as error:
                await outage.wait(error)
                continue
            outage.over()
            await trio.sleep(pause_s)


async def look_and_move(
    sweeps: Sweeps,
    sweep: Sweep,
    wanted: Sequence[Index],
    marks: Marks[Index],
    interval_s: float,
    reports: trio.MemorySendChannel[SweepReport],
) -> float:
    """Look once and move all that is due; return the time in seconds until the next look."""
    now_s = trio.current_time()
    bounds = {index: marks.bound_ms(index, now_s) for index in wanted}
    due = await sweeps.due(bounds)
    for index in due.damaged:
        await reports.send(SweepReport(sweep.name, failed=1, example=index.key, why="the key is no sorted set"))
    waiting = [index for index, first_ms in due.first_ms.items() if first_ms <= due.now_ms]
    waiting.sort(key=lambda index: due.first_ms[index])
    passes = [Pass(index, bounds[index]) for index in waiting]
    while passes:
        batch, passes = passes[:BATCH], passes[BATCH:]
        results = await sweeps.move([sweep.move(one.index, one.bound_ms, one.offset) for one in batch])
        for one, result in zip(batch, results, strict=True):
            if isinstance(result, STORE_AWAY):
                raise result
            report = reported(sweep.name, one, result, due)
            going_on = one.advanced(result)
            if going_on is not None:
                passes.append(going_on)
            else:
                failed = isinstance(result, StoreError) or one.failed or result.failed > 0
                marks.passed(one.index, one.bound_ms, due.now_ms, now_s, failed=failed)
            await reports.send(report)
    if waiting:
        return 0.0  # what comes behind that is known only now
    return min([interval_s, *((first_ms - due.now_ms) / 1000 for first_ms in due.first_ms.values())])


@dataclass(frozen=True, slots=True)
class Pass:
    """On the way through one index.

    Attributes:
        offset: how many members were passed by, since they stayed.
        failed: whether one of them failed.
    """

    index: Index
    bound_ms: float
    offset: int = 0
    failed: bool = False

    def advanced(self, page: Page | StoreError) -> Pass | None:
        """Return how to go on after a page; None when the index has been gone through."""
        if isinstance(page, StoreError) or page.seen < PAGE:
            return None
        return Pass(self.index, self.bound_ms, self.offset + page.still_due, self.failed or page.failed > 0)


def reported(sweep: str, one: Pass, page: Page | StoreError, due: Due) -> SweepReport:
    """Return what is told about a page."""
    late_ms = due.now_ms - due.first_ms[one.index]
    if isinstance(page, StoreError):
        return SweepReport(sweep, failed=1, example=one.index.key, why=str(page))
    return SweepReport(sweep, page.outcomes, page.failed, page.example, page.why, late_ms)
