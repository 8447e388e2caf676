"""Answers that are lost after the store has carried the call out: a proxy cuts the connection in between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import redis
import trio

from ffsuper.client import Client
from ffsuper.clock import boottime_s
from ffsuper.config import StoreConfig
from ffsuper.errors import LeaseLostError, OutcomeUnknownError, RefusedError, StoreUnavailableError
from ffsuper.messages import (
    CancelledByHandler,
    Candidate,
    Claim,
    ClaimKind,
    Completed,
    CreateWaitpoint,
    Deferred,
    Emit,
    ExecutionId,
    Failed,
    OnTimeout,
    Outcome,
    Pick,
    ReportUsage,
    Suspended,
    UsageReported,
    WaitingForChildren,
    WaitpointCreated,
)
from ffsuper.store.claims import ClaimDoubtError, Identity
from ffsuper.store.keys import ExecutionKeys
from ffsuper.store.store import Store, open_store, prepare
from tests.fakes import LANE
from tests.proxy import Proxy, running_proxy

IDENTITY = Identity("test", "test-1", "", 60_000)


# What claims whatever comes first at a place, and what claims a candidate.
CLAIMING = [pytest.param("ffsuper_claim_first", id="picked"), pytest.param("ff_claim_execution", id="candidate")]


def chosen(function: str, candidate: Candidate) -> Candidate | Pick:
    """Return what has the function called."""
    partition = int(ExecutionKeys.of(candidate.execution_id).tag[4:-1])
    return Pick(candidate.lane, partition) if function == "ffsuper_claim_first" else candidate


@asynccontextmanager
async def behind_proxy(server_url: str, folder: Path) -> AsyncIterator[tuple[Store, Proxy, Candidate]]:
    """Provide a store behind a proxy, and one execution that is waiting there."""
    with redis.Redis.from_url(server_url) as server:
        server.flushall()
    settings = StoreConfig(url=server_url)
    prepare(settings)
    with Client(server_url) as client:
        execution = client.submit("job", b"\x00\xff")
    candidate = Candidate(execution, LANE, ClaimKind.NEW, "job")
    async with (
        running_proxy(folder, Path(server_url.removeprefix("unix://"))) as proxy,
        open_store(replace(settings, url=proxy.url), IDENTITY, 32, boottime_s) as store,
    ):
        yield store, proxy, candidate


@pytest.mark.parametrize("function", CLAIMING)
async def test_a_claim_whose_answer_was_lost_is_found_and_adopted_whole(
    function: str, server_url: str, tmp_path: Path
) -> None:
    async with behind_proxy(server_url, tmp_path) as (store, proxy, candidate):
        proxy.lose_reply_to = lambda request: function.encode() in request
        (doubt,) = await store.claims.claim([chosen(function, candidate)])
        assert isinstance(doubt, ClaimDoubtError)
        claim = await store.claims.look_up(doubt)
        assert isinstance(claim, Claim)
        assert (claim.lease.execution_id, claim.lease.lane) == (candidate.execution_id, candidate.lane)
        assert (claim.lease.lease_id, claim.lease.epoch) == (doubt.lease.lease_id, 1)
        assert claim.lease.attempt_id == doubt.lease.attempt_id
        assert (claim.execution_kind, claim.payload, claim.attempt_type) == ("job", b"\x00\xff", "initial")
        assert await store.leases.renew([claim.lease]) == [None]


@pytest.mark.parametrize("function", CLAIMING)
async def test_a_claim_that_never_arrived_is_known_not_to_be_ours(
    function: str, server_url: str, tmp_path: Path
) -> None:
    async with behind_proxy(server_url, tmp_path) as (store, proxy, candidate):
        proxy.lose_request = lambda request: function.encode() in request
        (doubt,) = await store.claims.claim([chosen(function, candidate)])
        assert isinstance(doubt, ClaimDoubtError)
        assert isinstance(await store.claims.look_up(doubt), RefusedError)
        (claim,) = await store.claims.claim([chosen(function, candidate)])
        assert isinstance(claim, Claim)


async def test_picks_whose_answers_were_lost_are_told_apart_from_one_another_and_from_what_is_held(
    server_url: str, tmp_path: Path
) -> None:
    async with behind_proxy(server_url, tmp_path) as (store, proxy, candidate):
        held = await claimed(store, candidate)
        with Client(server_url) as client:
            more = [client.submit("job", str(number).encode(), priority=9 - number) for number in range(2)]
        pick = chosen("ffsuper_claim_first", candidate)
        proxy.lose_reply_to = lambda request: b"ffsuper_claim_first" in request
        doubts = [one for one in await store.claims.claim([pick] * 3) if isinstance(one, ClaimDoubtError)]
        assert [one.lease.execution_id for one in doubts] == [""] * 3
        *claims, nothing = [await store.claims.look_up(doubt) for doubt in doubts]
        found = [one for one in claims if isinstance(one, Claim)]
        assert [one.lease.execution_id for one in found] == more
        assert [one.payload for one in found] == [b"0", b"1"]
        assert isinstance(nothing, RefusedError)
        assert await store.leases.renew([held.lease, *(one.lease for one in found)]) == [None] * 3


async def test_a_pick_stays_in_doubt_while_what_is_held_cannot_be_read(server_url: str, tmp_path: Path) -> None:
    async with behind_proxy(server_url, tmp_path) as (store, proxy, candidate):
        proxy.lose_reply_to = lambda request: b"ffsuper_claim_first" in request
        (doubt,) = await store.claims.claim([chosen("ffsuper_claim_first", candidate)])
        assert isinstance(doubt, ClaimDoubtError)
        keys = ExecutionKeys.of(candidate.execution_id)
        for lost in (b"SMEMBERS", keys.core.encode()):
            proxy.lose_reply_to = lambda request, lost=lost: lost in request
            assert await store.claims.look_up(doubt) is doubt
        claim = await store.claims.look_up(doubt)
        assert isinstance(claim, Claim)
        assert claim.lease.execution_id == candidate.execution_id


async def test_damage_among_what_is_held_hides_nothing(server_url: str, tmp_path: Path) -> None:
    async with behind_proxy(server_url, tmp_path) as (store, proxy, candidate):
        pick, keys = chosen("ffsuper_claim_first", candidate), ExecutionKeys.of(candidate.execution_id)
        gone, damaged = (ExecutionId(f"{{fp:1}}:{number:032}") for number in range(2))
        with redis.Redis.from_url(server_url) as server:
            held = keys.partition.worker_leases(IDENTITY.instance_id)
            server.sadd(held, "nonsense", gone, damaged)
            server.set(ExecutionKeys.of(damaged).core, "damaged")
        for lose, expected in (("lose_request", RefusedError), ("lose_reply_to", Claim)):
            setattr(proxy, lose, lambda request: b"ffsuper_claim_first" in request)
            (doubt,) = await store.claims.claim([pick])
            assert isinstance(doubt, ClaimDoubtError)
            assert isinstance(await store.claims.look_up(doubt), expected)


async def claimed(store: Store, candidate: Candidate) -> Claim:
    (claim,) = await store.claims.claim([candidate])
    assert isinstance(claim, Claim)
    return claim


OUTCOMES = [
    *(
        Completed(b"result"),
        Failed("broken", "exception"),
        Deferred(0),
        WaitingForChildren(),
        CancelledByHandler("no"),
    ),
    Suspended("waiting_for_signal", ("a",), False, None, OnTimeout.FAIL, ""),
]


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda one: type(one).__name__)
async def test_an_outcome_whose_answer_was_lost_is_proved_by_the_lease_history(
    outcome: Outcome, server_url: str, tmp_path: Path
) -> None:
    async with behind_proxy(server_url, tmp_path) as (store, proxy, candidate):
        claim = await claimed(store, candidate)
        proxy.lose_reply_to = lambda request: b"FCALL" in request
        with pytest.raises(OutcomeUnknownError):
            await store.outcomes.deliver(claim.lease, outcome, b"")
        with pytest.raises(LeaseLostError):
            await store.outcomes.deliver(claim.lease, outcome, b"")
        assert await store.outcomes.was_delivered(claim.lease, outcome)


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda one: type(one).__name__)
async def test_an_outcome_that_never_arrived_is_delivered_by_the_next_try(
    outcome: Outcome, server_url: str, tmp_path: Path
) -> None:
    async with behind_proxy(server_url, tmp_path) as (store, proxy, candidate):
        claim = await claimed(store, candidate)
        proxy.lose_request = lambda request: b"FCALL" in request
        with pytest.raises(OutcomeUnknownError):
            await store.outcomes.deliver(claim.lease, outcome, b"")
        assert not await store.outcomes.was_delivered(claim.lease, outcome)
        await store.outcomes.deliver(claim.lease, outcome, b"")
        assert await store.outcomes.was_delivered(claim.lease, outcome)


async def test_a_renewal_whose_answer_was_lost_is_simply_repeated(server_url: str, tmp_path: Path) -> None:
    async with behind_proxy(server_url, tmp_path) as (store, proxy, candidate):
        claim = await claimed(store, candidate)
        proxy.lose_reply_to = lambda request: b"ffsuper_renew" in request
        (result,) = await store.leases.renew([claim.lease])
        assert isinstance(result, OutcomeUnknownError | StoreUnavailableError)
        assert await store.leases.renew([claim.lease]) == [None]


FRAMES = [Emit(1, "delta", "", str(number).encode()) for number in range(20)]


@pytest.mark.parametrize("loses", ["lose_reply_to", "lose_request"])
async def test_frames_whose_answers_were_lost_are_appended_once_each(
    loses: str, server_url: str, tmp_path: Path
) -> None:
    async with behind_proxy(server_url, tmp_path) as (store, proxy, candidate):
        claim = await claimed(store, candidate)
        frames = store.attempts.frames(claim.lease)
        assert await frames.write(FRAMES[:5]) == ""
        setattr(proxy, loses, lambda request: b"ff_append_frame" in request)
        assert await frames.write(FRAMES[5:]) == ""
        with Client(server_url) as client:
            stored = [frame.payload for frame in client.tail(candidate.execution_id, live=False)]
        assert stored == [frame.payload for frame in FRAMES]


@pytest.mark.parametrize("loses", ["lose_reply_to", "lose_request"])
async def test_frames_of_an_attempt_that_goes_on_are_appended_though_the_first_question_is_lost(
    loses: str, server_url: str, tmp_path: Path
) -> None:
    async with behind_proxy(server_url, tmp_path) as (store, proxy, candidate):
        claim = await claimed(store, candidate)
        assert await store.attempts.frames(claim.lease).write(FRAMES[:5]) == ""
        setattr(proxy, loses, lambda request: b"frame_count" in request)
        assert await store.attempts.frames(claim.lease).write(FRAMES[5:]) == ""
        with Client(server_url) as client:
            stored = [frame.payload for frame in client.tail(candidate.execution_id, live=False)]
        assert stored == [frame.payload for frame in FRAMES]


async def test_a_waitpoint_whose_answer_was_lost_is_found(server_url: str, tmp_path: Path) -> None:
    async with behind_proxy(server_url, tmp_path) as (store, proxy, candidate):
        claim = await claimed(store, candidate)
        proxy.lose_reply_to = lambda request: b"ff_create_pending_waitpoint" in request
        created = await store.attempts.answer(claim.lease, CreateWaitpoint(1, 1, "mine", 60_000))
        assert isinstance(created, WaitpointCreated)
        with redis.Redis.from_url(server_url) as server:
            (waitpoint,) = server.keys("ff:wp:*")
            stored = server.hmget(waitpoint, "waitpoint_key", "waitpoint_token")
        assert stored == [b"mine", created.token.encode()]


async def test_usage_whose_answer_was_lost_is_counted_once(server_url: str, tmp_path: Path) -> None:
    async with behind_proxy(server_url, tmp_path) as (store, proxy, candidate):
        claim = await claimed(store, candidate)
        proxy.lose_reply_to = lambda request: b"ff_report_usage_and_check" in request
        report = ReportUsage(1, 1, "11111111-1111-1111-1111-111111111111", {"tokens": 5}, "")
        assert isinstance(await store.attempts.answer(claim.lease, report), UsageReported)
        with redis.Redis.from_url(server_url) as server:
            (usage,) = server.keys("ff:budget:*:usage")
            assert server.hgetall(usage) == {b"tokens": b"5"}


async def test_a_suspension_that_was_satisfied_at_once_is_found_though_its_answer_was_lost(
    server_url: str, tmp_path: Path
) -> None:
    async with behind_proxy(server_url, tmp_path) as (store, proxy, candidate):
        claim = await claimed(store, candidate)
        point = await store.attempts.answer(claim.lease, CreateWaitpoint(1, 1, "", 60_000))
        assert isinstance(point, WaitpointCreated)
        with Client(server_url) as client:
            client.signal(candidate.execution_id, "go", b"early", waitpoint_id=point.waitpoint_id)
        outcome = Suspended("waiting_for_signal", ("go",), False, None, OnTimeout.FAIL, point.waitpoint_id)
        proxy.lose_reply_to = lambda request: b"ff_suspend_execution" in request
        with pytest.raises(OutcomeUnknownError):
            await store.outcomes.deliver(claim.lease, outcome, b"")
        signals = await store.outcomes.deliver(claim.lease, outcome, b"")
        assert signals is not None
        assert [(one.name, one.payload) for one in signals] == [("go", b"early")]
        assert await store.leases.renew([claim.lease]) == [None]


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        ("ffsuper_claim_first", ClaimKind.NEW),
        ("ff_claim_resumed_execution", ClaimKind.RESUMED),
        ("ff_claim_resumed_execution", ClaimKind.NEW),  # it was to be resumed only after it had been looked at
    ],
)
async def test_the_signals_of_a_resumed_claim_whose_answer_was_lost_are_found_too(
    function: str, kind: ClaimKind, server_url: str, tmp_path: Path
) -> None:
    async with behind_proxy(server_url, tmp_path) as (store, proxy, candidate):
        claim = await claimed(store, candidate)
        outcome = Suspended("waiting_for_signal", ("go",), False, None, OnTimeout.FAIL, "")
        assert await store.outcomes.deliver(claim.lease, outcome, b"") is None
        with Client(server_url) as client:
            client.signal(candidate.execution_id, "go", b"now")
        proxy.lose_reply_to = lambda request: function.encode() in request
        (doubt,) = await store.claims.claim([chosen(function, replace(candidate, claim=kind))])
        assert isinstance(doubt, ClaimDoubtError)
        resumed = await store.claims.look_up(doubt)
        assert isinstance(resumed, Claim)
        assert resumed.attempt_type == "resumed"
        assert [one.payload for one in resumed.signals] == [b"now"]


async def test_a_replay_whose_answer_was_lost_is_in_doubt_and_not_repeated(server_url: str, tmp_path: Path) -> None:
    async with behind_proxy(server_url, tmp_path) as (_, proxy, candidate):
        with await trio.to_thread.run_sync(Client, proxy.url) as client:
            await trio.to_thread.run_sync(client.cancel, candidate.execution_id)
            proxy.lose_reply_to = lambda request: b"ff_replay_execution" in request
            with pytest.raises(OutcomeUnknownError):
                await trio.to_thread.run_sync(client.replay, candidate.execution_id)
            assert len(proxy.lost) == 1
            shown = await trio.to_thread.run_sync(client.show, candidate.execution_id)
            assert (shown.state, shown.record["replay_count"]) == ("waiting", "1")


async def test_a_replay_that_never_arrived_is_in_doubt_too(server_url: str, tmp_path: Path) -> None:
    async with behind_proxy(server_url, tmp_path) as (_, proxy, candidate):
        with await trio.to_thread.run_sync(Client, proxy.url) as client:
            await trio.to_thread.run_sync(client.cancel, candidate.execution_id)
            proxy.lose_request = lambda request: b"ff_replay_execution" in request
            with pytest.raises(OutcomeUnknownError):
                await trio.to_thread.run_sync(client.replay, candidate.execution_id)
            assert await trio.to_thread.run_sync(client.state, candidate.execution_id) == "cancelled"
