from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from ffsuper.actors import lease_renewer
from ffsuper.channels import Check, LeaseEnd, LeaseNews, Release, Track
from ffsuper.errors import ExecutionNotFoundError, LeaseLostError, RefusedError
from ffsuper.messages import Claim, Lease
from tests.fakes import HOUR_S, FakeStore, candidate, pulses

News = trio.MemorySendChannel[LeaseNews]


@asynccontextmanager
async def renewing(store: FakeStore, margin_s: float = 2.0) -> AsyncIterator[News]:
    """Run the renewer; it must end by itself when its channel closes."""
    news_send, news_receive = trio.open_memory_channel[LeaseNews](0)
    with trio.fail_after(HOUR_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lease_renewer.run, store.leases, news_receive, margin_s, trio.current_time, pulses())
            async with news_send:
                yield news_send


async def claimed(store: FakeStore, number: int = 1) -> Lease:
    (claim,) = await store.claims.claim([candidate(store.records[store.add(number)])])
    assert isinstance(claim, Claim)
    return claim.lease


async def tracked(news: News, lease: Lease) -> trio.MemoryReceiveChannel[LeaseEnd]:
    end_send, end_receive = trio.open_memory_channel[LeaseEnd](1)
    await news.send(Track(lease, end_send))
    return end_receive


async def test_a_lease_is_renewed_every_third_of_its_length_until_released(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeStore(lease_ttl_s=30.0)
    lease = await claimed(store)
    async with renewing(store) as news:
        await tracked(news, lease)
        await trio.sleep(35)
        assert store.calls.count("renew 1") == 3
        await news.send(Release(lease.lease_id))
        await trio.sleep(100)
        assert store.calls.count("renew 1") == 3


async def test_leases_that_are_due_together_are_renewed_in_one_call(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    leases = [await claimed(store, number) for number in range(5)]
    async with renewing(store) as news:
        for lease in leases:
            await tracked(news, lease)
        await trio.sleep(10.5)
        assert store.calls.count("renew 5") == 1


async def test_a_refused_renewal_is_reported_once_with_its_code(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    lease = await claimed(store)
    async with renewing(store) as news:
        ends = await tracked(news, lease)
        store.records[lease.execution_id].state = "failed"
        assert [end async for end in ends] == [LeaseEnd("execution_not_active", has_ended=False)]
        assert trio.current_time() == pytest.approx(10, abs=1)


async def test_a_lease_ends_locally_before_the_store_can_end_it_while_the_store_is_away(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeStore(lease_ttl_s=30.0)
    lease = await claimed(store)
    async with renewing(store, margin_s=2.0) as news:
        ends = await tracked(news, lease)
        store.away = True
        assert [end async for end in ends] == [LeaseEnd("local_deadline", has_ended=False)]
        assert 28 <= trio.current_time() < 28.6
        assert trio.current_time() < store.records[lease.execution_id].lease_expires_s


async def test_a_short_outage_costs_no_lease(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore(lease_ttl_s=30.0)
    lease = await claimed(store)
    async with renewing(store) as news:
        ends = await tracked(news, lease)
        await trio.sleep(9)
        store.away = True
        await trio.sleep(15)
        store.away = False
        await trio.sleep(100)
        with pytest.raises(trio.WouldBlock):
            ends.receive_nowait()


async def test_a_sleep_of_the_machine_is_noticed_though_trios_clock_stood_still(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, slept_s = FakeStore(lease_ttl_s=30.0), 0.0
    lease = await claimed(store)
    news_send, news_receive = trio.open_memory_channel[LeaseNews](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            lease_renewer.run, store.leases, news_receive, 2.0, lambda: trio.current_time() + slept_s, pulses()
        )
        async with news_send:
            ends = await tracked(news_send, lease)
            await trio.sleep(1)
            slept_s = 1000.0
            assert [end async for end in ends] == [LeaseEnd("local_deadline", has_ended=False)]
            assert trio.current_time() < 2


async def test_a_deadline_that_has_passed_when_a_renewal_begins_leaves_no_time_for_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeStore(lease_ttl_s=30.0)
    held = lease_renewer.HeldLeases(margin_s=2.0)
    held.note(Track(await claimed(store), trio.open_memory_channel[LeaseEnd](1)[0]))
    await lease_renewer.renew_due(store.leases, held, lambda: 28.001)
    assert store.leases.timeout_s == 0.0


async def test_a_lease_whose_executor_is_gone_is_forgotten_quietly(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    lease = await claimed(store)
    async with renewing(store) as news:
        (await tracked(news, lease)).close()
        store.records[lease.execution_id].state = "failed"
        await trio.sleep(50)
        assert store.calls.count("renew 1") == 1


async def test_a_release_for_an_unknown_lease_is_harmless(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    lease = await claimed(store)
    async with renewing(store) as news:
        await news.send(Release(lease.lease_id))


async def test_it_can_be_cancelled_while_it_waits_and_while_it_renews(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    lease = await claimed(store)
    for after_s in (5.0, 10.0):
        news_send, news_receive = trio.open_memory_channel[LeaseNews](0)
        with trio.move_on_after(after_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lease_renewer.run, store.leases, news_receive, 2.0, trio.current_time, pulses())
                await tracked(news_send, lease)
        with pytest.raises(trio.BrokenResourceError):
            news_send.send_nowait(Release(lease.lease_id))


def test_without_leases_it_sleeps_until_there_is_news() -> None:
    assert lease_renewer.nap_until(None, 5.0) == math.inf


async def test_an_announced_end_is_asked_about_at_once_and_others_are_left_alone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeStore(lease_ttl_s=30.0)
    lease, other = await claimed(store, 1), await claimed(store, 2)
    async with renewing(store) as news:
        ends = await tracked(news, lease)
        await tracked(news, other)
        await trio.sleep(1)
        await news.send(Check(lease.execution_id))
        await trio.sleep(0.1)
        assert store.calls.count("renew 1") == 1
        store.records[lease.execution_id].state = "cancelled"
        await news.send(Check(lease.execution_id))
        assert [end async for end in ends] == [LeaseEnd("execution_not_active", has_ended=False)]
        assert trio.current_time() == pytest.approx(1.1)
        await news.send(Check(lease.execution_id))  # not held any more: nothing happens


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
