"""Claims of many executions at once: of candidates, and of what comes first at a place."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import redis
import trio

from ffsuper.client import Client
from ffsuper.clock import boottime_s
from ffsuper.config import StoreConfig
from ffsuper.errors import InvalidRequestError, LibraryMissingError, RefusedError, StoreError, StoreScriptError
from ffsuper.messages import (
    AttemptId,
    Candidate,
    Claim,
    ClaimKind,
    Deferred,
    ExecutionId,
    LaneId,
    Lease,
    LeaseId,
    Pick,
)
from ffsuper.sansio.scan import Place
from ffsuper.store import embedded
from ffsuper.store.batch_claims import Picked, read_answers, settle_picks
from ffsuper.store.claim_calls import Taken
from ffsuper.store.claims import Identity
from ffsuper.store.keys import ExecutionKeys
from ffsuper.store.scans import Waiting
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
    assert await subject.store.leases.renew([one.lease for one in claims]) == [None] * 7


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


def damage(subject: Subject, key: str) -> None:
    """Put something else into a key than should be there."""
    subject.redis.delete(key)
    subject.redis.rpush(key, "damaged")


@pytest.mark.parametrize("part", ["payload", "tags", "policy"])
async def test_a_claim_whose_context_is_damaged_says_so_and_is_held(subject: Subject, part: str) -> None:
    candidate, other = subject.add(), subject.add()
    damage(subject, ExecutionKeys.of(candidate.execution_id).part(part))
    damaged, claim = await subject.store.claims.claim([candidate, other])
    assert isinstance(claim, Claim)
    assert isinstance(damaged, Claim)
    assert (claim.damage, damaged.damage.partition(" ")[0]) == ("", f"{part}:")
    assert "WRONGTYPE" in damaged.damage
    assert (damaged.lease.epoch, damaged.attempt_type, damaged.payload) == (1, "initial", b"")
    assert await subject.store.leases.renew([damaged.lease]) == [None]


async def test_damaged_deadlines_keep_nothing_from_running(
    subject: Subject, caplog: pytest.LogCaptureFixture
) -> None:
    candidate = subject.add()
    key = ExecutionKeys.of(candidate.execution_id).partition.index("execution_deadline")
    damage(subject, key)
    (claim,) = await subject.store.claims.claim([candidate])
    assert isinstance(claim, Claim)
    assert (claim.payload, claim.deadline_ms, claim.damage) == (b"\x00\xff", None, "")
    told: list[Any] = [one for one in caplog.records if one.message == "damaged key skipped"]
    assert [one.key for one in told] == [key]


async def test_damaged_signals_of_a_suspension_are_told_with_the_claim(subject: Subject) -> None:
    candidate = subject.add()
    (first,) = await subject.store.claims.claim([candidate])
    assert isinstance(first, Claim)
    await subject.store.outcomes.deliver(first.lease, Deferred(0), b"")
    damage(subject, ExecutionKeys.of(candidate.execution_id).part("suspension:current"))
    (resumed,) = await subject.store.claims.claim([replace(candidate, claim=ClaimKind.RESUMED)])
    assert isinstance(resumed, Claim)
    assert (resumed.attempt_type, resumed.damage.partition(" ")[0]) == ("resumed", "signals:")


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


@pytest.fixture
async def picking(fresh_url: str) -> AsyncIterator[Subject]:
    async with opened(fresh_url, StoreConfig(url=fresh_url)) as subject:
        yield subject


def place_of(candidate: Candidate, offset: int = 0) -> Pick:
    """Return what picks at a candidate's place."""
    return Pick(candidate.lane, number(candidate), offset)


def number(candidate: Candidate) -> int:
    """Return a candidate's partition."""
    return int(ExecutionKeys.of(candidate.execution_id).tag[4:-1])


def outcome(result: Claim | StoreError) -> str:
    """Return the id of the execution that was claimed, or why there is none."""
    match result:
        case Claim():
            return result.lease.execution_id
        case RefusedError():
            return result.code
        case error:
            return type(error).__name__


