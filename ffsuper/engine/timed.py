"""What the sweeps over time-ordered indexes have in common: look at all of them at once, move what is due.

A look is one call to each node of the store, whatever the number of partitions and lanes, and tells the time of the
next entry as well: the sweep is there when it falls due. What is due is moved in pages, the pages of several indexes
in one batch; an index with more is gone on with after the others have had their turn.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import partial

import trio

from ffsuper.engine.pace import keep_on
from ffsuper.engine.places import Places
from ffsuper.errors import StoreError
from ffsuper.messages import SweepReport
from ffsuper.sansio.pulse import Pulse, Pulses
from ffsuper.sansio.sweep import Marks
from ffsuper.store.looks import Index
from ffsuper.store.outage import STORE_AWAY
from ffsuper.store.replies import ElsewhereError
from ffsuper.store.sweeps import PAGE, Move, Page, Sweeps

# Pages in a batch: the server answers nobody else while it works one off.
BATCH = 8
# After something was due there is often more very soon, which only the next look tells. The longer the last one took,
# the longer this waits: the server is for others as well, and more entries in a page make each cheaper.
AGAIN_S = 0.02
IDLE_SHARE = 2.0


@dataclass(frozen=True, slots=True)
class Sweep:
    """One sweep: its name, which indexes, and how a page of one is moved."""

    name: str
    places: Places
    move: Move


async def keep_sweeping(
    sweeps: Sweeps,
    sweep: Sweep,
    interval_s: float,
    reports: trio.MemorySendChannel[SweepReport],
    pulses: Pulses,
) -> None:
    """Sweep at every interval, and when the next entry falls due, until cancelled."""
    marks = Marks[Index]()
    async with reports, pulses.open(sweep.name) as pulse:
        once = partial(look_and_move, sweeps, sweep, marks, interval_s, reports, pulse)
        await keep_on(once, interval_s, pulse)


async def look_and_move(
    sweeps: Sweeps,
    sweep: Sweep,
    marks: Marks[Index],
    interval_s: float,
    reports: trio.MemorySendChannel[SweepReport],
    pulse: Pulse,
) -> float:
    """Look once and move all that is due; return the time in seconds until the next look."""
    now_s = trio.current_time()
    bounds = {index: marks.bound_ms(index, now_s) for index in await sweep.places.known()}
    pulse.beat()
    due = await sweeps.due(bounds)
    pulse.beat()
    for index in due.damaged:
        await reports.send(SweepReport(sweep.name, failed=1, example=index.key, why="the key is no sorted set"))
    passes = [Pass(index, bounds[index], first.late_ms) for index, first in due.first.items() if first.late_ms >= 0]
    passes.sort(key=lambda one: -one.late_ms)
    async for one in move_all(sweeps, sweep.move, list(passes), reports, pulse):
        marks.passed(one.index, one.bound_ms, due.first[one.index].now_ms, now_s, failed=one.failed)
    if passes:
        return max(AGAIN_S, IDLE_SHARE * (trio.current_time() - now_s))
    return min([interval_s, *(-first.late_ms / 1000 for first in due.first.values())])


async def move_all(
    sweeps: Sweeps,
    move: Move,
    passes: list[Pass],
    reports: trio.MemorySendChannel[SweepReport],
    pulse: Pulse,
) -> AsyncIterator[Pass]:
    """Move all that there is on the way through some indexes, and yield each pass that has come to its end."""
    while passes:
        batch, passes = passes[:BATCH], passes[BATCH:]
        results = await sweeps.move([move(one.index, one.bound_ms, one.offset) for one in batch])
        pulse.beat()
        for one, result in zip(batch, results, strict=True):
            # What is on its way to another server of a cluster keeps nobody waiting.
            if isinstance(result, STORE_AWAY) and not isinstance(result, ElsewhereError):
                raise result
            await reports.send(reported(pulse.name, one, result))
            going_on = one.advanced(result)
            if going_on.is_over:
                yield going_on
            else:
                passes.append(going_on)


@dataclass(frozen=True, slots=True)
class Pass:
    """On the way through one index.

    Attributes:
        late_ms: for how long its first entry had been due at the beginning; infinite when that is not known.
        offset: how many members were passed by, since they stayed.
        failed: whether one of them failed.
        is_over: whether the index has been gone through.
    """

    index: Index
    bound_ms: float
    late_ms: float = 0.0
    offset: int = 0
    failed: bool = False
    is_over: bool = False

    def advanced(self, page: Page | StoreError) -> Pass:
        """Return how things stand after a page."""
        if isinstance(page, StoreError):
            return replace(self, failed=True, is_over=True)
        failed = self.failed or page.failed > 0
        return replace(self, offset=self.offset + page.still_due, failed=failed, is_over=page.seen < PAGE)


def reported(sweep: str, one: Pass, page: Page | StoreError) -> SweepReport:
    """Return what is told about a page."""
    if isinstance(page, StoreError):
        return SweepReport(sweep, failed=1, example=one.index.key, why=str(page))
    late_ms = one.late_ms if math.isfinite(one.late_ms) else 0.0
    return SweepReport(sweep, page.outcomes, page.failed, page.example, page.why, late_ms)
