"""Runs executions in one child: offers its slots, starts what they are assigned, and delivers what becomes of it.

Of one execution: the assignment brings a lease, which the lease renewer keeps alive until the store has answered to
the outcome. Should the lease end first, the handler is interrupted and the child killed soon after, because another
attempt may begin elsewhere. The child is the only one that knows the outcome while it lives; its death is an outcome
too. When a child had to be killed because of one task, the others in it are handed back without spending a retry.
Hard stop (cancellation): kill, confirm the death, hand the execution back likewise.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace

import trio
from trio_util import move_on_when

from ffsuper.channels import Assignment, LeaseNews, Release, Slot
from ffsuper.child.nest import Fault, Nest
from ffsuper.child.process import Child
from ffsuper.child.spawning import ForkServer
from ffsuper.config import ChildrenConfig
from ffsuper.errors import LibraryMissingError, StoreError
from ffsuper.messages import (
    FRAMES_IN_FLIGHT,
    Claim,
    CreateWaitpoint,
    Emit,
    Emitted,
    Ended,
    Failed,
    FromTask,
    InterruptReason,
    Outcome,
    Progress,
    ReportUsage,
    Start,
)
from ffsuper.sansio import crash
from ffsuper.sansio.attempt import Ladder, Step, after_deadline, crashed, killed, lease_grace_s
from ffsuper.sansio.ledger import Ledger
from ffsuper.sansio.pulse import Pulse, Pulses
from ffsuper.store.attempts import Attempts, FrameWriter
from ffsuper.store.delivery import HANDED_BACK, Delivered, deliver, told
from ffsuper.store.outcomes import Outcomes

LOG = logging.getLogger(__name__)

# Progress is worth this much waiting for the store, and no more.
PROGRESS_S = 1.0
# So is a crash report, on which the outcome waits.
CRASH_REPORT_S = 1.0
# What a hard stop may take: the kill, its confirmation, the hand-back.
HAND_BACK_S = 5.0
CLOSE_S = 5.0
LEASE_OVER = (InterruptReason.CANCELLED, InterruptReason.LEASE_LOST)
# The lease ended before there was an outcome.
LOST = Delivered("lost")


async def run(
    fork_server: ForkServer,
    first_child: Child | None,
    outcomes: Outcomes,
    attempts: Attempts,
    slots: trio.MemorySendChannel[Slot],
    leases: trio.MemorySendChannel[LeaseNews],
    retired: trio.Event,
    draining: trio.Event,
    margin_s: float,
    settings: ChildrenConfig,
    pulses: Pulses,
    ledger: Ledger,
) -> None:
    """Run executions until nobody takes slots any more.

    Args:
        first_child: a child that is ready already.
        retired: set when nobody is about to take slots any more: no child is made for the next one.
        draining: set when the worker drains; the handlers are told.
        ledger: told of each attempt.
        margin_s: how long before a lease can end it is given up.

    Raises:
        HandlersError: the handlers do not load.
        RestartLimitError: children die faster than is worth restarting them.
    """
    async with slots, leases, trio.open_nursery() as background:
        nest = Nest(fork_server, settings, first_child, background, ledger)
        background.start_soon(tell_drain, nest, draining)
        attempt = Attempt(nest, attempts, margin_s, ledger)
        try:
            async with trio.open_nursery() as lines:
                for _ in range(settings.tasks_per_process):
                    lines.start_soon(serve_slot, nest, attempt, outcomes, slots, leases, retired, pulses, ledger)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
                await nest.close()
            background.cancel_scope.cancel()


async def tell_drain(nest: Nest, draining: trio.Event) -> None:
    """Tell the handlers when the worker drains."""
    await draining.wait()
    await nest.drain()


async def serve_slot(
    nest: Nest,
    attempt: Attempt,
    outcomes: Outcomes,
    slots: trio.MemorySendChannel[Slot],
    leases: trio.MemorySendChannel[LeaseNews],
    retired: trio.Event,
    pulses: Pulses,
    ledger: Ledger,
) -> None:
    """Run executions in one slot of the child, one after the other."""
    async with pulses.open("executor") as pulse:
        while True:
            with pulse.resting:
                async with move_on_when(retired.wait) as making:
                    await nest.ready_child()
                assignment = None if making.cancelled_caught else await offer_slot(slots)
            if assignment is None:
                return
            await execute(nest, attempt, assignment, outcomes, leases, pulse, ledger)


async def offer_slot(slots: trio.MemorySendChannel[Slot]) -> Assignment | None:
    """Wait until somebody takes the slot and fills it; None when that will not happen any more."""
    while True:
        assignments_send, assignments = trio.open_memory_channel[Assignment](0)
        async with assignments:
            try:
                await slots.send(Slot(assignments_send))
            except trio.BrokenResourceError:
                return None
            try:
                return await assignments.receive()
            except trio.EndOfChannel:
                continue  # taken and given back unused


async def execute(
    nest: Nest,
    attempt: Attempt,
    assignment: Assignment,
    outcomes: Outcomes,
    leases: trio.MemorySendChannel[LeaseNews],
    pulse: Pulse,
    ledger: Ledger,
) -> None:
    """Run one execution to its outcome, and deliver that."""
    claim = assignment.claim
    outcome: Outcome | None = None
    settled: Delivered | None = None
    about: dict[str, object] = {}
    try:
        while settled is None:
            with pulse.resting:
                child = await nest.ready_child()
            began_s = trio.current_time()
            ledger.began(claim, child.pid, began_s)
            about["child"] = child.pid
            outcome = await attempt.run(child, claim, assignment, pulse)
            about["seconds"] = round(trio.current_time() - began_s, 3)
            settled = LOST if outcome is None else await deliver(outcomes, claim, outcome, pulse, about=about)
            if settled.signals is not None:
                # The signals had come before the suspension: the handler is called again, under the same lease.
                claim, outcome = replace(claim, attempt_type="resumed", signals=settled.signals), None
                settled = None
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + HAND_BACK_S):
            if settled is None:
                ledger.cut_off += 1
                if outcome is None:
                    await nest.kill_and_wait()
                settled = await deliver(outcomes, claim, outcome or HANDED_BACK, pulse, about=about, doubt=True)
            ledger.ended(claim.lease.lease_id, settled.outcome, trio.current_time(), settled.why)
            with contextlib.suppress(trio.BrokenResourceError):  # a hard stop ends the renewer too
                await leases.send(Release(claim.lease.lease_id))


class Attempt:
    """How this executor runs one attempt."""

    def __init__(self, nest: Nest, attempts: Attempts, margin_s: float, ledger: Ledger) -> None:
        self._nest = nest
        self._attempts = attempts
        self._ledger = ledger
        self._lost_grace_s = lease_grace_s(margin_s)

    async def run(self, child: Child, claim: Claim, assignment: Assignment, pulse: Pulse) -> Outcome | None:
        """Run the handler; return what it came to, or None when the lease ended first."""
        registered = child.handlers.get(claim.execution_kind)
        if registered is None:
            told_kind = f"no handler is registered for kind {claim.execution_kind!r}"
            return Failed(told_kind, "unknown_kind", retryable=False)
        settings = self._nest.settings
        ladder = Ladder(
            trio.current_time(),
            settings.grace_s,
            registered.timeout_s or settings.timeout_s,
            registered.progress_timeout_s or settings.progress_timeout_s,
            deadline_s(claim),
        )
        number, inbox = self._nest.open_task(child, told(claim))
        lease_lost = False
        try:
            async with trio.open_nursery() as nursery, inbox:
                wake = Waker()

                async def watch_lease() -> None:
                    nonlocal lease_lost
                    async for end in assignment.lease_end:
                        lease_lost = True
                        self._ledger.lease_ended(claim.lease.lease_id, end.code, by_order=end.has_ended)
                        LOG.warning("lease ended", extra={**told(claim), "code": end.code, "child": child.pid})
                        reason = InterruptReason.CANCELLED if end.has_ended else InterruptReason.LEASE_LOST
                        grace_s = settings.grace_s if end.has_ended else self._lost_grace_s
                        ladder.interrupt(trio.current_time(), reason, grace_s)
                        wake.up()

                nursery.start_soon(watch_lease)
                outcome = await self._converse(child, claim, number, inbox, ladder, wake, nursery, pulse)
                nursery.cancel_scope.cancel()
        finally:
            self._nest.close_task(number)
        return None if lease_lost else outcome

    async def _converse(
        self,
        child: Child,
        claim: Claim,
        number: int,
        inbox: trio.MemoryReceiveChannel[FromTask],
        ladder: Ladder,
        wake: Waker,
        nursery: trio.Nursery,
        pulse: Pulse,
    ) -> Outcome | None:
        """Start the handler, hear what it says, and serve what it asks for."""
        frames = Frames(self._attempts.frames(claim.lease), child, number, nursery)
        began_ms = int(time.time() * 1000)
        with pulse.resting:  # a large payload goes as quickly as the child takes it
            await child.send(start_message(number, claim, self._ledger.traceparent(claim.lease.lease_id)))
        while True:
            message: FromTask | None = None
            has_died = False
            with pulse.resting, wake.moment(ladder.next_s):
                try:
                    message = await inbox.receive()
                except trio.EndOfChannel:
                    has_died = True
            if has_died:
                outcome, report = await self._after_death(child, number, ladder, began_ms)
                with pulse.resting:
                    await frames.settle(ladder, wake)
                await self._report_crash(claim, report, ladder, wake)
                return outcome
            if message is not None:
                ladder.progressed(trio.current_time())
            match message:
                case Progress():
                    await self._report(claim, message)
                case Emit():
                    with pulse.resting:  # the store takes them or the lease ends
                        await frames.put(message)
                case ReportUsage() | CreateWaitpoint():
                    nursery.start_soon(self._answer, child, claim, message)
                case Ended(_, outcome):
                    with pulse.resting:
                        await frames.settle(ladder, wake)
                    return after_ladder(outcome, ladder)
            if ladder.next_s <= trio.current_time():
                self._take(ladder.take(trio.current_time()), child, claim, number, ladder)

    async def _answer(self, child: Child, claim: Claim, request: ReportUsage | CreateWaitpoint) -> None:
        await child.send(await self._attempts.answer(claim.lease, request))

    async def _report(self, claim: Claim, progress: Progress) -> None:
        """Record progress, if the store takes it now."""
        with trio.move_on_after(PROGRESS_S):
            try:
                await self._attempts.progress(claim.lease, progress)
            except StoreError as error:
                LOG.debug("progress not recorded", extra={**told(claim), "error": error})

    async def _after_death(self, child: Child, number: int, ladder: Ladder, began_ms: int) -> tuple[Outcome, str]:
        """Return what the child's death means for this task, and the crash report; an empty one for a bystander."""
        death = crash.since(await child.wait_dead(), began_ms)
        fault = self._nest.fault_of(child)
        if fault is None:
            return crashed(death), crash.report(death, "")
        if fault.culprit not in (None, number):
            return HANDED_BACK, ""
        told_fault = Failed(f"child {child.pid} {fault.reason}", fault.category)
        failure = told_fault if fault.culprit is None else killed(ladder.reason)
        return failure, crash.report(death, failure.reason)

    async def _report_crash(self, claim: Claim, report: str, ladder: Ladder, wake: Waker) -> None:
        """Store a crash report, if the store takes it now and the lease lasts."""
        if not report or ladder.reason in LEASE_OVER:
            return
        with wake.moment(trio.current_time() + CRASH_REPORT_S) as moment:
            try:
                await self._attempts.report_crash(claim.lease, report)
            except LibraryMissingError as error:  # somebody else's store
                LOG.debug("crash report not stored", extra={**told(claim), "error": error})
            except StoreError as error:
                LOG.warning("crash report not stored", extra={**told(claim), "error": error})
        if moment.cancelled_caught:
            LOG.warning("crash report not stored", extra={**told(claim), "error": "not in time"})

    def _take(self, step: Step, child: Child, claim: Claim, number: int, ladder: Ladder) -> None:
        """Do to a child what is next."""
        reason = ladder.reason or InterruptReason.TIMEOUT
        extra = {**told(claim), "child": child.pid, "step": step.name.lower(), "reason": reason.value}
        LOG.warning("handler is to end", extra=extra)
        match step:
            case Step.INTERRUPT:
                child.interrupt(number, reason)
            case Step.DUMP:
                child.dump_stacks()
            case Step.KILL:
                self._nest.kill(child, Fault("killed because a handler did not end", culprit=number))


