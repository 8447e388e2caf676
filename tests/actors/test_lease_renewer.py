from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from ffsuper.actors import lease_renewer
from ffsuper.actors.lease_renewer import RENEWALS_PER_EXCHANGE
from ffsuper.channels import Check, LeaseEnd, LeaseExtended, LeaseNews, LeaseTerm, Release, Track
from ffsuper.errors import ExecutionNotFoundError, LeaseLostError, RefusedError, StoreError, StoreUnavailableError
from ffsuper.messages import AttemptId, Claim, ExecutionId, LaneId, Lease, LeaseId
from ffsuper.sansio.pulse import Pulses
from ffsuper.store.leases import Leases
from tests.fakes import HOUR_S, FakeStore, candidate, pulses

Answer = Callable[[Lease], StoreError | None]


class Ends:
    """What the renewer tells of the ends of leases.

    Attributes:
        extended: what it has told of longer ones before those ends that were received.
    """

    def __init__(self, terms: trio.MemoryReceiveChannel[LeaseTerm]) -> None:
        self.extended: list[LeaseExtended] = []
        self.close = terms.close
        self._terms = terms

    async def receive(self) -> LeaseEnd:
        while isinstance(term := await self._terms.receive(), LeaseExtended):
            self.extended.append(term)
        return term

    def receive_nowait(self) -> LeaseEnd:
        while isinstance(term := self._terms.receive_nowait(), LeaseExtended):
            self.extended.append(term)
        return term


class News:
    """The renewer's two channels: what it is told, and what it tells of all leases."""

    def __init__(self, news: trio.MemorySendChannel[LeaseNews]) -> None:
        self.send = news.send_nowait
        self._terms_send, terms = trio.open_memory_channel[LeaseTerm](math.inf)
        self.ends = Ends(terms)

    def track(self, *leases: Lease) -> None:
        for lease in leases:
            self.send(Track(lease, self._terms_send))


@asynccontextmanager
async def renewing(
    leases: Leases, now_s: Callable[[], float] = trio.current_time, signs: Pulses | None = None
) -> AsyncIterator[News]:
    """Run the renewer; it must end by itself when its channel closes."""
    news_send, news_receive = trio.open_memory_channel[LeaseNews](math.inf)
    with trio.fail_after(HOUR_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lease_renewer.run, leases, news_receive, 2.0, now_s, signs or pulses())
            async with news_send:
                yield News(news_send)


class SlowLeases(Leases):
    """Answers each exchange after a while of its own, and keeps what was asked and when.

    Attributes:
        pauses_s: how long the next ones take; those that follow take no time.
        answer: what a renewal comes to.
    """

    def __init__(self, *pauses_s: float, answer: Answer = lambda _: None) -> None:
        self.pauses_s = list(pauses_s)
        self.answer = answer
        self.asked: list[tuple[float, list[LeaseId]]] = []

    async def renew(self, leases: Sequence[Lease]) -> list[StoreError | None]:
        self.asked.append((trio.current_time(), [lease.lease_id for lease in leases]))
        await trio.sleep(self.pauses_s.pop(0) if self.pauses_s else 0)
        return [self.answer(lease) for lease in leases]

    @property
    def times_s(self) -> list[float]:
        return [at_s for at_s, _ in self.asked]


def lease(number: int, ttl_s: float = 30.0, asked_at_s: float = 0.0) -> Lease:
    """Make up a lease that begins with virtual time, in one of many partitions."""
    execution_id = ExecutionId(f"{{fp:{number % 7}}}:{number:05}")
    name = f"lease-{number}"
    return Lease(execution_id, LaneId("lane"), LeaseId(name), 1, AttemptId(name), 0, int(ttl_s * 1000), asked_at_s)


async def claimed(store: FakeStore, number: int = 1) -> Lease:
    (claim,) = await store.claims.claim([candidate(store.records[store.add(number)])])
    assert isinstance(claim, Claim)
    return claim.lease


