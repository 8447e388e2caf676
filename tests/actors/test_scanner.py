from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
import trio.testing

from ffsuper.actors import scanner
from ffsuper.channels import Candidates
from ffsuper.messages import LaneId, Pick
from ffsuper.sansio.scan import ScanOrder
from ffsuper.store.finds import SHARE, Finds
from ffsuper.store.scans import PAGE
from tests.fakes import HOUR_S, LANE, FakeStore, named, pulses

Found = trio.MemoryReceiveChannel[Candidates]


@dataclass
class WakeUps:
    """Announcements that a test makes.

    Attributes:
        listeners: how many have begun to listen so far.
    """

    send: trio.MemorySendChannel[tuple[LaneId, int] | None] | None = None
    listeners: int = 0

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[trio.MemoryReceiveChannel[tuple[LaneId, int] | None]]:
        self.send, receive = trio.open_memory_channel[tuple[LaneId, int] | None](100)
        self.send.send_nowait(None)
        self.listeners += 1
        try:
            yield receive
        finally:
            self.send = None

    def wake(self, partition: int = 0) -> None:
        """Announce that there is something to do."""
        assert self.send is not None, "nobody listens"
        self.send.send_nowait((LANE, partition))


@asynccontextmanager
async def scanning(
    store: FakeStore, kinds: tuple[str, ...] = (), partitions: int = 1, wake_ups: WakeUps | None = None
) -> AsyncIterator[Found]:
    found_send, found = trio.open_memory_channel[Candidates](0)
    listen: scanner.WakeUps | None = wake_ups.listen if wake_ups else None
    with trio.fail_after(HOUR_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                scanner.run,
                Finds(store.scans, store.claims, kinds),
                ScanOrder([LANE], partitions, seed=0),
                listen,
                *(1.0, found_send, trio.current_time, pulses()),
            )
            async with found:
                yield found
            nursery.cancel_scope.cancel()


def ids(found: Candidates) -> list[str]:
    """Return the executions that were offered by name."""
    return [one.execution_id for one in named(found)]


