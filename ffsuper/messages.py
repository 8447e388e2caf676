"""Ids and frozen values that travel on channels and between supervisor and child.

Imported inside children too: the standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar, NewType

ExecutionId = NewType("ExecutionId", str)
LaneId = NewType("LaneId", str)
LeaseId = NewType("LeaseId", str)
AttemptId = NewType("AttemptId", str)

# Public states of executions that have ended.
FINAL_STATES = frozenset({"completed", "failed", "cancelled", "expired", "skipped"})


# --- claims -----------------------------------------------------------------------------------------------------


class ClaimKind(Enum):
    """Which function takes the lease."""

    NEW = "new"  # a fresh attempt: the first one, a retry, a replay
    RESUMED = "resumed"  # the interrupted attempt goes on
    RECLAIM = "reclaim"  # the lease of the current attempt ran out or was revoked; a new attempt replaces it


@dataclass(frozen=True, slots=True)
class Candidate:
    """An execution that looked claimable when it was read; by now it may be somebody else's.

    Attributes:
        attempt_index: of the attempt that is resumed or replaced; 0 for a new one.
        execution_kind: what the handler must be registered for; empty when that is known only after the claim.
        is_granted: a server has issued the claim grant already.
    """

    execution_id: ExecutionId
    lane: LaneId
    claim: ClaimKind
    execution_kind: str
    attempt_index: int = 0
    is_granted: bool = False


@dataclass(frozen=True, slots=True)
class Pick:
    """Whichever execution the store picks: the first at a place, behind so many members of its eligible index."""

    is_granted: ClassVar[bool] = False  # as a candidate that no server has issued a grant for

    lane: LaneId
    partition: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """The timed right to run an execution, with the full fence that every write carries.

    Attributes:
        epoch: grows with every lease of the execution.
        asked_at_s: local clock just before the lease was asked for; it ends locally at ``asked_at_s + ttl - margin``.
    """

    execution_id: ExecutionId
    lane: LaneId
    lease_id: LeaseId
    epoch: int
    attempt_id: AttemptId
    attempt_index: int
    ttl_ms: int
    asked_at_s: float


@dataclass(frozen=True, slots=True)
class ReceivedSignal:
    """A signal that ended a suspension.

    Attributes:
        payload: the sender's bytes, intact.
        accepted_at_ms: Unix time on the store's clock; 0 when unknown.
    """

    signal_id: str
    name: str
    category: str
    source_type: str
    source_identity: str
    correlation_id: str
    accepted_at_ms: int
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Claim:
    """A lease together with what the handler needs.

    Attributes:
        attempt_type: ``initial``, ``retry``, ``replay``, ``reclaim`` or ``resumed``.
        payload: the submitter's bytes, intact.
        retry_policy: the policy's ``retry_policy`` member as JSON text; empty when it has none.
        deadline_ms: Unix time at which the execution expires; None when it does not.
        signals: what ended the suspension that it comes back from.
        damage: what cannot be read of all this, so that no handler can be called; empty when all could.
    """

    lease: Lease
    execution_kind: str
    attempt_type: str
    payload: bytes = field(repr=False)
    tags: Mapping[str, str]
    retry_policy: bytes
    deadline_ms: int | None = None
    signals: tuple[ReceivedSignal, ...] = ()
    damage: str = ""


# --- the worker itself ------------------------------------------------------------------------------------------


class Order(Enum):
    """What the worker is told to do, by a signal or through the store."""

    QUIET = "quiet"  # claim no more; what runs goes on
    RESUME = "resume"  # claim again
    RELOAD = "reload"  # read the configuration again
    DRAIN = "drain"  # claim no more; end when what runs has ended, or the drain's time is over
    HURRY = "hurry"  # drain with little time
    STOP = "stop"  # end now


@dataclass(frozen=True, slots=True)
class Offer:
    """What a worker takes on, as it advertises it.

    Attributes:
        capabilities: comma-separated and sorted; may be empty.
        kinds: of executions that it has handlers for.
        slots: how many executions it runs at once.
    """

    lanes: tuple[LaneId, ...]
    capabilities: str
    kinds: tuple[str, ...]
    slots: int


# --- supervisor to child ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Run one attempt.

    Attributes:
        task: names this run among all of the child; every message about it carries it.
        deadline_ms: Unix time at which the execution expires; None when it does not.
        signals: what ended the suspension that this attempt comes back from.
        traceparent: of the attempt's span; empty where nothing is traced.
    """

    task: int
    execution_id: str
    execution_kind: str
    attempt_index: int
    attempt_type: str
    tags: Mapping[str, str]
    deadline_ms: int | None
    signals: tuple[ReceivedSignal, ...]
    payload: bytes = field(repr=False)
    traceparent: str = ""


