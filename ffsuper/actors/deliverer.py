"""Takes outcomes to the store, as many together as have gathered, and lets the leases go once it has answered."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence

import trio

from ffsuper.channels import Finished, LeaseNews, Release
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
    pulses: Pulses,
    ledger: Ledger,
) -> None:
    """Deliver until ``finished`` closes.

    Args:
        leases: has room for any number of messages.
        ledger: told what has become of each attempt.
    """
    async with finished, leases, trio.open_nursery() as hands:
        for _ in range(HANDS):
            hands.start_soon(deliver_on, outcomes, finished, leases, pulses, ledger)


async def deliver_on(
    outcomes: Outcomes,
    finished: trio.MemoryReceiveChannel[Finished],
    leases: trio.MemorySendChannel[LeaseNews],
    pulses: Pulses,
    ledger: Ledger,
) -> None:
    """Deliver what has gathered, again and again."""
    batch: list[Finished] = []
    try:
        async with pulses.open("deliverer") as pulse:
            while True:
                with pulse.resting:
                    try:
                        batch.append(await finished.receive())
                    except trio.EndOfChannel:
                        return
                take_gathered(finished, batch)
                failures = await try_all(outcomes, batch, pulse)
                for failure in failures:
                    one = batch[0]
                    settled = await settle(outcomes, one, failure, pulse)
                    lease_id = one.claim.lease.lease_id
                    ledger.ended(lease_id, settled.outcome, trio.current_time(), settled.why)
                    leases.send_nowait(Release(lease_id))
                    del batch[0]
    finally:
        for one in batch:
            ledger.cut_off += 1
            LOG.error("outcome not delivered in time", extra=told(one.claim))


def take_gathered(finished: trio.MemoryReceiveChannel[Finished], batch: list[Finished]) -> None:
    """Add what is there already."""
    with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel):
        while len(batch) < TOGETHER:
            batch.append(finished.receive_nowait())


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
    if is_simple(one) and failure is None:
        return delivered(claim, outcome, about)
    settled = await deliver(outcomes, claim, outcome, pulse, about=about, doubt=one.is_in_doubt, failure=failure)
    if settled.signals is not None:
        # The attempt would go on with these; but nobody is there to make it any more.
        return await deliver(outcomes, claim, HANDED_BACK, pulse, about=about)
    return settled
