from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
import trio.lowlevel
import trio.testing

from ffsuper.engine import leader
from tests.fakes import HOUR_S, FakeStore, pulses

TTL_MS = 3_000
TTL_S = TTL_MS / 1000


@dataclass
class Engine:
    """One engine; ``spans`` are the times at which it swept: from, until; ``said`` is what it said of itself."""

    name: str
    spans: list[list[float]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    async def sweep(self) -> None:
        self.spans.append([trio.current_time()])
        try:
            await trio.sleep_forever()
        finally:
            self.spans[-1].append(trio.current_time())


@asynccontextmanager
async def leading(store: FakeStore, engine: Engine) -> AsyncIterator[trio.CancelScope]:
    with trio.fail_after(HOUR_S):
        async with trio.open_nursery() as nursery:
            what = (
                store.leadership,
                engine.name,
                TTL_MS,
                engine.sweep,
                trio.current_time,
                pulses(),
                engine.said.append,
            )
            nursery.start_soon(leader.run, *what)
            yield nursery.cancel_scope
            nursery.cancel_scope.cancel()


async def test_the_first_leads_at_once_and_keeps_the_lead(autojump_clock: trio.testing.MockClock) -> None:
    store, engine = FakeStore(), Engine("one")
    async with leading(store, engine):
        await trio.sleep(100 * TTL_S)
        assert engine.spans == [[0.0]]
        assert store.leadership.term == 1


async def test_one_that_ends_gives_the_lead_up_and_the_next_has_it_at_its_next_look(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, first, second = FakeStore(), Engine("one"), Engine("two")
    async with leading(store, first) as scope:
        await trio.sleep(1)
        async with leading(store, second):
            await trio.sleep(10)
            assert second.spans == []
            scope.cancel()
            await trio.lowlevel.checkpoint()
    async with leading(store, second):
        await trio.sleep(TTL_S)
    assert len(second.spans) == 1
    assert (first.said[-1], set(second.said)) == ("leads, term 1", {"stands by; the leader is one", "leads, term 2"})
    assert store.leadership.term == 2


async def test_one_that_has_died_is_followed_when_its_lead_is_over(autojump_clock: trio.testing.MockClock) -> None:
    store, engine = FakeStore(), Engine("two")
    await store.leadership.lead("dead", TTL_MS)
    async with leading(store, engine):
        await trio.sleep(2 * TTL_S)
        ((since_s,),) = engine.spans
        assert TTL_S <= since_s <= TTL_S * (1 + 1 / leader.RENEWALS_PER_TTL)


async def test_one_that_cannot_reach_the_store_stops_before_its_lead_is_over_and_leads_again_when_it_can(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, engine = FakeStore(), Engine("one")
    async with leading(store, engine):
        await trio.sleep(0.5)
        store.away = True
        await trio.sleep(10 * TTL_S)
        ((_, until_s),) = engine.spans
        assert until_s < TTL_S
        assert engine.said[-1] == "waits for the store"
        store.away = False
        await trio.sleep(TTL_S)
        assert len(engine.spans) == 2
        assert store.leadership.term == 2


async def test_one_whose_lead_another_has_taken_stops_at_its_next_renewal(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, engine = FakeStore(), Engine("one")
    async with leading(store, engine):
        await trio.sleep(0.5)
        store.leadership.holder = "two"
        store.leadership.expires_s = HOUR_S
        await trio.sleep(TTL_S)
        ((_, until_s),) = engine.spans
        assert until_s <= TTL_S / leader.RENEWALS_PER_TTL + 0.001


async def test_a_lead_that_cannot_be_given_up_is_left_to_expire(autojump_clock: trio.testing.MockClock) -> None:
    store, engine = FakeStore(), Engine("one")
    async with leading(store, engine):
        await trio.sleep(0.5)
        store.away = True
    assert store.leadership.expires_s > trio.current_time()
