from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from ffsuper.actors import scanner
from ffsuper.channels import Candidates
from ffsuper.messages import Candidate
from ffsuper.sansio.scan import ScanOrder
from tests.fakes import HOUR_S, LANE, FakeStore, pulses

Found = trio.MemoryReceiveChannel[Candidates]


@asynccontextmanager
async def scanning(
    store: FakeStore, wanted: Callable[[Candidate], bool] = lambda _: True, partitions: int = 1
) -> AsyncIterator[Found]:
    found_send, found = trio.open_memory_channel[Candidates](0)
    order = ScanOrder([LANE], partitions, seed=0)
    with trio.fail_after(HOUR_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scanner.run, store.scans, order, wanted, 1.0, found_send, trio.current_time, pulses())
            async with found:
                yield found
            nursery.cancel_scope.cancel()


async def test_what_is_claimable_is_sent(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    executions = [store.add(number) for number in range(3)]
    async with scanning(store) as found:
        assert [one.execution_id for one in (await found.receive()).found] == executions


async def test_a_busy_worker_reads_nothing(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    store.add(1)
    async with scanning(store):
        await trio.sleep(100)
        assert store.calls == ["eligible"]


async def test_an_idle_store_is_looked_at_once_a_round_and_interval(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    async with scanning(store, partitions=64):
        await trio.sleep(100)
        rounds = len(store.calls) / 2
        assert 75 < rounds < 140


async def test_what_was_just_sent_is_not_sent_again(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    first = store.add(1)
    async with scanning(store) as found:
        assert [one.execution_id for one in (await found.receive()).found] == [first]
        second = store.add(2)
        assert [one.execution_id for one in (await found.receive()).found] == [second]


async def test_what_nobody_claimed_is_sent_again_after_a_while(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    first = store.add(1)
    async with scanning(store) as found:
        await found.receive()
        sent_at_s = trio.current_time()
        assert [one.execution_id for one in (await found.receive()).found] == [first]
        assert trio.current_time() - sent_at_s >= scanner.FORGET_S


async def test_kinds_for_others_are_left_alone_and_hide_nothing(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    for number in range(3 * scanner.PAGE):
        store.add(number, kind="foreign")
    ours = store.add(9999)
    async with scanning(store, wanted=lambda one: one.execution_kind == "job") as found:
        assert [one.execution_id for one in (await found.receive()).found] == [ours]


async def test_an_outage_is_waited_out(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    execution = store.add(1)
    store.away = True
    async with scanning(store) as found:
        await trio.sleep(60)
        assert len(store.calls) < 60
        store.away = False
        assert [one.execution_id for one in (await found.receive()).found] == [execution]


async def test_it_ends_when_nobody_takes_candidates_any_more(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    store.add(1)
    found_send, found = trio.open_memory_channel[Candidates](0)
    await found.aclose()
    await scanner.run(
        store.scans, ScanOrder([LANE], 1, 0), lambda _: True, 1.0, found_send, trio.current_time, pulses()
    )


async def test_cancelling_it_closes_its_channel(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    found_send, found = trio.open_memory_channel[Candidates](0)
    with trio.move_on_after(3):
        await scanner.run(
            store.scans, ScanOrder([LANE], 1, 0), lambda _: True, 1.0, found_send, trio.current_time, pulses()
        )
    with pytest.raises(trio.EndOfChannel):
        found.receive_nowait()
