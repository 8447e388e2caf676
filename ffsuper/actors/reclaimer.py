"""Finds executions of this worker's lanes whose holder is gone, so that they are taken over.

The store marks the leases that ran out, and sorts out what this worker can take, so that any number of other entries
hides nothing and costs little. A look tells when the next lease ends as well: the reclaimer is there then.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence

import trio

from ffsuper.channels import Candidates
from ffsuper.errors import StoreError
from ffsuper.messages import Candidate, ExecutionId
from ffsuper.sansio.pulse import Pulses
from ffsuper.sansio.sweep import Marks
from ffsuper.store.looks import Index, indexes
from ffsuper.store.outage import STORE_AWAY, Outage
from ffsuper.store.takeovers import PAGE, Takeovers, Taker

LOG = logging.getLogger(__name__)

# Few, so that what is offered is claimed while it is fresh.
OFFER = 8
# Indexes looked at in one batch: the server answers nobody else while it works one off.
BATCH = 8
# What is still there after so many offers is left alone for a while: something keeps it from being claimed.
OFFERS = 3
REST_S = 1.0
REMEMBERED = 10_000
# So long at most after a lease's end, workers look for it, each at its own moment.
SPREAD_S = 0.05


async def run(
    takeovers: Takeovers,
    taker: Taker,
    partitions: Sequence[int],
    interval_s: float,
    candidates: trio.MemorySendChannel[Candidates],
    now_s: Callable[[], float],
    pulses: Pulses,
) -> None:
    """Look for leases that ran out and send their executions to the claimer. Returns when ``candidates`` closes.

    Args:
        now_s: the local clock that candidates are judged by.
    """
    outage = Outage(LOG)
    marks, offers = Marks[Index](), Offers()
    wanted = indexes("lease_expiry", partitions)
    async with candidates, pulses.open("reclaimer") as pulse:
        while True:
            pulse.beat()
            asked_at_s = now_s()
            try:
                found, pause_s = await look(takeovers, taker, wanted, marks, offers, interval_s)
                if found:
                    with pulse.resting:
                        await candidates.send(Candidates(tuple(found), asked_at_s))
            except STORE_AWAY as error:
                await outage.wait(error)
                continue
            except trio.BrokenResourceError:
                return
            outage.over()
            if not found:
                await trio.sleep(pause_s)


async def look(
    takeovers: Takeovers,
    taker: Taker,
    wanted: Sequence[Index],
    marks: Marks[Index],
    offers: Offers,
    interval_s: float,
) -> tuple[list[Candidate], float]:
    """Return what can be taken over, and without anything the time in seconds until the next look."""
    now_s = trio.current_time()
    bounds = {index: marks.bound_ms(index, now_s) for index in wanted}
    due = await takeovers.due(bounds)
    waiting = sorted(due.first, key=lambda index: -due.first[index].late_ms)
    places = [(index, bounds[index], 0) for index in waiting if due.first[index].late_ms >= 0]
    resting = set[Index]()
    found: list[Candidate] = []
    while places and not found:
        batch, places = places[:BATCH], places[BATCH:]
        for (index, bound_ms, offset), page in zip(batch, await takeovers.expired(batch, taker), strict=True):
            if isinstance(page, STORE_AWAY):
                raise page
            if isinstance(page, StoreError):
                LOG.warning("damaged key skipped", extra={"key": index.key, "error": page})
                marks.passed(index, bound_ms, due.first[index].now_ms, now_s, failed=True)
                continue
            fresh = [one for one in page.candidates if offers.admits(one.execution_id, now_s)]
            found += fresh
            if page.failed or len(fresh) < len(page.candidates):
                resting.add(index)
            if page.seen == PAGE:
                places.append((index, bound_ms, offset + page.still_due))
            elif not fresh:
                marks.passed(index, bound_ms, due.first[index].now_ms, now_s, failed=index in resting)
    # After something was due, what comes behind that is known only at the next look.
    pause_s = min([interval_s, *(max(0.0, -first.late_ms) / 1000 for first in due.first.values())])
    # Other workers are offered the same ones: each begins with others.
    chosen = random.sample(found, min(len(found), OFFER))
    return offers.made(chosen, now_s), pause_s + random.random() * SPREAD_S


class Offers:
    """What was offered to the claimer of late."""

    def __init__(self) -> None:
        self._made: dict[ExecutionId, tuple[int, float]] = {}

    def admits(self, execution_id: ExecutionId, now_s: float) -> bool:
        """Tell whether it is to be offered, again perhaps."""
        count, last_s = self._made.get(execution_id, (0, 0.0))
        return count < OFFERS or last_s + REST_S <= now_s

    def made(self, offered: list[Candidate], now_s: float) -> list[Candidate]:
        """Note that these are offered now; return them."""
        if len(self._made) > REMEMBERED:
            self._made.clear()
        for one in offered:
            count, last_s = self._made.get(one.execution_id, (0, 0.0))
            rested = last_s + REST_S <= now_s
            self._made[one.execution_id] = (1 if rested else count + 1, now_s)
        return offered
