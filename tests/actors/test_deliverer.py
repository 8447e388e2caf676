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
from ffsuper.errors import StoreError, StoreUnavailableError
from ffsuper.messages import Claim, Completed, Delivered, Lease, OnTimeout, Outcome, ReceivedSignal, Suspended
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

    async def claim(self) -> Claim:
        """Claim an execution."""
        execution = self.store.add(len(self.store.records) + 1)
        (claim,) = await self.store.claims.claim([candidate(self.store.records[execution])])
        assert isinstance(claim, Claim)
        return claim

    def finish(self, claim: Claim, outcome: Outcome | Delivered, *, is_in_doubt: bool = False) -> Claim:
        """Run an execution and come to an outcome."""
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
            await deliverer.run(store.outcomes, finished, leases_send, trio.Semaphore(0), pulses(), ledger)

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
        claims = [await rig.claim() for _ in range(5)]
        for claim in claims:
            rig.finish(claim, Completed(b""))
        for _ in claims:
            await rig.leases.receive()
        assert rig.states() == ["completed"] * 5
        assert together == [5]


async def test_a_lease_is_released_once_the_store_has_answered(autojump_clock: trio.testing.MockClock) -> None:
    async with delivering() as rig:
        claim = rig.finish(await rig.claim(), Completed(b"kept"))
        assert await rig.leases.receive() == Release(claim.lease.lease_id)
        assert rig.store.records[claim.lease.execution_id].result == b"kept"
        assert {outcome for _, outcome in rig.ledger.finished} == {"completed"}


async def test_what_is_settled_already_is_only_noted(autojump_clock: trio.testing.MockClock) -> None:
    async with delivering() as rig:
        claim = rig.finish(await rig.claim(), Delivered("lost"))
        assert await rig.leases.receive() == Release(claim.lease.lease_id)
        assert "deliver" not in rig.store.calls
        assert {outcome for _, outcome in rig.ledger.finished} == {"lost"}


async def test_a_lost_answer_is_proved_and_holds_no_other_up(autojump_clock: trio.testing.MockClock) -> None:
    async with delivering() as rig:
        rig.store.lose_replies = 0
        first = rig.finish(await rig.claim(), Completed(b"first"))
        rig.store.lose_replies = 1
        await trio.testing.wait_all_tasks_blocked()
        second = rig.finish(await rig.claim(), Completed(b"second"))
        assert await rig.leases.receive() == Release(second.lease.lease_id)
        assert await rig.leases.receive() == Release(first.lease.lease_id)
        assert rig.store.calls.count("was_delivered") == 1
        assert all(len(record.released) == 1 for record in rig.store.records.values())


async def test_one_that_cannot_be_delivered_holds_up_no_other(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with delivering() as rig:
        deliver = rig.store.outcomes.deliver

        async def failing(lease: Lease, outcome: Outcome, retry_policy: bytes) -> tuple[ReceivedSignal, ...] | None:
            if outcome == Completed(b"unlucky"):
                raise StoreUnavailableError("its server is away")
            return await deliver(lease, outcome, retry_policy)

        monkeypatch.setattr(rig.store.outcomes, "deliver", failing)
        for _ in range(2 * deliverer.HANDS):
            rig.finish(await rig.claim(), Completed(b"unlucky"))
            lucky = rig.finish(await rig.claim(), Completed(b"lucky"))
            assert await rig.leases.receive() == Release(lucky.lease.lease_id)
        assert trio.current_time() == 0


async def test_a_suspension_in_doubt_whose_signals_had_come_is_handed_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with delivering() as rig:
        rig.store.signals_at_hand = (ReceivedSignal("s", "go", "", "", "", "", 5, b""),)
        claim = rig.finish(await rig.claim(), SUSPENDED, is_in_doubt=True)
        await rig.leases.receive()
        assert rig.store.records[claim.lease.execution_id].state == "waiting"
        assert {outcome for _, outcome in rig.ledger.finished} == {"handed_back"}


async def test_it_ends_when_all_is_delivered_and_nothing_more_will_come(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with delivering() as rig:
        rig.finish(await rig.claim(), Completed(b""))
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
        claim = rig.finish(await rig.claim(), Completed(b""))
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