class InterruptReason(Enum):
    """Why a running handler is interrupted."""

    TIMEOUT = "timeout"
    NO_PROGRESS = "no_progress"
    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    LEASE_LOST = "lease_lost"


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Raise inside the running handler. Accompanied by the signal that makes a busy child read it."""

    task: int
    reason: InterruptReason


@dataclass(frozen=True, slots=True)
class Drain:
    """The worker is draining: ``Context.draining`` turns true."""


@dataclass(frozen=True, slots=True)
class Emitted:
    """The store has answered for the task's next ``count`` frames, so as many more may be sent.

    Attributes:
        refusal: empty, or why the store did not take the last of them.
    """

    task: int
    count: int
    refusal: str


@dataclass(frozen=True, slots=True)
class UsageReported:
    """Answer to ReportUsage.

    Attributes:
        status: ``OK``, ``SOFT_BREACH``, ``HARD_BREACH`` or ``ALREADY_APPLIED``.
        dimension: which limit was passed; empty when none was. ``current`` and ``limit`` belong to it.
    """

    task: int
    request: int
    status: str
    dimension: str
    current: int
    limit: int


@dataclass(frozen=True, slots=True)
class WaitpointCreated:
    """Answer to CreateWaitpoint. The token is a bearer credential."""

    task: int
    request: int
    waitpoint_id: str
    key: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """Answer to a request that the store refused, or that could not be carried out in time."""

    task: int
    request: int
    reason: str


Answer = UsageReported | WaitpointCreated | RequestFailed
ToChild = Start | Interrupt | Drain | Emitted | Answer


# --- child to supervisor ----------------------------------------------------------------------------------------

# Of one task, so many frames may be sent before the store has answered for the first of them.
FRAMES_IN_FLIGHT = 64
# The protocol's limit for the payload of one frame.
FRAME_LIMIT_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class HandlerSettings:
    """What a registration asks of the supervisor.

    Attributes:
        timeout_s: the handler is interrupted after this time; None for the configured default.
        progress_timeout_s: likewise after this time without a sign of progress.
        is_async: several may run at once in a child.
    """

    execution_kind: str
    timeout_s: float | None
    progress_timeout_s: float | None
    is_async: bool


@dataclass(frozen=True, slots=True)
class Ready:
    """The child has loaded the handlers and waits for work."""

    handlers: tuple[HandlerSettings, ...]


@dataclass(frozen=True, slots=True)
class Unfit:
    """The child could not load the handlers, and exits.

    Attributes:
        reason: one sentence for the operator.
        traceback: where it happened in the user's modules; empty when the sentence says all.
    """

    reason: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Progress:
    """The handler reported progress. ``percent`` is 0 to 100; an empty message keeps the earlier one."""

    task: int
    percent: int
    message: str


@dataclass(frozen=True, slots=True)
class Emit:
    """A frame of the attempt's output stream, at most ``FRAME_LIMIT_BYTES`` long.

    Attributes:
        frame_type: any text.
        metadata: stored as the frame's ``correlation_id``; may be empty.
    """

    task: int
    frame_type: str
    metadata: str
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ReportUsage:
    """Add to a budget's usage; answered by UsageReported.

    Attributes:
        dedup_key: a repeated report under this key counts nothing; empty for none.
    """

    task: int
    request: int
    budget_id: str
    usage: Mapping[str, int]
    dedup_key: str


@dataclass(frozen=True, slots=True)
class CreateWaitpoint:
    """Make a pending waitpoint that a later suspension can use; answered by WaitpointCreated.

    Attributes:
        key: the waitpoint's key, any text; empty for one made from its id.
    """

    task: int
    request: int
    key: str
    expires_in_ms: int


@dataclass(frozen=True, slots=True)
class Completed:
    """The handler returned."""

    result: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Failed:
    """The handler raised, or its payload or result did not fit.

    Attributes:
        reason: for people; becomes the attempt's ``failure_reason``.
        category: ``exception``, ``fatal``, ``timeout``, ``deadline``, ``cancelled``, ``payload``, ``result``,
            ``crash``, ``memory``, ``unknown_kind``, ``too_large``, ``damaged``, or the handler's own.
        retryable: False ends the execution whatever its retry policy says.
    """

    reason: str
    category: str
    retryable: bool = True


@dataclass(frozen=True, slots=True)
class Deferred:
    """The handler asks to go on later with the same attempt. ``until_ms`` is Unix time."""

    until_ms: int


class OnTimeout(Enum):
    """What becomes of a suspension that nobody ended in time; the protocol's words."""

    FAIL = "fail"
    CANCEL = "cancel"
    EXPIRE = "expire"
    RESUME = "auto_resume_with_timeout_signal"
    ESCALATE = "escalate"


