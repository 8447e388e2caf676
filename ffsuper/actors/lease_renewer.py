"""Keeps all leases of this process alive, and says when one must not be acted on any more."""

from __future__ import annotations

import contextlib
import logging
import math
import random
from collections.abc import Callable

import trio

from ffsuper.channels import Check, LeaseEnd, LeaseNews, Release, Track
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
    held = HeldLeases(margin_s)
    async with news, pulses.open("lease_renewer") as pulse:
        while True:
            with pulse.resting, trio.move_on_after(nap_until(held.book.next_event_s(), now_s())):
                try:
                    held.note(await news.receive())
                except trio.EndOfChannel:
                    return
                continue
            for lease in held.book.past_deadline(now_s()):
                held.give_up(lease, LeaseEnd("local_deadline", has_ended=False))
            await renew_due(leases, held, now_s)


async def renew_due(leases: Leases, held: HeldLeases, now_s: Callable[[], float]) -> None:
    """Renew what is due, waiting for the store no longer than the earliest deadline allows."""
    asked_at_s = now_s()
    due = held.book.due(asked_at_s)
    deadline_s = held.book.next_deadline_s()
    if not due or deadline_s is None:
        return
    results = await leases.renew(due, max(0.0, deadline_s - asked_at_s))
    for lease, result in zip(due, results, strict=True):
        match result:
            case None:
                held.book.renewed(lease.lease_id, asked_at_s)
            case LeaseLostError() | ExecutionNotFoundError():
                held.give_up(lease, LeaseEnd(result.code, has_ended(result)))
            case StoreError():
                pause_s = lease.ttl_ms / 1000 * RETRY_SHARE * (0.5 + random.random())
                held.book.postpone(lease.lease_id, now_s() + pause_s)


class HeldLeases:
    """The leases and whom to tell about the end of each."""

    def __init__(self, margin_s: float) -> None:
        self.book = LeaseBook(margin_s)
        self._ends: dict[LeaseId, trio.MemorySendChannel[LeaseEnd]] = {}

    def note(self, message: LeaseNews) -> None:
        """Begin or cease to care for a lease."""
        match message:
            case Track(lease, lease_end):
                self.book.track(lease)
                self._ends[lease.lease_id] = lease_end
            case Release(lease_id):
                self._forget(lease_id)
            case Check(execution_id):
                self.book.hasten(execution_id)

    def give_up(self, lease: Lease, end: LeaseEnd) -> None:
        """Tell the executor that the lease is over."""
        told = {"execution": lease.execution_id, "attempt": lease.attempt_index, "code": end.code}
        LOG.warning("lease lost", extra=told)
        with contextlib.suppress(trio.BrokenResourceError):  # its executor has just finished with it
            self._ends[lease.lease_id].send_nowait(end)
        self._forget(lease.lease_id)

    def _forget(self, lease_id: LeaseId) -> None:
        self.book.release(lease_id)
        if (end := self._ends.pop(lease_id, None)) is not None:
            end.close()


def has_ended(refusal: RefusedError) -> bool:
    """Tell whether a refusal means that the execution has ended; its details begin with the outcome then."""
    outcome = refusal.details[0] if refusal.details else ""
    return isinstance(refusal, ExecutionNotFoundError) or (
        refusal.code == "execution_not_active" and outcome not in ("", "none")
    )


def nap_until(event_s: float | None, now_s: float) -> float:
    """Return how long nothing needs to be done, as far as is known."""
    if event_s is None:
        return math.inf
    return min(max(event_s - now_s, 0), LONGEST_NAP_S)
