"""The life of a lease, searched for a moment at which two workers run the same execution.

Every clock runs at its own rate, requests and answers are delayed and lost, and a child takes its time to die.
What the workers decide with is the ``LeaseBook``; the store decides as the protocol says: by its own clock alone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from ffsuper.messages import AttemptId, ExecutionId, LaneId, Lease, LeaseId
from ffsuper.sansio.lease import LeaseBook

EXECUTION = ExecutionId("{fp:0}:x")
TTL_S = 12.0
# So much faster or slower than true time may any clock run.
DRIFT = 0.02
# From giving a lease up until the child is dead.
KILL_S = 1.4
# What the two take at most: the difference of two clocks over a lease, and the kill.
MARGIN_S = 2 * DRIFT * TTL_S + KILL_S + 0.1
RATES = st.sampled_from([1 - DRIFT, 1.0, 1 + DRIFT])
WORKERS = st.integers(0, 2)
ANY = st.integers(0, 5)


@dataclass
class Clock:
    """A clock that is wrong by a constant, and runs at a rate."""

    rate: float
    offset_s: float

    def at(self, true_s: float) -> float:
        return self.offset_s + self.rate * true_s

    def true(self, shown_s: float) -> float:
        return (shown_s - self.offset_s) / self.rate


@dataclass
class Worker:
    """One worker.

    Attributes:
        lease: what its handler runs under; None when none runs.
        dead_s: when, in true time, the child is dead that is being killed.
        is_asking: it has asked for a claim, and not given up waiting.
    """

    clock: Clock
    book: LeaseBook
    lease: LeaseId | None = None
    dead_s: float | None = None
    is_asking: bool = False


@dataclass(frozen=True)
class Message:
    """A request on its way to the store, or its answer on the way back."""

    worker: int
    lease: Lease
    is_claim: bool
    asked_at_s: float


@dataclass
class Store:
    """Who has the execution's lease, and until when on the store's clock."""

    clock: Clock
    lease_id: LeaseId | None = None
    expires_s: float = 0.0
    requests: list[Message] = field(default_factory=list)
    answers: list[tuple[Message, bool]] = field(default_factory=list)


class Cycle(RuleBasedStateMachine):
    """The store, three workers, and all that can happen between them."""

    margin_s = MARGIN_S

    @initialize(rates=st.tuples(RATES, RATES, RATES, RATES))
    def begin(self, rates: tuple[float, ...]) -> None:
        self.true_s = 0.0
        self.leases = 0
        self.store = Store(Clock(rates[0], 1_000.0))
        offsets_s = (0.0, 50.0, -300.0)
        self.workers = [
            Worker(Clock(rate, offset_s), LeaseBook(self.margin_s))
            for rate, offset_s in zip(rates[1:], offsets_s, strict=True)
        ]

    def local_s(self, worker: int) -> float:
        return self.workers[worker].clock.at(self.true_s)

    @rule(worker=WORKERS)
    def a_worker_asks_for_the_execution(self, worker: int) -> None:
        one = self.workers[worker]
        if one.lease is None and not one.is_asking:
            self.leases += 1
            name, at_s = str(self.leases), self.local_s(worker)
            lease = Lease(EXECUTION, LaneId("lane"), LeaseId(name), 1, AttemptId(name), 0, int(TTL_S * 1000), at_s)
            one.is_asking = True
            self.store.requests.append(Message(worker, lease, is_claim=True, asked_at_s=at_s))

    @rule(worker=WORKERS)
    def a_worker_claims_at_once(self, worker: int) -> None:
        asked = len(self.store.requests)
        self.a_worker_asks_for_the_execution(worker)
        if len(self.store.requests) > asked:
            self.a_request_arrives(asked)
            self.an_answer_arrives(len(self.store.answers) - 1)

    @rule(worker=WORKERS)
    def a_worker_renews_what_is_due(self, worker: int) -> None:
        for lease in self.workers[worker].book.take_due(self.local_s(worker)):
            self.store.requests.append(Message(worker, lease, is_claim=False, asked_at_s=self.local_s(worker)))

    @rule(number=ANY)
    def a_request_arrives(self, number: int) -> None:
        if number < len(self.store.requests):
            message = self.store.requests.pop(number)
            self.store.answers.append((message, self.granted(message)))

    def granted(self, message: Message) -> bool:
        store, now_s = self.store, self.store.clock.at(self.true_s)
        has_expired = store.lease_id is None or store.expires_s <= now_s
        if has_expired if message.is_claim else (store.lease_id == message.lease.lease_id and not has_expired):
            store.lease_id, store.expires_s = message.lease.lease_id, now_s + TTL_S
            return True
        return False

    @rule(number=ANY)
    def an_answer_arrives(self, number: int) -> None:
        if number >= len(self.store.answers):
            return
        message, is_granted = self.store.answers.pop(number)
        worker = self.workers[message.worker]
        if message.is_claim and worker.is_asking:
            worker.is_asking = False
            if is_granted:
                worker.book.track(message.lease)
                worker.lease = message.lease.lease_id
                self.give_up_overdue(worker, has_begun=False)
        elif not message.is_claim and is_granted:
            worker.book.renewed(message.lease.lease_id, message.asked_at_s)
        elif message.lease.lease_id in worker.book:
            worker.book.release(message.lease.lease_id)
            self.stop(worker)

    @rule(number=ANY, is_answer=st.booleans())
    def a_message_is_lost(self, number: int, is_answer: bool) -> None:
        messages = [one for one, _ in self.store.answers] if is_answer else self.store.requests
        if number < len(messages):
            message = messages[number]
            (self.store.answers if is_answer else self.store.requests).pop(number)
            worker = self.workers[message.worker]
            if message.is_claim:
                worker.is_asking = False
            else:
                worker.book.postpone(message.lease.lease_id, self.local_s(message.worker) + 0.5)

    @rule(worker=WORKERS)
    def a_handler_ends(self, worker: int) -> None:
        one = self.workers[worker]
        if one.lease is not None and one.dead_s is None:
            one.book.release(one.lease)
            one.lease = None

    @rule(seconds=st.sampled_from([0.1, 0.3, 1.0, 3.0, 8.0]))
    def time_passes(self, seconds: float) -> None:
        until_s = self.true_s + seconds
        while True:
            events = [(one.clock.true(one.book.next_deadline_s()), one) for one in self.workers if len(one.book)]
            events += [(one.dead_s, one) for one in self.workers if one.dead_s is not None]
            at_s, worker = min(events, key=lambda event: event[0], default=(until_s, None))
            if worker is None or at_s > until_s:
                self.true_s = until_s
                return
            self.true_s = max(self.true_s, at_s)
            if worker.dead_s == at_s:
                worker.lease, worker.dead_s = None, None
            else:
                self.give_up_overdue(worker, has_begun=True)

    def give_up_overdue(self, worker: Worker, *, has_begun: bool) -> None:
        for _ in worker.book.take_overdue(worker.clock.at(self.true_s) + 1e-9):
            if has_begun:
                self.stop(worker)
            else:
                worker.lease = None

    def stop(self, worker: Worker) -> None:
        """Begin to kill the child."""
        if worker.lease is not None and worker.dead_s is None:
            worker.dead_s = self.true_s + KILL_S

    @invariant()
    def no_two_handlers_run(self) -> None:
        running = [number for number, one in enumerate(self.workers) if one.lease is not None]
        assert len(running) <= 1, f"workers {running} run the same execution"


class WithoutMargin(Cycle):
    margin_s = 0.0


class WithoutTheDrift(Cycle):
    margin_s = KILL_S


class WithoutTheKill(Cycle):
    margin_s = 2 * DRIFT * TTL_S


SEARCH = settings(
    max_examples=20_000 if os.environ.get("FFSUPER_LONG") else 400,
    stateful_step_count=40,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
Cycle.TestCase.settings = SEARCH
TestCycle = Cycle.TestCase


@pytest.mark.parametrize("machine", [WithoutMargin, WithoutTheDrift, WithoutTheKill])
def test_the_search_finds_an_overlap_when_the_margin_is_too_small(machine: type[Cycle]) -> None:
    search = settings(SEARCH, max_examples=50_000, phases=[Phase.generate], report_multiple_bugs=False)
    with pytest.raises(AssertionError, match="run the same execution"):
        run_state_machine_as_test(machine, settings=search)