async def test_a_lease_is_renewed_every_third_of_its_length_until_released(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeStore(lease_ttl_s=30.0)
    held = await claimed(store)
    async with renewing(store.leases) as news:
        news.track(held)
        await trio.sleep(35)
        assert store.calls.count("renew 1") == 3
        news.send(Release(held.lease_id))
        await trio.sleep(100)
        assert store.calls.count("renew 1") == 3


async def test_leases_that_are_due_together_are_renewed_in_one_call(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    leases = [await claimed(store, number) for number in range(5)]
    async with renewing(store.leases) as news:
        news.track(*leases)
        await trio.sleep(10.5)
        assert store.calls.count("renew 5") == 1


async def test_leases_that_come_one_by_one_are_renewed_in_few_groups(autojump_clock: trio.testing.MockClock) -> None:
    leases = SlowLeases()
    async with renewing(leases) as news:
        for number in range(200):
            news.track(lease(number, asked_at_s=trio.current_time()))
            await trio.sleep(0.05)
        await trio.sleep(20)
        leases.asked.clear()
        await trio.sleep(10)
        assert sum(len(names) for _, names in leases.asked) == 200
        assert len(leases.asked) <= 4


async def test_a_lease_that_ends_before_its_first_renewal_asks_nothing_of_the_store(
    autojump_clock: trio.testing.MockClock,
) -> None:
    leases = SlowLeases()
    async with renewing(leases) as news:
        for number in range(100):
            news.track(lease(number))
            news.send(Release(LeaseId(f"lease-{number}")))
        await trio.sleep(60)
    assert leases.asked == []


async def test_a_refused_renewal_is_reported_once_with_its_code(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    held, other = await claimed(store, 1), await claimed(store, 2)
    async with renewing(store.leases) as news:
        news.track(held, other)
        store.records[held.execution_id].state = "failed"
        assert await news.ends.receive() == LeaseEnd(held.lease_id, "execution_not_active", has_ended=False)
        assert trio.current_time() == pytest.approx(10, abs=1)
        await trio.sleep(100)
        with pytest.raises(trio.WouldBlock):
            news.ends.receive_nowait()


async def test_a_lease_ends_locally_before_the_store_can_end_it_while_the_store_is_away(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeStore(lease_ttl_s=30.0)
    held = await claimed(store)
    async with renewing(store.leases) as news:
        news.track(held)
        store.away = True
        assert await news.ends.receive() == LeaseEnd(held.lease_id, "local_deadline", has_ended=False)
        assert trio.current_time() == pytest.approx(28)
        assert trio.current_time() < store.records[held.execution_id].lease_expires_s


async def test_a_short_outage_costs_no_lease(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore(lease_ttl_s=30.0)
    held = await claimed(store)
    async with renewing(store.leases) as news:
        news.track(held)
        await trio.sleep(9)
        store.away = True
        await trio.sleep(15)
        store.away = False
        await trio.sleep(100)
        with pytest.raises(trio.WouldBlock):
            news.ends.receive_nowait()


async def test_renewals_that_got_no_answer_are_tried_again_together_after_a_pause(
    autojump_clock: trio.testing.MockClock,
) -> None:
    answers: list[StoreError | None] = [StoreUnavailableError("away")] * 4
    leases = SlowLeases(answer=lambda _: answers.pop() if answers else None)
    async with renewing(leases) as news:
        news.track(lease(1), lease(2))
        await trio.sleep(19)
    assert [len(names) for _, names in leases.asked] == [2, 2, 2]
    first_s, second_s, third_s = leases.times_s
    assert first_s == 10
    assert 0.75 <= second_s - first_s <= 2.25
    assert 0.75 <= third_s - second_s <= 2.25


@pytest.mark.parametrize("slept_s", [20.0, 1000.0])
async def test_a_sleep_of_the_machine_is_noticed_though_trios_clock_stood_still(
    autojump_clock: trio.testing.MockClock, slept_s: float
) -> None:
    offset_s, leases = 0.0, SlowLeases()
    async with renewing(leases, lambda: trio.current_time() + offset_s) as news:
        news.track(lease(1))
        await trio.sleep(1)
        offset_s = slept_s
        await trio.sleep(0.6)
        if slept_s < 28:
            assert len(leases.asked) == 1
        else:
            assert news.ends.receive_nowait() == LeaseEnd(LeaseId("lease-1"), "local_deadline", has_ended=False)
            assert leases.asked == []


async def test_a_lease_whose_executor_is_gone_is_forgotten_quietly(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    held, other = await claimed(store, 1), await claimed(store, 2)
    ends_send, ends = trio.open_memory_channel[LeaseTerm](math.inf)
    async with renewing(store.leases) as news:
        news.track(held)
        news.send(Track(other, ends_send))
        ends_send.close()
        ends.close()
        news.ends.close()
        for record in store.records.values():
            record.state = "failed"
        await trio.sleep(50)
        assert store.calls.count("renew 2") == 1
        assert not [call for call in store.calls if call == "renew 1"]


async def test_the_channel_that_a_lease_ends_on_stays_open_for_others(autojump_clock: trio.testing.MockClock) -> None:
    leases = SlowLeases(answer=lambda one: LeaseLostError("f", "stale_lease") if one.lease_id != "lease-3" else None)
    async with renewing(leases) as news:
        news.track(lease(1), lease(2), lease(3))
        news.send(Release(LeaseId("lease-2")))
        await trio.sleep(11)
        assert news.ends.receive_nowait().lease_id == "lease-1"
        leases.answer = lambda _: LeaseLostError("f", "lease_revoked")
        assert await news.ends.receive() == LeaseEnd(LeaseId("lease-3"), "lease_revoked", has_ended=False)


async def test_a_release_for_an_unknown_lease_is_harmless(autojump_clock: trio.testing.MockClock) -> None:
    async with renewing(SlowLeases()) as news:
        news.send(Release(LeaseId("unknown")))
        news.send(Check(ExecutionId("{fp:1}:unknown")))


async def test_it_can_be_cancelled_while_it_waits_and_while_it_renews(autojump_clock: trio.testing.MockClock) -> None:
    for after_s in (5.0, 10.0, 12.0):
        news_send, news_receive = trio.open_memory_channel[LeaseNews](math.inf)
        leases = SlowLeases(5.0)
        began_s = trio.current_time()
        with trio.move_on_after(after_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lease_renewer.run, leases, news_receive, 2.0, trio.current_time, pulses())
                ends_send, _ends = trio.open_memory_channel[LeaseTerm](math.inf)
                news_send.send_nowait(Track(lease(1, asked_at_s=began_s), ends_send))
        assert trio.current_time() == began_s + after_s
        with pytest.raises(trio.BrokenResourceError):
            news_send.send_nowait(Release(LeaseId("lease-1")))


async def test_it_ends_at_once_when_nobody_holds_a_lease_any_more_whatever_the_store_does(
    autojump_clock: trio.testing.MockClock,
) -> None:
    leases = SlowLeases(HOUR_S)
    async with renewing(leases) as news:
        news.track(lease(1))
        await trio.sleep(11)
        assert leases.times_s == [10]
    assert trio.current_time() == 11


def test_without_leases_it_sleeps_until_there_is_news() -> None:
    assert lease_renewer.nap_until(math.inf, 5.0) == math.inf


# --- announced ends


async def test_an_announced_end_is_asked_about_at_once_and_others_are_left_alone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeStore(lease_ttl_s=30.0)
    held, other = await claimed(store, 1), await claimed(store, 2)
    async with renewing(store.leases) as news:
        news.track(held, other)
        await trio.sleep(1)
        news.send(Check(held.execution_id))
        await trio.sleep(0.1)
        assert store.calls.count("renew 1") == 1
        store.records[held.execution_id].state = "cancelled"
        news.send(Check(held.execution_id))
        assert await news.ends.receive() == LeaseEnd(held.lease_id, "execution_not_active", has_ended=False)
        assert trio.current_time() == pytest.approx(1.1)
        news.send(Check(held.execution_id))  # not held any more: nothing happens
        await trio.sleep(1)
        assert store.calls.count("renew 1") == 2


async def test_an_end_that_is_announced_while_the_lease_is_being_renewed_is_asked_about_afterwards(
    autojump_clock: trio.testing.MockClock,
) -> None:
    leases = SlowLeases(1.0)
    async with renewing(leases) as news:
        news.track(lease(1))
        await trio.sleep(10.5)
        news.send(Check(lease(1).execution_id))
        await trio.sleep(1)
    assert leases.times_s == [10, 11]


# --- many leases, and a store that takes its time


async def test_many_leases_are_asked_for_in_exchanges_of_a_bounded_size_with_whole_partitions(
    autojump_clock: trio.testing.MockClock,
) -> None:
    leases = SlowLeases()
    async with renewing(leases) as news:
        news.track(*(lease(number) for number in range(5_000)))
        await trio.sleep(11)
    sizes = [len(names) for _, names in leases.asked]
    assert sizes == [RENEWALS_PER_EXCHANGE] * (5_000 // RENEWALS_PER_EXCHANGE)
    partitions = [{int(name.removeprefix("lease-")) % 7 for name in names} for _, names in leases.asked]
    assert sum(map(len, partitions)) <= 7 + len(sizes)


@pytest.mark.parametrize("pause_s", [0.5, 0.9])
async def test_short_leases_in_great_numbers_are_kept_though_each_exchange_takes_long(
    autojump_clock: trio.testing.MockClock, pause_s: float
) -> None:
    leases = SlowLeases(*[pause_s] * 1_000)
    async with renewing(leases) as news:
        news.track(*(lease(number, ttl_s=4.5) for number in range(5_000)))
        await trio.sleep(20)
        with pytest.raises(trio.WouldBlock):
            news.ends.receive_nowait()
        # Nothing is asked for twice at a time.
        rounds = 20 / (1.5 + pause_s)
        assert rounds - 1 <= sum(len(names) for _, names in leases.asked) / 5_000 <= 20 / 1.5


async def test_an_exchange_that_hangs_keeps_no_other_from_being_made_and_costs_its_own_leases_only(
    autojump_clock: trio.testing.MockClock,
) -> None:
    leases = SlowLeases(HOUR_S)
    async with renewing(leases) as news:
        news.track(lease(1))
        await trio.sleep(5)
        news.track(lease(2, asked_at_s=5.0))
        assert await news.ends.receive() == LeaseEnd(LeaseId("lease-1"), "local_deadline", has_ended=False)
        assert trio.current_time() == 28
        assert [at_s for at_s, names in leases.asked if names == ["lease-2"]] == [15, 25]


async def test_news_are_heard_while_an_exchange_hangs(autojump_clock: trio.testing.MockClock) -> None:
    leases = SlowLeases(15.0, answer=lambda _: LeaseLostError("f", "stale_lease"))
    async with renewing(leases) as news:
        news.track(lease(1), lease(2))
        await trio.sleep(20)
        news.send(Release(LeaseId("lease-1")))
        end = await news.ends.receive()
        # Who is released before the answer comes has lost nothing.
        assert (end.lease_id, trio.current_time()) == ("lease-2", 25)
        await trio.sleep(30)
        with pytest.raises(trio.WouldBlock):
            news.ends.receive_nowait()


async def test_an_answer_that_comes_after_the_deadline_does_not_bring_a_lease_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    leases = SlowLeases(19.0)
    async with renewing(leases) as news:
        news.track(lease(1))
        await trio.sleep(28.5)
        assert news.ends.receive_nowait().code == "local_deadline"
        await trio.sleep(100)
    assert leases.times_s == [10]


async def test_what_is_released_before_its_exchange_begins_is_not_asked_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class ReleasingLeases(SlowLeases):
        async def renew(self, leases: Sequence[Lease]) -> list[StoreError | None]:
            news.send(Release(last.lease_id))
            return await super().renew(leases)

    leases, last = ReleasingLeases(), lease(7 * RENEWALS_PER_EXCHANGE - 1)
    async with renewing(leases) as news:
        news.track(*(lease(number) for number in range(2 * RENEWALS_PER_EXCHANGE)), last)
        await trio.sleep(11)
    assert [len(names) for _, names in leases.asked] == [RENEWALS_PER_EXCHANGE, RENEWALS_PER_EXCHANGE, 0]


async def test_a_call_that_never_returns_makes_it_look_stuck_and_waiting_does_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    leases, signs = SlowLeases(HOUR_S), Pulses(trio.current_time)
    async with renewing(leases, signs=signs) as news:
        news.track(lease(1))
        await trio.sleep(9)
        assert signs.stuck(0.0) == []
        await trio.sleep(10)
        assert signs.stuck(8.0) == ["lease_renewer"]


@pytest.mark.parametrize(
    ("refusal", "ended"),
    [
        (LeaseLostError("f", "execution_not_active", ("cancelled", "1")), True),
        (LeaseLostError("f", "execution_not_active", ("none", "1")), False),
        (LeaseLostError("f", "stale_lease"), False),
        (LeaseLostError("f", "lease_revoked"), False),
        (ExecutionNotFoundError("f", "execution_not_found"), True),
    ],
)
def test_only_an_execution_that_has_ended_counts_as_ended(refusal: RefusedError, ended: bool) -> None:
    assert lease_renewer.has_ended(refusal) == ended


async def test_an_executor_is_told_how_long_its_lease_lasts_after_each_renewal(
    autojump_clock: trio.testing.MockClock,
) -> None:
    leases = SlowLeases(1.0)
    async with renewing(leases) as news:
        news.track(lease(1))
        await trio.sleep(21)
        with pytest.raises(trio.WouldBlock):
            news.ends.receive_nowait()
        # Asked for at 10 s, not when the answer came; of 30 s the last two are the margin.
        assert [(one.lease_id, one.deadline_s) for one in news.ends.extended] == [
            ("lease-1", 38.0),
            ("lease-1", 48.0),
        ]
