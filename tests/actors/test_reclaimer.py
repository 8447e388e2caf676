from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from ffsuper.actors import reclaimer
from ffsuper.channels import Candidates
from ffsuper.messages import ClaimKind, ExecutionId, LaneId
from ffsuper.store.takeovers import PAGE, Taker
from tests.fakes import HOUR_S, LANE, FakeStore, candidate, named, pulses

INTERVAL_S = 1.0
PARTITIONS = range(4)


@asynccontextmanager
async def reclaiming(
    store: FakeStore, lanes: tuple[LaneId, ...] = (LANE,)
) -> AsyncIterator[trio.MemoryReceiveChannel[Candidates]]:
    found_send, found = trio.open_memory_channel[Candidates](0)

    taker = Taker(lanes, "", ["job"])
    with trio.fail_after(HOUR_S):
        async with trio.open_nursery() as nursery, found:
            nursery.start_soon(
                reclaimer.run, store.takeovers, taker, PARTITIONS, INTERVAL_S, found_send, trio.current_time, pulses()
            )
            yield found
            nursery.cancel_scope.cancel()


async def test_an_execution_whose_holder_is_gone_is_offered_at_once_when_its_lease_ends(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeStore(lease_ttl_s=5.0)
    execution = store.add(1)
    await store.claims.claim([candidate(store.records[execution])])
    async with reclaiming(store) as found:
        (one,) = named(await found.receive())
        assert (one.execution_id, one.claim) == (execution, ClaimKind.RECLAIM)
        assert 5.0 <= trio.current_time() <= 5.0 + reclaimer.SPREAD_S


async def test_others_expired_executions_are_left_and_hide_nothing(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore(lease_ttl_s=5.0)
    foreign = [store.add(number, kind="foreign") for number in range(30 * PAGE)]
    ours = store.add(9999)
    await store.claims.claim([candidate(store.records[one]) for one in [*foreign, ours]])
    async with reclaiming(store) as found:
        assert [one.execution_id for one in named(await found.receive())] == [ours]


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
        assert len(named(await found.receive())) == 1


async def test_what_stays_unclaimed_is_offered_a_few_times_and_then_again_after_a_rest(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeStore(lease_ttl_s=5.0)
    await store.claims.claim([candidate(store.records[store.add(1)])])
    async with reclaiming(store) as found:
        offered_s = []
        with trio.move_on_after(60):
            while True:
                await found.receive()
                offered_s.append(trio.current_time())
    assert [round(at_s) for at_s in offered_s[:4]] == [5, 5, 5, 6]
    assert len(offered_s) < 60


async def test_what_cannot_be_claimed_does_not_hide_what_can(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore(lease_ttl_s=5.0)
    executions = [store.add(number) for number in range(5 * reclaimer.OFFER)]
    await store.claims.claim([candidate(store.records[one]) for one in executions])
    seen = set[ExecutionId]()
    async with reclaiming(store) as found:
        while len(seen) < len(executions):
            seen |= {one.execution_id for one in named(await found.receive())}
        assert trio.current_time() < 6
