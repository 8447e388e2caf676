"""The LeaseBook does whatever is done with it as a plain list would that looks at every lease each time."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ffsuper.messages import AttemptId, ExecutionId, LaneId, Lease, LeaseId
from ffsuper.sansio.lease import GATHERED_SHARE, RENEWALS_PER_TTL, LeaseBook

MARGIN_S = 2.0
EXECUTIONS = [ExecutionId(f"{{fp:{number}}}:x") for number in range(4)]
LEASES = st.integers(0, 11)
SECONDS = st.integers(0, 12).map(lambda quarters: quarters / 4)


@dataclass
class One:
    """A lease as the list has it; ``renew_at_s`` is None while it is asked for."""

    lease: Lease
    renew_at_s: float | None
    deadline_s: float
    is_hastened: bool = False

    def renewed(self, asked_at_s: float) -> None:
        ttl_s = self.lease.ttl_ms / 1000
        self.renew_at_s = -math.inf if self.is_hastened else asked_at_s + ttl_s / RENEWALS_PER_TTL
        self.deadline_s, self.is_hastened = asked_at_s + ttl_s - MARGIN_S, False


class Books(RuleBasedStateMachine):
    """Does everything with both, at times that never go back."""

    def __init__(self) -> None:
        super().__init__()
        self.book = LeaseBook(MARGIN_S)
        self.list: dict[LeaseId, One] = {}
        self.now_s = 100.0
        self.tracked = 0

    def named(self, number: int) -> LeaseId:
        """Return one of the leases that were tracked last, held or not."""
        return LeaseId(str(self.tracked - number))

    @rule(after_s=SECONDS)
    def time_passes(self, after_s: float) -> None:
        self.now_s += after_s

    @rule(execution_id=st.sampled_from(EXECUTIONS), ttl_ms=st.sampled_from([6_000, 12_000, 30_000]), age_s=SECONDS)
    def track(self, execution_id: ExecutionId, ttl_ms: int, age_s: float) -> None:
        self.tracked += 1
        name, asked_at_s = str(self.tracked), self.now_s - age_s
        lease = Lease(execution_id, LaneId("lane"), LeaseId(name), 1, AttemptId(name), 0, ttl_ms, asked_at_s)
        self.book.track(lease)
        self.list[lease.lease_id] = One(lease, None, 0.0)
        self.list[lease.lease_id].renewed(asked_at_s)

    @rule(number=LEASES)
    def release(self, number: int) -> None:
        self.book.release(self.named(number))
        self.list.pop(self.named(number), None)

    @rule(number=LEASES, ago_s=SECONDS)
    def renewed(self, number: int, ago_s: float) -> None:
        self.book.renewed(self.named(number), self.now_s - ago_s)
        if one := self.list.get(self.named(number)):
            one.renewed(self.now_s - ago_s)

    @rule(number=LEASES, pause_s=SECONDS)
    def postpone(self, number: int, pause_s: float) -> None:
        self.book.postpone(self.named(number), self.now_s + pause_s)
        if one := self.list.get(self.named(number)):
            one.renew_at_s, one.is_hastened = self.now_s + pause_s, False

    @rule(execution_id=st.sampled_from(EXECUTIONS))
    def hasten(self, execution_id: ExecutionId) -> None:
        self.book.hasten(execution_id)
        for one in self.list.values():
            if one.lease.execution_id == execution_id:
                one.is_hastened = one.renew_at_s is None
                one.renew_at_s = None if one.is_hastened else -math.inf

    @rule()
    def take_due(self) -> None:
        def until(time_s: float) -> Callable[[One], bool]:
            return lambda one: one.renew_at_s is not None and one.renew_at_s <= time_s

        due = list(filter(until(self.now_s), self.list.values()))
        in_time = [one for one in due if one.renew_at_s != -math.inf]
        if in_time:
            shortest_s = min(one.lease.ttl_ms for one in in_time) / 1000
            due = list(filter(until(self.now_s + shortest_s / RENEWALS_PER_TTL * GATHERED_SHARE), self.list.values()))
        taken = self.book.take_due(self.now_s)
        renewals_s = [self.list[lease.lease_id].renew_at_s or 0.0 for lease in taken]
        assert renewals_s == sorted(renewals_s)
        assert {lease.lease_id for lease in taken} == {one.lease.lease_id for one in due}
        assert len(taken) == len(due)
        for one in due:
            one.renew_at_s = None

    @rule()
    def take_overdue(self) -> None:
        overdue = [one for one in self.list.values() if one.deadline_s <= self.now_s]
        taken = self.book.take_overdue(self.now_s)
        assert sorted(lease.lease_id for lease in taken) == sorted(one.lease.lease_id for one in overdue)
        for one in overdue:
            del self.list[one.lease.lease_id]

    @precondition(lambda self: self.list)
    @rule()
    def everything_is_answered(self) -> None:
        for lease_id, one in self.list.items():
            if one.renew_at_s is None:
                self.book.renewed(lease_id, self.now_s)
                one.renewed(self.now_s)

    @invariant()
    def both_say_the_same(self) -> None:
        deadlines_s = [one.deadline_s for one in self.list.values()]
        renewals_s = [one.renew_at_s for one in self.list.values() if one.renew_at_s is not None]
        assert len(self.book) == len(self.list)
        assert all(lease_id in self.book for lease_id in self.list)
        assert self.book.next_deadline_s() == min(deadlines_s, default=math.inf)
        assert self.book.next_event_s() == min([*deadlines_s, *renewals_s], default=math.inf)


Books.TestCase.settings = settings(
    max_examples=1_000 if os.environ.get("FFSUPER_LONG") else 100,
    stateful_step_count=60,
    derandomize=not os.environ.get("FFSUPER_LONG"),
    database=None,
    deadline=None,
)
TestBooks = Books.TestCase
