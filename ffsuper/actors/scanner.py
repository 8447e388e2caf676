"""Finds what this worker could claim, and waits to be woken where there is nothing.

    seeking: look at place after place, and offer what is there --a whole round found nothing--> listening
    listening: look where the store says that there is something --the claimer is busy--> seeking

While there is more to do than slots to do it in, announcements would only cost; while there is nothing to do, looks
would. Without announcements, as from libraries that are not ours, listening is a pause.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

import trio

from ffsuper.channels import Candidates, gathered
from ffsuper.messages import ExecutionId, LaneId
from ffsuper.sansio.pulse import Pulse, Pulses
from ffsuper.sansio.scan import Place, ScanOrder
from ffsuper.store.finds import Find, Finds
from ffsuper.store.outage import STORE_AWAY, Outage
from ffsuper.store.scans import PAGE

LOG = logging.getLogger(__name__)

# What was offered is not offered again for this long: it is being claimed, or was refused.
FORGET_S = 0.05
# While all that is eligible is being claimed: about a round trip.
RECHECK_S = 0.002
# A claimer that takes nothing for so long has no slots.
BUSY_S = 0.05
# To look through what others have to do may take a while; the pause after it is so many times as long.
REST_SHARE = 4
# While announcements come, for those that are lost.
SLOW_POLL_S = 5.0

Woken = trio.MemoryReceiveChannel[tuple[LaneId, int] | None]
WakeUps = Callable[[], AbstractAsyncContextManager[Woken]]


async def run(
    finds: Finds,
    order: ScanOrder,
    wake_ups: WakeUps | None,
    poll_interval_s: float,
    candidates: trio.MemorySendChannel[Candidates],
    now_s: Callable[[], float],
    pulses: Pulses,
) -> None:
    """Offer what is claimable, and wait for more. Returns when ``candidates`` closes.

    Offering waits until the claimer has room, so a busy worker reads nothing.

    Args:
        wake_ups: listens for announcements; None where none come.
        poll_interval_s: between looks without announcements, or while what others leave alone may keep them back.
    """
    async with candidates, pulses.open("scanner") as pulse:
        scan = Scan(finds, order, candidates, now_s, pulse)
        try:
            while True:
                await scan.seek()
                if wake_ups is None:
                    with pulse.resting:
                        await trio.sleep(jittered(scan.pause_s(poll_interval_s)))
                else:
                    async with wake_ups() as woken:
                        await scan.listen(woken, poll_interval_s)
        except trio.BrokenResourceError:
            return


class Scan:
    """What has been seen and offered so far."""

    def __init__(
        self,
        finds: Finds,
        order: ScanOrder,
        candidates: trio.MemorySendChannel[Candidates],
        now_s: Callable[[], float],
        pulse: Pulse,
    ) -> None:
        self._finds = finds
        self._order = order
        self._candidates = candidates
        self._now_s = now_s
        self._pulse = pulse
        self._outage = Outage(LOG)
        self._offered: dict[ExecutionId, float] = {}
        self._is_busy = False
        self._took_s = 0.0

    def pause_s(self, poll_interval_s: float) -> float:
        """Return how long not to look: longer where it takes a while to look through what others have to do."""
        return max(poll_interval_s, min(SLOW_POLL_S, self._took_s * REST_SHARE))

    async def seek(self, *, until_busy: bool = False) -> None:
        """Look everywhere and offer what is there, until a whole round has found nothing.

        Raises:
            trio.BrokenResourceError: nobody takes anything any more.
        """
        began_s = trio.current_time()
        while True:
            places = self._order.next_places(self._finds.places_a_look)
            found = await self._look(places)
            if found is not None:
                self._note(places, found)
                if await self._offer(found):
                    if until_busy and self._is_busy:
                        return
                elif any(one.ours for one in found):
                    await trio.sleep(RECHECK_S)
                elif self._order.round_was_fruitless:
                    self._took_s = trio.current_time() - began_s
                    return
                else:
                    continue
            began_s = trio.current_time()

    async def listen(self, woken: Woken, poll_interval_s: float) -> None:
        """Look where there is said to be something, until the claimer is busy.

        Raises:
            trio.BrokenResourceError: nobody takes anything any more.
        """
        self._is_busy = False
        while not self._is_busy:
            poll_s = self.pause_s(poll_interval_s) if self._order.has_others_work else SLOW_POLL_S
            told: list[tuple[LaneId, int] | None] = [None]
            with self._pulse.resting, trio.move_on_after(jittered(poll_s)):
                told = [await woken.receive()]
            told += gathered(woken)
            if None in told:
                await self.seek(until_busy=True)
            else:
                await self._seek_at([Place(*place) for place in dict.fromkeys(told) if place is not None])

    async def _seek_at(self, places: Sequence[Place]) -> None:
        """Offer what is at these places, unseen at first, until there is nothing more."""
        found: list[Find] | None = self._finds.unseen(places)
        if found:
            await self._offer(found)
            await trio.sleep(RECHECK_S)
        while places and not self._is_busy:
            found = await self._look(places)
            if found is None:
                continue
            self._note(places, found)
            places = [one.place for one in found if one.ours]
            if places and not await self._offer(found):
                await trio.sleep(RECHECK_S)

    def _note(self, places: Sequence[Place], found: Sequence[Find]) -> None:
        self._order.seen(places, {one.place: (one.members, one.ours) for one in found}, PAGE)

    async def _look(self, places: Sequence[Place]) -> list[Find] | None:
        """Return what is there; None, after a pause, when the store cannot be asked."""
        self._pulse.beat()
        now_s = self._now_s()
        self._offered = {one: at_s for one, at_s in self._offered.items() if now_s - at_s < FORGET_S}
        try:
            found = await self._finds.at(places, self._offered)
        except STORE_AWAY as error:
            await self._outage.wait(error)
            return None
        self._outage.over()
        return found

    async def _offer(self, found: Sequence[Find]) -> bool:
        """Wait until the claimer takes what was found; tell whether there was anything."""
        chosen = tuple(one for find in found for one in find.chosen)
        if not chosen:
            return False
        asked_s = trio.current_time()
        with self._pulse.resting:
            await self._candidates.send(Candidates(chosen, self._now_s()))
        self._is_busy = trio.current_time() - asked_s > BUSY_S
        self._offered.update(dict.fromkeys((one for find in found for one in find.first_seen), self._now_s()))
        return True


def jittered(pause_s: float) -> float:
    """Return a pause that is not the same for all workers."""
    return pause_s * (0.75 + 0.5 * random.random())
