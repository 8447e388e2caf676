"""What a handler is given besides its payload. Imported inside children."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

from ffsuper.child.outcomes import RequestRefused
from ffsuper.messages import (
    FRAME_LIMIT_BYTES,
    FRAMES_IN_FLIGHT,
    Answer,
    CreateWaitpoint,
    Emit,
    Emitted,
    FromTask,
    Progress,
    ReceivedSignal,
    ReportUsage,
    RequestFailed,
    Start,
    UsageReported,
    WaitpointCreated,
)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a usage report came to.

    Attributes:
        status: ``ok``, ``already_applied``, ``soft_breach`` (counted, but over the soft limit) or ``hard_breach``
            (not counted: it would be over the hard limit).
        dimension: whose limit it is; empty without a breach.
        current: its usage. ``limit``: the limit that was passed.
    """

    status: str
    dimension: str = ""
    current: int = 0
    limit: int = 0


@dataclass(frozen=True, slots=True)
class Waitpoint:
    """A pending waitpoint: hand the token to whoever shall signal, then ``raise Suspend(..., waitpoint=it)``."""

    id: str
    key: str
    token: str = field(repr=False)


class Task:
    """The state of one run of a handler that its context and the conversation with the supervisor share.

    Attributes:
        frames_left: so many frames may be sent before the store has answered for earlier ones.
        refusal: why the store refused a frame; raised by the next ``emit``.
        answers: of the supervisor, by request.
        over: the handler has ended.
    """

    def __init__(self, start: Start) -> None:
        self.start = start
        self.number = start.task
        self.frames_left = FRAMES_IN_FLIGHT
        self.refusal = ""
        self.answers: dict[int, Answer] = {}
        self.cancelled = False
        self.over = False
        self._requests = 0

    def note(self, message: Emitted | Answer) -> None:
        """Take what the supervisor has answered."""
        if isinstance(message, Emitted):
            self.frames_left += message.count
            self.refusal = message.refusal or self.refusal
        else:
            self.answers[message.request] = message

    def next_request(self) -> int:
        """Return a number for a request."""
        self._requests += 1
        return self._requests

    def progress(self, percent: float, message: str) -> Progress:
        """Return a progress report."""
        if not 0 <= percent <= 100:
            raise ValueError(f"progress is {percent}, not 0 to 100")
        return Progress(self.number, int(percent), message)

    def frame(self, payload: bytes | str, frame_type: str, metadata: str) -> Emit:
        """Return a frame, counted against those in flight."""
        data = payload.encode() if isinstance(payload, str) else bytes(payload)
        if len(data) > FRAME_LIMIT_BYTES:
            raise ValueError(f"a frame of {len(data)} bytes is over the limit of {FRAME_LIMIT_BYTES}")
        return Emit(self.number, frame_type, metadata, data)

    def take_refusal(self) -> None:
        """Raise what became of an earlier frame, if it was refused."""
        if self.refusal:
            refusal, self.refusal = self.refusal, ""
            raise RequestRefused(f"a frame was refused: {refusal}")

    def usage(self, budget_id: str, usage: Mapping[str, int], dedup_key: str) -> ReportUsage:
        """Return a usage report."""
        if not usage or not all(type(delta) is int for delta in usage.values()):
            raise ValueError(f"usage is {dict(usage)!r}, not whole numbers by dimension")
        return ReportUsage(self.number, self.next_request(), budget_id, dict(usage), dedup_key)

    def waitpoint(self, expires_in: float | timedelta, key: str) -> CreateWaitpoint:
        """Return the request for a waitpoint."""
        seconds = expires_in.total_seconds() if isinstance(expires_in, timedelta) else expires_in
        if not seconds > 0:
            raise ValueError(f"expires_in is {expires_in!r}, not positive")
        return CreateWaitpoint(self.number, self.next_request(), key, int(seconds * 1000))

    def usage_of(self, request: int) -> Usage:
        """Return the answer to a usage report."""
        answer = self._answer(request)
        assert isinstance(answer, UsageReported)
        return Usage(answer.status.lower(), answer.dimension, answer.current, answer.limit)

    def waitpoint_of(self, request: int) -> Waitpoint:
        """Return the answer to the request for a waitpoint."""
        answer = self._answer(request)
        assert isinstance(answer, WaitpointCreated)
        return Waitpoint(answer.waitpoint_id, answer.key, answer.token)

    def _answer(self, request: int) -> Answer:
        answer = self.answers.pop(request)
        if isinstance(answer, RequestFailed):
            raise RequestRefused(answer.reason)
        return answer


