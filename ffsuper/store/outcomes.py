"""What becomes of an attempt: complete, fail, delay, progress; and the proof of it afterwards."""

from __future__ import annotations

from typing import Any

from ffsuper.messages import Completed, Deferred, Failed, Lease, Outcome, Progress
from ffsuper.store.connection import Connection
from ffsuper.store.keys import ExecutionKeys
from ffsuper.store.replies import Call, fcall

# Enough of the lease history to find how our own lease was released, even with some attempts after it.
HISTORY_LOOK_BACK = 50

RELEASED_AS: dict[type[Outcome], frozenset[str]] = {
    Completed: frozenset({"completed"}),
    Failed: frozenset({"failed_retry_scheduled", "failed_terminal"}),
    Deferred: frozenset({"worker_delay"}),
}


class Outcomes:
    """What the executors do in the store. Every write carries the full fence."""

    def __init__(self, connection: Connection, instance_id: str) -> None:
        self._connection = connection
        self._instance_id = instance_id

    async def deliver(self, lease: Lease, outcome: Outcome, retry_policy: bytes) -> None:
        """End the attempt, or pause it, and release the lease.

        Raises:
            LeaseLostError: the lease is not ours any more, perhaps because an earlier try was carried out.
            StoreError: see ``Connection.run``.
        """
        match outcome:
            case Completed(result):
                await self._connection.run(complete(lease, self._instance_id, result))
            case Failed():
                policy = retry_policy if outcome.retryable else b""
                await self._connection.run(fail(lease, self._instance_id, outcome, policy))
            case Deferred(until_ms):
                await self._connection.run(delay(lease, self._instance_id, until_ms))

    async def was_delivered(self, lease: Lease, outcome: Outcome) -> bool:
        """Tell whether an earlier try to deliver this outcome was carried out: the lease history remembers."""
        reason = await self._connection.run(read_release(lease))
        return reason in RELEASED_AS[type(outcome)]

    async def progress(self, lease: Lease, progress: Progress) -> None:
        """Record progress; an empty message keeps the earlier one."""
        core = ExecutionKeys.of(lease.execution_id).core
        await self._connection.run(
            fcall(
                "ff_update_progress",
                (core,),
                (lease.execution_id, lease.lease_id, lease.epoch, progress.percent, progress.message),
                lambda _: None,
            )
        )


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
    keys = ExecutionKeys.of(lease.execution_id)
    partition = keys.partition
    return fcall(
        "ff_delay_execution",
        (
            *(keys.core, keys.attempt(lease.attempt_index), keys.part("lease:current")),
            *(keys.part("lease:history"), partition.index("lease_expiry"), partition.worker_leases(instance_id)),
            *(partition.lane(lease.lane, "active"), partition.lane(lease.lane, "delayed")),
            partition.index("attempt_timeout"),
        ),
        (*fence(lease), until_ms),
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
