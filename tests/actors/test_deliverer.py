from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
import trio.testing

from ffsuper.actors import deliverer
from ffsuper.channels import Finished, LeaseNews, Release
from ffsuper.errors import StoreError
from ffsuper.messages import Claim, Completed, Delivered, OnTimeout, Outcome, ReceivedSignal, Suspended
from ffsuper.sansio.ledger import Ledger
from tests.fakes import HOUR_S, FakeStore, candidate, pulses

SUSPENDED = Suspended("waiting_for_signal", ("go",), False, None, OnTimeout.FAIL, "")


@dataclass
class Rig:
    """A deliverer, and what is around it."""

    store: FakeStore
    finished: trio.MemorySendChannel[Finished]
    leases: trio.MemoryReceiveChannel[LeaseNews]
    ledger: Ledger
    running: trio.CancelScope

    async def finish(self, outcome: Outcome | Delivered, *, is_in_doubt: bool = False) -> Claim:
        """Claim an execution, run it and come to an outcome."""
        execution = self.store.add(len(self.store.records) + 1)
        (claim,) = await self.store.claims.claim([candidate(self.store.records[execution])])
        assert isinstance(claim, Claim)
        self.ledger.began(claim, 7, trio.current_time())
        self.finished.send_nowait(Finished(claim, outcome, {}, is_in_doubt))
        return claim

    def states(self) -> list[str]:
        """Return the states of all executions."""
        return [record.state for record in self.store.records.values()]


@asynccontextmanager
async def delivering() -> AsyncIterator[Rig]:
    store, ledger, running = FakeStore(lease_ttl_s=HOUR_S), Ledger(), trio.CancelScope()
    finished_send, finished = trio.open_memory_channel[Finished](math.inf)
    leases_send, leases = trio.open_memory_channel[LeaseNews](math.inf)

    async def run() -> None:
        with running:
            await deliverer.run(store.outcomes, finished, leases_send, pulses(), ledger)

    with trio.fail_after(HOUR_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            yield Rig(store, finished_send, leases, ledger, running)
            nursery.cancel_scope.cancel()


async def test_what_has_gathered_is_delivered_in_one_round_trip(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with delivering() as rig:
        together: list[int] = []
        deliver_all = rig.store.outcomes.deliver_all

        async def counted(ended: Sequence[tuple[Claim, Outcome]]) -> list[StoreError | None]:
            together.append(len(ended))
            return await deliver_all(ended)

        monkeypatch.setattr(rig.store.outcomes, "deliver_all", counted)
        rig.store.away = True
        for _ in range(deliverer.HANDS):
            rig.store.away = False
            await rig.finish(Completed(b""))
            rig.store.away = True
            await trio.testing.wait_all_tasks_blocked()
        rig.store.away = False
        for _ in range(5):
            await rig.finish(Completed(b""))
        await trio.sleep(60)
        assert rig.states() == ["completed"] * (deliverer.HANDS + 5)
        assert max(together) == 5


async def test_a_lease_is_released_once_the_store_has_answered(autojump_clock: trio.testing.MockClock) -> None:
    async with delivering() as rig:
        claim = await rig.finish(Completed(b"kept"))
        assert await rig.leases.receive() == Release(claim.lease.lease_id)
        assert rig.store.records[claim.lease.execution_id].result == b"kept"
        assert {outcome for _, outcome in rig.ledger.finished} == {"completed"}


async def test_what_is_settled_already_is_only_noted(autojump_clock: trio.testing.MockClock) -> None:
    async with delivering() as rig:
        claim = await rig.finish(Delivered("lost"))
        assert await rig.leases.receive() == Release(claim.lease.lease_id)
        assert "deliver" not in rig.store.calls
        assert {outcome for _, outcome in rig.ledger.finished} == {"lost"}


async def test_a_lost_answer_is_proved_and_holds_no_other_up(autojump_clock: trio.testing.MockClock) -> None:
    async with delivering() as rig:
        rig.store.lose_replies = 0
        first = await rig.finish(Completed(b"first"))
        rig.store.lose_replies = 1
        await trio.testing.wait_all_tasks_blocked()
        second = await rig.finish(Completed(b"second"))
        assert await rig.leases.receive() == Release(second.lease.lease_id)
        assert await rig.leases.receive() == Release(first.lease.lease_id)
        assert rig.store.calls.count("was_delivered") == 1
        assert all(len(record.released) == 1 for record in rig.store.records.values())


async def test_a_suspension_in_doubt_whose_signals_had_come_is_handed_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with delivering() as rig:
        rig.store.signals_at_hand = (ReceivedSignal("s", "go", "", "", "", "", 5, b""),)
        claim = await rig.finish(SUSPENDED, is_in_doubt=True)
        await rig.leases.receive()
        assert rig.store.records[claim.lease.execution_id].state == "waiting"
        assert {outcome for _, outcome in rig.ledger.finished} == {"handed_back"}


async def test_it_ends_when_all_is_delivered_and_nothing_more_will_come(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with delivering() as rig:
        await rig.finish(Completed(b""))
        rig.store.away = True
        rig.finished.close()
        with trio.move_on_after(10):
            await rig.leases.receive()
            pytest.fail("released before the store has answered")
        rig.store.away = False
        await rig.leases.receive()
        with pytest.raises(trio.EndOfChannel):
            await rig.leases.receive()


async def test_what_is_not_delivered_in_time_is_told_and_counts_as_cut_off(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with delivering() as rig:
        claim = await rig.finish(Completed(b""))
        rig.store.away = True
        await trio.sleep(5)
        rig.running.cancel()
        with pytest.raises(trio.EndOfChannel):
            await rig.leases.receive()
        assert rig.ledger.cut_off == 1
        assert (caplog.records[-1].message, caplog.records[-1].__dict__["execution"]) == (
            "outcome not delivered in time",
            claim.lease.execution_id,
        )
