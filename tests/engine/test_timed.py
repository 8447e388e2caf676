"""The sweeps by time, on the fake store and in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from ffsuper.engine import delayed, lease_expiry, places
from ffsuper.messages import LaneId, SweepReport
from ffsuper.store.looks import Index
from ffsuper.store.sweeps import PAGE
from tests.fakes import HOUR_S, LANE, FakeStore, Record, candidate, pulses

INTERVAL_S = 1.0
PARTITIONS = range(4)

Start = Callable[[trio.Nursery, FakeStore, trio.MemorySendChannel[SweepReport]], None]


def promoting(nursery: trio.Nursery, store: FakeStore, reports: trio.MemorySendChannel[SweepReport]) -> None:
    nursery.start_soon(delayed.run, store.sweeps, PARTITIONS, [LANE], INTERVAL_S, reports, pulses())


def expiring(nursery: trio.Nursery, store: FakeStore, reports: trio.MemorySendChannel[SweepReport]) -> None:
    nursery.start_soon(lease_expiry.run, store.sweeps, PARTITIONS, INTERVAL_S, reports, pulses())


@asynccontextmanager
async def sweeping(store: FakeStore, start: Start) -> AsyncIterator[trio.MemoryReceiveChannel[SweepReport]]:
    """Run a sweep; yields what it reports."""
    send, receive = trio.open_memory_channel[SweepReport](10_000)
    with trio.fail_after(HOUR_S):
        async with trio.open_nursery() as nursery:
            start(nursery, store, send)
            yield receive
            nursery.cancel_scope.cancel()


def delay(store: FakeStore, number: int, due_s: float, state: str = "delayed") -> Record:
    record = store.records[store.add(number)]
    record.state, record.due_s = state, due_s
    return record


async def test_what_is_due_is_promoted_at_once(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    early = delay(store, 1, 0.0)
    async with sweeping(store, promoting):
        await trio.sleep(0.01)
        assert early.state == "waiting"


async def test_an_entry_that_is_known_is_promoted_when_it_falls_due_and_not_an_interval_later(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeStore()
    known = [delay(store, number, 2.25 + number / 10) for number in range(5)]
    async with sweeping(store, promoting):
        await trio.sleep(2.24)
        for one in known:
            assert one.state == "delayed"
            await trio.sleep(0.02)
            assert one.state == "waiting"
            await trio.sleep(0.08)


async def test_an_entry_that_comes_later_is_found_within_an_interval(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    async with sweeping(store, promoting):
        await trio.sleep(0.5)
        late = delay(store, 1, 0.6)
        await trio.sleep(INTERVAL_S)
        assert late.state == "waiting"


async def test_lanes_that_workers_begin_to_serve_are_swept_as_well(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    async with sweeping(store, promoting):
        await trio.sleep(0.5)
        other = delay(store, 1, 0.0)
        other.lane = LaneId("other")
        await trio.sleep(60)
        assert other.state == "delayed"
        store.lanes = [LaneId("other")]
        await trio.sleep(places.LANES_AGE_S + INTERVAL_S)
        assert other.state == "waiting"


async def test_thousands_of_stuck_entries_hide_nothing_and_are_tried_less_and_less_often(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeStore()
    for number in range(30 * PAGE):
        delay(store, number, -1.0, "stuck")
    behind = delay(store, 99_999, 0.5)
    async with sweeping(store, promoting) as reports:
        await trio.sleep(0.6)
        assert behind.state == "waiting"
        await trio.sleep(600)
        tried = 0
        while reports.statistics().current_buffer_used:
            report = reports.receive_nowait()
            tried += report.failed
            assert not report.failed or report.why == "damaged"
    assert tried <= 30 * PAGE * (5 + 600 / 30 + 1)


async def test_a_damaged_index_is_reported_and_hides_no_other(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    store.damaged = [Index("delayed", 3, LANE)]
    early = delay(store, 1, 0.0)
    async with sweeping(store, promoting) as reports:
        report = await reports.receive()
        assert (report.failed, report.example) == (1, store.damaged[0].key)
        await trio.sleep(0.01)
        assert early.state == "waiting"


async def test_leases_that_ran_out_are_marked_once_and_hide_no_others(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore(lease_ttl_s=5.0)
    executions = [store.add(number) for number in range(2 * PAGE)]
    await store.claims.claim([candidate(store.records[one]) for one in executions])
    async with sweeping(store, expiring):
        await trio.sleep(4)
        assert {store.records[one].state for one in executions} == {"active"}
        await trio.sleep(1.1)
        assert {store.records[one].state for one in executions} == {"expired"}
        await trio.sleep(2 * INTERVAL_S)
        moves = sum(call.startswith("move") for call in store.calls)
        await trio.sleep(10)
        assert sum(call.startswith("move") for call in store.calls) == moves


@pytest.mark.parametrize("start", [promoting, expiring])
async def test_sweeps_wait_an_outage_out(start: Start, autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    store.away = True
    async with sweeping(store, start):
        await trio.sleep(60)
        tries = len(store.calls)
        assert tries < 60
        store.away = False
        await trio.sleep(10)
        assert len(store.calls) > tries + 5
