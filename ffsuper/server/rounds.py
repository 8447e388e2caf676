"""Claims of one lane by workers with the same capabilities are answered in rounds, as many as have come together.

While the scheduler works on a round, further claims gather for the next one: the more workers ask at a time, the less
does each cost. Those that name a time for waiting stay for further rounds: however many wait at an empty lane, the
store is asked as often as for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from ffsuper.errors import StoreError
from ffsuper.messages import LaneId
from ffsuper.server.scheduler import Granted, Scheduler
from ffsuper.store.admission import Claimant

# Pause before the next look on behalf of those that wait.
LOOK_AGAIN_S = 0.1
# Claims of one round.
MOST_AT_ONCE = 64


@dataclass(eq=False, slots=True)
class Claim:
    """One worker's claim.

    Attributes:
        give_up_s: until when it waits, on trio's clock.
        gone: set when nobody waits for the answer any more. What is granted to nobody is there again only when the
            grant has lapsed.
        was_tried: a round has found nothing for it.
        is_answered: set when ``granted`` or ``error`` is there, or there is neither.
    """

    claimant: Claimant
    give_up_s: float
    gone: trio.Event | None
    was_tried: bool = False
    is_answered: trio.Event = field(default_factory=trio.Event)
    granted: Granted | None = None
    error: StoreError | None = None


@dataclass(eq=False, slots=True)
class Group:
    """Claims that can be answered together, oldest first.

    Attributes:
        has_new: set when one has come since the last round began.
    """

    lane: LaneId
    claims: list[Claim] = field(default_factory=list)
    has_new: trio.Event = field(default_factory=trio.Event)


class Rounds:
    """Answers claims.

    Args:
        background: for the rounds; its end ends them, and leaves claims without an answer.
        stopping: nobody waits any longer.
    """

    def __init__(self, scheduler: Scheduler, background: trio.Nursery, stopping: trio.Event) -> None:
        self._scheduler = scheduler
        self._background = background
        self._stopping = stopping
        self._groups: dict[tuple[LaneId, str], Group] = {}

    async def claim(
        self, lane: LaneId, claimant: Claimant, wait_s: float = 0.0, gone: trio.Event | None = None
    ) -> Granted | None:
        """Grant the execution whose turn it is, or that comes within the time; None when there is none.

        Raises:
            StoreError: the store is away.
        """
        claim = Claim(claimant, trio.current_time() + wait_s, gone)
        key = (lane, claimant.capabilities)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(lane)
            self._background.start_soon(self._serve, key, group)
        group.claims.append(claim)
        group.has_new.set()
        try:
            await claim.is_answered.wait()
        finally:
            if not claim.is_answered.is_set():
                group.claims.remove(claim)
        if claim.error is not None:
            raise claim.error
        return claim.granted

    async def _serve(self, key: tuple[LaneId, str], group: Group) -> None:
        """Answer the claims of a group until there are none."""
        while group.claims:
            group.has_new = trio.Event()
            for claim in group.claims:
                if is_gone(claim):
                    claim.is_answered.set()
            group.claims = [claim for claim in group.claims if not claim.is_answered.is_set()]
            present = group.claims[:]
            asked = tried = present[:MOST_AT_ONCE]
            if asked and not (all(claim.was_tried for claim in asked) and self._scheduler.is_empty(group.lane)):
                await self._round(group.lane, asked, present)
            is_exhausted = any(claim.granted is None for claim in asked)
            if is_exhausted:
                tried = present  # nothing for those behind them either
            now_s = trio.current_time()
            for claim in tried:
                if self._stopping.is_set() or claim.give_up_s <= now_s:
                    claim.is_answered.set()
            group.claims = [claim for claim in group.claims if not claim.is_answered.is_set()]
            if group.claims and is_exhausted:
                await self._pause(group)
        del self._groups[key]

    async def _round(self, lane: LaneId, asked: Sequence[Claim], present: Sequence[Claim]) -> None:
        try:
            granted = await self._scheduler.claim(lane, [claim.claimant for claim in asked])
        except StoreError as error:
            for claim in present:
                claim.error = error
                claim.is_answered.set()
            return
        for claim, one in zip(asked, granted, strict=True):
            claim.was_tried = True
            if one is not None:
                claim.granted = one
                claim.is_answered.set()

    async def _pause(self, group: Group) -> None:
        """Wait for the next look, for somebody new, or for the first whose time is over."""
        soonest_s = min(claim.give_up_s for claim in group.claims)
        with trio.move_on_at(min(trio.current_time() + LOOK_AGAIN_S, soonest_s)):
            async with trio.open_nursery() as nursery:

                async def wait(event: trio.Event) -> None:
                    await event.wait()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(wait, group.has_new)
                nursery.start_soon(wait, self._stopping)


def is_gone(claim: Claim) -> bool:
    """Tell whether nobody waits for the answer."""
    return claim.gone is not None and claim.gone.is_set()
