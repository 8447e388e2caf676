"""The leases that a supervisor holds: when each must be renewed, and when it must no longer be acted on.

Two clocks meet here. The store's decides when a lease ends; we never read it. Ours is a local clock that also
counts while the machine sleeps. A renewal that was *asked for* at local time t was granted at t or later, so the
lease lasts at least until t + ttl, and it is safe to act on it until ``t + ttl - margin``: the margin covers the
difference in the clocks' rates and the time to kill a child and see it dead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ffsuper.messages import ExecutionId, Lease, LeaseId

RENEWALS_PER_TTL = 3


@dataclass(frozen=True, slots=True)
class Held:
    """One lease and its local times, in seconds.

    Attributes:
        renew_at_s: when the next renewal is due.
        deadline_s: from here on nobody may act on the lease.
    """

    lease: Lease
    renew_at_s: float
    deadline_s: float


class LeaseBook:
    """All leases held by this process.

    Attributes:
        margin_s: how long before its earliest possible end a lease is given up.
    """

    def __init__(self, margin_s: float) -> None:
        self.margin_s = margin_s
        self._held: dict[LeaseId, Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, lease_id: LeaseId) -> bool:
        return lease_id in self._held

    def track(self, lease: Lease) -> None:
        """Begin to hold a lease, as just claimed."""
        self._held[lease.lease_id] = self._renewed(lease, lease.asked_at_s)

    def release(self, lease_id: LeaseId) -> None:
        """Forget a lease; harmless when it is already forgotten."""
        self._held.pop(lease_id, None)

    def renewed(self, lease_id: LeaseId, asked_at_s: float) -> None:
        """Note that a renewal asked for at ``asked_at_s`` was granted."""
        held = self._held.get(lease_id)
        if held is not None:
            self._held[lease_id] = self._renewed(held.lease, asked_at_s)

    def postpone(self, lease_id: LeaseId, until_s: float) -> None:
        """Note that a renewal got no answer: try again at ``until_s``. The deadline stays."""
        held = self._held.get(lease_id)
        if held is not None:
            self._held[lease_id] = replace(held, renew_at_s=until_s)

    def hasten(self, execution_id: ExecutionId) -> None:
        """Let the execution's lease be due for renewal at once; nothing if it is not held."""
        for held in self._held.values():
            if held.lease.execution_id == execution_id:
                self._held[held.lease.lease_id] = replace(held, renew_at_s=-math.inf)
                return

    def due(self, now_s: float) -> list[Lease]:
        """Return the leases whose renewal is due, the most urgent first."""
        due = [held for held in self._held.values() if held.renew_at_s <= now_s]
        due.sort(key=lambda held: held.deadline_s)
        return [held.lease for held in due]

    def past_deadline(self, now_s: float) -> list[Lease]:
        """Return the leases that must not be acted on any more."""
        return [held.lease for held in self._held.values() if held.deadline_s <= now_s]

    def next_event_s(self) -> float | None:
        """Return when the next renewal or deadline falls due, or None without leases."""
        return min((min(held.renew_at_s, held.deadline_s) for held in self._held.values()), default=None)

    def next_deadline_s(self) -> float | None:
        """Return the earliest deadline, or None without leases."""
        return min((held.deadline_s for held in self._held.values()), default=None)

    def _renewed(self, lease: Lease, asked_at_s: float) -> Held:
        ttl_s = lease.ttl_ms / 1000
        return Held(lease, asked_at_s + ttl_s / RENEWALS_PER_TTL, asked_at_s + ttl_s - self.margin_s)
