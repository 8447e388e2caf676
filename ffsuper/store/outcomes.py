"""What becomes of an attempt: complete, fail, pause, cancel; and the proof of it afterwards."""

from __future__ import annotations

import itertools
import json
import time
import uuid
from collections.abc import Sequence
from typing import Any

from ffsuper.errors import RefusedError, StoreError
from ffsuper.messages import (
    CancelledByHandler,
    Claim,
    Completed,
    Deferred,
    Failed,
    Lease,
    NotBegun,
    Outcome,
    ReceivedSignal,
    Suspended,
    WaitingForChildren,
)
from ffsuper.store.connection import Connection
from ffsuper.store.keys import ExecutionKeys
from ffsuper.store.replies import Call, Part, fcall
from ffsuper.store.signals import as_text, read_matched

HISTORY_LENGTH = 1_000  # the protocol's
RESUME_POLICY = (
    '{"close_waitpoint_on_resume":true,"consume_matched_signals":true,"resume_target":"runnable",'
    '"retain_signal_buffer_until_closed":true}'
)

# Enough of the lease history to find how our own lease was released, even with some attempts after it.
HISTORY_LOOK_BACK = 50

RELEASED_AS: dict[type[Outcome], frozenset[str]] = {
    Completed: frozenset({"completed"}),
    Failed: frozenset({"failed_retry_scheduled", "failed_terminal"}),
    Deferred: frozenset({"worker_delay"}),
    Suspended: frozenset({"suspend"}),
    WaitingForChildren: frozenset({"waiting_children"}),
    CancelledByHandler: frozenset({"cancelled"}),
    NotBegun: frozenset({"worker_delay"}),
}


class Outcomes:
    """What the executors do in the store. Every write carries the full fence."""

    def __init__(self, connection: Connection, instance_id: str) -> None:
        self._connection = connection
        self._instance_id = instance_id

    async def deliver(self, lease: Lease, outcome: Outcome, retry_policy: bytes) -> tuple[ReceivedSignal, ...] | None:
        """End the attempt, or pause it, and release the lease.

        Returns:
            None; for a suspension whose signals have come already, these: the lease is kept then.

        Raises:
            LeaseLostError: the lease is not ours any more, perhaps because an earlier try was carried out.
            StoreError: see ``Connection.run``.
        """
        if isinstance(outcome, Suspended):
            return await self._suspend(lease, outcome)
        result, *_ = await self._connection.try_all(ends_of(lease, self._instance_id, outcome, retry_policy))
        if isinstance(result, StoreError):
            raise result
        return None

    async def deliver_all(self, ended: Sequence[tuple[Claim, Outcome]]) -> list[StoreError | None]:
        """End attempts whose outcomes are no suspensions, all in one round trip.

        Returns:
            list in their order: None, or what ``deliver`` would raise.
        """
        groups = [ends_of(claim.lease, self._instance_id, outcome, claim.retry_policy) for claim, outcome in ended]
        answers = await self._connection.try_all(list(itertools.chain.from_iterable(groups)))
        positions = itertools.accumulate(map(len, groups), initial=0)
        return [answers[position] for position, _ in zip(positions, groups, strict=False)]

    async def _suspend(self, lease: Lease, outcome: Suspended) -> tuple[ReceivedSignal, ...] | None:
        # Any text of the handler's; what cannot be sent as it is names no waitpoint.
        waitpoint_id = outcome.waitpoint_id.encode(errors="replace").decode() or str(uuid.uuid4())
        # The same for a repetition, so that a waitpoint tells whether it was this suspension that used it.
        suspension_id = str(uuid.uuid5(uuid.UUID(lease.lease_id), waitpoint_id))
        try:
            if await self._connection.run(suspend(lease, self._instance_id, outcome, suspension_id, waitpoint_id)):
                return None
        except RefusedError as error:
            if error.code != "waitpoint_not_pending":
                raise
            used_by = ExecutionKeys.of(lease.execution_id).waitpoint(waitpoint_id)
            if await self._connection.run(Call(("HGET", used_by, "suspension_id"), as_text)) != suspension_id:
                raise
        return await read_matched(self._connection, lease.execution_id, waitpoint_id)

    async def was_delivered(self, lease: Lease, outcome: Outcome) -> bool:
        """Tell whether an earlier try to deliver this outcome was carried out: the lease history remembers."""
        reason = await self._connection.run(read_release(lease))
        return reason in RELEASED_AS[type(outcome)]


