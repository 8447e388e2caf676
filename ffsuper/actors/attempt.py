"""One attempt: its handler is started in a child, heard, served, and if need be stopped.

Should the lease end first, the handler is interrupted and the child killed soon after, because another attempt may
begin elsewhere. The child is the only one that knows the outcome while it lives; its death is an outcome too. When a
child had to be killed because of one task, the others in it are handed back without spending a retry.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import trio

from ffsuper.channels import LeaseEnd, gathered
from ffsuper.child.nest import Fault, Nest
from ffsuper.child.process import Child
from ffsuper.errors import LibraryMissingError, LocalProtocolError, StoreError
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
    RequestFailed,
    Start,
)
from ffsuper.sansio import crash
from ffsuper.sansio.attempt import Ladder, Step, after_deadline, crashed, killed, lease_grace_s
from ffsuper.sansio.pulse import Pulse
from ffsuper.store.attempts import Attempts, FrameWriter
from ffsuper.store.delivery import HANDED_BACK, told

LOG = logging.getLogger(__name__)

# Progress is worth this much waiting for the store, and no more.
PROGRESS_S = 1.0
# So is a crash report, on which the outcome waits.
CRASH_REPORT_S = 1.0
# A handler may wait for so many answers at once; whoever asks for more is not heard meanwhile.
REQUESTS_IN_FLIGHT = 64
# A handler that has ended may take so long to hear that its frames were stored.
HEAR_S = 1.0
# Of why a frame was refused, what the handler is told.
REFUSAL_CHARACTERS = 1_000
# The category of what does not go into a message to a child.
TOO_LARGE = "too_large"
LEASE_OVER = (InterruptReason.CANCELLED, InterruptReason.LEASE_LOST)


class Attempt:
    """What goes on between a claim and its outcome.

    Args:
        may_run_until_s: when the child is killed, should we be standing still.
        is_overdue: tells whether the lease must not be acted on any more.

    Attributes:
        lease_id: of the lease that it is made under.
        kind: of the execution.
        look_s: when to call ``look`` next.
    """

    def __init__(
        self,
        nest: Nest,
        child: Child,
        claim: Claim,
        attempts: Attempts,
        pulse: Pulse,
        may_run_until_s: float,
        is_overdue: Callable[[], bool],
    ) -> None:
        self._is_overdue = is_overdue
        self.lease_id = claim.lease.lease_id
        self._may_run_until_s = may_run_until_s
        self._number: int | None = None
        self.kind = claim.execution_kind
        self.look_s = math.inf
        self._nest = nest
        self._child = child
        self._claim = claim
        self._attempts = attempts
        self._pulse = pulse
        self._is_lease_lost = False
        self._wake = Waker()
        self._requests = trio.Semaphore(REQUESTS_IN_FLIGHT)
        settings = nest.settings
        registered = child.handlers.get(claim.execution_kind)
        self._is_registered = registered is not None
        self._ladder = Ladder(
            trio.current_time(),
            settings.grace_s,
            (registered and registered.timeout_s) or settings.timeout_s,
            (registered and registered.progress_timeout_s) or settings.progress_timeout_s,
            deadline_s(claim),
        )

    async def run(self, traceparent: str, look: Callable[[], None]) -> Outcome | None:
        """Run the handler; return what it came to, or None when the lease ended first.

        Args:
            look: called at ``look_s``, which it sets anew.
        """
        if self._claim.damage:
            return Failed(f"the store's keys are damaged: {self._claim.damage}", "damaged", retryable=False)
        if not self._is_registered:
            told_kind = f"no handler is registered for kind {self._claim.execution_kind!r}"
            return Failed(told_kind, "unknown_kind", retryable=False)
        number, inbox = self._nest.open_task(self._child, told(self._claim))
        self._number = number
        self._nest.may_run_until(number, self._may_run_until_s)
        try:
            # Only now: should we stand still from here on, the fork server sees to it.
            if self._is_overdue():
                return None
            async with contextlib.AsyncExitStack() as helpers:
                writer = self._attempts.frames(self._claim.lease)
                frames = Frames(writer, self._child, number, Helpers(helpers), told(self._claim))
                try:
                    await self._start(number, start_message(number, self._claim, traceparent))
                except LocalProtocolError as error:
                    told_size = f"payload, tags and signals are too large for a handler: {error}"
                    return Failed(told_size, TOO_LARGE, retryable=False)
                outcome = await self._converse(number, inbox, frames, look)
        finally:
            inbox.close()
            self._number = None
            self._nest.close_task(number)
        return None if self._is_lease_lost else outcome

    def may_run_until(self, until_s: float) -> None:
        """Have the child killed then, on the lease clock, should we be standing still."""
        self._may_run_until_s = until_s
        if self._number is not None:
            self._nest.may_run_until(self._number, until_s)

    def lease_ended(self, end: LeaseEnd, margin_s: float) -> None:
        """Bring the handler to its end, because another attempt may begin, or none is wanted any more.

        Args:
            margin_s: how long before the lease can have ended it was given up.
        """
        self._is_lease_lost = True
        if end.has_ended:
            self.may_run_until(math.inf)  # the ladder is enough: no other attempt can begin
        LOG.warning("lease ended", extra={**told(self._claim), "code": end.code, "child": self._child.pid})
        reason = InterruptReason.CANCELLED if end.has_ended else InterruptReason.LEASE_LOST
        grace_s = self._nest.settings.grace_s if end.has_ended else lease_grace_s(margin_s)
        self._ladder.interrupt(trio.current_time(), reason, grace_s)
        self._wake.up()

    async def _start(self, number: int, start: Start) -> None:
        """Tell the child what to run, as quickly as it takes it; kill one that has not in the handler's time."""
        with self._pulse.resting, self._wake.moment(self._ladder.next_s) as moment:
            await self._child.send(start)
        if moment.cancelled_caught:  # in the middle of the message, so that nothing more can be said
            if self._ladder.reason is None:
                self._ladder.take(trio.current_time())
            self._nest.kill(self._child, Fault("killed because it did not take what it was to run", culprit=number))

    async def _converse(
        self, number: int, inbox: trio.MemoryReceiveChannel[FromTask], frames: Frames, look: Callable[[], None]
    ) -> Outcome:
        """Hear what the handler says, and serve what it asks for, until it has come to an outcome."""
        ladder, wake, resting = self._ladder, self._wake, self._pulse.resting
        began_ms = int(time.time() * 1000)
        while True:
            message: FromTask | None = None
            has_died = False
            with resting, wake.moment(min(ladder.next_s, self.look_s)):
                try:
                    message = await inbox.receive()
                except trio.EndOfChannel:
                    has_died = True
            if has_died:
                outcome, report = await self._after_death(number, began_ms)
                await self._settle(frames)
                await self._report_crash(report)
                return outcome
            if message is not None:
                ladder.progressed(trio.current_time())
            match message:
                case Ended(_, outcome):
                    await self._settle(frames)
                    if frames.are_unheard and self._nest.settings.tasks_per_process == 1:
                        self._nest.kill(self._child, Fault("killed: it takes no answers", culprit=number))
                    return after_ladder(outcome, ladder)
                case Progress():
                    await self._report(message)
                case Emit() as frame:
                    await frames.begin()
                    await self._wait(partial(frames.put, frame), number, look)
                case ReportUsage() | CreateWaitpoint():
                    if await self._wait(self._requests.acquire, number, look):
                        await frames.helpers.start(self._answer, message)
            self._keep_time(number, look)

    async def _wait(self, step: Callable[[], Awaitable[None]], number: int, look: Callable[[], None]) -> bool:
        """Wait for something that can be begun again, while the handler's time runs on.

        Returns:
            whether it was done; not where the child was killed before.
        """
        while self._nest.fault_of(self._child) is None:
            with self._pulse.resting, self._wake.moment(min(self._ladder.next_s, self.look_s)):
                await step()
                return True
            self._keep_time(number, look)
        return False

    def _keep_time(self, number: int, look: Callable[[], None]) -> None:
        """Do what is due by now."""
        if self.look_s <= trio.current_time():
            look()
        if self._ladder.next_s <= trio.current_time():
            self._take(self._ladder.take(trio.current_time()), number)

    async def _settle(self, frames: Frames) -> None:
        """Wait until all frames are with the store, for as long as the lease lasts."""
        if not frames.have_come or self._ladder.reason in LEASE_OVER:
            return
        with self._pulse.resting, self._wake.moment(math.inf):
            await frames.settle()

    async def _answer(self, request: ReportUsage | CreateWaitpoint) -> None:
        answer = await self._attempts.answer(self._claim.lease, request)
        try:
            await self._child.send(answer)
        except LocalProtocolError as error:  # it may cite the request
            await self._child.send(RequestFailed(answer.task, answer.request, f"the answer is too large: {error}"))
        self._requests.release()

    async def _report(self, progress: Progress) -> None:
        """Record progress, if the store takes it now."""
        with trio.move_on_after(PROGRESS_S):
            try:
                await self._attempts.progress(self._claim.lease, progress)
            except StoreError as error:
                LOG.debug("progress not recorded", extra={**told(self._claim), "error": error})

    async def _after_death(self, number: int, began_ms: int) -> tuple[Outcome, str]:
        """Return what the child's death means for this task, and the crash report; an empty one for a bystander."""
        child = self._child
        death = crash.since(await child.wait_dead(), began_ms)
        fault = self._nest.fault_of(child)
        if death.was_overdue:  # for the sake of this task's lease, or of another's beside it
            if self._is_overdue():
                LOG.warning("lease ended", extra={**told(self._claim), "code": "overdue", "child": child.pid})
                self._is_lease_lost = True
            return HANDED_BACK, ""
        if fault is None:
            return crashed(death), crash.report(death, "")
        if fault.culprit not in (None, number):
            return HANDED_BACK, ""
        told_fault = Failed(f"child {child.pid} {fault.reason}", fault.category)
        failure = told_fault if fault.culprit is None else killed(self._ladder.reason)
        return failure, crash.report(death, failure.reason)

    async def _report_crash(self, report: str) -> None:
        """Store a crash report, if the store takes it now and the lease lasts."""
        if not report or self._ladder.reason in LEASE_OVER:
            return
        with self._wake.moment(trio.current_time() + CRASH_REPORT_S) as moment:
            try:
                await self._attempts.report_crash(self._claim.lease, report)
            except LibraryMissingError as error:  # somebody else's store
                LOG.debug("crash report not stored", extra={**told(self._claim), "error": error})
            except StoreError as error:
                LOG.warning("crash report not stored", extra={**told(self._claim), "error": error})
        if moment.cancelled_caught:
            LOG.warning("crash report not stored", extra={**told(self._claim), "error": "not in time"})

    def _take(self, step: Step, number: int) -> None:
        """Do to the child what is next."""
        child, reason = self._child, self._ladder.reason or InterruptReason.TIMEOUT
        extra = {**told(self._claim), "child": child.pid, "step": step.name.lower(), "reason": reason.value}
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


