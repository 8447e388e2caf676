"""Renewals of many leases at once, by whatever functions the store has."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import redis

from ffsuper.client import Client
from ffsuper.clock import boottime_s
from ffsuper.config import StoreConfig
from ffsuper.errors import (
    ExecutionNotFoundError,
    LeaseLostError,
    StoreError,
    StoreScriptError,
    StoreUnavailableError,
)
from ffsuper.messages import AttemptId, Candidate, Claim, ClaimKind, ExecutionId, LaneId, Lease, LeaseId
from ffsuper.store import libraries
from ffsuper.store.claims import Identity
from ffsuper.store.connection import open_connection
from ffsuper.store.keys import ExecutionKeys
from ffsuper.store.leases import FUNCTION, LEASES_PER_CALL, Leases, read_answers, renew_all
from ffsuper.store.store import Store, open_store, prepare
from ffsuper.store.submissions import Submission
from tests.store.older import prepare_older

LANE = LaneId("lane")
TTL_MS = 60_000


class Subject:
    """A store, and a client of its server."""

    def __init__(self, store: Store, server: redis.Redis, client: Client) -> None:
        self.leases = store.leases
        self.redis = server
        self._store = store
        self._client = client

    async def hold(self, *partitions: int) -> list[Lease]:
        """Return the leases of new executions, one on each of these partitions."""
        ids = [ExecutionId(f"{{fp:{partition}}}:{uuid.uuid4()}") for partition in partitions]
        self._client.submit_many([Submission(execution_id=one, lane=LANE, execution_kind="job") for one in ids])
        claims = await self._store.claims.claim([Candidate(one, LANE, ClaimKind.NEW, "job") for one in ids])
        held = [claim.lease for claim in claims if isinstance(claim, Claim)]
        assert len(held) == len(ids)
        return held

    def expiry_ms(self, lease: Lease) -> int:
        """Return when a lease ends, as its record says."""
        return int(self.redis.hget(ExecutionKeys.of(lease.execution_id).core, "lease_expires_at") or 0)

    def calls(self) -> int:
        """Return how many functions have been called."""
        found: Any = self.redis.info("commandstats")
        return int(found["cmdstat_fcall"]["calls"])


@pytest.fixture(params=["together", "apart"])
async def subject(request: pytest.FixtureRequest, server_url: str) -> AsyncIterator[Subject]:
    with redis.Redis.from_url(server_url) as server:
        server.flushall()
        settings = StoreConfig(url=server_url) if request.param == "together" else prepare_older(server_url)
        prepare(settings)
        with Client(StoreConfig(url=server_url, library=settings.library)) as client:
            async with open_store(settings, Identity("pool", "me", "", TTL_MS), 32, boottime_s) as store:
                yield Subject(store, server, client)


async def test_leases_of_many_partitions_and_lengths_are_answered_in_their_order(subject: Subject) -> None:
    held = await subject.hold(1, 2, 1, 3, 1, 2)
    longer = [replace(lease, ttl_ms=TTL_MS * (1 + position % 3)) for position, lease in enumerate(held)]
    gone = replace(held[0], execution_id=ExecutionId(f"{{fp:2}}:{uuid.uuid4()}"))
    stale = replace(held[1], epoch=7)
    results = await subject.leases.renew([gone, *longer, stale, longer[0]])
    assert isinstance(results[0], ExecutionNotFoundError)
    assert isinstance(results[7], LeaseLostError)
    assert results[7].code == "stale_lease"
    assert [*results[1:7], results[8]] == [None] * 7
    now_ms = int(subject.redis.time()[0]) * 1000
    for lease in longer:
        assert now_ms + lease.ttl_ms - 5_000 < subject.expiry_ms(lease) <= now_ms + lease.ttl_ms + 2_000


async def test_a_refusal_comes_with_what_has_become_of_the_execution(subject: Subject) -> None:
    held = await subject.hold(1, 1)
    subject.redis.hset(
        ExecutionKeys.of(held[0].execution_id).core,
        mapping={"lifecycle_phase": "terminal", "terminal_outcome": "cancelled"},
    )
    refusal, other = await subject.leases.renew(held)
    assert isinstance(refusal, LeaseLostError)
    assert (refusal.code, refusal.details, other) == ("execution_not_active", ("cancelled", "1"), None)


async def test_a_damaged_record_costs_its_own_lease_only_and_is_no_refusal(subject: Subject) -> None:
    held = await subject.hold(1, 1, 1)
    subject.redis.set(ExecutionKeys.of(held[1].execution_id).core, "damaged")
    first, damage, last = await subject.leases.renew(held)
    assert (first, last) == (None, None)
    assert isinstance(damage, StoreScriptError)
    assert "WRONGTYPE" in str(damage)


async def test_no_leases_are_no_call(subject: Subject) -> None:
    before = subject.calls()
    assert await subject.leases.renew([]) == []
    assert subject.calls() == before


@pytest.mark.parametrize("subject", ["together"], indirect=True)
async def test_leases_of_a_partition_are_one_call_up_to_a_number(subject: Subject) -> None:
    held = await subject.hold(*[1] * (LEASES_PER_CALL + 1), *[2] * 5)
    before = subject.calls()
    assert await subject.leases.renew(held) == [None] * (LEASES_PER_CALL + 6)
    assert subject.calls() - before == 3


@pytest.mark.parametrize("subject", ["apart"], indirect=True)
async def test_a_function_that_will_not_come_is_asked_for_once(subject: Subject) -> None:
    held = await subject.hold(1, 1, 2)
    assert await subject.leases.renew(held) == [None] * 3
    before = subject.calls()
    assert await subject.leases.renew(held) == [None] * 3
    assert subject.calls() - before == 3


@pytest.mark.parametrize("subject", ["together"], indirect=True)
async def test_a_library_that_was_lost_costs_no_lease_and_is_used_again(subject: Subject) -> None:
    held = await subject.hold(1, 1, 2)
    subject.redis.function_flush("SYNC")
    assert await subject.leases.renew(held) == [None] * 3
    before = subject.calls()
    assert await subject.leases.renew(held) == [None] * 3
    assert subject.calls() - before == 2


async def test_a_foreign_store_has_the_protocols_functions_only(server_url: str) -> None:
    with redis.Redis.from_url(server_url) as server:
        server.flushall()
        prepare(StoreConfig(url=server_url))
        server.function_delete(libraries.FFSUPER)
        settings = StoreConfig(url=server_url, library="never")
        with Client(settings) as client:
            async with open_store(settings, Identity("pool", "me", "", TTL_MS), 32, boottime_s) as store:
                subject = Subject(store, server, client)
                assert await subject.leases.renew(await subject.hold(1, 1, 2)) == [None] * 3


def made_up(number: int) -> Lease:
    return Lease(ExecutionId(f"{{fp:1}}:{number}"), LANE, LeaseId("x"), 1, AttemptId("x"), 0, TTL_MS, 0.0)


async def test_a_store_that_is_away_answers_for_none() -> None:
    async with open_connection(StoreConfig(url="redis://127.0.0.1:1"), "leases") as connection:
        results = await Leases(connection).renew([made_up(1), made_up(2)])
    assert [type(one) for one in results] == [StoreUnavailableError] * 2


@pytest.mark.parametrize("reply", [[0, b"invalid_input", b"KEYS"], b"OK", [b"x"], []])
def test_a_reply_that_is_none_fails_as_a_whole(reply: Any) -> None:
    with pytest.raises(StoreError):
        read_answers(0, reply)


@pytest.mark.parametrize("answers", [[], [1], [1, 1, 1]])
def test_a_reply_that_does_not_answer_for_each_lease_answers_for_none(answers: list[int]) -> None:
    call = renew_all([made_up(1), made_up(2)])
    with pytest.raises(StoreScriptError, match=f"^{FUNCTION}: {len(answers)} answers for 2 leases$"):
        call.parse([1, b"OK", b"5", *answers])


def test_an_answer_that_is_none_is_not_taken_for_a_renewal() -> None:
    strange = [[1, b"OK"], 7, None, b"x", [], [-1]]
    renewed, *odd, refusal = read_answers(8, [1, b"OK", b"5", 1, *strange, [0, b"stale_lease"]])
    assert renewed is None
    assert [isinstance(one, StoreScriptError) for one in odd] == [True] * len(strange)
    assert isinstance(refusal, LeaseLostError)