def ends_of(lease: Lease, instance_id: str, outcome: Outcome, retry_policy: bytes) -> list[Call[None]]:
    """Return the call that ends the attempt or pauses it, and releases the lease; behind it what may fail as well."""
    match outcome:
        case Completed(result):
            return [complete(lease, instance_id, result)]
        case Failed():
            return [fail(lease, instance_id, outcome, retry_policy if outcome.retryable else b"")]
        case Deferred(until_ms) if until_ms <= 0:
            # Whoever takes it next need not wait for an engine.
            return [delay(lease, instance_id, until_ms), promote(lease)]
        case Deferred(until_ms):
            return [delay(lease, instance_id, until_ms)]
        case NotBegun():
            return [hand_back(lease, instance_id)]
        case WaitingForChildren():
            return [wait_for_children(lease, instance_id)]
        case CancelledByHandler(reason):
            return [cancel(lease, instance_id, reason)]
        case Suspended():
            raise ValueError("a suspension takes more than a call")


def fence(lease: Lease) -> tuple[str, str, int, str]:
    """Return what proves that a write comes from the lease's holder."""
    return (lease.execution_id, lease.lease_id, lease.epoch, lease.attempt_id)


def complete(lease: Lease, instance_id: str, result: bytes) -> Call[None]:
    """End the execution with success."""
    keys = ExecutionKeys.of(lease.execution_id)
    partition = keys.partition
    return fcall(
        "ff_complete_execution",
        (
            *(keys.core, keys.attempt(lease.attempt_index), partition.index("lease_expiry")),
            *(partition.worker_leases(instance_id), partition.lane(lease.lane, "terminal")),
            *(keys.part("lease:current"), keys.part("lease:history"), partition.lane(lease.lane, "active")),
            *(keys.stream_meta(lease.attempt_index), keys.part("result")),
            *(partition.index("attempt_timeout"), partition.index("execution_deadline")),
        ),
        (*fence(lease), result),
        lambda _: None,
    )


def fail(lease: Lease, instance_id: str, failure: Failed, retry_policy: bytes) -> Call[None]:
    """End the attempt with a failure; the retry policy decides whether there will be another."""
    keys = ExecutionKeys.of(lease.execution_id)
    partition = keys.partition
    return fcall(
        "ff_fail_execution",
        (
            *(keys.core, keys.attempt(lease.attempt_index), partition.index("lease_expiry")),
            *(partition.worker_leases(instance_id), partition.lane(lease.lane, "terminal")),
            *(partition.lane(lease.lane, "delayed"), keys.part("lease:current"), keys.part("lease:history")),
            *(partition.lane(lease.lane, "active"), keys.stream_meta(lease.attempt_index)),
            *(partition.index("attempt_timeout"), partition.index("execution_deadline")),
        ),
        (*fence(lease), failure.reason.encode(errors="replace"), failure.category, retry_policy),
        lambda _: None,
    )


def delay(lease: Lease, instance_id: str, until_ms: int) -> Call[None]:
    """Pause the attempt until a time; a resumed claim goes on with it."""
    args = (*fence(lease), until_ms)
    return fcall("ff_delay_execution", delay_keys(lease, instance_id), args, lambda _: None)


def hand_back(lease: Lease, instance_id: str) -> Call[None]:
    """Give the lease back before the handler was called; the next claim begins the same attempt."""
    eligible = ExecutionKeys.of(lease.execution_id).partition.lane(lease.lane, "eligible")
    return fcall("ffsuper_hand_back", (*delay_keys(lease, instance_id), eligible), fence(lease), lambda _: None)


def delay_keys(lease: Lease, instance_id: str) -> tuple[str, ...]:
    """Return the keys of what pauses an attempt."""
    keys = ExecutionKeys.of(lease.execution_id)
    partition = keys.partition
    return (
        *(keys.core, keys.attempt(lease.attempt_index), keys.part("lease:current")),
        *(keys.part("lease:history"), partition.index("lease_expiry"), partition.worker_leases(instance_id)),
        *(partition.lane(lease.lane, "active"), partition.lane(lease.lane, "delayed")),
        partition.index("attempt_timeout"),
    )


def promote(lease: Lease) -> Call[None]:
    """Make an execution claimable whose delay is over."""
    keys = ExecutionKeys.of(lease.execution_id)
    lane = keys.partition.lane
    return fcall(
        "ff_promote_delayed",
        (keys.core, lane(lease.lane, "delayed"), lane(lease.lane, "eligible")),
        (lease.execution_id, int(time.time() * 1000)),
        lambda _: None,
    )


