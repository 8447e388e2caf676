"""Takes outcomes to the store, as many together as have gathered, and lets the leases go once it has answered."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence

import trio

from ffsuper.channels import Finished, LeaseNews, Release, gathered
from ffsuper.errors import StoreError
from ffsuper.messages import Delivered, Suspended
from ffsuper.sansio.ledger import Ledger
from ffsuper.sansio.pulse import Pulse, Pulses
from ffsuper.store.delivery import HANDED_BACK, deliver, delivered, told
from ffsuper.store.outcomes import Outcomes

LOG = logging.getLogger(__name__)

# Some, so that one that waits for an answer, or needs several tries, keeps no other waiting.
HANDS = 4
TOGETHER = 32


async def run(
    outcomes: Outcomes,
    finished: trio.MemoryReceiveChannel[Finished],
    leases: trio.MemorySendChannel[LeaseNews],
    room: trio.Semaphore,
    pulses: Pulses,
    ledger: Ledger,
) -> None:
    """Deliver until ``finished`` closes.

    Args:
        leases: has room for any number of messages.
        room: released for each outcome that is settled.
        ledger: told what has become of each attempt.
    """
    books = Books(leases, room, ledger)
    turn = trio.Lock()
    async with finished, leases, trio.open_nursery() as hands:
        for _ in range(HANDS):
            hands.start_soon(deliver_on, outcomes, finished, turn, books, pulses)


async def deliver_on(
    outcomes: Outcomes,
    finished: trio.MemoryReceiveChannel[Finished],
    turn: trio.Lock,
    books: Books,
    pulses: Pulses,
) -> None:
    """Deliver what has gathered, again and again; one hand at a time gathers."""
    async with pulses.open("deliverer") as pulse, trio.open_nursery() as stragglers:
        while True:
            with pulse.resting:
                async with turn:
                    try:
                        batch = [await finished.receive()]
                    except trio.EndOfChannel:
                        return
                    batch += gathered(finished, TOGETHER - 1)
            with books.at_risk(batch):
                failures = await try_all(outcomes, batch, pulse)
            for one, failure in zip(batch, failures, strict=True):
                if isinstance(one.outcome, Delivered):
                    books.close(one, one.outcome)
                elif is_simple(one) and failure is None:
                    books.close(one, delivered(one.claim, one.outcome, one.about))
                else:
                    # That may take long, and holds up nobody else.
                    stragglers.start_soon(deliver_straggler, outcomes, one, failure, books, pulses)


async def deliver_straggler(
    outcomes: Outcomes, one: Finished, failure: StoreError | None, books: Books, pulses: Pulses
) -> None:
    """Deliver an outcome that a first try has not settled."""
    async with pulses.open("deliverer") as pulse:
        with books.at_risk([one]):
            settled = await settle(outcomes, one, failure, pulse)
        books.close(one, settled)


class Books:
    """What is noted of attempts that have come to their end."""

    def __init__(self, leases: trio.MemorySendChannel[LeaseNews], room: trio.Semaphore, ledger: Ledger) -> None:
        self._leases = leases
        self._room = room
        self._ledger = ledger

    def close(self, one: Finished, settled: Delivered) -> None:
        """Note what has become of an attempt, and let its lease go."""
        lease_id = one.claim.lease.lease_id
        self._ledger.ended(lease_id, settled.outcome, trio.current_time(), settled.why)
        self._leases.send_nowait(Release(lease_id))
        self._room.release()

    @contextlib.contextmanager
    def at_risk(self, batch: Sequence[Finished]) -> Iterator[None]:
        """Tell of outcomes that are not delivered because the block is cut short."""
        try:
            yield
        except trio.Cancelled:
            for one in batch:
                self._ledger.cut_off += 1
                LOG.error("outcome not delivered in time", extra=told(one.claim))
            raise


def is_simple(one: Finished) -> bool:
    """Tell whether one call delivers an outcome, which is then known to be delivered or not."""
    return not one.is_in_doubt and not isinstance(one.outcome, Delivered | Suspended)


async def try_all(outcomes: Outcomes, batch: Sequence[Finished], pulse: Pulse) -> list[StoreError | None]:
    """Deliver in one round trip what can be; return for each what it failed with, if it was tried and failed."""
    simple = [(one.claim, one.outcome) for one in batch if not isinstance(one.outcome, Delivered) and is_simple(one)]
    pulse.beat()
    failures = iter(await outcomes.deliver_all(simple))
    return [next(failures) if is_simple(one) else None for one in batch]


async def settle(outcomes: Outcomes, one: Finished, failure: StoreError | None, pulse: Pulse) -> Delivered:
    """Return what has become of an outcome, once that is certain."""
    claim, outcome, about = one.claim, one.outcome, one.about
    if isinstance(outcome, Delivered):
        return outcome
    settled = await deliver(outcomes, claim, outcome, pulse, about=about, doubt=one.is_in_doubt, failure=failure)
    if settled.signals is not None:
        # The attempt would go on with these; but nobody is there to make it any more.
        return await deliver(outcomes, claim, HANDED_BACK, pulse, about=about)
    return settled