class Helpers:
    """Tasks beside the attempt, for those that need any: most need none, and a nursery has its price.

    Args:
        stack: what still runs when it is left is cancelled.
    """

    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self._stack = stack
        self._nursery: trio.Nursery | None = None

    async def start(self, task: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run a task."""
        if self._nursery is None:
            self._nursery = await self._stack.enter_async_context(trio.open_nursery())
            self._stack.callback(self._nursery.cancel_scope.cancel)
        self._nursery.start_soon(task, *args)


class Frames:
    """The way of a task's frames to the store: in order, in batches of what has gathered.

    Attributes:
        helpers: who carries them.
        are_unheard: the handler has ended, and its child does not take the answer to some of them.
    """

    def __init__(
        self, writer: FrameWriter, child: Child, number: int, helpers: Helpers, about: Mapping[str, object]
    ) -> None:
        self.helpers = helpers
        self._about = about
        self._writer = writer
        self._child = child
        self._number = number
        self._send: trio.MemorySendChannel[Emit] | None = None
        self._done = trio.Event()
        self._telling = trio.CancelScope()
        self._may_tell_for_s = math.inf
        self.are_unheard = False

    @property
    def have_come(self) -> bool:
        """Whether there have been any."""
        return self._send is not None

    async def begin(self) -> None:
        """Be ready to take frames."""
        if self._send is None:
            # As many as the child may send unanswered, so that a frame never keeps other messages waiting.
            self._send, receive = trio.open_memory_channel[Emit](FRAMES_IN_FLIGHT)
            await self.helpers.start(self._run, receive)

    async def put(self, frame: Emit) -> None:
        """Take a frame."""
        assert self._send is not None
        await self._send.send(frame)

    async def settle(self) -> None:
        """Wait until all frames are with the store."""
        if self._send is not None:
            self._send.close()
            self._may_tell_for_s = HEAR_S
            self._telling.deadline = trio.current_time() + HEAR_S
            await self._done.wait()

    async def _run(self, frames: trio.MemoryReceiveChannel[Emit]) -> None:
        """Write until there are no more."""
        async for first in frames:
            batch = [first, *gathered(frames)]
            refusal = await self._writer.write(batch)
            if refusal:
                LOG.warning("frames refused", extra={**self._about, "why": refusal})
            if not self.are_unheard:
                await self._tell(Emitted(self._number, len(batch), refusal[:REFUSAL_CHARACTERS]))
        self._done.set()

    async def _tell(self, answer: Emitted) -> None:
        """Send an answer, which nobody has to take once the handler has ended."""
        with trio.CancelScope(deadline=trio.current_time() + self._may_tell_for_s) as self._telling:
            await self._child.send(answer)
        self.are_unheard = self._telling.cancelled_caught


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
