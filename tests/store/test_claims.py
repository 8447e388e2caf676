"""Claims of many candidates at once, by whatever functions the store has."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import redis
import trio

from ffsuper.client import Client
from ffsuper.clock import boottime_s
from ffsuper.config import StoreConfig
from ffsuper.errors import InvalidRequestError, RefusedError, StoreError, StoreScriptError
from ffsuper.messages import Candidate, Claim, ClaimKind, ExecutionId, LaneId
from ffsuper.store.batch_claims import read_answers
from ffsuper.store.claims import ClaimDoubtError, Identity
from ffsuper.store.keys import ExecutionKeys
from ffsuper.store.store import Store, open_store, prepare
from ffsuper.store.submissions import Submission
from tests.store.older import prepare_older

ME = Identity("pool", "me", "gpu", 60_000)
LANES = [LaneId("one"), LaneId("two"), LaneId("three")]


@dataclass
class Subject:
    """A store and a client of its server."""

    store: Store
    redis: redis.Redis
    client: Client

    def add(self, lane: LaneId = LANES[0], **changes: Any) -> Candidate:
        """Submit an execution; return it as a candidate."""
        execution_id = self.client.new_id(lane)
        told = {"execution_id": execution_id, "lane": lane, "execution_kind": "job", "payload": b"\x00\xff"}
        self.client.submit_many([Submission(**{**told, **changes})])
        return Candidate(execution_id, lane, ClaimKind.NEW, "job")

    def calls(self) -> int:
        """Return how many functions have been called."""
        found: Any = self.redis.info("commandstats")
        return int(found["cmdstat_fcall"]["calls"])


@asynccontextmanager
async def opened(url: str, settings: StoreConfig) -> AsyncIterator[Subject]:
    with Client(StoreConfig(url=url, library=settings.library)) as client, redis.Redis.from_url(url) as server:
        async with open_store(settings, ME, 32, boottime_s) as store:
            yield Subject(store, server, client)


@pytest.fixture(params=["together", "apart"])
async def subject(request: pytest.FixtureRequest, server_url: str) -> AsyncIterator[Subject]:
    with redis.Redis.from_url(server_url) as server:
        server.flushall()
    settings = StoreConfig(url=server_url) if request.param == "together" else prepare_older(server_url)
    prepare(settings)
    async with opened(server_url, settings) as subject:
        yield subject


async def test_claims_of_many_kinds_are_answered_in_their_order(subject: Subject) -> None:
    wanted = [subject.add(lane, tags={"lane": lane}) for _ in range(2) for lane in LANES]
    gone = replace(wanted[0], execution_id=ExecutionId(f"{wanted[0].execution_id[:-4]}0000"))
    kindless = replace(subject.add(), execution_kind="")
    running = replace(subject.add(), claim=ClaimKind.RECLAIM)
    ungranted = replace(subject.add(), is_granted=True)
    asked = [*wanted[:3], gone, kindless, running, ungranted, *wanted[3:], wanted[0]]
    found = await subject.store.claims.claim(asked)
    codes = [answer.code if isinstance(answer, RefusedError) else "" for answer in found]
    refused = ["execution_not_found", "", "execution_not_reclaimable", "invalid_claim_grant"]
    assert codes == [*[""] * 3, *refused, *[""] * 3, "execution_not_eligible"]
    for candidate, claim in zip(asked, found, strict=True):
        if isinstance(claim, Claim):
            assert (claim.lease.execution_id, claim.lease.lane) == (candidate.execution_id, candidate.lane)
            assert (claim.execution_kind, claim.payload) == ("job", b"\x00\xff")
            assert claim.tags == ({} if candidate is kindless else {"lane": candidate.lane})
    claims = [one for one in found if isinstance(one, Claim)]
    assert await subject.store.leases.renew([one.lease for one in claims], 5) == [None] * 7


async def test_a_claim_comes_with_policy_and_deadline(subject: Subject) -> None:
    candidate = subject.add(policy={"retry_policy": {"max_retries": 2}}, deadline_ms=4_102_444_800_000)
    (claim,) = await subject.store.claims.claim([candidate])
    assert isinstance(claim, Claim)
    assert json.loads(claim.retry_policy) == {"max_retries": 2}
    assert claim.deadline_ms == 4_102_444_800_000


async def test_what_needs_more_than_we_can_is_set_aside_for_others(subject: Subject) -> None:
    candidate = subject.add(policy={"routing_requirements": {"required_capabilities": ["tpu"]}})
    (refusal,) = await subject.store.claims.claim([candidate])
    assert isinstance(refusal, RefusedError)
    assert (refusal.code, refusal.details) == ("capability_mismatch", ("tpu",))
    keys = ExecutionKeys.of(candidate.execution_id)
    assert subject.redis.hget(keys.core, "eligibility_state") == b"blocked_by_route"
    assert subject.redis.zcard(keys.partition.lane(candidate.lane, "blocked:route")) == 1
    assert subject.redis.zcard(keys.partition.lane(candidate.lane, "eligible")) == 0


@pytest.mark.parametrize("part", ["payload", "tags", "policy"])
async def test_a_claim_whose_context_is_damaged_is_in_doubt_until_it_is_mended(subject: Subject, part: str) -> None:
    candidate, other = subject.add(), subject.add()
    key = ExecutionKeys.of(candidate.execution_id).part(part)
    subject.redis.delete(key)
    subject.redis.zadd(key, {"damaged": 1})
    doubt, claim = await subject.store.claims.claim([candidate, other])
    assert isinstance(claim, Claim)
    assert isinstance(doubt, ClaimDoubtError)
    assert isinstance(await subject.store.claims.look_up(doubt), ClaimDoubtError)
    subject.redis.delete(key)
    mended = await subject.store.claims.look_up(doubt)
    assert isinstance(mended, Claim)
    assert (mended.lease.lease_id, mended.attempt_type) == (doubt.lease.lease_id, "initial")


async def test_a_damaged_record_is_told_apart_from_a_refusal(subject: Subject) -> None:
    candidate, other = subject.add(), subject.add()
    subject.redis.set(ExecutionKeys.of(candidate.execution_id).core, "damaged")
    damage, claim = await subject.store.claims.claim([candidate, other])
    assert isinstance(damage, StoreScriptError)
    assert "WRONGTYPE" in str(damage)
    assert isinstance(claim, Claim)


async def test_nothing_is_claimed_for_nobody(subject: Subject) -> None:
    assert await subject.store.claims.claim([]) == []


@pytest.fixture
def fresh_url(server_url: str) -> str:
    """Return the server's URL, with our libraries and nothing else in it."""
    with redis.Redis.from_url(server_url) as server:
        server.flushall()
    prepare(StoreConfig(url=server_url))
    return server_url


