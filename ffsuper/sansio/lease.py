"""The leases that a supervisor holds: when each must be renewed, and when it must no longer be acted on.

Two clocks meet here. The store's decides when a lease ends; we never read it. Ours is a local clock that also
counts while the machine sleeps. A renewal that was *asked for* at local time t was granted at t or later, so the
lease lasts at least until t + ttl, and it is safe to act on it until ``t + ttl - margin``: the margin covers the
difference in the clocks' rates and the time to kill a child and see it dead.

A lease is either scheduled, and its renewal will fall due, or asked for, until the answer comes or does not. Its
deadline stays meanwhile. Leases whose renewals were asked for together fall due together again, so those that were
claimed one by one soon go in groups.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

from ffsuper.messages import ExecutionId, Lease, LeaseId

RENEWALS_PER_TTL = 3
# Of the time between two renewals, how much earlier one may come to be made together with another that is due: once,
# for from then on they fall due together.
GATHERED_SHARE = 0.25
# A schedule clears the times away that nothing is due at any more when they are more than half, and more than these.
CLEARED_TIMES = 64


@dataclass(slots=True)
class Held:
    """One lease and its local times, in seconds.

    Attributes:
        renew_at_s: when the next renewal is due; None while it is asked for.
        deadline_s: from here on nobody may act on the lease.
        is_hastened: something has happened to it after it was asked for, so that the answer may be out of date.
    """

    lease: Lease
    renew_at_s: float | None
    deadline_s: float
    is_hastened: bool = False


class LeaseBook:
    """All leases held by this process. No step looks at more of them than it returns.

    Attributes:
        margin_s: how long before its earliest possible end a lease is given up.
    """

    def __init__(self, margin_s: float) -> None:
        self.margin_s = margin_s
        self._held: dict[LeaseId, Held] = {}
        # An execution's next lease can be ours before we hear that the last one is released.
        self._of_execution: dict[ExecutionId, list[LeaseId]] = {}
        self._renewals = Schedule()
        self._deadlines = Schedule()

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, lease_id: LeaseId) -> bool:
        return lease_id in self._held

    def track(self, lease: Lease) -> None:
        """Begin to hold a lease, as just claimed."""
        renew_at_s, deadline_s = self._times(lease, lease.asked_at_s)
        self._held[lease.lease_id] = Held(lease, renew_at_s, deadline_s)
        self._of_execution.setdefault(lease.execution_id, []).append(lease.lease_id)
        self._renewals.add(renew_at_s, lease)
        self._deadlines.add(deadline_s, lease)

    def release(self, lease_id: LeaseId) -> None:
        """Forget a lease; harmless when it is already forgotten."""
        held = self._held.pop(lease_id, None)
        if held is not None:
            self._deadlines.remove(held.deadline_s, lease_id)
            self._forget(held)

    def take_due(self, now_s: float) -> list[Lease]:
        """Return the leases to renew now, which count as asked for until ``renewed`` or ``postpone``.

        When one is due, those that are due soon come with it; one that was hastened comes alone.
        """
        hastened = self._renewals.take_until(-math.inf)
        due = self._renewals.take_until(now_s)
        if due:
            ttl_s = min(lease.ttl_ms for lease in due) / 1000
            due += self._renewals.take_until(now_s + ttl_s / RENEWALS_PER_TTL * GATHERED_SHARE)
        due = hastened + due
        for lease in due:
            self._held[lease.lease_id].renew_at_s = None
        return due

    def renewed(self, lease_id: LeaseId, asked_at_s: float) -> float | None:
        """Note that a renewal asked for at ``asked_at_s`` was granted; return the new deadline of what is held."""
        held = self._held.get(lease_id)
        if held is None:
            return None
        renew_at_s, deadline_s = self._times(held.lease, asked_at_s)
        self._deadlines.remove(held.deadline_s, lease_id)
        self._deadlines.add(deadline_s, held.lease)
        held.deadline_s = deadline_s
        self._schedule(held, -math.inf if held.is_hastened else renew_at_s)
        return deadline_s

    def postpone(self, lease_id: LeaseId, until_s: float) -> None:
        """Note that a renewal got no answer: try again at ``until_s``. The deadline stays."""
        held = self._held.get(lease_id)
        if held is not None:
            self._schedule(held, until_s)

    def hasten(self, execution_id: ExecutionId) -> None:
        """Let the leases of an execution be due for renewal at once, or once more if they are asked for already."""
        for lease_id in self._of_execution.get(execution_id, ()):
            held = self._held[lease_id]
            if held.renew_at_s is None:
                held.is_hastened = True
            else:
                self._schedule(held, -math.inf)

    def take_overdue(self, now_s: float) -> list[Lease]:
        """Forget the leases that must not be acted on any more, and return them."""
        overdue = self._deadlines.take_until(now_s)
        for lease in overdue:
            self._forget(self._held.pop(lease.lease_id))
        return overdue

    def next_event_s(self) -> float:
        """Return when the next renewal or deadline falls due; infinite when none does."""
        return min(self._renewals.first_s(), self._deadlines.first_s())

    def next_deadline_s(self) -> float:
        """Return the earliest deadline; infinite without leases."""
        return self._deadlines.first_s()

    def _schedule(self, held: Held, renew_at_s: float) -> None:
        if held.renew_at_s is not None:
            self._renewals.remove(held.renew_at_s, held.lease.lease_id)
        self._renewals.add(renew_at_s, held.lease)
        held.renew_at_s, held.is_hastened = renew_at_s, False

    def _forget(self, held: Held) -> None:
        """Take a lease that is not held any more out of what else there is than deadlines."""
        lease = held.lease
        if held.renew_at_s is not None:
            self._renewals.remove(held.renew_at_s, lease.lease_id)
        siblings = self._of_execution[lease.execution_id]
        siblings.remove(lease.lease_id)
        if not siblings:
            del self._of_execution[lease.execution_id]

    def _times(self, lease: Lease, asked_at_s: float) -> tuple[float, float]:
        """Return when a lease is to be renewed that was asked for at ``asked_at_s``, and its deadline."""
        ttl_s = lease.ttl_ms / 1000
        return asked_at_s + ttl_s / RENEWALS_PER_TTL, asked_at_s + ttl_s - self.margin_s


class Schedule:
    """Leases by a time of each, those of one time together."""

    def __init__(self) -> None:
        self._leases_at: dict[float, dict[LeaseId, Lease]] = {}
        # A heap of all these times; and of others that all leases have been taken from, until they are come upon.
        self._times: list[float] = []

    def add(self, at_s: float, lease: Lease) -> None:
        """Enter a lease, which must not be here."""
        if at_s not in self._leases_at:
            self._leases_at[at_s] = {}
            heapq.heappush(self._times, at_s)
        self._leases_at[at_s][lease.lease_id] = lease

    def remove(self, at_s: float, lease_id: LeaseId) -> None:
        """Take a lease out again that was entered for this time."""
        del self._leases_at[at_s][lease_id]
        if not self._leases_at[at_s]:
            del self._leases_at[at_s]
            if len(self._times) > 2 * len(self._leases_at) + CLEARED_TIMES:
                self._times = sorted(self._leases_at)

    def first_s(self) -> float:
        """Return the earliest time; infinite when there are no leases."""
        while self._times and self._times[0] not in self._leases_at:
            heapq.heappop(self._times)
        return self._times[0] if self._times else math.inf

    def take_until(self, until_s: float) -> list[Lease]:
        """Take out and return the leases of all times up to this one, earliest first."""
        taken: list[Lease] = []
        while self.first_s() <= until_s:
            taken += self._leases_at.pop(self._times[0]).values()
        return taken
