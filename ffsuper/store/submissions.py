"""Submitting, cancelling and looking at executions, for clients."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ffsuper.errors import InvalidRequestError
from ffsuper.messages import ExecutionId, LaneId
from ffsuper.store.keys import ExecutionKeys, PartitionKeys, read_id
from ffsuper.store.replies import Call, Part, Status, fcall, text_fields, whole

# The tags of W3C trace context are called as its headers are; beside this one there may be ``tracestate``.
TRACEPARENT = "traceparent"
PAYLOAD_LIMIT_BYTES = 512 << 20  # Redis': of one argument
MOST_ATTEMPTS = 10_000  # more have only damaged records, and would not fit into one pipeline
DEDUP_TTL_MS = 86_400_000  # the protocol's: how long an idempotency key is remembered


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A new execution.

    Attributes:
        payload: the handler's input, as bytes.
        policy: JSON object with ``retry_policy``, ``max_reclaim_count``, ``routing_requirements``, ...
        delay_until_ms: not before this Unix time; None for at once.
        deadline_ms: the execution expires at this Unix time.
    """

    execution_id: ExecutionId
    lane: LaneId
    execution_kind: str
    payload: bytes = field(default=b"", repr=False)
    namespace: str = "default"
    creator: str = ""
    priority: int = 0
    policy: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    idempotency_key: str = ""
    delay_until_ms: int | None = None
    deadline_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Created:
    """What became of a submission.

    Attributes:
        execution_id: of the earlier one when its idempotency key or id was known already.
        public_state: ``waiting`` or ``delayed``; empty for a duplicate.
    """

    execution_id: ExecutionId
    public_state: str

    @property
    def is_duplicate(self) -> bool:
        """Whether there was one already."""
        return not self.public_state


def create(submission: Submission) -> Call[Created]:
    """Create an execution."""
    keys = ExecutionKeys.of(submission.execution_id)
    partition = keys.partition
    idempotency = (
        partition.idempotency(submission.namespace, submission.idempotency_key)
        if submission.idempotency_key
        else partition.noop
    )
    return fcall(
        "ff_create_execution",
        (
            *(keys.core, keys.part("payload"), keys.part("policy"), keys.part("tags")),
            partition.lane(submission.lane, "eligible" if submission.delay_until_ms is None else "delayed"),
            *(idempotency, partition.index("execution_deadline"), partition.index("all_executions")),
        ),
        create_args(submission),
        lambda status: Created(ExecutionId(status.text(0)), status.text(1)),
    )


def create_args(submission: Submission) -> tuple[Part, ...]:
    """Return the arguments of a creation.

    Raises:
        InvalidRequestError: the store would take the payload for nonsense, and hang up.
    """
    size = len(submission.payload)
    if size > PAYLOAD_LIMIT_BYTES:
        told = f"a payload of {size} bytes, over the limit of {PAYLOAD_LIMIT_BYTES}"
        raise InvalidRequestError("submit", "invalid_input", (told,))
    return (
        *(submission.execution_id, submission.namespace, submission.lane, submission.execution_kind),
        *(submission.priority, submission.creator, json.dumps(dict(submission.policy)), submission.payload),
        "" if submission.delay_until_ms is None else submission.delay_until_ms,
        DEDUP_TTL_MS if submission.idempotency_key else "",
        json.dumps(traced_tags(submission.tags)),
        "" if submission.deadline_ms is None else submission.deadline_ms,
        ExecutionKeys.of(submission.execution_id).tag[4:-1],
    )


def traced_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags, and with them the trace context of the caller's span, unless that is among them already.

    Who does not use OpenTelemetry has not imported it, and nor is it then here.
    """
    if "opentelemetry.trace" not in sys.modules or TRACEPARENT in tags:
        return dict(tags)
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return {**tags, **carrier}


def read_core(execution_id: ExecutionId) -> Call[dict[str, str]]:
    """Read the whole record; empty when there is no such execution."""
    return Call(("HGETALL", ExecutionKeys.of(execution_id).core), text_fields)


def read_attempt(execution_id: ExecutionId, index: int) -> Call[dict[str, str]]:
    """Read one attempt's record."""
    return Call(("HGETALL", ExecutionKeys.of(execution_id).attempt(index)), text_fields)


def read_attempts(execution_id: ExecutionId, core: Mapping[str, str]) -> list[Call[dict[str, str]]]:
    """Read the records of all attempts, oldest first.

    Args:
        core: the execution's record as just read.
    """
    count = min(whole(core.get("total_attempt_count", "")), MOST_ATTEMPTS)
    return [read_attempt(execution_id, index) for index in range(count)]


def read_tags(execution_id: ExecutionId) -> Call[dict[str, str]]:
    """Read the tags."""
    return Call(("HGETALL", ExecutionKeys.of(execution_id).part("tags")), text_fields)


def read_public_state(execution_id: ExecutionId) -> Call[str | None]:
    """Read the state that people are shown; None when there is no such execution."""
    core = ExecutionKeys.of(execution_id).core

    def parse(reply: bytes | None) -> str | None:
        return None if reply is None else reply.decode(errors="replace")

    return Call(("HGET", core, "public_state"), parse)