async def test_equal_picks_are_one_call_and_claim_what_is_left_in_order(picking: Subject) -> None:
    waiting = [picking.add(priority=priority, tags={"number": str(priority)}) for priority in (9, 5, 1)]
    before = picking.calls()
    found = await picking.store.claims.claim([place_of(waiting[0])] * 5)
    assert picking.calls() - before == 1
    assert [*map(outcome, found)] == [*(one.execution_id for one in waiting), "nothing_left", "nothing_left"]
    claims = [one for one in found if isinstance(one, Claim)]
    assert [(one.execution_kind, one.payload, one.tags["number"]) for one in claims] == [
        ("job", b"\x00\xff", number) for number in "951"
    ]
    assert [(one.lease.lane, one.lease.epoch, one.lease.attempt_index, one.attempt_type) for one in claims] == [
        (LANES[0], 1, 0, "initial")
    ] * 3
    assert await picking.store.leases.renew([one.lease for one in claims]) == [None] * 3


async def test_picks_and_candidates_of_many_places_are_answered_in_their_order(picking: Subject) -> None:
    one, two, three = ([picking.add(lane, priority=priority) for priority in (9, 1)] for lane in LANES)
    before = picking.calls()
    chosen: list[Candidate | Pick] = [
        place_of(two[0]),
        place_of(one[0], 1),
        three[0],
        place_of(two[0]),
        place_of(three[0], 1),
        one[0],
    ]
    found = await picking.store.claims.claim(chosen)
    assert picking.calls() - before == 3 + 2 * 2  # a candidate takes a grant and a claim
    expected = [two[0], one[1], three[0], two[1], three[1], one[0]]
    assert [*map(outcome, found)] == [candidate.execution_id for candidate in expected]


async def test_only_kinds_that_are_asked_for_are_picked(picking: Subject) -> None:
    others, ours = picking.add(execution_kind="other", priority=9), picking.add()
    place = place_of(ours)
    found = await picking.store.claims.claim([place] * 2, ["x", "job"])
    assert [*map(outcome, found)] == [ours.execution_id, "nothing_left"]
    (found_any,) = await picking.store.claims.claim([place])
    assert isinstance(found_any, Claim)
    assert (outcome(found_any), found_any.execution_kind) == (others.execution_id, "other")


async def test_a_pick_comes_with_policy_and_deadline(picking: Subject) -> None:
    candidate = picking.add(policy={"retry_policy": {"max_retries": 2}}, deadline_ms=4_102_444_800_000)
    (claim,) = await picking.store.claims.claim([place_of(candidate)])
    assert isinstance(claim, Claim)
    assert (json.loads(claim.retry_policy), claim.deadline_ms) == ({"max_retries": 2}, 4_102_444_800_000)


async def test_what_needs_more_than_we_can_is_set_aside_and_the_next_is_picked(
    picking: Subject, caplog: pytest.LogCaptureFixture
) -> None:
    demanding = picking.add(policy={"routing_requirements": {"required_capabilities": ["tpu"]}}, priority=9)
    candidate = picking.add()
    with caplog.at_level(logging.DEBUG):
        found = await picking.store.claims.claim([place_of(candidate)] * 2)
    assert [*map(outcome, found)] == [candidate.execution_id, "nothing_left"]
    told = [vars(record) for record in caplog.records if record.message == "not claimed"]
    assert [(one["execution"], one["code"]) for one in told] == [(demanding.execution_id, "capability_mismatch")]
    keys = ExecutionKeys.of(demanding.execution_id)
    assert picking.redis.zrange(keys.partition.lane(demanding.lane, "blocked:route"), 0, -1) == [
        demanding.execution_id.encode()
    ]


async def test_what_an_error_has_stopped_is_told_where_nothing_else_was_claimed(picking: Subject) -> None:
    damaged, good = picking.add(priority=9), picking.add()
    picking.redis.set(ExecutionKeys.of(damaged.execution_id).core, "damaged")
    one, two, three = await picking.store.claims.claim([place_of(good)] * 3)
    assert isinstance(one, Claim)
    assert one.lease.execution_id == good.execution_id
    assert isinstance(two, StoreScriptError)
    assert str(two).startswith(f"{damaged.execution_id}: WRONGTYPE")
    assert outcome(three) == "nothing_left"


@pytest.mark.parametrize("part", ["payload", "tags", "policy"])
async def test_a_pick_whose_context_is_damaged_says_so_and_is_held(picking: Subject, part: str) -> None:
    candidate, other = picking.add(priority=9), picking.add()
    damage(picking, ExecutionKeys.of(candidate.execution_id).part(part))
    damaged, claim = await picking.store.claims.claim([place_of(candidate)] * 2)
    assert outcome(claim) == other.execution_id
    assert isinstance(damaged, Claim)
    assert (damaged.lease.execution_id, damaged.execution_kind) == (candidate.execution_id, "job")
    assert damaged.damage.startswith(f"{part}: ")
    assert await picking.store.leases.renew([damaged.lease]) == [None]


