"""Runs executions in one child: offers its slot, starts what it is assigned, and delivers what becomes of it.

Of one execution: the assignment brings a lease, which the lease renewer keeps alive until the store has answered to
the outcome. Should the lease end first, the child is killed at once, because another attempt may begin elsewhere. The
child is the only one that knows the outcome while it lives; its death is an outcome too. Hard stop (cancellation):
kill, confirm the death, hand the execution back without spending a retry.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections import deque

import trio

from ffsuper.channels import Assignment, LeaseNews, Release, Slot
from ffsuper.child.process import Child, ForkServer
from ffsuper.config import ChildrenConfig
from ffsuper.errors import ChildError, HandlersError, LeaseLostError, RemoteProtocolError, StoreError
from ffsuper.messages import Claim, Completed, Deferred, Failed, InterruptReason, Outcome, Progress, Start
from ffsuper.sansio.attempt import Step, crashed, ladder, timed_out
from ffsuper.sansio.backoff import Backoff
from ffsuper.sansio.restart import RestartLimit, Times, admit_restart
from ffsuper.store.outage import STORE_AWAY, Outage
from ffsuper.store.outcomes import Outcomes

LOG = logging.getLogger(__name__)

# Progress is worth this much waiting for the store, and no more.
PROGRESS_S = 1.0
# What a hard stop may take: the kill, its confirmation, the hand-back.
HAND_BACK_S = 5.0
CLOSE_S = 5.0
# A time long past on every clock: whoever takes the execution next may start at once.
AT_ONCE = Deferred(until_ms=0)


async def run(
    fork_server: ForkServer,
    first_child: Child | None,
    outcomes: Outcomes,
    slots: trio.MemorySendChannel[Slot],
    leases: trio.MemorySendChannel[LeaseNews],
    settings: ChildrenConfig,
) -> None:
    """Run executions until nobody takes slots any more.

    Args:
        first_child: a child that is ready already.

    Raises:
        HandlersError: the handlers do not load.
        RestartLimitError: children die faster than is worth restarting them.
    """
    nest = Nest(fork_server, settings, first_child)
    async with slots, leases:
        try:
            await nest.ready_child()
            while (assignment := await offer_slot(slots)) is not None:
                await execute(nest, assignment, outcomes, leases)
                await nest.ready_child()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
                await nest.close()


class Nest:
    """The child of this executor, replaced when it has died, within the restart limit."""

    def __init__(self, fork_server: ForkServer, settings: ChildrenConfig, first_child: Child | None) -> None:
        self.settings = settings
        self._fork_server = fork_server
        self._child = first_child
        self._limit = RestartLimit(settings.max_restarts, settings.restart_window_s)
        self._deaths: Times = ()

    async def ready_child(self) -> Child:
        """Return a child that is ready for work, making one if need be.

        Raises:
            RestartLimitError: too many have died.
        """
        if self._child is not None and self._child.is_dead:
            await self.close()
            self._note_death()
        backoff = Backoff(first_s=0.1, longest_s=5.0)
        while self._child is None:
            try:
                self._child = await self._fork_server.spawn()
            except HandlersError:
                raise
            except ChildError as error:
                LOG.error("child did not start", extra={"error": error})
                self._note_death()
                await trio.sleep(backoff.pause_s(1.0))
                backoff = backoff.failed()
        return self._child

    async def kill(self) -> None:
        """Kill the child, if there is one, and wait until it is dead."""
        if self._child is not None:
            self._child.kill()
            await self._child.wait_dead()

    async def close(self) -> None:
        """Part with the child."""
        if self._child is not None:
            child, self._child = self._child, None
            await child.aclose()

    def _note_death(self) -> None:
        self._deaths = admit_restart(self._deaths, trio.current_time(), self._limit)


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
    nest: Nest, assignment: Assignment, outcomes: Outcomes, leases: trio.MemorySendChannel[LeaseNews]
) -> None:
    """Run one execution to its outcome, and deliver that."""
    claim = assignment.claim
    outcome: Outcome | None = None
    settled = False
    try:
        child = await nest.ready_child()
        outcome = await run_attempt(child, assignment, outcomes, nest.settings)
        if outcome is not None:
            await deliver(outcomes, claim, outcome)
        settled = True
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + HAND_BACK_S):
            if not settled:
                if outcome is None:
                    await nest.kill()
                await deliver(outcomes, claim, outcome or AT_ONCE, doubt=True)
            with contextlib.suppress(trio.BrokenResourceError):  # a hard stop ends the renewer too
                await leases.send(Release(claim.lease.lease_id))


async def run_attempt(
    child: Child, assignment: Assignment, outcomes: Outcomes, settings: ChildrenConfig
) -> Outcome | None:
    """Run the handler; return what it came to, or None when the lease ended first."""
    claim = assignment.claim
    registered = child.handlers.get(claim.execution_kind)
    if registered is None:
        return Failed(f"no handler is registered for kind {claim.execution_kind!r}", "unknown_kind", retryable=False)
    timeout_s = registered.timeout_s or settings.timeout_s
    steps = deque(ladder(trio.current_time(), timeout_s, settings.grace_s))
    lease_lost = False

    async def kill_at_lease_end() -> None:
        nonlocal lease_lost
        async for end in assignment.lease_end:
            lease_lost = True
            LOG.warning("child killed: lease lost", extra={**told(claim), "code": end.code, "child": child.pid})
            child.kill()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill_at_lease_end)
        outcome = await converse(child, claim, steps, outcomes)
        if outcome is None:
            death = await child.wait_dead()
            outcome = crashed(death) if steps or not timeout_s else timed_out(timeout_s, settings.grace_s)
        nursery.cancel_scope.cancel()
    return None if lease_lost else outcome


async def converse(
    child: Child, claim: Claim, steps: deque[tuple[float, Step]], outcomes: Outcomes
) -> Outcome | None:
    """Start the handler and hear what it says; None when the child ends without an outcome.

    Args:
        steps: what to do to a handler that overruns, taken from the left when it is done.
    """
    try:
        await child.send(start_message(claim))
        while True:
            with trio.move_on_at(steps[0][0] if steps else math.inf):
                match await child.receive():
                    case None:
                        return None
                    case Progress() as progress:
                        await report(outcomes, claim, progress)
                    case Completed() | Failed() | Deferred() as outcome:
                        return outcome
                    case unexpected:
                        raise RemoteProtocolError(f"{type(unexpected).__name__} while an execution runs")
                continue
            take(steps.popleft()[1], child, claim)
    except RemoteProtocolError as error:
        child.kill()
        await child.wait_dead()
        return Failed(f"child {child.pid} killed for speaking nonsense: {error}", "crash")


def start_message(claim: Claim) -> Start:
    """Return what the child needs to know."""
    return Start(
        claim.lease.execution_id,
        claim.execution_kind,
        claim.lease.attempt_index,
        claim.attempt_type,
        claim.tags,
        claim.payload,
    )


def take(step: Step, child: Child, claim: Claim) -> None:
    """Do to an overrunning child what is next."""
    LOG.warning("handler overran", extra={**told(claim), "child": child.pid, "step": step.name.lower()})
    match step:
        case Step.INTERRUPT:
            child.interrupt(claim.lease.execution_id, InterruptReason.TIMEOUT)
        case Step.DUMP:
            child.dump_stacks()
        case Step.KILL:
            child.kill()


async def report(outcomes: Outcomes, claim: Claim, progress: Progress) -> None:
    """Record progress, if the store takes it now."""
    with trio.move_on_after(PROGRESS_S):
        try:
            await outcomes.progress(claim.lease, progress)
        except StoreError as error:
            LOG.debug("progress not recorded", extra={**told(claim), "error": error})


async def deliver(outcomes: Outcomes, claim: Claim, outcome: Outcome, *, doubt: bool = False) -> None:
    """Hand the outcome to the store, as often as it takes.

    A try whose answer was lost may have been carried out; the fence then refuses the next one, and the lease history
    tells which it was.

    Args:
        doubt: there has been such a try already.
    """
    outage = Outage(LOG)
    while True:
        try:
            await outcomes.deliver(claim.lease, outcome, claim.retry_policy)
        except LeaseLostError as refusal:
            try:
                if doubt and await outcomes.was_delivered(claim.lease, outcome):
                    break
            except STORE_AWAY as error:
                await outage.wait(error)
                continue
            LOG.warning("outcome refused", extra={**told(claim), "code": refusal.code, "outcome": named(outcome)})
            return
        except STORE_AWAY as error:
            doubt = True
            await outage.wait(error)
        except StoreError as error:
            LOG.error("outcome not stored", extra={**told(claim), "error": error, "outcome": named(outcome)})
            if isinstance(outcome, Failed) and not outcome.retryable:
                return
            outcome = Failed(f"the outcome could not be stored: {error}", "result", retryable=False)
        else:
            break
    outage.over()
    LOG.info("finished", extra={**told(claim), "outcome": named(outcome)})


def named(outcome: Outcome) -> str:
    """Return an outcome's name for the log."""
    return type(outcome).__name__.lower()


def told(claim: Claim) -> dict[str, object]:
    """Return what every log line about an attempt carries."""
    return {"execution": claim.lease.execution_id, "attempt": claim.lease.attempt_index}
