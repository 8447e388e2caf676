"""What actors rely on, held against the real store, with our latest library and an older one, and the tests' fake."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest
import redis
import trio

from ffsuper.client import Client
from ffsuper.clock import boottime_s
from ffsuper.config import StoreConfig
from ffsuper.errors import LeaseLostError, RefusedError
from ffsuper.messages import (
    CancelledByHandler,
    Candidate,
    Claim,
    ClaimKind,
    Completed,
    Deferred,
    ExecutionId,
    Failed,
    OnTimeout,
    Outcome,
    Progress,
    Suspended,
    WaitingForChildren,
)
from ffsuper.sansio.partition import of_bytes
from ffsuper.sansio.scan import Place
from ffsuper.store.claims import Identity
from ffsuper.store.delivery import HANDED_BACK
from ffsuper.store.looks import Index
from ffsuper.store.presence import Presence
from ffsuper.store.store import Store, open_presence, open_store, prepare
from ffsuper.store.takeovers import Expired, Taker
from tests.fakes import LANE, FakeStore
from tests.store.older import prepare_older

PARTITION = of_bytes(LANE.encode(), 256)
SHORT_TTL_MS = 150


OUTCOMES = [
    *(
        Completed(b"\xff\x00"),
        Failed("broken", "exception"),
        Deferred(0),
        WaitingForChildren(),
        CancelledByHandler("no"),
    ),
    Suspended("waiting_for_signal", ("a",), False, None, OnTimeout.FAIL, ""),
]


@dataclass
class Subject:
    """One of the two stores."""

    store: Store | FakeStore
    presence: Presence
    add: Callable[[], ExecutionId]
    place: Place

    async def candidate(self) -> Candidate:
        """Return the one execution that is eligible."""
        (page,) = await self.store.scans.eligible([self.place], 10, ())
        (candidate,) = page.candidates
        return candidate

    async def claim(self) -> Claim:
        (claim,) = await self.store.claims.claim([await self.candidate()])
        assert isinstance(claim, Claim)
        return claim


@pytest.fixture(params=["real", "older", "fake"])
async def subject(request: pytest.FixtureRequest, server_url: str) -> AsyncIterator[Subject]:
    if request.param == "fake":
        fake = FakeStore(lease_ttl_s=SHORT_TTL_MS / 1000)
        yield Subject(fake, fake.presence, lambda: fake.add(1), Place(LANE, 0))
        return
    with redis.Redis.from_url(server_url) as client:
        client.flushall()
    settings = prepare_older(server_url) if request.param == "older" else StoreConfig(url=server_url)
    prepare(settings)
    identity = Identity("test", f"test-{uuid.uuid4()}", "", SHORT_TTL_MS)
    with Client(settings) as submitter:
        async with (
            open_store(settings, identity, 32, boottime_s) as store,
            open_presence(settings, identity.instance_id) as presence,
        ):
            yield Subject(store, presence, lambda: submitter.submit("job"), Place(LANE, PARTITION))


async def test_a_submitted_execution_is_found_and_claimed_once(subject: Subject) -> None:
    execution = subject.add()
    candidate = await subject.candidate()
    assert (candidate.execution_id, candidate.claim, candidate.execution_kind) == (execution, ClaimKind.NEW, "job")
    first, second = await subject.store.claims.claim([candidate, candidate])
    assert isinstance(first, Claim)
    assert isinstance(second, RefusedError)
    assert (first.lease.epoch, first.lease.attempt_index, first.attempt_type) == (1, 0, "initial")


async def test_what_is_skipped_is_counted_and_not_shown(subject: Subject) -> None:
    execution = subject.add()
    (page,) = await subject.store.scans.eligible([subject.place], 10, {execution})
    assert (page.members, page.skipped, page.candidates) == (1, 1, ())


async def test_a_claimed_execution_is_not_eligible(subject: Subject) -> None:
    subject.add()
    await subject.claim()
    (page,) = await subject.store.scans.eligible([subject.place], 10, ())
    assert page.members == 0


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda one: type(one).__name__)
async def test_an_outcome_ends_the_lease_and_can_be_proved_afterwards(subject: Subject, outcome: Outcome) -> None:
    subject.add()
    claim = await subject.claim()
    assert not await subject.store.outcomes.was_delivered(claim.lease, outcome)
    await subject.store.outcomes.deliver(claim.lease, outcome, b"")
    with pytest.raises(LeaseLostError):
        await subject.store.outcomes.deliver(claim.lease, outcome, b"")
    assert await subject.store.outcomes.was_delivered(claim.lease, outcome)
    (renewal,) = await subject.store.leases.renew([claim.lease])
    assert isinstance(renewal, LeaseLostError)


async def test_another_outcome_is_not_taken_for_ours(subject: Subject) -> None:
    subject.add()
    claim = await subject.claim()
    await subject.store.outcomes.deliver(claim.lease, Completed(b""), b"")
    assert not await subject.store.outcomes.was_delivered(claim.lease, Deferred(0))


async def test_what_is_handed_back_can_be_claimed_at_once_and_goes_on(subject: Subject) -> None:
    execution = subject.add()
    claim = await subject.claim()
    assert await subject.store.outcomes.deliver_all([(claim, HANDED_BACK)]) == [None]
    again = await subject.claim()
    assert (again.lease.execution_id, again.lease.attempt_index) == (execution, claim.lease.attempt_index)


async def test_what_is_deferred_waits_for_its_time(subject: Subject) -> None:
    subject.add()
    claim = await subject.claim()
    await subject.store.outcomes.deliver(claim.lease, Deferred(int(time.time() * 1000) + 60_000), b"")
    (page,) = await subject.store.scans.eligible([subject.place], 10, ())
    assert page.candidates == ()


async def test_outcomes_delivered_together_fail_each_by_itself(subject: Subject) -> None:
    subject.add()
    first = await subject.claim()
    await subject.store.outcomes.deliver(first.lease, Completed(b""), b"")
    subject.add()
    second = await subject.claim()
    results = await subject.store.outcomes.deliver_all([(first, HANDED_BACK), (second, Completed(b"kept"))])
    assert isinstance(results[0], LeaseLostError)
    assert results[1] is None


async def test_a_held_lease_is_renewed_as_often_as_asked(subject: Subject) -> None:
    subject.add()
    claim = await subject.claim()
    for _ in range(3):
        assert await subject.store.leases.renew([claim.lease]) == [None]


async def taken_away(subject: Subject) -> Candidate:
    """Wait until the lease is over; return its execution as something to be taken over."""
    index = Index("lease_expiry", subject.place.partition)
    taker = Taker([LANE], "", ["job"])
    with trio.fail_after(10):
        while True:
            due = await subject.store.takeovers.due({index: 0.0})
            if due.first[index].late_ms >= 0:
                (page,) = await subject.store.takeovers.expired([(index, 0.0, 0)], taker)
                assert isinstance(page, Expired)
                (candidate,) = page.candidates
                return candidate
            await trio.sleep(SHORT_TTL_MS / 1000)


async def test_a_lease_that_ran_out_is_reclaimed_by_a_new_attempt_and_the_old_one_can_write_nothing(
    subject: Subject,
) -> None:
    execution = subject.add()
    old = await subject.claim()
    candidate = await taken_away(subject)
    assert (candidate.execution_id, candidate.claim) == (execution, ClaimKind.RECLAIM)
    (new,) = await subject.store.claims.claim([candidate])
    assert isinstance(new, Claim)
    assert (new.lease.epoch, new.lease.attempt_index) == (2, 1)
    with pytest.raises(LeaseLostError):
        await subject.store.outcomes.deliver(old.lease, Completed(b"stale"), b"")
    (renewal,) = await subject.store.leases.renew([old.lease])
    assert isinstance(renewal, LeaseLostError)


async def test_progress_needs_the_lease(subject: Subject) -> None:
    subject.add()
    claim = await subject.claim()
    await subject.store.attempts.progress(claim.lease, Progress(1, 50, "half way"))
    await subject.store.outcomes.deliver(claim.lease, Completed(b""), b"")
    with pytest.raises(LeaseLostError):
        await subject.store.attempts.progress(claim.lease, Progress(1, 60, "too late"))


async def test_a_crash_report_needs_the_lease(subject: Subject) -> None:
    subject.add()
    claim = await subject.claim()
    for _ in range(2):
        await subject.store.attempts.report_crash(claim.lease, '{"text":"\ud800 \u00e9"}')
    await subject.store.outcomes.deliver(claim.lease, Failed("it crashed", "crash"), b"")
    with pytest.raises(LeaseLostError):
        await subject.store.attempts.report_crash(claim.lease, "{}")


async def test_the_alive_key_has_one_holder(subject: Subject) -> None:
    presence = subject.presence
    assert await presence.take_alive(b"me", 60_000) is None
    assert await presence.take_alive(b"other", 60_000) == b"me"
    assert await presence.holder() == b"me"
    assert await presence.renew_alive(b"me", 60_000)
    assert not await presence.renew_alive(b"other", 60_000)
    assert not await presence.release_alive(b"other")
    assert not await presence.replace_alive(b"other", b"new", 60_000)
    assert await presence.replace_alive(b"me", b"new", 60_000)
    assert not await presence.renew_alive(b"me", 60_000)
    assert await presence.release_alive(b"new")
    assert await presence.take_alive(b"me", 60_000) is None
    await presence.advertise("a,b", [LANE])
    await presence.tell("{}", 60_000)
    assert await presence.order() == b""
    assert await presence.answers()
    await presence.withdraw()
