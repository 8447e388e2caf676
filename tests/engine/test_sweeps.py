from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from ffsuper.actors import reclaimer
from ffsuper.channels import Candidates
from ffsuper.engine import delayed, lease_expiry
from ffsuper.messages import ClaimKind, LaneId
from tests.fakes import HOUR_S, LANE, FakeStore, candidate

INTERVAL_S = 1.0
PARTITIONS = range(4)


@asynccontextmanager
async def running(actor: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    with trio.fail_after(HOUR_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(actor)
            yield
            nursery.cancel_scope.cancel()


def promoting(store: FakeStore) -> Callable[[], Awaitable[None]]:
    return lambda: delayed.run(store.sweeps, [LANE], PARTITIONS, INTERVAL_S)


def expiring(store: FakeStore) -> Callable[[], Awaitable[None]]:
    return lambda: lease_expiry.run(store.sweeps, PARTITIONS, INTERVAL_S)


async def test_what_is_due_is_promoted_at_once_and_what_falls_due_within_an_interval(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeStore()
    early = store.records[store.add(1)]
    early.state = "delayed"
    async with running(promoting(store)):
        await trio.sleep(0.1)
        assert early.state == "waiting"
        late = store.records[store.add(2)]
        late.state = "delayed"
        await trio.sleep(INTERVAL_S)
        assert late.state == "waiting"


async def test_thousands_of_stuck_entries_hide_nothing_from_the_promotion(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = FakeStore()
    for number in range(3 * delayed.PAGE):
        store.records[store.add(number)].state = "stuck"
    behind = store.records[store.add(9999)]
    behind.state = "delayed"
    async with running(promoting(store)):
        await trio.sleep(0.5)
        assert behind.state == "waiting"
    assert "cannot promote" in caplog.text


async def test_leases_that_ran_out_are_marked_once_and_hide_no_others(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore(lease_ttl_s=5.0)
    executions = [store.add(number) for number in range(2 * lease_expiry.PAGE)]
    await store.claims.claim([candidate(store.records[one]) for one in executions])
    async with running(expiring(store)):
        await trio.sleep(4)
        assert {store.records[one].state for one in executions} == {"active"}
        await trio.sleep(2)
        assert {store.records[one].state for one in executions} == {"expired"}


@pytest.mark.parametrize("actor", [promoting, expiring])
async def test_sweeps_wait_an_outage_out(
    actor: Callable[[FakeStore], Callable[[], Awaitable[None]]], autojump_clock: trio.testing.MockClock
) -> None:
    store = FakeStore()
    store.away = True
    async with running(actor(store)):
        await trio.sleep(60)
        tries = len(store.calls)
        assert tries < 60
        store.away = False
        await trio.sleep(10)
        assert len(store.calls) > tries + 5


@asynccontextmanager
async def reclaiming(
    store: FakeStore, lanes: tuple[LaneId, ...] = (LANE,)
) -> AsyncIterator[trio.MemoryReceiveChannel[Candidates]]:
    found_send, found = trio.open_memory_channel[Candidates](0)

    async def actor() -> None:
        await reclaimer.run(
            *(store.scans, store.sweeps, lanes, PARTITIONS, lambda one: one.execution_kind == "job"),
            *(INTERVAL_S, found_send, trio.current_time),
        )

    async with running(actor), found:
        yield found


async def test_an_execution_whose_holder_is_gone_is_offered_within_an_interval_of_its_leases_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeStore(lease_ttl_s=5.0)
    execution = store.add(1)
    await store.claims.claim([candidate(store.records[execution])])
    async with reclaiming(store) as found:
        (one,) = (await found.receive()).found
        assert (one.execution_id, one.claim) == (execution, ClaimKind.RECLAIM)
        assert 5.0 <= trio.current_time() <= 5.0 + INTERVAL_S


async def test_others_expired_executions_are_left_and_hide_nothing(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore(lease_ttl_s=5.0)
    foreign = [store.add(number, kind="foreign") for number in range(3 * reclaimer.PAGE)]
    ours = store.add(9999)
    await store.claims.claim([candidate(store.records[one]) for one in [*foreign, ours]])
    async with reclaiming(store) as found:
        assert [one.execution_id for one in (await found.receive()).found] == [ours]


async def test_executions_of_other_lanes_are_not_offered(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore(lease_ttl_s=5.0)
    await store.claims.claim([candidate(store.records[store.add(1)])])
    async with reclaiming(store, lanes=(LaneId("other"),)) as found:
        with trio.move_on_after(60):
            await found.receive()
            pytest.fail("offered")


async def test_the_reclaimer_ends_when_nobody_takes_candidates_any_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeStore(lease_ttl_s=5.0)
    await store.claims.claim([candidate(store.records[store.add(1)])])
    async with reclaiming(store) as found:
        await found.aclose()
        await trio.sleep(20)
        calls = len(store.calls)
        await trio.sleep(20)
        assert len(store.calls) == calls


async def test_the_reclaimer_waits_an_outage_out(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore(lease_ttl_s=5.0)
    await store.claims.claim([candidate(store.records[store.add(1)])])
    store.away = True
    async with reclaiming(store) as found:
        await trio.sleep(60)
        store.away = False
        assert len((await found.receive()).found) == 1
