"""Takes leases for the slots that executors offer."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext, suppress

import trio

from ffsuper.channels import Candidates, Demand, LeaseNews, Slot, Track, gathered
from ffsuper.errors import LibraryMissingError, RefusedError, StoreError
from ffsuper.messages import Candidate, Claim, ClaimKind, Pick
from ffsuper.sansio.pulse import Pulse, Pulses
from ffsuper.store.claims import ClaimDoubtError, Claims
from ffsuper.store.outage import STORE_AWAY, Outage

LOG = logging.getLogger(__name__)

# Two, so that one call is on its way while the answer to the other is being handed out. They share slots and
# candidates: what one had and could not use would grow old while the other wants it.
HANDS = 2
# Claiming for many slots at once makes the children march in step; several claimers with small calls overlap.
CLAIMS_PER_CALL = 8
# Candidates read longer ago than this have probably been taken, or overtaken by more urgent ones.
FRESH_S = 0.25
# What was begun already and lost its holder comes first, and waits for a slot longer: the reclaimer names few, and
# where all children are busy for long it would never have its turn otherwise.
RECLAIM_FRESH_S = 3.0
# A grant that is refused lapsed, or is one for another store; then each keeps an execution from everybody.
REFUSED_GRANT_PAUSE_S = 1.0


async def run(
    claims: Claims,
    candidates: trio.MemoryReceiveChannel[Candidates],
    slots: trio.MemoryReceiveChannel[Slot],
    leases: trio.MemorySendChannel[LeaseNews],
    now_s: Callable[[], float],
    pulses: Pulses,
    demands: trio.MemorySendChannel[Demand] | None = None,
    kinds: Collection[str] = (),
) -> None:
    """Claim executions for offered slots; return when ``slots`` or ``candidates`` closes.

    The slots come first: a grant is consumed and a lease runs down only when something can run the execution.

    Args:
        leases: has room for any number of messages.
        demands: where candidates come only when they are asked for; has room for any number of messages.
        kinds: of executions that the store may pick; none for any kind.
    """
    desk = Desk(FreshCandidates(candidates, now_s), slots, Wishes(demands))
    try:
        async with candidates, leases, demands or nullcontext(), trio.open_nursery() as hands:
            for _ in range(HANDS):
                hands.start_soon(claim_on, claims, kinds, desk, leases, pulses)
    finally:
        desk.close()


async def claim_on(
    claims: Claims,
    kinds: Collection[str],
    desk: Desk,
    leases: trio.MemorySendChannel[LeaseNews],
    pulses: Pulses,
) -> None:
    """Claim, one call after the other, until there is nothing more to claim or to claim for."""
    outage = Outage(LOG)
    async with pulses.open("claimer") as pulse:
        while True:
            try:
                with pulse.resting:
                    chosen, slots = await desk.take()
            except trio.EndOfChannel:
                return
            try:
                await claim_for(claims, kinds, chosen, slots, leases, outage, pulse)
            finally:
                desk.put_back(slots)


class Desk:
    """Slots that wait for a candidate, and what is there for them; one hand at a time takes from both."""

    def __init__(self, fresh: FreshCandidates, slots: trio.MemoryReceiveChannel[Slot], wishes: Wishes) -> None:
        self._fresh = fresh
        self._slots = slots
        self._wishes = wishes
        self._held: list[Slot] = []
        self._turn = trio.Lock()
        self._lacks_slots = False

    async def take(self) -> tuple[list[Candidate | Pick], list[Slot]]:
        """Wait for at least one of each; return as many slots as candidates.

        Raises:
            trio.EndOfChannel: there will be no more.
        """
        async with self._turn:
            if not self._held:
                self._lacks_slots = True
                self._held.append(await self._slots.receive())
                self._lacks_slots = False
            self._held += gathered(self._slots, CLAIMS_PER_CALL - len(self._held))
            self._wishes.tell(len(self._held))
            chosen = await self._fresh.take(len(self._held))
            self._wishes.take(len(self._held), chosen)
            taken, self._held = self._held[: len(chosen)], self._held[len(chosen) :]
            return chosen, taken

    def put_back(self, slots: list[Slot]) -> None:
        """Take slots back for which there was nothing after all."""
        self._held += slots
        if self._held and self._lacks_slots:
            give_back(self._held.pop())  # it is offered again, which wakes who waits for one

    def close(self) -> None:
        """Take no more slots, and give those back that nothing came for."""
        self._lacks_slots = False
        for unused in [*self._held, *gathered(self._slots)]:
            give_back(unused)
        self._held = []
        self._slots.close()


def give_back(slot: Slot) -> None:
    """Say that nothing came for a slot."""
    with suppress(trio.BrokenResourceError):  # its executor has ended by a hard stop
        slot.assignments.send_nowait(None)


class Wishes:
    """Keeps the asker's idea of how many slots wait for a candidate equal to ours."""

    def __init__(self, demands: trio.MemorySendChannel[Demand] | None) -> None:
        self._demands = demands
        self._told = 0

    def tell(self, waiting: int) -> None:
        """Say how many slots wait, unless that is known."""
        if self._demands is not None and waiting != self._told:
            # When the asker has ended, the candidates are about to.
            with suppress(trio.BrokenResourceError):
                self._demands.send_nowait(Demand(waiting - self._told))
            self._told = waiting

    def take(self, held: int, chosen: Sequence[Candidate | Pick]) -> None:
        """Count the slots for which there is something now. Of what it granted the asker knows."""
        self._told -= sum(one.is_granted for one in chosen)
        self.tell(held - len(chosen))