async def test_what_is_claimable_is_sent(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    executions = [store.add(number) for number in range(3)]
    async with scanning(store) as found:
        assert ids(await found.receive()) == executions


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
        assert ids(await found.receive()) == [first]
        second = store.add(2)
        assert ids(await found.receive()) == [second]


async def test_what_nobody_claimed_is_sent_again_after_a_while(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    first = store.add(1)
    async with scanning(store) as found:
        await found.receive()
        sent_at_s = trio.current_time()
        assert ids(await found.receive()) == [first]
        assert trio.current_time() - sent_at_s >= scanner.FORGET_S


async def test_kinds_for_others_are_left_alone_and_hide_nothing(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    for number in range(3 * PAGE):
        store.add(number, kind="foreign")
    ours = store.add(9999)
    async with scanning(store, kinds=("job",)) as found:
        assert ids(await found.receive()) == [ours]


async def test_an_outage_is_waited_out(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    execution = store.add(1)
    store.away = True
    async with scanning(store) as found:
        await trio.sleep(60)
        assert len(store.calls) < 60
        store.away = False
        assert ids(await found.receive()) == [execution]


async def test_it_ends_when_nobody_takes_candidates_any_more(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    store.add(1)
    found_send, found = trio.open_memory_channel[Candidates](0)
    await found.aclose()
    await scanner.run(
        Finds(store.scans, store.claims, ()),
        ScanOrder([LANE], 1, 0),
        None,
        poll_interval_s=1.0,
        candidates=found_send,
        now_s=trio.current_time,
        pulses=pulses(),
    )


async def test_cancelling_it_closes_its_channel(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    found_send, found = trio.open_memory_channel[Candidates](0)
    with trio.move_on_after(3):
        await scanner.run(
            Finds(store.scans, store.claims, ()),
            ScanOrder([LANE], 1, 0),
            None,
            poll_interval_s=1.0,
            candidates=found_send,
            now_s=trio.current_time,
            pulses=pulses(),
        )
    with pytest.raises(trio.EndOfChannel):
        found.receive_nowait()


# --- where the store picks ------------------------------------------------------------------------------------------


async def test_a_place_with_work_is_offered_for_as_much_as_it_has(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    store.picks = True
    for number in range(3):
        store.add(number)
    async with scanning(store) as found:
        assert (await found.receive()).found == (Pick(LANE, 0),) * 3


async def test_what_comes_before_ours_is_passed_over(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    store.picks = True
    for number in range(PAGE + 5):
        store.add(number, kind="foreign")
    store.add(999)
    async with scanning(store, kinds=("job",)) as found:
        assert (await found.receive()).found == (Pick(LANE, 0, PAGE + 5),)


async def test_a_full_page_is_offered_again_at_once_and_a_lone_execution_only_after_a_while(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeStore()
    store.picks = True
    executions = [store.add(number) for number in range(PAGE)]
    async with scanning(store) as found:
        for _ in range(2):
            assert len((await found.receive()).found) == PAGE
        assert trio.current_time() == 0
        for execution in executions[1:]:
            store.records[execution].state = "active"
        await found.receive()  # was looked at earlier
        at_s = trio.current_time()
        await found.receive()
        assert trio.current_time() - at_s >= scanner.FORGET_S


# --- where the store announces what there is ------------------------------------------------------------------------


async def test_an_announcement_is_followed_at_once_without_a_look(autojump_clock: trio.testing.MockClock) -> None:
    store, wake_ups = FakeStore(), WakeUps()
    store.picks = True
    async with scanning(store, wake_ups=wake_ups) as found:
        await trio.testing.wait_all_tasks_blocked()
        looks = len(store.calls)
        at_s = trio.current_time()
        wake_ups.wake()
        assert (await found.receive()).found == (Pick(LANE, 0),) * SHARE
        assert (len(store.calls), trio.current_time()) == (looks, at_s)


async def test_where_candidates_have_names_the_place_is_looked_at_first(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, wake_ups = FakeStore(), WakeUps()
    async with scanning(store, partitions=64, wake_ups=wake_ups) as found:
        await trio.testing.wait_all_tasks_blocked()
        execution, looks = store.add(1), len(store.calls)
        wake_ups.wake()
        assert ids(await found.receive()) == [execution]
        assert len(store.calls) == looks + 1


async def test_more_than_was_offered_unseen_is_found(autojump_clock: trio.testing.MockClock) -> None:
    store, wake_ups = FakeStore(), WakeUps()
    store.picks = True
    async with scanning(store, wake_ups=wake_ups) as found:
        await trio.testing.wait_all_tasks_blocked()
        executions = [store.add(number) for number in range(SHARE + 2)]
        wake_ups.wake()
        await found.receive()
        for execution in executions[:SHARE]:
            store.records[execution].state = "active"
        assert len((await found.receive()).found) == 2


async def test_a_store_at_rest_that_announces_is_hardly_ever_looked_at(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeStore()
    async with scanning(store, wake_ups=WakeUps()):
        await trio.sleep(100 * scanner.SLOW_POLL_S)
        assert 75 < len(store.calls) < 140


async def test_others_work_that_may_keep_announcements_back_is_looked_behind_as_without_them(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeStore()
    store.add(1, kind="foreign")
    async with scanning(store, kinds=("job",), wake_ups=WakeUps()):
        await trio.sleep(100)
        assert 75 < len(store.calls) < 140


async def test_a_busy_worker_stops_listening_until_there_is_nothing_to_do(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, wake_ups = FakeStore(), WakeUps()
    async with scanning(store, wake_ups=wake_ups) as found:
        await trio.testing.wait_all_tasks_blocked()
        execution = store.add(1)
        wake_ups.wake()
        await trio.sleep(2 * scanner.BUSY_S)
        await found.receive()
        store.records[execution].state = "active"
        assert wake_ups.listeners == 1
        await trio.sleep(1)
        assert (wake_ups.send is not None, wake_ups.listeners) == (True, 2)


async def test_when_listening_begins_anew_everything_is_looked_at(autojump_clock: trio.testing.MockClock) -> None:
    store, wake_ups = FakeStore(), WakeUps()
    async with scanning(store, wake_ups=wake_ups) as found:
        await trio.testing.wait_all_tasks_blocked()
        execution = store.add(1)
        assert wake_ups.send is not None
        wake_ups.send.send_nowait(None)
        assert ids(await found.receive()) == [execution]
        assert trio.current_time() == 0


async def test_others_work_that_was_announced_makes_looks_as_frequent_as_without_announcements(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, wake_ups = FakeStore(), WakeUps()
    store.picks = True
    async with scanning(store, kinds=("job",), wake_ups=wake_ups) as found:
        await trio.testing.wait_all_tasks_blocked()
        store.add(1, kind="foreign")
        wake_ups.wake()
        await found.receive()  # unseen
        await trio.sleep(0.1)
        store.add(2)
        await found.receive()
        assert trio.current_time() < 1.5


async def test_however_much_others_have_to_do_it_is_looked_behind_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeStore()
    store.picks = True
    for number in range(20 * PAGE):
        store.add(number, kind="foreign")
    ours = store.add(99_999)
    async with scanning(store, kinds=("job",)) as found:
        assert (await found.receive()).found == (Pick(LANE, 0, 20 * PAGE),)
        assert trio.current_time() == 0
        store.records[ours].state = "active"


async def test_where_looking_takes_long_there_is_a_longer_pause(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    store.picks = True
    for number in range(20 * PAGE):
        store.add(number, kind="foreign")
    store.slow_s = 0.05
    async with scanning(store, kinds=("job",)):
        await trio.sleep(60)
        seconds_looking = store.calls.count("waiting") * store.slow_s
        assert 5 < seconds_looking < 60 / scanner.REST_SHARE
