from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
import trio
import trio.testing

from ffsuper.actors import claimer
from ffsuper.channels import Candidates, Demand, LeaseNews, LeaseTerm, Slot, Track
from ffsuper.messages import Claim, ExecutionId
from tests.fakes import HOUR_S, FakeStore, candidate, pulses


@dataclass
class Ends:
    """The far ends of the claimer's channels."""

    candidates: trio.MemorySendChannel[Candidates]
    slots: trio.MemorySendChannel[Slot]
    leases: trio.MemoryReceiveChannel[LeaseNews]
    demands: trio.MemoryReceiveChannel[Demand]
    nursery: trio.Nursery

    async def offer(self) -> trio.MemoryReceiveChannel[Claim]:
        """Offer a slot as an executor does, again if it is given back unused; wait until the first is known."""
        found_send, found = trio.open_memory_channel[Claim](1)
        await self.nursery.start(self._keep_offering, found_send)
        return found

    async def _keep_offering(self, found: trio.MemorySendChannel[Claim], task_status: trio.TaskStatus[None]) -> None:
        assignments_send, assignments = trio.open_memory_channel[Claim | None](1)
        ends_send, _ = trio.open_memory_channel[LeaseTerm](math.inf)
        has_begun = False
        async with found:
            while True:
                try:
                    self.slots.send_nowait(Slot(assignments_send, ends_send))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    if has_begun:
                        return
                    raise
                if not has_begun:
                    has_begun = True
                    task_status.started()
                if (claim := await assignments.receive()) is not None:
                    await found.send(claim)
                    return

    def wanted(self) -> int:
        """Return by how many grants more or fewer are wanted than when last asked."""
        changes = 0
        while True:
            try:
                changes += self.demands.receive_nowait().change
            except trio.WouldBlock:
                return changes

    async def grant(self, store: FakeStore, execution: ExecutionId, age_s: float = 0.0) -> None:
        """Send what a server has granted and wait until it is taken."""
        granted = replace(candidate(store.records[execution]), is_granted=True, execution_kind="")
        await self.candidates.send(Candidates((granted,), trio.current_time() - age_s))

    async def find(self, store: FakeStore, *executions: ExecutionId) -> None:
        """Send candidates and wait until they are taken."""
        found = tuple(candidate(store.records[one]) for one in executions)
        await self.candidates.send(Candidates(found, trio.current_time()))


@asynccontextmanager
async def claiming(store: FakeStore, *, asks: bool = False) -> AsyncIterator[Ends]:
    """Run a claimer, with somebody to take its lease news."""
    candidates_send, candidates = trio.open_memory_channel[Candidates](0)
    slots_send, slots = trio.open_memory_channel[Slot](math.inf)
    leases_send, leases = trio.open_memory_channel[LeaseNews](math.inf)
    demands_send, demands = trio.open_memory_channel[Demand](math.inf)
    with trio.fail_after(HOUR_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                claimer.run,
                *(store.claims, candidates, slots, leases_send, trio.current_time, pulses()),
                demands_send if asks else None,
            )
            async with candidates_send, slots_send:
                yield Ends(candidates_send, slots_send, leases, demands, nursery)
                nursery.cancel_scope.cancel()