class FreshCandidates:
    """What is left of the last candidates, as long as it is fresh; what is to be taken over comes first."""

    def __init__(self, candidates: trio.MemoryReceiveChannel[Candidates], now_s: Callable[[], float]) -> None:
        self._candidates = candidates
        self._now_s = now_s
        # Until when each is worth claiming.
        self._left: deque[tuple[float, Candidate | Pick]] = deque()

    async def take(self, count: int) -> list[Candidate | Pick]:
        """Wait for at least one candidate and return up to ``count``.

        Raises:
            trio.EndOfChannel: there will be no more, or what is left is not to be claimed any more.
        """
        self._drop_stale()
        while not self._left:
            # Whoever waits to be heard: the scanner and the reclaimer are never more than these.
            latest = [await self._candidates.receive(), *gathered(self._candidates)]
            found = [(fresh_until_s(one, told.read_at_s), one) for told in latest for one in told.found]
            self._left = deque(sorted(found, key=lambda each: not is_reclaim(each[1])))
            self._drop_stale()
        return [self._left.popleft()[1] for _ in range(min(count, len(self._left)))]

    def _drop_stale(self) -> None:
        """Forget what is not worth claiming: all but what is granted, when those who look for work have ended."""
        is_over = not self._candidates.statistics().open_send_channels
        now_s = self._now_s()
        self._left = deque(
            (until_s, one) for until_s, one in self._left if one.is_granted or not (is_over or now_s > until_s)
        )


def is_reclaim(chosen: Candidate | Pick) -> bool:
    """Tell whether an execution is to be taken over whose holder is gone."""
    return isinstance(chosen, Candidate) and chosen.claim is ClaimKind.RECLAIM


def fresh_until_s(chosen: Candidate | Pick, read_at_s: float) -> float:
    """Return until when a candidate is worth claiming. What is granted is ours until the grant lapses."""
    return read_at_s + (RECLAIM_FRESH_S if is_reclaim(chosen) else FRESH_S)


async def claim_for(
    claims: Claims,
    kinds: Collection[str],
    chosen: Sequence[Candidate | Pick],
    held: list[Slot],
    leases: trio.MemorySendChannel[LeaseNews],
    outage: Outage,
    pulse: Pulse,
) -> None:
    """Claim, and hand each claim to one of the held slots, which are used up in doing so."""
    doubts: list[ClaimDoubtError] = []
    for candidate, result in zip(chosen, await claims.claim(chosen, kinds), strict=True):
        match result:
            case Claim():
                outage.over()
                assign(result, held.pop(), leases)
            case ClaimDoubtError():
                doubts.append(result)
            case RefusedError() if candidate.is_granted:
                outage.over()
                LOG.warning("grant refused", extra={**told(candidate), "code": result.code})
                await trio.sleep(REFUSED_GRANT_PAUSE_S)
            case RefusedError():
                outage.over()
                LOG.debug("not claimed", extra={**told(candidate), "code": result.code})
            case LibraryMissingError():
                outage.over()  # it is being loaded, or the scanner will name candidates from now on
            case StoreError() if isinstance(result, STORE_AWAY):
                await outage.wait(result)
            case StoreError():
                LOG.error("claim failed", extra={**told(candidate), "error": result})
    for doubt in doubts:
        claim = await resolve(claims, doubt, outage, pulse)
        if claim is not None:
            assign(claim, held.pop(), leases)


async def resolve(claims: Claims, doubt: ClaimDoubtError, outage: Outage, pulse: Pulse) -> Claim | None:
    """Ask until it is certain whether a claim was carried out; None when it was not, or is over by now."""
    with trio.move_on_after(doubt.lease.ttl_ms / 1000):
        while True:
            pulse.beat()
            result = await claims.look_up(doubt)
            match result:
                case Claim():
                    return result
                case RefusedError():
                    return None
                case StoreError():
                    await outage.wait(result)
    return None


def assign(claim: Claim, slot: Slot, leases: trio.MemorySendChannel[LeaseNews]) -> None:
    """Have the lease renewed, and send the claim to the child behind the slot."""
    lease = claim.lease
    about = {"execution": lease.execution_id, "attempt": lease.attempt_index}
    LOG.info("claimed", extra={**about, "kind": claim.execution_kind, "lane": lease.lane})
    with suppress(trio.BrokenResourceError):  # its executor has ended by a hard stop: the lease ends by itself
        slot.assignments.send_nowait(claim)
        leases.send_nowait(Track(lease, slot.lease_terms))


def told(chosen: Candidate | Pick) -> dict[str, object]:
    """Return what the log says of what could not be claimed."""
    if isinstance(chosen, Pick):
        return {"lane": chosen.lane, "partition": chosen.partition}
    return {"execution": chosen.execution_id}
