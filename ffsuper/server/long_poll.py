"""Claims that wait for work to come, where the worker names a time for it.

Workers that ask for the same, of one lane and with the same capabilities, look into the store one at a time, in the
order in which they came: however many wait, the store is asked as often as for one.
"""

from __future__ import annotations

from weakref import WeakValueDictionary

import trio

from ffsuper.messages import LaneId
from ffsuper.server.scheduler import Granted, Scheduler
from ffsuper.store.admission import Claimant

LOOK_AGAIN_S = 0.1


class LongPoll:
    """Waits for what a scheduler grants.

    Args:
        stopping: ends all waiting.
    """

    def __init__(self, scheduler: Scheduler, stopping: trio.Event) -> None:
        self._scheduler = scheduler
        self._stopping = stopping
        self._turns = WeakValueDictionary[tuple[LaneId, str], trio.Lock]()

    async def wait(self, lane: LaneId, claimant: Claimant, wait_s: float, gone: trio.Event) -> Granted | None:
        """Grant the execution that comes within the time; None when none does.

        Args:
            gone: the worker waits no longer. What is granted to nobody is there again only when the grant has lapsed.

        Raises:
            StoreError: the store is away.
        """
        give_up_s = trio.current_time() + wait_s
        turn = self._turns.setdefault((lane, claimant.capabilities), trio.Lock())
        with trio.move_on_at(give_up_s):
            async with turn:
                return await self._look(lane, claimant, give_up_s, gone)
        return None

    async def _look(self, lane: LaneId, claimant: Claimant, give_up_s: float, gone: trio.Event) -> Granted | None:
        while not self._stopping.is_set() and not gone.is_set():
            # Not to be interrupted: a grant that has been made is to be told.
            with trio.CancelScope(shield=True):
                granted = await self._scheduler.claim(lane, claimant)
            if granted is not None or trio.current_time() + LOOK_AGAIN_S > give_up_s:
                return granted
            with trio.move_on_after(LOOK_AGAIN_S):
                await self._stopping.wait()
        return None
