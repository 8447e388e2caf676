"""Ids and frozen values that travel on channels and between supervisor and child.

Imported inside children too: the standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NewType

ExecutionId = NewType("ExecutionId", str)
LaneId = NewType("LaneId", str)
LeaseId = NewType("LeaseId", str)
AttemptId = NewType("AttemptId", str)


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
        execution_kind: what the handler must be registered for.
    """

    execution_id: ExecutionId
    lane: LaneId
    claim: ClaimKind
    execution_kind: str
    attempt_index: int = 0


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
class Claim:
    """A lease together with what the handler needs.

    Attributes:
        attempt_type: ``initial``, ``retry``, ``replay``, ``reclaim`` or ``resumed``.
        payload: the submitter's bytes, intact.
        retry_policy: the policy's ``retry_policy`` member as JSON text; empty when it has none.
    """

    lease: Lease
    execution_kind: str
    attempt_type: str
    payload: bytes = field(repr=False)
    tags: Mapping[str, str]
    retry_policy: bytes


# --- supervisor to child ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Run one attempt."""

    execution_id: str
    execution_kind: str
    attempt_index: int
    attempt_type: str
    tags: Mapping[str, str]
    payload: bytes = field(repr=False)


class InterruptReason(Enum):
    """Why a running handler is interrupted."""

    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    LEASE_LOST = "lease_lost"


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Raise inside the running handler. Accompanied by the signal that makes the child read it."""

    execution_id: str
    reason: InterruptReason


@dataclass(frozen=True, slots=True)
class Drain:
    """The worker is draining: ``Context.draining`` turns true."""


ToChild = Start | Interrupt | Drain


# --- child to supervisor ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HandlerSettings:
    """What a registration asks of the supervisor.

    Attributes:
        timeout_s: the handler is interrupted after this time; None for the configured default.
    """

    execution_kind: str
    timeout_s: float | None


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
    """The handler reported progress. ``percent`` is 0 to 100."""

    percent: int
    message: str


@dataclass(frozen=True, slots=True)
class Completed:
    """The handler returned."""

    result: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Failed:
    """The handler raised, or its payload or result did not fit.

    Attributes:
        reason: for people; becomes the attempt's ``failure_reason``.
        category: ``exception``, ``fatal``, ``timeout``, ``cancelled``, ``payload``, ``result``, ``crash``,
            ``unknown_kind``.
        retryable: False ends the execution whatever its retry policy says.
    """

    reason: str
    category: str
    retryable: bool = True


@dataclass(frozen=True, slots=True)
class Deferred:
    """The handler asks to go on later with the same attempt. ``until_ms`` is Unix time."""

    until_ms: int


Outcome = Completed | Failed | Deferred
FromChild = Ready | Unfit | Progress | Outcome


# --- the end of a child -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Death:
    """How a child process ended.

    Attributes:
        exit_code: None when a signal ended it.
        signal: None when it exited by itself.
        peak_memory_bytes: its largest resident set.
        last_output: the last lines of its stdout and stderr, oldest first.
    """

    pid: int
    exit_code: int | None
    signal: int | None
    peak_memory_bytes: int
    last_output: tuple[str, ...]
