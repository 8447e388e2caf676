"""What a running attempt asks of the store: progress, frames, usage, waitpoints."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from typing import Any

import trio

from ffsuper.errors import RefusedError, StoreError
from ffsuper.messages import (
    FRAME_LIMIT_BYTES,
    Answer,
    CreateWaitpoint,
    Emit,
    Lease,
    Progress,
    ReportUsage,
    RequestFailed,
    UsageReported,
    WaitpointCreated,
)
from ffsuper.sansio import partition
from ffsuper.store.connection import Connection
from ffsuper.store.keys import BudgetKeys, ExecutionKeys
from ffsuper.store.outage import STORE_AWAY, Outage
from ffsuper.store.replies import Call, Status, fcall

LOG = logging.getLogger(__name__)

# A handler's request is given up when the store stays away for longer.
REQUEST_S = 30.0
FRAMES_KEPT = 10_000  # the protocol's


class Attempts:
    """What the executors do in the store while a handler runs.

    Args:
        budget_partitions: how many there are.
    """

    def __init__(self, connection: Connection, budget_partitions: int) -> None:
        self._connection = connection
        self._budget_partitions = budget_partitions

    async def progress(self, lease: Lease, progress: Progress) -> None:
        """Record progress; an empty message keeps the earlier one."""
        await self._connection.run(record_progress(lease, progress))

    async def report_crash(self, lease: Lease, report: str) -> None:
        """Store a crash report with the attempt; a repetition stores it once more.

        Raises:
            LibraryMissingError: the store does not have our function.
            StoreError: see ``Connection.run``.
        """
        await self._connection.run(write_crash_report(lease, report))

    def frames(self, lease: Lease) -> FrameWriter:
        """Return what appends the attempt's frames."""
        return FrameWriter(self._connection, lease)

    async def answer(self, lease: Lease, request: ReportUsage | CreateWaitpoint) -> Answer:
        """Carry out a handler's request, waiting for the store if need be; a repetition does nothing twice."""
        outage, made_up = Outage(LOG), str(uuid.uuid4())
        with trio.move_on_after(REQUEST_S):
            while True:
                try:
                    answer: Answer
                    if isinstance(request, ReportUsage):
                        answer = await self._report_usage(request, request.dedup_key or made_up)
                    else:
                        answer = await self._create_waitpoint(lease, request, made_up)
                except STORE_AWAY as error:
                    await outage.wait(error)
                except (ValueError, StoreError) as error:
                    outage.over()
                    return RequestFailed(request.task, request.request, str(error))
                else:
                    outage.over()
                    return answer
        return RequestFailed(request.task, request.request, f"the store was away for {REQUEST_S:g} s")

    async def _report_usage(self, report: ReportUsage, dedup_key: str) -> UsageReported:
        try:
            budget = uuid.UUID(report.budget_id)
        except ValueError:
            raise ValueError(f"budget id {report.budget_id!r} is no UUID") from None
        keys = BudgetKeys(partition.of_bytes(budget.bytes, self._budget_partitions), report.budget_id)
        return await self._connection.run(report_usage(keys, report, dedup_key))

    async def _create_waitpoint(self, lease: Lease, wanted: CreateWaitpoint, waitpoint_id: str) -> WaitpointCreated:
        try:
            return await self._connection.run(create_waitpoint(lease, wanted, waitpoint_id))
        except RefusedError as error:
            if error.code != "waitpoint_already_exists":
                raise
            # Ours: an earlier try was carried out, and its answer lost.
            return await self._connection.run(read_created(lease, wanted, waitpoint_id))


class FrameWriter:
    """Appends the frames of one attempt in their order, each once.

    Nobody else writes to the attempt's stream, so its own count tells how much of a batch was appended whose answers
    were lost.
    """

    def __init__(self, connection: Connection, lease: Lease) -> None:
        self._connection = connection
        self._lease = lease
        self._count: int | None = None

    async def write(self, frames: Sequence[Emit]) -> str:
        """Append frames, waiting while the store is away; return why it refused the last that it did, or nothing."""
        outage, left, refusal = Outage(LOG), list(frames), ""
        while left:
            try:
                if self._count is None:
                    self._count = await self._connection.run(read_frame_count(self._lease))
                results = await self._connection.try_all([append_frame(self._lease, frame) for frame in left])
                for result in results:
                    if isinstance(result, STORE_AWAY):
                        raise result
                    if isinstance(result, StoreError):
                        refusal = result.code if isinstance(result, RefusedError) else str(result)
                    else:
                        self._count = result
                    del left[0]
            except STORE_AWAY as error:
                await outage.wait(error)
                left = await self._not_appended(left)
        outage.over()
        return refusal

    async def _not_appended(self, left: list[Emit]) -> list[Emit]:
        """Return what is left once the store tells how many frames there are."""
        try:
            count = await self._connection.run(read_frame_count(self._lease))
        except StoreError:
            return left
        known, self._count = self._count, count
        # Nothing was sent before the first count was known: what the stream has is of an earlier run of the attempt.
        return left if known is None else left[max(count - known, 0) :]


