"""Keeps all leases of this process alive, and says when one must not be acted on.

Renewals are asked for in exchanges with the store that know nothing of one another: while one is slow, others begin
and end, news is heard, and a lease is given up at its deadline whatever it waits for.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
from collections.abc import Callable, Iterator, Sequence

import trio

from ffsuper.channels import Check, LeaseEnd, LeaseExtended, LeaseNews, LeaseTerm, Release, Track, gathered
from ffsuper.errors import ExecutionNotFoundError, LeaseLostError, RefusedError, StoreError
from ffsuper.messages import Lease, LeaseId
from ffsuper.sansio.lease import LeaseBook
from ffsuper.sansio.pulse import Pulses
from ffsuper.store.leases import Leases

LOG = logging.getLogger(__name__)

# trio's clock stands still while the machine sleeps and the lease clock does not: look at it at least this often.
LONGEST_NAP_S = 0.5
# A renewal that got no answer is tried again after this share of the lease length.
RETRY_SHARE = 1 / 20
# Some milliseconds of the store's and of our time; the first do not wait for the last.
RENEWALS_PER_EXCHANGE = 500


async def run(
    leases: Leases,
    news: trio.MemoryReceiveChannel[LeaseNews],
    margin_s: float,
    now_s: Callable[[], float],
    pulses: Pulses,
) -> None:
    """Renew every tracked lease at a third of its length; return when ``news`` closes.

    A lease that the store refuses to renew, or whose local deadline passes unrenewed, is reported on its own channel
    once and forgotten.

    Args:
        now_s: the local clock that leases are judged by.
    """
    held = HeldLeases(news, margin_s)
    async with news, pulses.open("lease_renewer") as pulse, trio.open_nursery() as exchanges:
        while True:
            event_s = held.book.next_event_s()
            with pulse.resting, trio.move_on_after(nap_until(event_s, now_s())) as held.nap:
                try:
                    await held.hear(event_s)
                except trio.EndOfChannel:
                    exchanges.cancel_scope.cancel()
                    return
            held.hear_gathered()
            for lease in held.book.take_overdue(now_s()):
                held.give_up(lease, LeaseEnd(lease.lease_id, "local_deadline", has_ended=False))
            for due in exchange_by_exchange(held.book.take_due(now_s())):
                exchanges.start_soon(renew, leases, held, due, now_s, pulses)
                await trio.lowlevel.checkpoint()  # so many take a while to be sent


async def renew(
    leases: Leases, held: HeldLeases, due: Sequence[Lease], now_s: Callable[[], float], pulses: Pulses
) -> None:
    """Renew leases in one exchange with the store. An answer that comes after their deadlines changes nothing."""
    held.hear_gathered()
    due = [lease for lease in due if lease.lease_id in held.book]
    asked_at_s = now_s()
    async with pulses.open("lease_renewer"):
        results = await leases.renew(due)
    # One pause for all of them, so that they stay together.
    retry_share = RETRY_SHARE * (0.5 + random.random())
    held.hear_gathered()  # who was released meanwhile has lost nothing
    for lease, result in zip(due, results, strict=True):
        match result:
            case None:
                held.renewed(lease, asked_at_s)
            case LeaseLostError() | ExecutionNotFoundError():
                held.give_up(lease, LeaseEnd(lease.lease_id, result.code, has_ended(result)))
            case StoreError():
                held.book.postpone(lease.lease_id, now_s() + lease.ttl_ms / 1000 * retry_share)
    held.nap.cancel()  # they may be due before anything else


class HeldLeases:
    """The leases, what is told about them, and whom to tell about the end of each.

    Attributes:
        nap: what the renewer waits in; to be cancelled when something may be due earlier than it was.
    """

    def __init__(self, news: trio.MemoryReceiveChannel[LeaseNews], margin_s: float) -> None:
        self.book = LeaseBook(margin_s)
        self.nap = trio.CancelScope()
        self._news = news
        self._terms: dict[LeaseId, trio.MemorySendChannel[LeaseTerm]] = {}

    async def hear(self, event_s: float) -> None:
        """Take note of news until something is due earlier than at ``event_s``.

        Raises:
            trio.EndOfChannel: there will be none.
        """
        while self.book.next_event_s() >= event_s:
            self._note(await self._news.receive())
            self.hear_gathered()

    def hear_gathered(self) -> None:
        """Take note of the news that there is already."""
        for message in gathered(self._news):
            self._note(message)

    def _note(self, message: LeaseNews) -> None:
        """Begin or cease to care for a lease."""
        match message:
            case Track(lease, terms):
                self.book.track(lease)
                self._terms[lease.lease_id] = terms
            case Release(lease_id):
                self._forget(lease_id)
            case Check(execution_id):
                self.book.hasten(execution_id)

    def renewed(self, lease: Lease, asked_at_s: float) -> None:
        """Note that a renewal was granted, and tell the executor, unless the lease is held no more."""
        deadline_s = self.book.renewed(lease.lease_id, asked_at_s)
        if deadline_s is not None:
            self._tell(LeaseExtended(lease.lease_id, deadline_s))

    def give_up(self, lease: Lease, end: LeaseEnd) -> None:
        """Tell the executor that the lease is over, unless it has released it."""
        if lease.lease_id not in self._terms:
            return
        told = {"execution": lease.execution_id, "attempt": lease.attempt_index, "code": end.code}
        LOG.warning("lease lost", extra=told)
        self._tell(end)
        self._forget(lease.lease_id)

    def _tell(self, term: LeaseTerm) -> None:
        """Tell the executor, unless that has ended."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            self._terms[term.lease_id].send_nowait(term)

    def _forget(self, lease_id: LeaseId) -> None:
        self.book.release(lease_id)
        self._terms.pop(lease_id, None)


def exchange_by_exchange(due: Sequence[Lease]) -> Iterator[Sequence[Lease]]:
    """Yield leases in numbers for one exchange each, those of a partition side by side."""
    if len(due) > RENEWALS_PER_EXCHANGE:
        due = sorted(due, key=lambda lease: lease.execution_id)  # which begins with the partition
    for start in range(0, len(due), RENEWALS_PER_EXCHANGE):
        yield due[start : start + RENEWALS_PER_EXCHANGE]


def has_ended(refusal: RefusedError) -> bool:
    """Tell whether a refusal means that the execution has ended; its details begin with the outcome then."""
    outcome = refusal.details[0] if refusal.details else ""
    return isinstance(refusal, ExecutionNotFoundError) or (
        refusal.code == "execution_not_active" and outcome not in ("", "none")
    )


def nap_until(event_s: float, now_s: float) -> float:
    """Return how long nothing needs to be done, as far as is known."""
    return min(max(event_s - now_s, 0), LONGEST_NAP_S if math.isfinite(event_s) else math.inf)