@dataclass(frozen=True, slots=True)
class Suspended:
    """The handler asks to go on with the same attempt when signals have come.

    Attributes:
        reason_code: ``waiting_for_signal``, ``waiting_for_approval``, ... as in the protocol.
        signal_names: what is waited for; none means any signal.
        match_all: all of them are needed, otherwise one.
        timeout_ms: from now; None to wait for ever.
        waitpoint_id: a pending one to be used; empty for a new one.
    """

    reason_code: str
    signal_names: tuple[str, ...]
    match_all: bool
    timeout_ms: int | None
    on_timeout: OnTimeout
    waitpoint_id: str


@dataclass(frozen=True, slots=True)
class WaitingForChildren:
    """The handler asks to go on with the same attempt when the execution's dependencies are satisfied."""


@dataclass(frozen=True, slots=True)
class CancelledByHandler:
    """The handler asks for the end of its execution, as cancelled."""

    reason: str


@dataclass(frozen=True, slots=True)
class NotBegun:
    """The worker gives the lease back before the handler was called; the attempt is for whoever claims next."""


Outcome = Completed | Failed | Deferred | Suspended | WaitingForChildren | CancelledByHandler | NotBegun


@dataclass(frozen=True, slots=True)
class Delivered:
    """What has become of an outcome.

    Attributes:
        outcome: its name for logs and metrics; ``refused`` when the lease was not ours any more.
        signals: of a suspension whose signals have come already: the attempt goes on under its lease with these.
            Otherwise None.
        why: of a failure, what the log says of it.
    """

    outcome: str
    signals: tuple[ReceivedSignal, ...] | None = None
    why: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ended:
    """The handler has ended; nothing more comes about this task."""

    task: int
    outcome: Outcome


FromTask = Progress | Emit | ReportUsage | CreateWaitpoint | Ended
FromChild = Ready | Unfit | FromTask


# --- the end of a child -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OutputLine:
    """What a child has printed.

    Attributes:
        stream: ``stdout`` or ``stderr``.
        at_ms: Unix time at which it was read.
    """

    stream: str
    at_ms: int
    text: str


@dataclass(frozen=True, slots=True)
class Death:
    """How a child process ended.

    Attributes:
        exit_code: None when a signal ended it.
        signal: None when it exited by itself.
        peak_memory_bytes: its largest resident set, with the pages that it shared with its template; that of a
            descendant if it was larger. 0 when nobody was left to say.
        last_output: the last lines of its stdout and stderr, oldest first, without stack dumps.
        stack_dump: the last one that it has written, the thread first that was interrupted or crashed.
        was_overdue: its lease was about to end, and the supervisor stood still: the fork server killed it.
    """

    pid: int
    exit_code: int | None
    signal: int | None
    peak_memory_bytes: int
    last_output: tuple[OutputLine, ...]
    stack_dump: tuple[OutputLine, ...] = ()
    was_overdue: bool = False


@dataclass(frozen=True, slots=True)
class SweepReport:
    """A sweep of the engine tells what it has done to a page of an index.

    Attributes:
        sweep: ``delayed``, ``lease_expiry``, ...
        outcomes: what became of entries, by kind.
        failed: how many entries could not be moved because of an error.
        example: one of these.
        why: its error.
        late_ms: how long the oldest entry had been due; 0 where entries have no time.
    """

    sweep: str
    outcomes: Mapping[str, int] = field(default_factory=dict)
    failed: int = 0
    example: str = ""
    why: str = ""
    late_ms: float = 0.0