class Waker:
    """Lets one task out of its wait when a ladder has changed under it."""

    def __init__(self) -> None:
        self._scope = trio.CancelScope()

    def moment(self, until_s: float) -> trio.CancelScope:
        """Return a scope that ends at a time, or earlier when ``up`` is called."""
        self._scope = trio.CancelScope(deadline=until_s)
        return self._scope

    def up(self) -> None:
        """End the wait."""
        self._scope.cancel()


class Frames:
    """The way of a task's frames to the store: in order, in batches of what has gathered."""

    def __init__(self, writer: FrameWriter, child: Child, number: int, nursery: trio.Nursery) -> None:
        self._writer = writer
        self._nursery = nursery
        self._has_begun = False
        self._child = child
        self._number = number
        # As many as the child may send unanswered, so that a frame never keeps other messages waiting.
        self._send, self._receive = trio.open_memory_channel[Emit](FRAMES_IN_FLIGHT)
        self._done = trio.Event()

    async def put(self, frame: Emit) -> None:
        """Take a frame."""
        if not self._has_begun:
            self._has_begun = True
            self._nursery.start_soon(self._run)
        await self._send.send(frame)

    async def settle(self, ladder: Ladder, wake: Waker) -> None:
        """Wait until all frames are with the store, for as long as the lease lasts."""
        self._send.close()
        if self._has_begun and ladder.reason not in LEASE_OVER:
            with wake.moment(math.inf):
                await self._done.wait()

    async def _run(self) -> None:
        """Write until there are no more."""
        async for first in self._receive:
            batch = [first]
            with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel):
                while True:
                    batch.append(self._receive.receive_nowait())
            refusal = await self._writer.write(batch)
            await self._child.send(Emitted(self._number, len(batch), refusal))
        self._done.set()


def after_ladder(outcome: Outcome, ladder: Ladder) -> Outcome:
    """Return what an outcome that came after an interrupt means."""
    if ladder.reason is InterruptReason.DEADLINE and isinstance(outcome, Failed):
        return after_deadline(outcome.reason)
    return outcome


def deadline_s(claim: Claim, now_s: Callable[[], float] = time.time) -> float:
    """Return the execution's deadline on trio's clock; infinite without one."""
    if claim.deadline_ms is None:
        return math.inf
    return trio.current_time() + claim.deadline_ms / 1000 - now_s()


def start_message(number: int, claim: Claim, traceparent: str) -> Start:
    """Return what the child needs to know."""
    return Start(
        number,
        claim.lease.execution_id,
        claim.execution_kind,
        claim.lease.attempt_index,
        claim.attempt_type,
        claim.tags,
        claim.deadline_ms,
        claim.signals,
        claim.payload,
        traceparent,
    )