class Conversation(Protocol):
    """How a context speaks to the supervisor."""

    @property
    def draining(self) -> bool:
        """Whether the worker is draining."""

    def send(self, message: FromTask) -> None:
        """Send a message, whole."""

    def wait(self, ready: Callable[[], bool]) -> None:
        """Take messages until a condition holds."""


class Facts:
    """The attempt that a handler runs: what is known when it starts.

    Attributes:
        execution_id: the execution.
        kind: what the handler is registered for.
        payload: the submitter's bytes.
        attempt_index: 0 for the first attempt; ``attempt_type`` says why there is another.
        attempt_type: ``initial``, ``retry``, ``replay``, ``reclaim`` or ``resumed``; the last also after a drain has
            cut the handler short. Whether what it waited for has come is told by ``signals``.
        tags: the submitter's labels.
        deadline: when the execution expires; None when it does not.
        signals: what ended the suspension that it comes back from, in the order of the names that were waited for. An
            attempt that replaces one which failed or lost its worker since (``retry``, ``reclaim``) has them as well.
        traceparent: W3C trace context, to go on with the trace: of the attempt's span, or where the worker traces
            nothing of the submitter's; empty when that has none either.
        log: a logger whose lines end up in the worker's log, with the execution's id.
    """

    def __init__(self, task: Task, conversation: Conversation) -> None:
        start = task.start
        self.execution_id = start.execution_id
        self.kind = start.execution_kind
        self.payload = start.payload
        self.attempt_index = start.attempt_index
        self.attempt_type = start.attempt_type
        self.tags: Mapping[str, str] = start.tags
        self.deadline = None if start.deadline_ms is None else datetime.fromtimestamp(start.deadline_ms / 1000, UTC)
        self.signals: tuple[ReceivedSignal, ...] = start.signals
        self.traceparent: str = start.traceparent or start.tags.get("traceparent", "")
        self.log = logging.getLogger(f"execution.{start.execution_id}")
        self._task = task
        self._conversation = conversation

    def _say(self, message: FromTask) -> None:
        if self._task.over:
            raise RequestRefused("the handler has ended; a thread that it left behind cannot speak for it")
        self._conversation.send(message)

    @property
    def draining(self) -> bool:
        """Whether the worker is about to stop: a good moment to ``raise Defer(0)``."""
        return self._conversation.draining

    @property
    def cancelled(self) -> bool:
        """Whether the execution was cancelled or its lease lost: nothing that the handler does counts any more."""
        return self._task.cancelled

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the deadline; None without one."""
        return None if self.deadline is None else self.deadline.timestamp() - time.time()


class Context(Facts):
    """The attempt that a plain function runs, and what it can ask for meanwhile."""

    def progress(self, percent: float, message: str = "") -> None:
        """Record how far it is; an empty message keeps the earlier one.

        Args:
            percent: 0 to 100.

        Raises:
            ValueError: it is not.
        """
        self._say(self._task.progress(percent, message))

    def emit(self, payload: bytes | str, frame_type: str = "output", metadata: str = "") -> None:
        """Append a frame to the attempt's output stream; waits while too many are on their way.

        Raises:
            ValueError: the payload is over 64 KiB.
            RequestRefused: the store refused an earlier frame.
        """
        frame = self._task.frame(payload, frame_type, metadata)
        self._conversation.wait(lambda: self._task.frames_left > 0)
        self._task.take_refusal()
        self._task.frames_left -= 1
        self._say(frame)

    def report_usage(self, budget_id: str, usage: Mapping[str, int], *, dedup_key: str = "") -> Usage:
        """Add to a budget's usage, and say whether that passes a limit.

        Args:
            dedup_key: a repeated report under this key within a day counts nothing.

        Raises:
            ValueError: the usage is not whole numbers by dimension.
            RequestRefused: the store refused it, or could not be asked in time.
        """
        report = self._task.usage(budget_id, usage, dedup_key)
        self._say(report)
        self._conversation.wait(lambda: report.request in self._task.answers)
        return self._task.usage_of(report.request)

    def create_waitpoint(self, expires_in: float | timedelta = 86_400.0, *, key: str = "") -> Waitpoint:
        """Make a waitpoint before suspending on it, so that its token can be handed out first.

        Args:
            expires_in: seconds or a span within which the suspension must come.
            key: any text; made from the waitpoint's id when empty.

        Raises:
            ValueError: ``expires_in`` is not positive.
            RequestRefused: the store refused it, or could not be asked in time.
        """
        request = self._task.waitpoint(expires_in, key)
        self._say(request)
        self._conversation.wait(lambda: request.request in self._task.answers)
        return self._task.waitpoint_of(request.request)