def record_progress(lease: Lease, progress: Progress) -> Call[None]:
    """Record progress."""
    return fcall(
        "ff_update_progress",
        (ExecutionKeys.of(lease.execution_id).core,),
        (lease.execution_id, lease.lease_id, lease.epoch, progress.percent, progress.message),
        lambda _: None,
    )


def write_crash_report(lease: Lease, report: str) -> Call[None]:
    """Store a crash report with the attempt."""
    keys = ExecutionKeys.of(lease.execution_id)
    return fcall(
        "ffsuper_report_crash",
        (keys.core, keys.attempt(lease.attempt_index), keys.part("lease:history")),
        (lease.execution_id, lease.lease_id, lease.epoch, lease.attempt_id, report.encode(errors="replace")),
        lambda _: None,
    )


def read_frame_count(lease: Lease) -> Call[int]:
    """Read how many frames the attempt's stream has ever got."""
    meta = ExecutionKeys.of(lease.execution_id).stream_meta(lease.attempt_index)
    return Call(("HGET", meta, "frame_count"), lambda reply: int(reply or 0))


def append_frame(lease: Lease, frame: Emit) -> Call[int]:
    """Append a frame to the attempt's stream; returns how many there are then."""
    keys, index = ExecutionKeys.of(lease.execution_id), lease.attempt_index
    return fcall(
        "ff_append_frame",
        (keys.core, keys.stream(index), keys.stream_meta(index)),
        (
            *(lease.execution_id, index, lease.lease_id, lease.epoch, frame.frame_type, int(time.time() * 1000)),
            *(frame.payload, "utf8", frame.metadata, "worker", FRAMES_KEPT, lease.attempt_id, FRAME_LIMIT_BYTES),
        ),
        lambda status: status.number(1),
    )


def report_usage(keys: BudgetKeys, report: ReportUsage, dedup_key: str) -> Call[UsageReported]:
    """Add to a budget's usage."""

    def read(status: Status) -> UsageReported:
        current, limit = (status.number(1), status.number(2)) if status.fields else (0, 0)
        return UsageReported(report.task, report.request, status.word, status.text(0), current, limit)

    return fcall(
        "ff_report_usage_and_check",
        (keys.usage, keys.limits, keys.definition),
        (len(report.usage), *report.usage, *report.usage.values(), int(time.time() * 1000), keys.dedup(dedup_key)),
        read,
    )


def create_waitpoint(lease: Lease, wanted: CreateWaitpoint, waitpoint_id: str) -> Call[WaitpointCreated]:
    """Make a pending waitpoint."""
    keys = ExecutionKeys.of(lease.execution_id)
    expires_at_ms = int(time.time() * 1000) + wanted.expires_in_ms
    return fcall(
        "ff_create_pending_waitpoint",
        (
            *(keys.core, keys.waitpoint(waitpoint_id), keys.partition.index("pending_waitpoint_expiry")),
            keys.partition.waitpoint_hmac,
        ),
        (lease.execution_id, lease.attempt_index, waitpoint_id, wanted.key or f"wpk:{waitpoint_id}", expires_at_ms),
        lambda status: WaitpointCreated(
            wanted.task, wanted.request, status.text(0), status.text(1), token=status.text(2)
        ),
    )


def read_created(lease: Lease, wanted: CreateWaitpoint, waitpoint_id: str) -> Call[WaitpointCreated]:
    """Read a waitpoint that was made."""

    def parse(reply: Any) -> WaitpointCreated:
        key, token = ((part or b"").decode() for part in reply)
        return WaitpointCreated(wanted.task, wanted.request, waitpoint_id, key, token)

    waitpoint = ExecutionKeys.of(lease.execution_id).waitpoint(waitpoint_id)
    return Call(("HMGET", waitpoint, "waitpoint_key", "waitpoint_token"), parse)
