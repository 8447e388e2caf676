"""The actors for flows while the store is away, in virtual time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import trio
import trio.testing

from ffsuper.engine import completions, dependencies, flow_summary
from ffsuper.errors import StoreError, StoreUnavailableError
from ffsuper.messages import ExecutionId, LaneId, SweepReport
from ffsuper.store.announcements import LISTENING
from ffsuper.store.dependencies import Counted, Dependencies, Members, Settled, Work
from ffsuper.store.keys import FlowKeys
from ffsuper.store.looks import Index
from tests.engine.actors import reports_of
from tests.fakes import LANE, pulses

ENDED = ExecutionId("{fp:1}:6ba7b810-9dad-11d1-80b4-00c04fd430c8")
MESSAGE = b'{"execution_id": "%s"}' % ENDED.encode()
INTERVAL_S = 5.0


class FakeDependencies(Dependencies):
    """A store with one blocked execution and one flow.

    Attributes:
        away: the next calls find that the store is away.
        calls: what was asked, and when, in seconds of virtual time.
    """

    def __init__(self) -> None:
        self.away = 0
        self.calls: list[tuple[str, float]] = []

    def reach(self, what: str) -> StoreError | None:
        self.calls.append((what, trio.current_time()))
        if self.away:
            self.away -= 1
            return StoreUnavailableError("the test says that the store is away")
        return None

    def times(self, what: str) -> list[float]:
        return [at_s for asked, at_s in self.calls if asked == what]

    async def lanes(self) -> list[LaneId]:
        await trio.lowlevel.checkpoint()
        return []

    async def present(self, wanted: Sequence[Index]) -> list[Index]:
        await trio.lowlevel.checkpoint()
        return list(wanted)[:1]

    async def blocked(self, cursors: Mapping[Index, str]) -> list[Members | StoreError]:
        await trio.lowlevel.checkpoint()
        return [self.reach("blocked") or Members("0", [ENDED]) for _ in cursors]

    async def settle(self, batch: Sequence[Work]) -> list[Settled | StoreError]:
        await trio.lowlevel.checkpoint()
        return [self.reach("settle") or Settled({"satisfied": 1}, 0, "", "", []) for _ in batch]

    async def flows(self, index: Index, cursor: str) -> Members | StoreError:
        await trio.lowlevel.checkpoint()
        return self.reach("flows") or Members("0", ["flow"])

    async def count(self, cursors: Mapping[FlowKeys, str]) -> list[Counted | StoreError]:
        await trio.lowlevel.checkpoint()
        return [self.reach("count") or Counted("0", 1, {"completed": 1}) for _ in cursors]

    async def summarize(self, counts: Mapping[FlowKeys, Mapping[str, int]]) -> list[str | StoreError]:
        await trio.lowlevel.checkpoint()
        return [self.reach("summarize") or "over" for _ in counts]


async def test_what_was_announced_while_the_store_was_away_is_left_to_a_sweep(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeDependencies()
    store.away = 1
    send, announced = trio.open_memory_channel[bytes](0)
    ask, asked = trio.open_memory_channel[None](1)
    async with reports_of(completions.run, store, announced, ask) as reports:
        await send.send(MESSAGE)
        await asked.receive()
        await send.send(MESSAGE)
        await reports.until("satisfied")


async def test_announcements_that_have_gathered_are_worked_off_together(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeDependencies()
    send, announced = trio.open_memory_channel[bytes](100)
    ask, asked = trio.open_memory_channel[None](1)
    for message in [MESSAGE] * 50 + [LISTENING] * 2:
        send.send_nowait(message)
    async with reports_of(completions.run, store, announced, ask) as reports:
        await reports.until("satisfied")
        await asked.receive()
        await trio.testing.wait_all_tasks_blocked()
    assert len(store.calls) == 1


async def test_the_actor_for_completions_ends_with_its_announcements(autojump_clock: trio.testing.MockClock) -> None:
    send, announced = trio.open_memory_channel[bytes](0)
    ask, asked = trio.open_memory_channel[None](1)
    reports, received = trio.open_memory_channel[SweepReport](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(completions.run, FakeDependencies(), announced, ask, reports, pulses())
        await send.aclose()
    for channel in (asked, received):
        try:
            channel.receive_nowait()
        except trio.EndOfChannel:
            continue
        raise AssertionError("left open")


async def test_a_sweep_comes_at_every_interval_and_when_it_is_asked_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeDependencies()
    ask, asked = trio.open_memory_channel[None](1)
    async with reports_of(dependencies.run, store, [0], [LANE], asked, INTERVAL_S):
        await trio.sleep(7)
        await ask.send(None)
        await trio.sleep(1)
        await ask.aclose()
        await trio.sleep(10)
    assert [at_s - store.calls[0][1] for at_s in store.times("blocked")] == [0, 5, 7, 12, 17]


async def test_sweeps_over_flows_wait_an_outage_out(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeDependencies()
    _, asked = trio.open_memory_channel[None](1)
    for away in range(1, 4):
        store.away = away
        async with reports_of(dependencies.run, store, [0], [LANE], asked.clone(), INTERVAL_S) as reports:
            await reports.until("satisfied")
        store.away = away
        async with reports_of(flow_summary.run, store, [0], INTERVAL_S) as reports:
            await reports.until("over")
