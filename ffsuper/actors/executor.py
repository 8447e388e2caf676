"""Runs executions in one child: offers its slots, runs what they are assigned, and hands on what becomes of it.

Of one execution: the assignment brings a lease, which the lease renewer keeps alive until the store has answered to
the outcome. The deliverer takes the outcome there, so that the slot is free for the next execution meanwhile.
Hard stop (cancellation): kill, confirm the death, have the execution handed back without spending a retry.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import trio
from trio_util import move_on_when

from ffsuper.actors.attempt import Attempt
from ffsuper.channels import Finished, LeaseEnd, Slot
from ffsuper.child.nest import Nest
from ffsuper.child.process import Child
from ffsuper.child.spawning import ForkServer
from ffsuper.config import ChildrenConfig
from ffsuper.messages import Claim, Delivered, Outcome, Suspended
from ffsuper.sansio.ledger import Ledger
from ffsuper.sansio.pulse import Pulse, Pulses
from ffsuper.store.attempts import Attempts
from ffsuper.store.delivery import HANDED_BACK, LOST, deliver
from ffsuper.store.outcomes import Outcomes

LOG = logging.getLogger(__name__)

# What a hard stop may take until the child is seen dead.
KILL_S = 5.0
CLOSE_S = 5.0


async def run(
    fork_server: ForkServer,
    first_child: Child | None,
    outcomes: Outcomes,
    attempts: Attempts,
    slots: trio.MemorySendChannel[Slot],
    finished: trio.MemorySendChannel[Finished],
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
        slots: has room for all slots.
        finished: has room for all that runs.
        retired: set when nobody is about to take slots any more: no child is made for the next one.
        draining: set when the worker drains; the handlers are told.
        margin_s: how long before a lease can end it is given up.
        ledger: told of each attempt.

    Raises:
        HandlersError: the handlers do not load.
        RestartLimitError: children die faster than is worth restarting them.
    """
    async with slots, finished, trio.open_nursery() as background:
        nest = Nest(fork_server, settings, first_child, background, ledger)
        background.start_soon(tell_drain, nest, draining)
        try:
            async with trio.open_nursery() as served:
                for _ in range(settings.tasks_per_process):
                    slot = ServedSlot(nest, outcomes, attempts, finished, margin_s, ledger)
                    served.start_soon(slot.serve, slots, retired, pulses)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
                await nest.close()
            background.cancel_scope.cancel()


async def tell_drain(nest: Nest, draining: trio.Event) -> None:
    """Tell the handlers when the worker drains."""
    await draining.wait()
    await nest.drain()


class ServedSlot:
    """One slot of the child."""

    def __init__(
        self,
        nest: Nest,
        outcomes: Outcomes,
        attempts: Attempts,
        finished: trio.MemorySendChannel[Finished],
        margin_s: float,
        ledger: Ledger,
    ) -> None:
        self._nest = nest
        self._outcomes = outcomes
        self._attempts = attempts
        self._finished = finished
        self._margin_s = margin_s
        self._ledger = ledger
        self._attempt: Attempt | None = None
        self._last_end: LeaseEnd | None = None

    async def serve(self, slots: trio.MemorySendChannel[Slot], retired: trio.Event, pulses: Pulses) -> None:
        """Run executions, one after the other."""
        # Who takes the slot answers once.
        assignments_send, assignments = trio.open_memory_channel[Claim | None](1)
        # A message for a lease at most; the renewer never waits for an executor.
        ends_send, ends = trio.open_memory_channel[LeaseEnd](math.inf)
        slot = Slot(assignments_send, ends_send)
        async with pulses.open("executor") as pulse, assignments, ends, trio.open_nursery() as watching:
            watching.start_soon(self._watch_leases, ends)
            while True:
                with pulse.resting:
                    if not self._nest.is_ready():
                        async with move_on_when(retired.wait) as making:
                            await self._nest.ready_child()
                        if making.cancelled_caught:
                            break
                    try:
                        slots.send_nowait(slot)
                    except trio.BrokenResourceError:
                        break
                    claim = await assignments.receive()
                if claim is not None:
                    await self._execute(claim, pulse)
            watching.cancel_scope.cancel()

    async def _watch_leases(self, ends: trio.MemoryReceiveChannel[LeaseEnd]) -> None:
        """Tell the attempt when its lease ends, whether it has begun or not."""
        async for end in ends:
            self._last_end = end
            self._ledger.lease_ended(end.lease_id, end.code, by_order=end.has_ended)
            if self._attempt is not None and self._attempt.lease_id == end.lease_id:
                self._attempt.lease_ended(end, self._margin_s)

    async def _execute(self, claim: Claim, pulse: Pulse) -> None:
        """Run one execution, and hand on what becomes of it."""
        about: dict[str, object] = {}
        outcome: Outcome | Delivered | None = None
        try:
            while outcome is None:
                outcome = await self._attempt_once(claim, about, pulse)
                if isinstance(outcome, Suspended):
                    # Its answer decides how this attempt goes on, so we wait for it ourselves.
                    delivered = await deliver(self._outcomes, claim, outcome, pulse, about=about)
                    outcome = delivered
                    if delivered.signals is not None:
                        # They had come before: the handler is called again, under the same lease.
                        claim, outcome = replace(claim, attempt_type="resumed", signals=delivered.signals), None
        finally:
            is_delivering = isinstance(outcome, Suspended)
            if outcome is None:
                self._ledger.cut_off += 1
                with trio.CancelScope(shield=True, deadline=trio.current_time() + KILL_S):
                    await self._nest.kill_and_wait()
                    outcome = HANDED_BACK
            # Where the death is not confirmed nothing is handed back: the lease ends by itself.
            outcome = LOST if outcome is None else outcome
            self._finished.send_nowait(Finished(claim, outcome, about, is_in_doubt=is_delivering))

    async def _attempt_once(self, claim: Claim, about: dict[str, object], pulse: Pulse) -> Outcome | Delivered:
        """Call the handler; return what it came to."""
        with pulse.resting:
            child = await self._nest.ready_child()
        began_s = trio.current_time()
        self._ledger.began(claim, child.pid, began_s)
        about["child"] = child.pid
        self._attempt = Attempt(self._nest, child, claim, self._attempts, pulse)
        if self._last_end is not None and self._last_end.lease_id == claim.lease.lease_id:
            self._attempt.lease_ended(self._last_end, self._margin_s)
        try:
            outcome = await self._attempt.run(self._ledger.traceparent(claim.lease.lease_id))
        finally:
            self._attempt = None
        about["seconds"] = round(trio.current_time() - began_s, 3)
        return LOST if outcome is None else outcome
