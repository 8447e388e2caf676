"""Runs executions in one child: offers its slots, runs what they are assigned, and hands on what becomes of it.

Of one execution: the assignment brings a lease, which the lease renewer keeps alive until the store has answered to
the outcome. The deliverer takes the outcome there, so that the slot is free for the next execution meanwhile.
Hard stop (cancellation): kill, confirm the death, have the execution handed back without spending a retry.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

import trio
from trio_util import move_on_when

from ffsuper.actors.attempt import Attempt
from ffsuper.channels import Finished, LeaseEnd, LeaseExtended, LeaseTerm, Slot
from ffsuper.child.lifespans import LONGEST_NAP_S, SUPERVISORS_SHARE
from ffsuper.child.nest import Nest
from ffsuper.child.process import Child
from ffsuper.child.spawning import ForkServer
from ffsuper.config import ChildrenConfig
from ffsuper.messages import Claim, Delivered, Lease, NotBegun, Outcome, Suspended
from ffsuper.sansio.ledger import Ledger
from ffsuper.sansio.pulse import Pulse, Pulses
from ffsuper.sansio.run_times import SHORT_S, RunTimes
from ffsuper.store.attempts import Attempts
from ffsuper.store.delivery import HANDED_BACK, LOST, deliver
from ffsuper.store.outcomes import Outcomes

LOG = logging.getLogger(__name__)

# What a hard stop may take until the child is seen dead.
KILL_S = 5.0
CLOSE_S = 5.0
# More than can be on their way for one slot.
TERMS_KEPT = 8


async def run(
    fork_server: ForkServer,
    first_child: Child | None,
    outcomes: Outcomes,
    attempts: Attempts,
    slots: trio.MemorySendChannel[Slot],
    finished: trio.MemorySendChannel[Finished],
    room: trio.Semaphore,
    retired: trio.Event,
    draining: trio.Event,
    margin_s: float,
    now_s: Callable[[], float],
    may_hand_back: Callable[[], bool],
    settings: ChildrenConfig,
    pulses: Pulses,
    ledger: Ledger,
) -> None:
    """Run executions until nobody takes slots any more.

    Args:
        first_child: a child that is ready already.
        slots: has room for all slots.
        finished: has room for any number of messages.
        room: for outcomes that are on their way to the store; while there is none, slots stay occupied.
        retired: set when nobody is about to take slots any more: no child is made for the next one.
        draining: set when the worker drains; the handlers are told.
        margin_s: how long before a lease can end it is given up.
        now_s: the local clock that leases are judged by.
        may_hand_back: tells whether the store can take back what has not begun, so that it may be claimed ahead.
        ledger: told of each attempt.

    Raises:
        HandlersError: the handlers do not load.
        RestartLimitError: children die faster than is worth restarting them.
    """
    async with slots, finished, trio.open_nursery() as background:
        nest = Nest(fork_server, settings, first_child, background, ledger)
        background.start_soon(tell_drain, nest, draining)
        run_times = RunTimes()
        try:
            async with trio.open_nursery() as served:
                for _ in range(settings.tasks_per_process):
                    slot = ServedSlot(
                        *(nest, outcomes, attempts, slots, finished, room),
                        *(run_times, margin_s, now_s, may_hand_back, ledger),
                    )
                    served.start_soon(slot.serve, retired, pulses)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
                await nest.close()
            background.cancel_scope.cancel()


async def tell_drain(nest: Nest, draining: trio.Event) -> None:
    """Tell the handlers when the worker drains."""
    await draining.wait()
    await nest.drain()


class ServedSlot:
    """One slot of the child.

    While a handler runs whose kind has been short of late, the slot is offered already, so that the next execution is
    there when the child is free. Should the handler take longer after all, that execution is handed back.
    """

    def __init__(
        self,
        nest: Nest,
        outcomes: Outcomes,
        attempts: Attempts,
        slots: trio.MemorySendChannel[Slot],
        finished: trio.MemorySendChannel[Finished],
        room: trio.Semaphore,
        run_times: RunTimes,
        margin_s: float,
        now_s: Callable[[], float],
        may_hand_back: Callable[[], bool],
        ledger: Ledger,
    ) -> None:
        self._nest = nest
        self._outcomes = outcomes
        self._attempts = attempts
        self._slots = slots
        self._finished = finished
        self._room = room
        self._run_times = run_times
        self._margin_s = margin_s
        self._now_s = now_s
        self._may_hand_back = may_hand_back
        self._ledger = ledger
        # Who takes the slot answers once.
        assignments, self._assignments = trio.open_memory_channel[Claim | None](1)
        # Few messages; the renewer never waits for an executor.
        lease_terms, self._lease_terms = trio.open_memory_channel[LeaseTerm](math.inf)
        self._slot = Slot(assignments, lease_terms)
        self._is_offered = False
        self._attempt: Attempt | None = None
        # Of leases whose attempts have not begun; those of attempts that have ended are soon forgotten.
        self._terms: deque[LeaseTerm] = deque(maxlen=TERMS_KEPT)

    async def serve(self, retired: trio.Event, pulses: Pulses) -> None:
        """Run executions, one after the other."""
        async with pulses.open("executor") as pulse, self._lease_terms, trio.open_nursery() as watching:
            watching.start_soon(self._watch_leases)
            try:
                while (claim := await self._assigned(retired, pulse)) is not None:
                    await self._execute(claim, pulse)
            finally:
                self._hand_back_assigned()
                self._assignments.close()
                watching.cancel_scope.cancel()

    async def _assigned(self, retired: trio.Event, pulse: Pulse) -> Claim | None:
        """Wait until somebody takes the slot and fills it; None when that will not happen any more."""
        with pulse.resting:
            while True:
                if not self._is_offered:
                    if not self._nest.is_ready():
                        async with move_on_when(retired.wait) as making:
                            await self._nest.ready_child()
                        if making.cancelled_caught:
                            return None
                    if not self._offer():
                        return None
                claim = await self._assignments.receive()
                self._is_offered = False
                if claim is not None:
                    return claim

    def _may_claim_ahead(self, claim: Claim) -> bool:
        is_single = self._nest.settings.tasks_per_process == 1
        return is_single and self._run_times.are_short(claim.execution_kind) and self._may_hand_back()

    def _offer(self) -> bool:
        """Offer the slot; tell whether there is somebody to take it."""
        try:
            self._slots.send_nowait(self._slot)
        except trio.BrokenResourceError:
            return False
        self._is_offered = True
        return True

    def _hand_back_assigned(self) -> None:
        """Hand back what the slot was filled with, if it was."""
        with suppress(trio.WouldBlock):
            claim = self._assignments.receive_nowait()
            self._is_offered = False
            if claim is not None:
                self._hand_on(Finished(claim, NotBegun(), {}))

    def _look_after_assigned(self) -> None:
        """Let nothing wait long behind the handler that runs."""
        assert self._attempt is not None
        self._run_times.note(self._attempt.kind, math.inf)
        self._hand_back_assigned()
        self._attempt.look_s = trio.current_time() + SHORT_S if self._is_offered else math.inf

    async def _watch_leases(self) -> None:
        """Tell the attempt how long its lease lasts and when it ends, whether it has begun or not."""
        async for term in self._lease_terms:
            attempt = self._attempt
            if attempt is None or attempt.lease_id != term.lease_id:
                self._terms.append(term)
            elif isinstance(term, LeaseExtended):
                self._terms.append(term)  # another run may yet begin under the same lease
                attempt.may_run_until(self._killed_at_s(term.deadline_s))
            else:
                self._ledger.lease_ended(term.lease_id, term.code, by_order=term.has_ended)
                attempt.lease_ended(term, self._margin_s)

    async def _execute(self, claim: Claim, pulse: Pulse) -> None:
        """Run one execution, and hand on what becomes of it."""
        about: dict[str, object] = {}
        outcome: Outcome | Delivered | None = None
        try:
            if self._is_overdue(claim.lease):
                outcome = LOST
            elif self._nest.is_closing() and self._may_hand_back():
                outcome = NotBegun()
            while outcome is None:
                outcome = await self._attempt_once(claim, about, pulse)
                if isinstance(outcome, Suspended):
                    # Its answer decides how this attempt goes on, so we wait for it ourselves.
                    delivered = await deliver(self._outcomes, claim, outcome, pulse, about=about)
                    outcome = delivered
                    if delivered.signals is not None:
                        # They had come before: the handler is called again, under the same lease.
                        claim, outcome = replace(claim, attempt_type="resumed", signals=delivered.signals), None
            if not self._room.value:
                with pulse.resting:
                    await self._room.acquire()
                self._room.release()
        finally:
            is_delivering = isinstance(outcome, Suspended)
            if outcome is None:
                self._ledger.cut_off += 1
                with trio.CancelScope(shield=True, deadline=trio.current_time() + KILL_S):
                    await self._nest.kill_and_wait()
                    outcome = HANDED_BACK
            # Where the death is not confirmed nothing is handed back: the lease ends by itself.
            outcome = LOST if outcome is None else outcome
            self._hand_on(Finished(claim, outcome, about, is_in_doubt=is_delivering))

    def _hand_on(self, one: Finished) -> None:
        """Let the deliverer have an outcome, also where there is no room: then it cannot wait."""
        with suppress(trio.WouldBlock):
            self._room.acquire_nowait()
        self._finished.send_nowait(one)

    def _is_overdue(self, lease: Lease) -> bool:
        """Tell whether it is too late to begin under a lease; the fork server may not look before it has napped."""
        deadline_s = self._deadline_s(lease)
        return self._now_s() >= min(deadline_s, self._killed_at_s(deadline_s) - LONGEST_NAP_S)

    def _deadline_s(self, lease: Lease) -> float:
        """Return until when a lease may be acted on, as far as is known."""
        for term in reversed(self._terms):
            if isinstance(term, LeaseExtended) and term.lease_id == lease.lease_id:
                return term.deadline_s
        return lease.asked_at_s + lease.ttl_ms / 1000 - self._margin_s

    def _killed_at_s(self, deadline_s: float) -> float:
        """Return when a child is killed that we have not ended ourselves after its lease's deadline."""
        return deadline_s + self._margin_s * SUPERVISORS_SHARE

    def _has_ended(self, lease: Lease) -> bool:
        """Tell whether a lease has ended before its attempt begins, and note it if so."""
        for term in self._terms:
            if isinstance(term, LeaseEnd) and term.lease_id == lease.lease_id:
                self._ledger.lease_ended(term.lease_id, term.code, by_order=term.has_ended)
                return True
        return False

    async def _attempt_once(self, claim: Claim, about: dict[str, object], pulse: Pulse) -> Outcome | Delivered:
        """Call the handler; return what it came to."""
        with pulse.resting:
            child = await self._nest.ready_child()
        if self._has_ended(claim.lease):
            return LOST
        began_s = trio.current_time()
        self._ledger.began(claim, child.pid, began_s)
        about["child"] = child.pid
        may_run_until_s = self._killed_at_s(self._deadline_s(claim.lease))
        is_overdue = partial(self._is_overdue, claim.lease)
        self._attempt = Attempt(self._nest, child, claim, self._attempts, pulse, may_run_until_s, is_overdue)
        if self._is_offered or (self._may_claim_ahead(claim) and self._offer()):
            self._attempt.look_s = began_s + SHORT_S
        try:
            outcome = await self._attempt.run(
                self._ledger.traceparent(claim.lease.lease_id), self._look_after_assigned
            )
        finally:
            self._attempt = None
        took_s = trio.current_time() - began_s
        self._run_times.note(claim.execution_kind, took_s)
        about["seconds"] = round(took_s, 3)
        return LOST if outcome is None else outcome