async def test_a_store_that_lacks_our_function_and_may_not_get_it_has_no_picks(server_url: str) -> None:
    async with opened(server_url, prepare_older(server_url)) as subject:
        candidate = subject.add()
        before = subject.store.claims.picks
        found = await subject.store.claims.claim([place_of(candidate), candidate])
        assert [*map(outcome, found)] == ["LibraryMissingError", candidate.execution_id]
        assert (before, subject.store.claims.picks) == (True, False)
        (again,) = await subject.store.claims.claim([subject.add()])
        assert isinstance(again, Claim)


async def test_a_store_without_any_library_of_ours_has_no_picks(fresh_url: str) -> None:
    async with opened(fresh_url, StoreConfig(url=fresh_url, library="never")) as subject:
        candidate = subject.add()
        subject.redis.function_delete("ffsuper")
        found = await subject.store.claims.claim([place_of(candidate), candidate])
        assert [*map(outcome, found)] == ["LibraryMissingError", candidate.execution_id]
        assert not subject.store.claims.picks


async def test_a_library_that_was_lost_is_there_again_for_the_next_pick(picking: Subject) -> None:
    candidate = picking.add()
    picking.redis.function_flush()
    (missing,) = await picking.store.claims.claim([place_of(candidate)])
    assert isinstance(missing, LibraryMissingError)
    assert picking.store.claims.picks
    (claim,) = await picking.store.claims.claim([place_of(candidate)])
    assert outcome(claim) == candidate.execution_id


async def test_each_execution_is_picked_by_one_of_two_workers(fresh_url: str) -> None:
    settings = StoreConfig(url=fresh_url)
    found: list[Claim | StoreError] = []
    async with opened(fresh_url, settings) as one, opened(fresh_url, settings) as other:
        wanted = [one.add() for _ in range(8)]

        async def claim(store: Store) -> None:
            for _ in range(4):
                found.extend(await store.claims.claim([place_of(wanted[0])] * 2))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(claim, one.store)
            nursery.start_soon(claim, other.store)
    assert sorted(map(outcome, found)) == sorted([*(one.execution_id for one in wanted), *["nothing_left"] * 8])


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


async def test_the_server_in_python_looks_and_picks_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with embedded.reachable(StoreConfig(url="embedded", data_dir=tmp_path / "data")) as settings:
        prepare(settings)
        async with opened(settings.url, settings) as subject:
            subject.add(execution_kind="other", priority=9)
            damaged, waiting = subject.add(priority=5), subject.add(tags={"a": "b"})
            subject.redis.set(ExecutionKeys.of(damaged.execution_id).core, "damaged")
            place = Place(waiting.lane, number(waiting))
            places = [Place(place.lane, place.partition + 1), place]
            assert await subject.store.scans.waiting(places, ["job"]) == [Waiting(place, 3, 2, waiting.execution_id)]
            claim, error, nothing = await subject.store.claims.claim([place_of(waiting)] * 3, ["job"])
            assert isinstance(claim, Claim)
            assert (claim.lease.execution_id, claim.tags) == (waiting.execution_id, {"a": "b"})
            assert isinstance(error, StoreScriptError)
            assert outcome(nothing) == "nothing_left"
            assert await subject.store.leases.renew([claim.lease]) == [None]


async def test_what_was_claimed_for_nobody_is_an_error() -> None:
    taken = Taken(1, AttemptId("attempt"), 0, "initial")
    lease = Lease(ExecutionId(""), LANES[0], LeaseId("ours"), 0, AttemptId("attempt"), 0, 60_000, 0.0)
    connection: Any = None
    for execution, lease_id in (("{fp:7}:a", "theirs"), ("nonsense", "ours")):
        picked = Picked(ExecutionId(execution), "job", LeaseId(lease_id), taken, [])
        found = await settle_picks(connection, Pick(LANES[0], 7), [lease], [picked])
        assert isinstance(found[lease.lease_id], StoreScriptError)


def test_a_call_that_is_refused_as_a_whole_says_so() -> None:
    with pytest.raises(InvalidRequestError, match="KEYS must be 7"):
        read_answers([0, b"invalid_input", b"KEYS must be 7, got: 6"])
    with pytest.raises(StoreScriptError, match="unexpected reply"):
        read_answers(b"what")
