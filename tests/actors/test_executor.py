from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

import pytest
import trio
import trio.testing

from ffsuper.actors import deliverer, executor
from ffsuper.actors.attempt import REQUESTS_IN_FLIGHT
from ffsuper.channels import Finished, LeaseEnd, LeaseExtended, LeaseNews, LeaseTerm, Release, Slot
from ffsuper.child.lifespans import LONGEST_NAP_S
from ffsuper.child.process import Child
from ffsuper.config import ChildrenConfig
from ffsuper.errors import HandlersError, RemoteProtocolError, RestartLimitError
from ffsuper.messages import (
    Claim,
    Completed,
    CreateWaitpoint,
    Deferred,
    Drain,
    Emit,
    Emitted,
    ExecutionId,
    Failed,
    FromChild,
    LeaseId,
    OnTimeout,
    Progress,
    Ready,
    ReceivedSignal,
    ReportUsage,
    RequestFailed,
    Start,
    Suspended,
    ToChild,
    UsageReported,
    WaitpointCreated,
)
from ffsuper.sansio.ledger import Ledger
from ffsuper.sansio.run_times import RUNS, SHORT_S
from tests.fake_children import Behaviour, FakeChild, FakeForkServer
from tests.fakes import HOUR_S, FakeStore, Record, candidate, pulses

MARGIN_S = 0.8
HAND_BACK_S = 10.0
ROOM = 3
SUSPENDED = Suspended("waiting_for_signal", ("go",), False, None, OnTimeout.FAIL, "")
KINDS: dict[str, float | None] = {"job": None, "short": 30.0}


async def echo(child: FakeChild, start: Start) -> None:
    child.say(Completed(start.payload))


async def hang(child: FakeChild, start: Start) -> None:
    await trio.sleep_forever()


@dataclass
class Rig:
    """An executor, a deliverer, and what is around them."""

    store: FakeStore
    fork_server: FakeForkServer
    slots: trio.MemoryReceiveChannel[Slot]
    leases: trio.MemoryReceiveChannel[LeaseNews]
    executor: trio.CancelScope
    deliverer: trio.CancelScope
    retired: trio.Event
    draining: trio.Event
    ledger: Ledger

    async def assign(
        self, kind: str = "job", payload: bytes = b""
    ) -> tuple[Record, trio.MemorySendChannel[LeaseTerm]]:
        """Claim an execution and hand it to the slot that is offered."""
        slot = await self.slots.receive()
        claim = await self.claim(kind, payload)
        slot.assignments.send_nowait(claim)
        return self.store.records[claim.lease.execution_id], slot.lease_terms

    async def claim(self, kind: str = "job", payload: bytes = b"") -> Claim:
        """Claim an execution."""
        execution: ExecutionId = self.store.add(len(self.store.records) + 1, kind, payload)
        (claim,) = await self.store.claims.claim([candidate(self.store.records[execution])])
        assert isinstance(claim, Claim)
        return claim

    async def finished(self) -> None:
        """Wait until a lease has been released."""
        assert isinstance(await self.leases.receive(), Release)

    def stop_hard(self) -> None:
        """Cut off what runs."""
        self.executor.cancel()
        self.deliverer.deadline = trio.current_time() + HAND_BACK_S


@asynccontextmanager
async def executing(
    behaviour: Behaviour = echo, *, may_hand_back: bool = True, **settings: float
) -> AsyncIterator[Rig]:
    store = FakeStore(lease_ttl_s=1000.0)  # nobody renews here
    slots_send, slots = trio.open_memory_channel[Slot](math.inf)
    finished_send, finished = trio.open_memory_channel[Finished](math.inf)
    leases_send, leases = trio.open_memory_channel[LeaseNews](math.inf)
    children = ChildrenConfig(count=1, **settings)  # type: ignore[arg-type]
    with trio.fail_after(HOUR_S):
        async with trio.open_nursery() as nursery:
            fork_server = FakeForkServer(nursery, behaviour, KINDS)
            executing, delivering, ledger = trio.CancelScope(), trio.CancelScope(shield=True), Ledger()
            retired, draining, room = trio.Event(), trio.Event(), trio.Semaphore(ROOM)

            async def execute() -> None:
                with executing:
                    await executor.run(
                        fork_server,
                        None,
                        store.outcomes,
                        store.attempts,
                        slots_send,
                        finished_send,
                        room,
                        retired,
                        draining,
                        MARGIN_S,
                        trio.current_time,
                        lambda: may_hand_back,
                        children,
                        pulses(),
                        ledger,
                    )

            async def deliver() -> None:
                with delivering:
                    await deliverer.run(store.outcomes, finished, leases_send, room, pulses(), ledger)

            nursery.start_soon(execute)
            nursery.start_soon(deliver)
            yield Rig(store, fork_server, slots, leases, executing, delivering, retired, draining, ledger)
            nursery.cancel_scope.cancel()


def ended(record: Record, code: str, *, has_ended: bool = False) -> LeaseEnd:
    """Return what the lease renewer says of an execution's lease."""
    return LeaseEnd(LeaseId(record.lease_id), code, has_ended)


async def test_an_execution_is_run_delivered_and_released(autojump_clock: trio.testing.MockClock) -> None:
    async with executing() as rig:
        record, _ = await rig.assign(payload=b"\x00\xff")
        await rig.finished()
        assert (record.state, record.result) == ("completed", b"\x00\xff")