def wait_for_children(lease: Lease, instance_id: str) -> Call[None]:
    """Pause the attempt until the execution's dependencies are satisfied."""
    keys = ExecutionKeys.of(lease.execution_id)
    partition = keys.partition
    return fcall(
        "ff_move_to_waiting_children",
        (
            *(keys.core, keys.attempt(lease.attempt_index), keys.part("lease:current")),
            *(keys.part("lease:history"), partition.index("lease_expiry"), partition.worker_leases(instance_id)),
            *(partition.lane(lease.lane, "active"), partition.lane(lease.lane, "blocked:dependencies")),
            partition.index("attempt_timeout"),
        ),
        fence(lease),
        lambda _: None,
    )


def suspend(lease: Lease, instance_id: str, outcome: Suspended, suspension_id: str, waitpoint_id: str) -> Call[bool]:
    """Pause the attempt until signals have come; tells whether it was paused, and the lease given back."""
    keys = ExecutionKeys.of(lease.execution_id)
    partition, waitpoint = keys.partition, keys.waitpoint(waitpoint_id)
    timeout_at_ms: Part = "" if outcome.timeout_ms is None else int(time.time() * 1000) + outcome.timeout_ms
    condition = {
        "allow_operator_override": True,
        "condition_type": "signal_set",
        "minimum_signal_count": 1,
        "required_signal_names": outcome.signal_names,
        "signal_match_mode": "all" if outcome.match_all else "any",
        "timeout_behavior": outcome.on_timeout.value,
    }
    return fcall(
        "ff_suspend_execution",
        (
            *(keys.core, keys.attempt(lease.attempt_index), keys.part("lease:current"), keys.part("lease:history")),
            *(partition.index("lease_expiry"), partition.worker_leases(instance_id), keys.part("suspension:current")),
            *(waitpoint, f"{waitpoint}:signals", partition.index("suspension_timeout")),
            *(partition.index("pending_waitpoint_expiry"), partition.lane(lease.lane, "active")),
            *(partition.lane(lease.lane, "suspended"), keys.part("waitpoints"), f"{waitpoint}:condition"),
            *(partition.index("attempt_timeout"), partition.waitpoint_hmac),
        ),
        (
            *(lease.execution_id, lease.attempt_index, lease.attempt_id, lease.lease_id, lease.epoch),
            *(suspension_id, waitpoint_id, f"wpk:{waitpoint_id}", outcome.reason_code, "worker", timeout_at_ms),
            *(json.dumps(condition, separators=(",", ":")), RESUME_POLICY, "", "1" if outcome.waitpoint_id else ""),
            *(outcome.on_timeout.value, HISTORY_LENGTH),
        ),
        lambda status: status.word == "OK",
    )


def cancel(lease: Lease, instance_id: str, reason: str) -> Call[None]:
    """End the execution as cancelled, by its holder."""
    keys = ExecutionKeys.of(lease.execution_id)
    partition, waitpoint = keys.partition, keys.waitpoint("none")
    return fcall(
        "ff_cancel_execution",
        (
            *(keys.core, keys.attempt(lease.attempt_index), keys.stream_meta(lease.attempt_index)),
            *(keys.part("lease:current"), keys.part("lease:history"), partition.index("lease_expiry")),
            *(partition.worker_leases(instance_id), keys.part("suspension:current"), waitpoint),
            *(f"{waitpoint}:condition", partition.index("suspension_timeout")),
            *(partition.lane(lease.lane, "terminal"), partition.index("attempt_timeout")),
            *(partition.index("execution_deadline"), partition.lane(lease.lane, "eligible")),
            *(partition.lane(lease.lane, "delayed"), partition.lane(lease.lane, "blocked:dependencies")),
            *(partition.lane(lease.lane, f"blocked:{why}") for why in ("budget", "quota", "route", "operator")),
        ),
        (lease.execution_id, reason.encode(errors="replace"), "worker", lease.lease_id, lease.epoch),
        lambda _: None,
    )


def read_release(lease: Lease) -> Call[str | None]:
    """Read with which reason a lease was released; None while it is held, or when it ended otherwise."""
    history = ExecutionKeys.of(lease.execution_id).part("lease:history")

    def parse(reply: Any) -> str | None:
        for _, parts in reply:
            event = dict(zip(parts[::2], parts[1::2], strict=True))
            if event.get(b"event") == b"released" and event.get(b"lease_id") == lease.lease_id.encode():
                return str(event[b"reason"].decode())
        return None

    return Call(("XREVRANGE", history, "+", "-", "COUNT", HISTORY_LOOK_BACK), parse)