def read_result(execution_id: ExecutionId) -> Call[bytes | None]:
    """Read the result; None when there is none, or an empty one."""
    return Call(("GET", ExecutionKeys.of(execution_id).part("result")), lambda reply: reply)


def cancel(
    execution_id: ExecutionId,
    core: Mapping[str, str],
    reason: str,
    source: str = "operator_override",
    lease: tuple[str, str] = ("", ""),
) -> Call[str]:
    """Cancel an execution; tells from which phase.

    Args:
        core: its record as just read; says which keys are concerned.
        source: an operator may cancel what runs; ``flow_cascade`` only what does not, and it is not announced.
        lease: its holder's lease id and epoch, for other sources.
    """
    keys = ExecutionKeys.of(execution_id)
    partition, lane = keys.partition, LaneId(core.get("lane_id", "default"))
    attempt = whole(core.get("current_attempt_index", ""))
    waitpoint = core.get("current_waitpoint_id") or "none"
    return fcall(
        "ff_cancel_execution",
        (
            *(keys.core, keys.attempt(attempt), keys.stream_meta(attempt)),
            *(keys.part("lease:current"), keys.part("lease:history"), partition.index("lease_expiry")),
            partition.worker_leases(core.get("current_worker_instance_id", "")),
            *(keys.part("suspension:current"), keys.waitpoint(waitpoint), keys.waitpoint(waitpoint, "condition")),
            *(partition.index("suspension_timeout"), partition.lane(lane, "terminal")),
            *(partition.index("attempt_timeout"), partition.index("execution_deadline")),
            *(partition.lane(lane, "eligible"), partition.lane(lane, "delayed")),
            *(partition.lane(lane, f"blocked:{why}") for why in BLOCKED),
        ),
        (execution_id, reason, source, *lease),
        previous_phase,
    )


BLOCKED = ("dependencies", "budget", "quota", "route", "operator")
LANE_INDEXES = ("eligible", "delayed", "active", "suspended", "terminal", *(f"blocked:{why}" for why in BLOCKED))


def previous_phase(status: Status) -> str:
    """Read a cancellation's reply: ``cancelled``, then the phase it was in."""
    return status.text(1)


def read_index(
    lane: LaneId, partition: int, index: str, first: int, count: int
) -> Call[list[tuple[ExecutionId, float]]]:
    """Read part of a lane's index, lowest score first, as ``(execution id, score)``; what is no id is left out."""
    key = PartitionKeys.of_index(partition).lane(lane, index)

    def parse(reply: Any) -> list[tuple[ExecutionId, float]]:
        found = [(read_id(member), float(score)) for member, score in zip(reply[::2], reply[1::2], strict=True)]
        return [(member, score) for member, score in found if member is not None]

    return Call(("ZRANGE", key, first, first + count - 1, "WITHSCORES"), parse)


def read_range(lane: LaneId, partition: int, index: str, offset: int, count: int) -> Call[list[ExecutionId]]:
    """Read part of a lane's index, lowest score first."""
    key = PartitionKeys.of_index(partition).lane(lane, index)
    return Call(
        ("ZRANGE", key, offset, offset + count - 1),
        lambda reply: [ExecutionId(member.decode(errors="replace")) for member in reply],
    )


def read_fields(execution_id: ExecutionId, *names: str) -> Call[list[str]]:
    """Read fields of the record; empty where there is none."""
    core = ExecutionKeys.of(execution_id).core
    return Call(("HMGET", core, *names), lambda reply: [(part or b"").decode(errors="replace") for part in reply])


def count_index(lane: LaneId, partition: int, index: str) -> Call[int]:
    """Count the members of a lane's index on one partition."""
    return Call(("ZCARD", PartitionKeys.of_index(partition).lane(lane, index)), int)


def read_history(execution_id: ExecutionId) -> Call[list[dict[str, str]]]:
    """Read the lease history, oldest first; each event with its ``id``."""
    key = ExecutionKeys.of(execution_id).part("lease:history")

    def parse(reply: Any) -> list[dict[str, str]]:
        return [{"id": entry_id.decode(), **text_fields(fields)} for entry_id, fields in reply]

    return Call(("XRANGE", key, "-", "+"), parse)


def valid_lane(lane: str, wanted: str = "submit") -> LaneId:
    """Return ``lane`` as the protocol wants it.

    Args:
        wanted: what is to be done with it.

    Raises:
        InvalidRequestError: it is empty, too long, or not printable ASCII.
    """
    if not lane or len(lane) > 64 or not all(" " <= sign <= "~" for sign in lane):
        raise InvalidRequestError(wanted, "invalid_input", (f"lane {lane!r}: 1 to 64 printable ASCII characters",))
    return LaneId(lane)


def as_payload(value: object) -> bytes:
    """Return what is sent as a payload: bytes as they are, anything else as JSON.

    Raises:
        TypeError: it is neither bytes nor JSON.
    """
    return value if isinstance(value, bytes) else json.dumps(value).encode()