async def test_claims_of_one_lane_and_partition_are_one_call(fresh_url: str) -> None:
    async with opened(fresh_url, StoreConfig(url=fresh_url)) as subject:
        wanted = [subject.add() for _ in range(4)]
        before = subject.calls()
        found = await subject.store.claims.claim(wanted)
        assert all(isinstance(one, Claim) for one in found)
        assert subject.calls() - before == 1


async def test_a_store_that_lacks_our_function_is_asked_for_it_only_once(server_url: str) -> None:
    async with opened(server_url, prepare_older(server_url)) as subject:
        wanted = [subject.add() for _ in range(2)]
        for candidate, calls in zip(wanted, (3, 2), strict=True):
            before = subject.calls()
            (claim,) = await subject.store.claims.claim([candidate])
            assert isinstance(claim, Claim)
            assert subject.calls() - before == calls


async def test_a_library_that_was_lost_costs_no_claim_and_is_used_again_afterwards(fresh_url: str) -> None:
    async with opened(fresh_url, StoreConfig(url=fresh_url)) as subject:
        wanted = [subject.add() for _ in range(2)]
        subject.redis.function_flush()
        (claim,) = await subject.store.claims.claim(wanted[:1])
        assert isinstance(claim, Claim)
        before = subject.calls()
        (claim,) = await subject.store.claims.claim(wanted[1:])
        assert isinstance(claim, Claim)
        assert subject.calls() - before == 1


async def test_only_one_of_two_workers_gets_an_execution(fresh_url: str) -> None:
    settings = StoreConfig(url=fresh_url)
    found: list[Claim | StoreError] = []
    async with opened(fresh_url, settings) as one, opened(fresh_url, settings) as other:
        wanted = [one.add() for _ in range(8)]

        async def claim(store: Store) -> None:
            found.extend(await store.claims.claim(wanted))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(claim, one.store)
            nursery.start_soon(claim, other.store)
    claims = [one for one in found if isinstance(one, Claim)]
    assert len({one.lease.execution_id for one in claims}) == len(claims) == len(wanted)
    assert all(isinstance(one, RefusedError) for one in found if not isinstance(one, Claim))


def test_a_call_that_is_refused_as_a_whole_says_so() -> None:
    with pytest.raises(InvalidRequestError, match="KEYS must be 7"):
        read_answers([0, b"invalid_input", b"KEYS must be 7, got: 6"])
    with pytest.raises(StoreScriptError, match="unexpected reply"):
        read_answers(b"what")
