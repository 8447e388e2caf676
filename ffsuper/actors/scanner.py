"""Finds executions that this worker could claim."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

import trio

from ffsuper.channels import Candidates
from ffsuper.messages import Candidate, ExecutionId
from ffsuper.sansio.pulse import Pulses
from ffsuper.sansio.scan import Place, ScanOrder
from ffsuper.store.outage import STORE_AWAY, Outage
from ffsuper.store.scans import Page, Scans

LOG = logging.getLogger(__name__)

# Some claimers' worth of candidates, few enough to be claimed while they are fresh.
PAGE = 32
# What was sent to a claimer is not sent again for this long: it is being claimed, or was refused.
FORGET_S = 0.05
# While all that is eligible is being claimed: about a round trip.
RECHECK_S = 0.002


async def run(
    scans: Scans,
    order: ScanOrder,
    wanted: Callable[[Candidate], bool],
    poll_interval_s: float,
    candidates: trio.MemorySendChannel[Candidates],
    now_s: Callable[[], float],
    pulses: Pulses,
) -> None:
    """Look at window after window and send what is claimable; pause when a whole round found nothing.

    Sending waits until the claimer has room, so a busy worker reads nothing. Returns when ``candidates`` closes.

    Args:
        wanted: tells whether an execution's kind is one for this worker.
    """
    outage = Outage(LOG)
    sent: dict[ExecutionId, float] = {}
    async with candidates, pulses.open("scanner") as pulse:
        while True:
            pulse.beat()
            places = order.next_places()
            read_at_s = now_s()
            sent = {one: sent_at_s for one, sent_at_s in sent.items() if read_at_s - sent_at_s < FORGET_S}
            try:
                pages = await scans.eligible(places, PAGE, sent)
            except STORE_AWAY as error:
                await outage.wait(error)
                continue
            outage.over()
            order.seen(tally(places, pages, wanted), PAGE)
            found = tuple(one for page in pages for one in page.candidates if wanted(one))
            if found:
                try:
                    with pulse.resting:
                        await candidates.send(Candidates(found, read_at_s))
                except trio.BrokenResourceError:
                    return
                sent.update(dict.fromkeys((one.execution_id for one in found), now_s()))
            elif any(page.skipped for page in pages):
                await trio.sleep(RECHECK_S)
            elif order.round_was_fruitless:
                with pulse.resting:
                    await trio.sleep(poll_interval_s * (0.75 + 0.5 * random.random()))


def tally(
    places: list[Place], pages: list[Page], wanted: Callable[[Candidate], bool]
) -> dict[Place, tuple[int, int]]:
    """Return, for each place, how many members it showed and how many of them are work for us."""
    return {
        place: (page.members, page.skipped + sum(map(wanted, page.candidates)))
        for place, page in zip(places, pages, strict=True)
    }