async def test_it_takes_no_lease_before_it_holds_a_slot(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    execution = store.add(1)
    async with claiming(store) as ends:
        with trio.move_on_after(10):
            await ends.find(store, execution)
            pytest.fail("candidates were taken without a slot")
        assert store.calls == []
        assert store.records[execution].state == "waiting"


async def test_a_claim_is_tracked_and_then_assigned_to_the_slot(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    execution = store.add(1, payload=b"\xff\x00")
    async with claiming(store) as ends:
        assignments = await ends.offer()
        await ends.find(store, execution)
        claim = await assignments.receive()
        track = ends.leases.receive_nowait()
        assert isinstance(track, Track)
        assert track.lease == claim.lease
        assert (claim.lease.execution_id, claim.payload) == (execution, b"\xff\x00")


async def test_it_claims_for_all_slots_that_are_offered_in_one_call(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    executions = [store.add(number) for number in range(5)]
    async with claiming(store) as ends, trio.open_nursery() as nursery:
        got: list[ExecutionId] = []

        async def one_slot() -> None:
            claim = await (await ends.offer()).receive()
            got.append(claim.lease.execution_id)

        for _ in range(3):
            nursery.start_soon(one_slot)
        await trio.testing.wait_all_tasks_blocked()
        await ends.find(store, *executions)
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(got) == executions[:3]
        assert "claim 3" in store.calls


async def test_leftover_candidates_serve_the_next_slot_while_they_are_fresh(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeStore()
    first, second = store.add(1), store.add(2)
    async with claiming(store) as ends:
        assignments = await ends.offer()
        await ends.find(store, first, second)
        assert (await assignments.receive()).lease.execution_id == first
        assert (await (await ends.offer()).receive()).lease.execution_id == second


async def test_stale_candidates_are_dropped(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    first, second, urgent = store.add(1), store.add(2), store.add(3)
    async with claiming(store) as ends:
        assignments = await ends.offer()
        await ends.find(store, first, second)
        await assignments.receive()
        await trio.sleep(claimer.FRESH_S + 0.1)
        assignments = await ends.offer()
        await ends.find(store, urgent)
        assert (await assignments.receive()).lease.execution_id == urgent


async def test_what_lost_its_holder_comes_first_however_long_it_has_waited_for_a_slot(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeStore()
    first, second, expired, outdated = (store.add(number) for number in range(4))
    async with claiming(store) as ends, trio.open_nursery() as finders:
        for one in (expired, outdated):
            store.records[one].state = "expired"
        finders.start_soon(ends.find, store, first, second)
        finders.start_soon(ends.find, store, expired)
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(claimer.RECLAIM_FRESH_S - 0.1)
        assert (await (await ends.offer()).receive()).lease.execution_id == expired
        # Of the others, which were read at the same time, none is claimed.
        assignments = await ends.offer()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.WouldBlock):
            assignments.receive_nowait()
        await ends.find(store, second)
        await assignments.receive()
        finders.start_soon(ends.find, store, outdated)
        await trio.sleep(claimer.RECLAIM_FRESH_S + 0.1)
        assignments = await ends.offer()
        await ends.find(store, first)
        assert (await assignments.receive()).lease.execution_id == first


async def test_a_refused_claim_leaves_the_slot_for_the_next_candidate(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    taken, free = store.add(1), store.add(2)
    store.records[taken].state = "active"
    async with claiming(store) as ends:
        assignments = await ends.offer()
        await ends.find(store, taken, free)
        assert (await assignments.receive()).lease.execution_id == free


async def test_a_claim_whose_answer_was_lost_is_found_and_adopted(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    execution = store.add(1)
    store.lose_replies = 1
    async with claiming(store) as ends:
        assignments = await ends.offer()
        await ends.find(store, execution)
        claim = await assignments.receive()
        assert claim.lease.lease_id == store.records[execution].lease_id
        assert store.records[execution].epoch == 1
        assert store.calls.count("look_up") == 1


async def test_a_doubtful_claim_is_asked_after_until_the_store_is_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeStore()
    execution = store.add(1)
    store.lose_replies, store.away_after_loss = 1, True
    async with claiming(store) as ends:
        assignments = await ends.offer()
        await ends.find(store, execution)
        await trio.sleep(5)
        store.away = False
        assert (await assignments.receive()).lease.execution_id == execution


async def test_a_doubtful_claim_is_given_up_when_its_lease_must_be_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeStore(lease_ttl_s=30.0)
    first, second = store.add(1), store.add(2)
    store.lose_replies, store.away_after_loss = 1, True
    async with claiming(store) as ends:
        assignments = await ends.offer()
        await ends.find(store, first)
        await trio.sleep(40)
        store.away = False
        await ends.find(store, second)
        assert (await assignments.receive()).lease.execution_id == second


async def test_an_outage_is_waited_out(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    execution = store.add(1)
    store.away = True
    async with claiming(store) as ends:
        assignments = await ends.offer()
        await ends.find(store, execution)
        await trio.sleep(10)
        store.away = False
        await ends.find(store, execution)
        assert (await assignments.receive()).lease.execution_id == execution


async def test_it_ends_and_gives_the_slots_back_when_there_are_no_more_candidates(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeStore()
    async with claiming(store) as ends:
        assignments = await ends.offer()
        await ends.candidates.aclose()
        with pytest.raises(trio.EndOfChannel):
            await assignments.receive()
        with pytest.raises(trio.BrokenResourceError):
            await ends.offer()


async def test_it_ends_when_there_are_no_more_slots(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    execution = store.add(1)
    async with claiming(store) as ends:
        await ends.slots.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await ends.find(store, execution)


# --- where work has to be asked for -------------------------------------------------------------------------------


async def test_it_wants_as_much_as_it_holds_slots_for(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    first, second, third = (store.add(number) for number in range(3))
    async with claiming(store, asks=True) as ends:
        await trio.testing.wait_all_tasks_blocked()
        assert ends.wanted() == 0
        assignments = await ends.offer()
        await trio.testing.wait_all_tasks_blocked()
        assert ends.wanted() == 1
        await ends.grant(store, first)
        assert (await assignments.receive()).lease.execution_id == first
        await trio.testing.wait_all_tasks_blocked()
        assert ends.wanted() == 0  # the asker counts what it has granted
        for execution in (second, third):
            assignments = await ends.offer()
            await trio.testing.wait_all_tasks_blocked()
            assert ends.wanted() == 1
            await ends.grant(store, execution)
            await assignments.receive()


async def test_a_slot_that_something_else_fills_wants_nothing_any_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeStore()
    expired = store.add(1)
    store.records[expired].state = "expired"
    async with claiming(store, asks=True) as ends:
        assignments = await ends.offer()
        await trio.testing.wait_all_tasks_blocked()
        assert ends.wanted() == 1
        await ends.find(store, expired)
        await assignments.receive()
        await trio.testing.wait_all_tasks_blocked()
        assert ends.wanted() == -1


async def test_a_grant_does_not_get_stale(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    execution = store.add(1)
    async with claiming(store, asks=True) as ends:
        assignments = await ends.offer()
        await ends.grant(store, execution, age_s=5.0)
        assert (await assignments.receive()).lease.execution_id == execution


async def test_a_refused_grant_is_told_and_another_is_wanted_after_a_pause(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = FakeStore()
    gone = store.add(1)
    store.records[gone].state = "cancelled"
    async with claiming(store, asks=True) as ends:
        await ends.offer()
        await trio.testing.wait_all_tasks_blocked()
        assert ends.wanted() == 1
        await ends.grant(store, gone)
        await trio.sleep(claimer.REFUSED_GRANT_PAUSE_S / 2)
        assert ends.wanted() == 0
        await trio.sleep(claimer.REFUSED_GRANT_PAUSE_S)
        assert ends.wanted() == 1
        assert [record.message for record in caplog.records] == ["grant refused"]


async def test_it_ends_as_usual_when_the_asker_has_ended(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    async with claiming(store, asks=True) as ends:
        ends.demands.close()
        assignments = await ends.offer()
        await ends.candidates.aclose()
        with pytest.raises(trio.EndOfChannel):
            await assignments.receive()


async def test_candidates_that_are_left_go_to_whichever_slot_comes_next(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeStore()
    executions = [store.add(number) for number in range(6)]
    async with claiming(store) as ends:
        first = await ends.offer()
        await ends.find(store, *executions)
        found = [await first.receive()]
        found += [await (await ends.offer()).receive() for _ in executions[1:]]
        assert [claim.lease.execution_id for claim in found] == executions
        assert trio.current_time() < claimer.FRESH_S