async def test_one_child_runs_execution_after_execution(autojump_clock: trio.testing.MockClock) -> None:
    async with executing() as rig:
        for _ in range(3):
            await rig.assign()
            await rig.finished()
        assert len(rig.fork_server.children) == 1


async def test_no_slot_is_offered_while_an_execution_runs(autojump_clock: trio.testing.MockClock) -> None:
    async with executing(hang) as rig:
        await rig.assign()
        with trio.move_on_after(100):
            await rig.slots.receive()
            pytest.fail("a slot was offered")


async def test_progress_is_recorded_while_the_handler_runs(autojump_clock: trio.testing.MockClock) -> None:
    async def reports(child: FakeChild, start: Start) -> None:
        child.say(Progress(1, 50, "half way"))
        child.say(Completed(b""))

    async with executing(reports) as rig:
        record, _ = await rig.assign()
        await rig.finished()
        assert record.progress == [Progress(1, 50, "half way")]


@pytest.mark.parametrize("outcome", [Failed("no", "exception"), Deferred(123)])
async def test_other_outcomes_are_delivered_too(
    outcome: Failed | Deferred, autojump_clock: trio.testing.MockClock
) -> None:
    async def comes_to(child: FakeChild, start: Start) -> None:
        child.say(outcome)

    async with executing(comes_to) as rig:
        record, _ = await rig.assign()
        await rig.finished()
        assert record.state == ("failed" if isinstance(outcome, Failed) else "delayed")


async def test_a_crash_fails_the_attempt_at_once_with_the_childs_last_words(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def crashes(child: FakeChild, start: Start) -> None:
        child.die(by_signal=11)

    async with executing(crashes) as rig:
        record, _ = await rig.assign()
        await rig.finished()
        assert record.failure == Failed("child 1000 was killed by SIGSEGV\nits last words", "crash")
        assert trio.current_time() == 0
        await rig.slots.receive()
        assert len(rig.fork_server.children) == 2


async def test_a_child_that_died_idle_is_replaced_before_the_execution_starts(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with executing() as rig:
        await trio.testing.wait_all_tasks_blocked()
        rig.fork_server.children[0].die(by_signal=9)
        record, _ = await rig.assign()
        await rig.finished()
        assert (record.state, len(rig.fork_server.children)) == ("completed", 2)


@pytest.mark.parametrize("nonsense", [Ready(()), RemoteProtocolError("garbage")])
async def test_a_child_that_speaks_nonsense_is_killed_and_the_attempt_fails(
    nonsense: FromChild | Exception, autojump_clock: trio.testing.MockClock
) -> None:
    async def babbles(child: FakeChild, start: Start) -> None:
        if isinstance(nonsense, Exception):

            async def receive() -> None:
                await trio.lowlevel.checkpoint()
                raise nonsense

            child.receive = receive  # type: ignore[method-assign]
        else:
            child.say(nonsense)
        child.say(Progress(1, 1, ""))

    async with executing(babbles) as rig:
        record, _ = await rig.assign()
        await rig.finished()
        assert record.failure is not None
        assert record.failure.category == "crash"
        assert "speaking nonsense" in record.failure.reason
        assert "kill" in rig.fork_server.children[0].done_to_it


async def test_an_unregistered_kind_fails_without_a_retry(autojump_clock: trio.testing.MockClock) -> None:
    async with executing() as rig:
        record, _ = await rig.assign(kind="mystery")
        await rig.finished()
        assert record.failure == Failed(
            "no handler is registered for kind 'mystery'", "unknown_kind", retryable=False
        )


async def test_what_cannot_be_read_of_an_execution_fails_it_without_a_handler_or_a_retry(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with executing() as rig:
        slot = await rig.slots.receive()
        claim = replace(await rig.claim(), damage="payload: WRONGTYPE")
        slot.assignments.send_nowait(claim)
        await rig.finished()
        record = rig.store.records[claim.lease.execution_id]
        assert record.failure == Failed(
            "the store's keys are damaged: payload: WRONGTYPE", "damaged", retryable=False
        )
        await rig.assign()
        await rig.finished()
        assert len(rig.fork_server.children) == 1


async def test_an_overrunning_handler_is_interrupted_and_may_still_end_by_itself(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def obeys(child: FakeChild, start: Start) -> None:
        await child.interrupted.wait()
        child.say(Failed("SoftTimeout", "timeout"))

    async with executing(obeys) as rig:
        record, _ = await rig.assign(kind="short")
        await rig.finished()
        assert (trio.current_time(), record.failure) == (30.0, Failed("SoftTimeout", "timeout"))
        assert rig.fork_server.children[0].done_to_it == ["interrupt timeout"]


async def test_one_that_does_not_obey_is_shown_and_killed(autojump_clock: trio.testing.MockClock) -> None:
    async with executing(hang, grace_s=5.0) as rig:
        record, _ = await rig.assign(kind="short")
        await rig.finished()
        assert rig.fork_server.children[0].done_to_it == ["interrupt timeout", "dump", "kill"]
        assert trio.current_time() == pytest.approx(35.2)
        assert record.failure is not None
        assert record.failure.category == "timeout"


async def test_the_configured_timeout_is_for_handlers_that_name_none(autojump_clock: trio.testing.MockClock) -> None:
    async with executing(hang, timeout_s=10.0, grace_s=1.0) as rig:
        await rig.assign(kind="job")
        await rig.finished()
        assert trio.current_time() == pytest.approx(11.2)


async def test_a_lost_lease_kills_the_child_and_delivers_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with executing(hang) as rig:
        record, lease_end = await rig.assign()
        await trio.sleep(7)
        lease_end.send_nowait(ended(record, "stale_lease"))
        await rig.finished()
        assert trio.current_time() <= 7 + MARGIN_S / 2
        assert rig.fork_server.children[0].done_to_it == ["interrupt lease_lost", "dump", "kill"]
        assert "deliver" not in rig.store.calls
        await rig.slots.receive()
        assert (rig.ledger.lost, rig.ledger.deaths) == ({"stale_lease": 1}, {"handler": 1})


async def test_an_outcome_waits_for_the_store_and_keeps_its_lease_meanwhile(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with executing() as rig:
        slot_taken, _ = await rig.assign()
        rig.store.away = True
        with trio.move_on_after(60):
            await rig.leases.receive()
            pytest.fail("released before the store has answered")
        rig.store.away = False
        await rig.finished()
        assert slot_taken.state == "completed"


async def test_an_outcome_whose_answer_was_lost_is_proved_instead_of_repeated(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with executing() as rig:
        rig.store.lose_replies = 0
        slot, claim = await rig.slots.receive(), await rig.claim()
        rig.store.lose_replies = 1
        slot.assignments.send_nowait(claim)
        await rig.finished()
        assert rig.store.records[claim.lease.execution_id].released == [("lease-1", "completed")]
        assert rig.store.calls.count("was_delivered") == 1
        assert "outcome refused" not in caplog.text


async def test_an_outcome_that_the_fence_refuses_is_reported_as_such(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def late(child: FakeChild, start: Start) -> None:
        await trio.sleep(2000)
        child.say(Completed(b"late"))

    async with executing(late) as rig:
        record, _ = await rig.assign()
        await rig.finished()
        assert record.result == b""
        assert "outcome refused" in caplog.text


async def test_a_hard_stop_kills_confirms_and_hands_back_without_spending_a_retry(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with executing(hang) as rig:
        record, _ = await rig.assign()
        await trio.sleep(5)
        rig.stop_hard()
        await rig.finished()
        assert rig.fork_server.children[0].done_to_it == ["kill"]
        assert (record.state, record.interrupted) == ("waiting", True)
        assert {outcome for _, outcome in rig.ledger.finished} == {"handed_back"}


async def test_the_end_of_an_attempt_is_told_with_its_kind_child_and_time_and_a_kill_with_its_reason(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ffsuper")
    async with executing(hang) as rig:
        await rig.assign()
        await trio.sleep(5)
        rig.stop_hard()
        await rig.finished()
    killed, finished = (one.__dict__ for one in caplog.records)
    assert (killed["msg"], killed["child"]) == ("child killed", rig.fork_server.children[0].pid)
    assert "handed back" in killed["reason"]
    about = {"kind": "job", "child": killed["child"], "outcome": "handed_back"}
    assert finished["msg"] == "finished"
    assert about.items() <= finished.items()


async def test_a_handlers_time_is_told_without_that_of_the_delivery(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def works(child: FakeChild, start: Start) -> None:
        await trio.sleep(2.5)
        child.say(Completed(b""))

    caplog.set_level(logging.INFO, "ffsuper.store.delivery")
    async with executing(works) as rig:
        await rig.assign()
        await rig.finished()
    assert caplog.records[-1].__dict__["seconds"] == 2.5


async def test_a_hard_stop_delivers_an_outcome_that_is_known_already(autojump_clock: trio.testing.MockClock) -> None:
    async with executing() as rig:
        slot, claim = await rig.slots.receive(), await rig.claim(payload=b"kept")
        rig.store.away = True
        slot.assignments.send_nowait(claim)
        await trio.sleep(1)
        rig.stop_hard()
        rig.store.away = False
        await rig.finished()
        assert (
            rig.store.records[claim.lease.execution_id].state,
            rig.store.records[claim.lease.execution_id].result,
        ) == ("completed", b"kept")


async def test_a_hard_stop_ends_in_time_though_the_store_is_away_and_the_child_does_not_die(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with executing(hang) as rig:
        await rig.assign()
        await trio.testing.wait_all_tasks_blocked()
        rig.store.away = True
        rig.fork_server.children[0].immortal = True
        rig.stop_hard()
        await rig.finished()
        with pytest.raises(trio.EndOfChannel):
            await rig.leases.receive()
        assert trio.current_time() <= max(HAND_BACK_S, executor.KILL_S + executor.CLOSE_S) + 0.1


async def test_it_drains_when_nobody_takes_slots_any_more(autojump_clock: trio.testing.MockClock) -> None:
    async with executing() as rig:
        await rig.assign()
        await rig.finished()
        slot = await rig.slots.receive()
        await rig.slots.aclose()
        slot.assignments.send_nowait(None)
        with pytest.raises(trio.EndOfChannel):
            await rig.leases.receive()
        assert rig.fork_server.children[0].is_dead


async def test_a_slot_given_back_unused_is_offered_again(autojump_clock: trio.testing.MockClock) -> None:
    async with executing() as rig:
        (await rig.slots.receive()).assignments.send_nowait(None)
        record, _ = await rig.assign()
        await rig.finished()
        assert record.state == "completed"


async def test_children_that_do_not_start_are_tried_again_and_take_no_execution(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with executing() as rig:
        rig.fork_server.failures = 3
        record, _ = await rig.assign()
        await rig.finished()
        assert record.state == "completed"


async def test_children_that_keep_dying_end_the_worker_and_their_execution_is_handed_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def crashes(child: FakeChild, start: Start) -> None:
        child.die(exit_code=1)

    with pytest.RaisesGroup(RestartLimitError, flatten_subgroups=True):
        async with executing(crashes, max_restarts=2, restart_window_s=60.0) as rig:
            for _ in range(3):
                await rig.assign()
                await rig.finished()
            with pytest.raises(trio.EndOfChannel):
                await rig.slots.receive()
            await trio.sleep_forever()


async def test_handlers_that_do_not_load_end_the_worker_at_once(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.RaisesGroup(HandlersError, flatten_subgroups=True):
        async with executing() as rig:

            async def spawn() -> FakeChild:
                await trio.lowlevel.checkpoint()
                raise HandlersError("module 'jobs' does not import")

            rig.fork_server.spawn = spawn  # type: ignore[method-assign]
            await trio.sleep(10)


def attempt_tasks(child: FakeChild) -> list[int]:
    return [message.task for message in child.sent if isinstance(message, Start)]


async def test_frames_are_stored_in_order_before_the_outcome_and_answered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def emits(child: FakeChild, start: Start) -> None:
        for number in range(100):
            child.say(Emit(start.task, "delta", "", str(number).encode()))
            await trio.lowlevel.checkpoint()
        child.say(Completed(b""))

    async with executing(emits) as rig:
        record, _ = await rig.assign()
        await rig.finished()
        assert record.frames == [str(number).encode() for number in range(100)]
        answered = [one.count for one in rig.fork_server.children[0].sent if isinstance(one, Emitted)]
        assert sum(answered) == 100
        assert rig.store.calls.index("deliver") > max(
            position for position, call in enumerate(rig.store.calls) if call.startswith("append")
        )


async def test_frames_of_a_child_that_died_are_stored_before_its_attempt_fails(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def emits_and_dies(child: FakeChild, start: Start) -> None:
        for number in range(5):
            child.say(Emit(start.task, "delta", "", str(number).encode()))
        await trio.sleep(1)
        rig_store.away = True
        child.say(Emit(start.task, "delta", "", b"last"))
        await trio.sleep(1)
        child.die(exit_code=1)
        await trio.sleep(30)

    async with executing(emits_and_dies) as rig:
        rig_store = rig.store
        record, _ = await rig.assign()
        await trio.sleep(10)
        rig.store.away = False
        await rig.finished()
        assert record.frames == [b"0", b"1", b"2", b"3", b"4", b"last"]
        assert record.failure is not None
        assert record.failure.category == "crash"


async def test_frames_hold_nobody_up_whose_lease_is_over(autojump_clock: trio.testing.MockClock) -> None:
    async def emits(child: FakeChild, start: Start) -> None:
        child.say(Emit(start.task, "delta", "", b"never stored"))
        child.say(Completed(b""))

    async with executing(emits) as rig:
        slot, claim = await rig.slots.receive(), await rig.claim()
        rig.store.away = True
        slot.assignments.send_nowait(claim)
        await trio.sleep(50)
        slot.lease_terms.send_nowait(LeaseEnd(claim.lease.lease_id, "local_deadline", has_ended=False))
        await rig.finished()
        assert trio.current_time() == pytest.approx(50, abs=0.1)


async def test_requests_are_answered_while_the_handler_runs(autojump_clock: trio.testing.MockClock) -> None:
    async def asks(child: FakeChild, start: Start) -> None:
        child.say(ReportUsage(start.task, 1, "budget", {"tokens": 1}, ""))
        child.say(CreateWaitpoint(start.task, 2, "", 5))
        await trio.sleep(1)
        child.say(Completed(b""))

    async with executing(asks) as rig:
        await rig.assign()
        await rig.finished()
        answers = [
            one.request
            for one in rig.fork_server.children[0].sent
            if isinstance(one, UsageReported | WaitpointCreated | RequestFailed)
        ]
        assert sorted(answers) == [1, 2]


def make_deaf(monkeypatch: pytest.MonkeyPatch, kind: type[ToChild]) -> None:
    """Have children take no messages of a kind, and so no later ones."""
    hears = FakeChild.send

    async def send(child: FakeChild, message: ToChild) -> None:
        if isinstance(message, kind):
            await child.wait_dead()
        else:
            await hears(child, message)

    monkeypatch.setattr(FakeChild, "send", send)


async def test_a_child_that_does_not_take_what_it_is_to_run_is_killed_in_time(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_deaf(monkeypatch, Start)
    async with executing(timeout_s=5.0) as rig:
        record, _ = await rig.assign()
        await rig.finished()
        assert trio.current_time() == pytest.approx(5, abs=0.1)
        assert record.failure is not None
        assert record.failure.category == "timeout"
        assert "kill" in rig.fork_server.children[0].done_to_it


async def test_a_handler_that_takes_no_answers_to_its_frames_has_its_time_and_no_more(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def emits(child: FakeChild, start: Start) -> None:
        while True:
            with suppress(trio.WouldBlock):
                child.say(Emit(start.task, "delta", "", b"x"))
            await trio.sleep(0.01)

    make_deaf(monkeypatch, Emitted)
    async with executing(emits, timeout_s=5.0, grace_s=1.0) as rig:
        record, _ = await rig.assign()
        await rig.finished()
        assert trio.current_time() == pytest.approx(6.2, abs=0.1)
        assert record.failure is not None
        assert record.failure.category == "timeout"


async def test_one_that_ends_without_having_taken_the_answers_has_ended_and_its_child_is_killed(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def emits(child: FakeChild, start: Start) -> None:
        child.say(Emit(start.task, "delta", "", b"x"))
        child.say(Completed(b"done"))

    make_deaf(monkeypatch, Emitted)
    async with executing(emits) as rig:
        record, _ = await rig.assign()
        await rig.finished()
        assert (record.frames, record.failure) == ([b"x"], None)
        assert trio.current_time() < 2
        assert "kill" in rig.fork_server.children[0].done_to_it


async def test_no_more_requests_are_under_way_than_there_is_room_for(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way = 0

    async def asks(child: FakeChild, start: Start) -> None:
        for number in range(REQUESTS_IN_FLIGHT + 30):
            child.say(ReportUsage(start.task, number, "budget", {"tokens": 1}, ""))

    async def answer(*_: object) -> None:
        nonlocal under_way
        under_way += 1
        await trio.sleep_forever()

    async with executing(asks, timeout_s=5.0, grace_s=1.0) as rig:
        monkeypatch.setattr(rig.store.attempts, "answer", answer)
        record, _ = await rig.assign()
        await rig.finished()
        assert under_way == REQUESTS_IN_FLIGHT
        assert trio.current_time() == pytest.approx(6.2, abs=0.1)
        assert record.failure is not None
        assert record.failure.category == "timeout"


async def test_signals_that_had_come_bring_the_handler_back_under_the_same_lease(
    autojump_clock: trio.testing.MockClock,
) -> None:
    signal = ReceivedSignal("s", "go", "", "", "", "", 5, b"early")

    async def suspends(child: FakeChild, start: Start) -> None:
        child.say(Completed(start.signals[0].payload) if start.signals else SUSPENDED)

    async with executing(suspends) as rig:
        rig.store.signals_at_hand = (signal,)
        record, _ = await rig.assign()
        await rig.finished()
        assert (record.state, record.result, record.epoch) == ("completed", b"early", 1)
        starts = [one for one in rig.fork_server.children[0].sent if isinstance(one, Start)]
        assert [one.attempt_type for one in starts] == ["initial", "resumed"]


async def test_a_suspension_gives_the_lease_back(autojump_clock: trio.testing.MockClock) -> None:
    async def suspends(child: FakeChild, start: Start) -> None:
        child.say(SUSPENDED)

    async with executing(suspends) as rig:
        record, _ = await rig.assign()
        await rig.finished()
        assert (record.state, record.released) == ("suspended", [("lease-1", "suspend")])


async def test_a_cancelled_handler_has_the_whole_grace(autojump_clock: trio.testing.MockClock) -> None:
    async with executing(hang, grace_s=5.0) as rig:
        record, lease_end = await rig.assign()
        await trio.testing.wait_all_tasks_blocked()
        lease_end.send_nowait(ended(record, "execution_not_active", has_ended=True))
        await rig.finished()
        assert trio.current_time() == pytest.approx(5.2)
        assert rig.fork_server.children[0].done_to_it == ["interrupt cancelled", "dump", "kill"]
        assert "deliver" not in rig.store.calls


async def test_several_run_in_one_child_and_one_that_hangs_costs_the_others_no_retry(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with executing(hang, tasks_per_process=3, grace_s=1.0) as rig:
        records = [(await rig.assign(kind=kind))[0] for kind in ("job", "short", "job")]
        await trio.testing.wait_all_tasks_blocked()
        assert len(rig.fork_server.children) == 1
        assert attempt_tasks(rig.fork_server.children[0]) == [1, 2, 3]
        for _ in range(3):
            await rig.finished()
        assert records[1].failure is not None
        assert records[1].failure.category == "timeout"
        assert [(one.state, one.failure) for one in (records[0], records[2])] == [("waiting", None)] * 2
        assert {outcome: count for (_, outcome), count in rig.ledger.finished.items()} == {
            "failed": 1,
            "handed_back": 2,
        }


async def test_a_drain_is_told_to_the_child(autojump_clock: trio.testing.MockClock) -> None:
    async with executing(hang) as rig:
        await rig.assign()
        rig.draining.set()
        await trio.testing.wait_all_tasks_blocked()
        assert Drain() in rig.fork_server.children[0].sent


async def test_a_worn_child_is_replaced_between_executions(autojump_clock: trio.testing.MockClock) -> None:
    async with executing(recycle_after=2) as rig:
        for _ in range(4):
            await rig.assign()
            await rig.finished()
        await rig.slots.receive()
        assert len(rig.fork_server.children) >= 2


async def test_a_child_over_the_soft_limit_is_replaced(autojump_clock: trio.testing.MockClock) -> None:
    async with executing(soft_memory_mb=100) as rig:
        await rig.assign()
        await rig.finished()
        rig.fork_server.children[0].memory = 101 << 20
        await rig.assign()
        await rig.finished()
        await rig.slots.receive()
        assert len(rig.fork_server.children) == 2


async def test_a_child_over_the_hard_limit_is_killed_while_it_runs(autojump_clock: trio.testing.MockClock) -> None:
    async def grows(child: FakeChild, start: Start) -> None:
        child.memory = 201 << 20
        await trio.sleep_forever()

    async with executing(grows, hard_memory_mb=200) as rig:
        record, _ = await rig.assign()
        await rig.finished()
        assert record.failure == Failed("child 1000 killed at 201 MiB of memory, over the limit of 200 MiB", "memory")


async def test_the_deadline_ends_an_attempt_for_good(autojump_clock: trio.testing.MockClock) -> None:
    async def obeys(child: FakeChild, start: Start) -> None:
        await child.interrupted.wait()
        child.say(Failed("SoftTimeout", "timeout"))

    async with executing(obeys) as rig:
        slot, claim = await rig.slots.receive(), await rig.claim()
        due = replace(claim, deadline_ms=int(time.time() * 1000) + 5_000)
        slot.assignments.send_nowait(due)
        await rig.finished()
        assert trio.current_time() == pytest.approx(5, abs=1)
        assert rig.store.records[claim.lease.execution_id].failure == Failed(
            "SoftTimeout", "deadline", retryable=False
        )


async def test_a_lease_that_ended_before_the_attempt_begins_ends_it(autojump_clock: trio.testing.MockClock) -> None:
    async with executing(hang) as rig:
        slot, claim = await rig.slots.receive(), await rig.claim()
        slot.lease_terms.send_nowait(LeaseEnd(claim.lease.lease_id, "stale_lease", has_ended=False))
        await trio.testing.wait_all_tasks_blocked()
        slot.assignments.send_nowait(claim)
        await rig.finished()
        assert trio.current_time() <= MARGIN_S / 2
        assert "deliver" not in rig.store.calls


async def test_nothing_is_begun_under_a_lease_that_must_be_over(autojump_clock: trio.testing.MockClock) -> None:
    async with executing() as rig:
        slot, claim = await rig.slots.receive(), await rig.claim()
        await trio.sleep(rig.store.lease_ttl_s - MARGIN_S)
        slot.assignments.send_nowait(claim)
        await rig.finished()
        assert attempt_tasks(rig.fork_server.children[0]) == []
        assert "deliver" not in rig.store.calls


async def test_the_end_of_an_earlier_lease_disturbs_no_later_attempt(autojump_clock: trio.testing.MockClock) -> None:
    async with executing() as rig:
        record, lease_end = await rig.assign()
        await rig.finished()
        lease_end.send_nowait(ended(record, "stale_lease"))
        later, _ = await rig.assign()
        await rig.finished()
        assert later.state == "completed"


async def test_the_slot_is_free_while_the_outcome_is_on_its_way(autojump_clock: trio.testing.MockClock) -> None:
    async with executing() as rig:
        record, _ = await rig.assign()
        rig.store.away = True
        await rig.slots.receive()
        assert record.state == "active"
        rig.store.away = False
        await rig.finished()
        assert record.state == "completed"


async def test_when_many_outcomes_are_on_their_way_the_slot_waits_for_one_to_arrive(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with executing() as rig:
        claims = [await rig.claim() for _ in range(ROOM + 1)]
        rig.store.away = True
        for claim in claims:
            (await rig.slots.receive()).assignments.send_nowait(claim)
        with trio.move_on_after(60):
            await rig.slots.receive()
            pytest.fail("a slot was offered")
        rig.store.away = False
        for _ in claims:
            await rig.finished()
        await rig.slots.receive()


async def test_what_runs_in_a_child_whose_death_is_not_confirmed_is_not_handed_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with executing(hang) as rig:
        record, _ = await rig.assign()
        await trio.testing.wait_all_tasks_blocked()
        rig.fork_server.children[0].immortal = True
        rig.stop_hard()
        await rig.finished()
        assert record.state == "active"
        assert (rig.ledger.cut_off, {outcome for _, outcome in rig.ledger.finished}) == (1, {"lost"})


# --- claiming ahead -------------------------------------------------------------------------------------------------


async def long_if_told(child: FakeChild, start: Start) -> None:
    if start.payload == b"long":
        await trio.sleep(60)
    child.say(Completed(b""))


async def slow_echo(child: FakeChild, start: Start) -> None:
    await trio.sleep(SHORT_S / 2)
    child.say(Completed(start.payload))


async def short_runs(rig: Rig) -> None:
    """Let the executor learn that runs are short."""
    for _ in range(RUNS):
        await rig.assign()
        await rig.finished()


async def test_while_a_kind_runs_that_has_been_short_the_next_execution_is_taken(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with executing(slow_echo) as rig:
        await short_runs(rig)
        first, _ = await rig.assign()
        second, _ = await rig.assign(payload=b"second")
        assert first.state == "active"
        await rig.finished()
        await rig.finished()
        assert (first.state, second.state, second.result) == ("completed", "completed", b"second")


async def test_what_was_taken_ahead_does_not_wait_for_a_run_that_is_long_after_all(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with executing(long_if_told) as rig:
        await short_runs(rig)
        long, _ = await rig.assign(payload=b"long")
        began_s = trio.current_time()
        ahead, _ = await rig.assign()
        await rig.finished()
        assert (ahead.state, ahead.attempts, long.state) == ("waiting", 1, "active")
        assert trio.current_time() - began_s == pytest.approx(SHORT_S)
        await rig.finished()
        assert long.state == "completed"
        await rig.assign()
        with trio.move_on_after(0):
            await rig.slots.receive()
            pytest.fail("the kind still counts as short")


async def test_what_comes_for_the_slot_once_a_run_is_long_is_handed_back_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with executing(long_if_told) as rig:
        await short_runs(rig)
        await rig.assign(payload=b"long")
        slot, claim = await rig.slots.receive(), await rig.claim()
        await trio.sleep(5)
        slot.assignments.send_nowait(claim)
        await rig.finished()
        assert rig.store.records[claim.lease.execution_id].state == "waiting"
        assert trio.current_time() < 6


async def test_a_hard_stop_hands_back_what_was_taken_ahead(autojump_clock: trio.testing.MockClock) -> None:
    async with executing(long_if_told) as rig:
        await short_runs(rig)
        long, _ = await rig.assign(payload=b"long")
        ahead, _ = await rig.assign()
        rig.stop_hard()
        await rig.finished()
        await rig.finished()
        assert (long.state, ahead.state) == ("waiting", "waiting")
        assert rig.ledger.cut_off == 1


async def test_a_lease_that_ends_while_its_execution_waits_behind_another_is_not_forgotten(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with executing(slow_echo) as rig:
        await short_runs(rig)
        first, _ = await rig.assign()
        ahead, lease_end = await rig.assign()
        lease_end.send_nowait(ended(ahead, "stale_lease"))
        await rig.finished()
        await rig.finished()
        assert (first.state, ahead.state) == ("completed", "active")
        assert len(attempt_tasks(rig.fork_server.children[0])) == RUNS + 1


async def test_nothing_is_taken_ahead_that_could_not_be_handed_back(autojump_clock: trio.testing.MockClock) -> None:
    async with executing(long_if_told, may_hand_back=False) as rig:
        await short_runs(rig)
        await rig.assign(payload=b"long")
        with trio.move_on_after(SHORT_S / 2):
            await rig.slots.receive()
            pytest.fail("a slot was offered")


async def test_many_tasks_in_a_child_take_nothing_ahead(autojump_clock: trio.testing.MockClock) -> None:
    async with executing(long_if_told, tasks_per_process=2) as rig:
        await short_runs(rig)
        for _ in range(2):
            await rig.assign(payload=b"long")
        with trio.move_on_after(SHORT_S / 2):
            await rig.slots.receive()
            pytest.fail("a slot was offered")


async def test_a_lease_that_ends_while_a_child_is_made_is_not_begun_under(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with executing() as rig:
        slot = await rig.slots.receive()
        spawn = rig.fork_server.spawn

        async def slow_spawn() -> Child:
            await trio.sleep(5)
            return await spawn()

        rig.fork_server.spawn = slow_spawn  # type: ignore[method-assign]
        rig.fork_server.children[0].die(by_signal=9)
        claim = await rig.claim()
        slot.assignments.send_nowait(claim)
        await trio.sleep(1)
        slot.lease_terms.send_nowait(LeaseEnd(claim.lease.lease_id, "stale_lease", has_ended=False))
        await rig.finished()
        assert trio.current_time() == 5
        assert attempt_tasks(rig.fork_server.children[-1]) == []
        assert (rig.ledger.lost, "deliver" in rig.store.calls) == ({"stale_lease": 1}, False)


async def test_a_child_lives_no_longer_than_its_lease_should_the_supervisor_stand_still(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with executing(hang) as rig:
        slot, claim = await rig.slots.receive(), await rig.claim()
        slot.assignments.send_nowait(claim)
        await trio.sleep(10)
        slot.lease_terms.send_nowait(LeaseExtended(claim.lease.lease_id, 1500.0))
        await trio.testing.wait_all_tasks_blocked()
        (child,) = rig.fork_server.children
        first_s, extended_s = child.lives_until_s
        # Most of the margin is the supervisor's own; the rest is for the death.
        assert first_s == pytest.approx(1000.0 - MARGIN_S / 4)
        assert extended_s == pytest.approx(1500.0 + MARGIN_S * 3 / 4)
        child.say(Completed(b""))
        await rig.finished()
        assert child.lives_until_s[2:] == [math.inf]


async def test_what_is_known_of_a_lease_before_its_attempt_begins_counts_when_it_does(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with executing(hang) as rig:
        slot, claim = await rig.slots.receive(), await rig.claim()
        slot.lease_terms.send_nowait(LeaseExtended(claim.lease.lease_id, 1400.0))
        slot.lease_terms.send_nowait(LeaseExtended(claim.lease.lease_id, 1500.0))
        await trio.sleep(1200)
        slot.assignments.send_nowait(claim)
        await trio.sleep(1)
        (child,) = rig.fork_server.children
        assert child.lives_until_s == [pytest.approx(1500.0 + MARGIN_S * 3 / 4)]


async def test_an_attempt_that_was_cancelled_has_all_its_grace(autojump_clock: trio.testing.MockClock) -> None:
    async with executing(hang) as rig:
        record, lease_terms = await rig.assign()
        await trio.sleep(1)
        lease_terms.send_nowait(ended(record, "execution_not_active", has_ended=True))
        await trio.testing.wait_all_tasks_blocked()
        assert rig.fork_server.children[0].lives_until_s[1:] == [math.inf]


async def test_an_attempt_whose_lease_ran_out_while_the_supervisor_stood_still_is_lost_and_charges_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with executing(hang) as rig:
        record, _ = await rig.assign()
        await trio.sleep(rig.store.lease_ttl_s)
        rig.fork_server.children[0].die(by_signal=9, was_overdue=True)
        await rig.finished()
        assert (record.state, record.failure) == ("active", None)
        assert not [call for call in rig.store.calls if "crash" in call or "fail" in call]
        # The next one runs in another child.
        await rig.assign()
        await trio.sleep(1)
        assert len(rig.fork_server.children) == 2


async def test_a_handler_that_goes_on_after_its_signals_has_the_lease_as_it_was_renewed_last(
    autojump_clock: trio.testing.MockClock,
) -> None:
    signal = ReceivedSignal("s", "go", "", "", "", "", 5, b"early")

    async def suspends(child: FakeChild, start: Start) -> None:
        if start.signals:
            await hang(child, start)
        await trio.sleep(1200)
        child.say(SUSPENDED)

    async with executing(suspends) as rig:
        rig.store.signals_at_hand = (signal,)
        record, lease_terms = await rig.assign()
        await trio.sleep(600)
        record.lease_expires_s = 2000.0
        lease_terms.send_nowait(LeaseExtended(LeaseId(record.lease_id), 1900.0))
        await trio.sleep(650)
        (child,) = rig.fork_server.children
        assert len([one for one in child.sent if isinstance(one, Start)]) == 2
        assert child.lives_until_s[-1] == pytest.approx(1900.0 + MARGIN_S * 3 / 4)


async def test_an_attempt_is_not_begun_whose_lease_ran_out_while_a_child_was_made_though_nobody_has_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with executing() as rig:
        slot = await rig.slots.receive()
        spawn = rig.fork_server.spawn

        async def slow_spawn() -> Child:
            await trio.sleep(rig.store.lease_ttl_s)
            return await spawn()

        rig.fork_server.spawn = slow_spawn  # type: ignore[method-assign]
        rig.fork_server.children[0].die(by_signal=9)
        slot.assignments.send_nowait(await rig.claim())
        await rig.finished()
        assert attempt_tasks(rig.fork_server.children[-1]) == []
        assert "deliver" not in rig.store.calls


async def test_what_ran_beside_an_attempt_whose_lease_ran_out_is_handed_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with executing(hang, tasks_per_process=2) as rig:
        overdue, _ = await rig.assign()
        await trio.sleep(500)
        beside, _ = await rig.assign()
        await trio.sleep(rig.store.lease_ttl_s - 500)
        rig.fork_server.children[0].die(by_signal=9, was_overdue=True)
        await rig.finished()
        await rig.finished()
        assert (overdue.state, beside.state, beside.interrupted) == ("active", "waiting", True)
        assert rig.store.calls.count("deliver") == 1


async def test_nothing_is_kept_waiting_for_what_runs_in_a_child_that_is_worn(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ffsuper.child.nest.JITTER", 0.0)
    async with executing(hang, tasks_per_process=2, recycle_after=1) as rig:
        await rig.assign()
        await trio.sleep(1)
        kept, _ = await rig.assign()
        await rig.finished()
        assert kept.state == "waiting"
        with trio.move_on_after(60):
            await rig.slots.receive()
            pytest.fail("a slot was offered that no child is behind")
        rig.fork_server.children[0].die(by_signal=9)
        await rig.slots.receive()


async def test_what_cannot_be_handed_back_waits_for_another_child(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ffsuper.child.nest.JITTER", 0.0)
    async with executing(hang, may_hand_back=False, tasks_per_process=2, recycle_after=1) as rig:
        await rig.assign()
        await trio.sleep(1)
        kept, _ = await rig.assign()
        await trio.sleep(60)
        assert kept.state == "active"
        rig.fork_server.children[0].die(by_signal=9)
        await trio.sleep(1)
        assert len(attempt_tasks(rig.fork_server.children[1])) == 1


@pytest.mark.parametrize(("left_s", "begins"), [(0.39, False), (0.41, True)])
async def test_nothing_is_begun_that_the_fork_server_might_not_look_at_in_time(
    left_s: float, begins: bool, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    margin_s = LONGEST_NAP_S / 4
    monkeypatch.setattr("tests.actors.test_executor.MARGIN_S", margin_s)
    async with executing(hang) as rig:
        slot, claim = await rig.slots.receive(), await rig.claim()
        # It is killed three quarters of the margin after its deadline.
        await trio.sleep(rig.store.lease_ttl_s - margin_s - left_s)
        slot.assignments.send_nowait(claim)
        await trio.testing.wait_all_tasks_blocked()
        assert bool(attempt_tasks(rig.fork_server.children[0])) is begins
