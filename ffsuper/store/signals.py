"""Signals: delivering them to waitpoints, and reading those that ended a suspension."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ffsuper.messages import ExecutionId, LaneId, Lease, ReceivedSignal
from ffsuper.store.connection import Connection
from ffsuper.store.keys import ExecutionKeys
from ffsuper.store.replies import Call, Status, as_bytes, fcall, text_fields, whole

# The protocol's: how long an idempotency key is remembered, and how many signals are kept.
DEDUP_TTL_MS = 86_400_000
SIGNALS_PER_WAITPOINT = 1_000
SIGNALS_PER_EXECUTION = 10_000
SCAN_COUNT = 100
ATTEMPTS_PER_READ = 100
# Types of attempts that replace one that did not come to its end; a replay begins anew.
REPLACING = frozenset({"retry", "reclaim"})


@dataclass(frozen=True, slots=True)
class OpenWaitpoint:
    """A waitpoint that takes signals.

    Attributes:
        state: ``active``, or ``pending`` while its suspension is still to come.
        token: the bearer credential that a signal must come with.
        signal_names: what it waits for; empty for anything.
        created_at_ms: Unix time; so are the others, None where there is none.
    """

    id: str
    key: str
    state: str
    token: str = field(repr=False)
    signal_names: tuple[str, ...] = ()
    created_at_ms: int | None = None
    activated_at_ms: int | None = None
    expires_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a signal.

    Attributes:
        signal_id: the signal's; of the first one under the same idempotency key when it is a duplicate.
        effect: ``resume_condition_satisfied``, ``appended_to_waitpoint`` (matched, not enough yet), ``no_op``
            (recorded, matched nothing), ``buffered_for_pending_waitpoint`` or ``duplicate``.
    """

    signal_id: str
    effect: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """A signal to be delivered.

    Attributes:
        per_waitpoint: how many of a waitpoint's signals are kept.
        per_execution: how many an execution takes in its life.
    """

    execution_id: ExecutionId
    waitpoint_id: str
    name: str
    payload: bytes = field(default=b"", repr=False)
    token: str = field(repr=False)
    idempotency_key: str = ""
    category: str = "external"
    source_type: str = "client"
    source_identity: str = ""
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    payload_encoding: str = "json"
    correlation_id: str = ""
    target_scope: str = "waitpoint"
    created_at_ms: int = field(default_factory=lambda: int(time.time() * 1000))
    dedup_ttl_ms: int = DEDUP_TTL_MS
    per_waitpoint: int = SIGNALS_PER_WAITPOINT
    per_execution: int = SIGNALS_PER_EXECUTION


def deliver(signal: Signal, lane: LaneId) -> Call[Delivery]:
    """Deliver to the waitpoint of a suspension."""
    keys = ExecutionKeys.of(signal.execution_id)
    partition = keys.partition
    return fcall(
        "ff_deliver_signal",
        (
            *signal_keys(keys, signal),
            *(keys.part("suspension:current"), partition.lane(lane, "eligible"), partition.lane(lane, "suspended")),
            *(partition.lane(lane, "delayed"), partition.index("suspension_timeout"), partition.waitpoint_hmac),
        ),
        signal_args(signal),
        delivery,
    )


def buffer(signal: Signal) -> Call[Delivery]:
    """Keep a signal at a pending waitpoint until the suspension comes."""
    keys = ExecutionKeys.of(signal.execution_id)
    return fcall(
        "ff_buffer_signal_for_pending_waitpoint",
        (*signal_keys(keys, signal), keys.partition.waitpoint_hmac),
        signal_args(signal),
        delivery,
    )


def signal_keys(keys: ExecutionKeys, signal: Signal) -> tuple[str, ...]:
    """Return the first eight keys of both functions."""
    dedup = keys.partition.noop
    if signal.idempotency_key:
        dedup = keys.signal_dedup(signal.waitpoint_id, signal.idempotency_key)
    return (
        *(
            keys.core,
            keys.waitpoint(signal.waitpoint_id, "condition"),
            keys.waitpoint(signal.waitpoint_id, "signals"),
        ),
        *(keys.part("signals"), keys.signal(signal.id), keys.signal(signal.id, "payload")),
        *(dedup, keys.waitpoint(signal.waitpoint_id)),
    )


def signal_args(signal: Signal) -> tuple[str | bytes | int, ...]:
    """Return the arguments of both functions. A delay of the resumption is not offered: the protocol loses it."""
    resume_delay_ms = 0
    return (
        *(signal.id, signal.execution_id, signal.waitpoint_id, signal.name, signal.category),
        *(signal.source_type, signal.source_identity, signal.payload, signal.payload_encoding),
        *(signal.idempotency_key, signal.correlation_id, signal.target_scope, signal.created_at_ms),
        *(signal.dedup_ttl_ms, resume_delay_ms, signal.per_waitpoint, signal.per_execution, signal.token),
    )


def delivery(status: Status) -> Delivery:
    """Read what became of a signal."""
    return Delivery(status.text(0), "duplicate" if status.word == "DUPLICATE" else status.text(1))


def read_current_waitpoint(execution_id: ExecutionId) -> Call[str]:
    """Read which waitpoint an execution has suspended on; empty when it is on none."""
    core = ExecutionKeys.of(execution_id).core
    return Call(("HGET", core, "current_waitpoint_id"), lambda reply: (reply or b"").decode())


def read_waitpoint(execution_id: ExecutionId, waitpoint_id: str) -> Call[OpenWaitpoint | None]:
    """Read a waitpoint, without what it waits for; None when it takes no signals, or is another execution's."""

    def parse(reply: Any) -> OpenWaitpoint | None:
        key, state, token, owner, *times = ((part or b"").decode(errors="replace") for part in reply)
        if state not in ("active", "pending") or owner != execution_id:
            return None
        created_at, activated_at, expires_at = (int(text) if text.isdecimal() else None for text in times)
        return OpenWaitpoint(waitpoint_id, key, state, token, (), created_at, activated_at, expires_at)

    fields = ("waitpoint_key", "state", "waitpoint_token", "execution_id", "created_at", "activated_at", "expires_at")
    return Call(("HMGET", ExecutionKeys.of(execution_id).waitpoint(waitpoint_id), *fields), parse)


async def read_open_waitpoints(
    connection: Connection, execution_id: ExecutionId, current_id: str
) -> list[OpenWaitpoint]:
    """Return all waitpoints of an execution that take signals, by their ids.

    Args:
        current_id: the one that it waits at by its record; empty for none.

    Raises:
        StoreError: see ``Connection.run``.
    """
    keys, cursor, ids = ExecutionKeys.of(execution_id), b"0", {current_id} - {""}
    while True:
        scan = ("SSCAN", keys.part("waitpoints"), cursor, "COUNT", SCAN_COUNT)
        cursor, page = await connection.run(Call(scan, page_of))
        ids |= page
        if cursor == b"0":
            break
    found = await connection.run_all([read_waitpoint(execution_id, one) for one in sorted(ids)])
    points = [point for point in found if point is not None]
    wanted = await connection.run_all([read_signal_names(execution_id, point.id) for point in points])
    return [replace(point, signal_names=names) for point, names in zip(points, wanted, strict=True)]


def page_of(reply: Any) -> tuple[bytes, set[str]]:
    """Read a page of a set: where to go on, and what is on it."""
    cursor, members = reply
    return as_bytes(cursor), {member.decode(errors="replace") for member in members}


def read_signal_names(execution_id: ExecutionId, waitpoint_id: str) -> Call[tuple[str, ...]]:
    """Read which signals a waitpoint's condition names; none when any will do."""

    def parse(reply: Any) -> tuple[str, ...]:
        fields = text_fields(reply)
        return tuple(filter(None, [fields.get(f"matcher:{number}:name", "") for number in matchers(fields)]))

    return Call(("HGETALL", ExecutionKeys.of(execution_id).waitpoint(waitpoint_id, "condition")), parse)


def as_text(reply: bytes | None) -> str:
    """Read a text that may be missing."""
    return (reply or b"").decode(errors="replace")


async def read_resume_signals(connection: Connection, lease: Lease) -> tuple[ReceivedSignal, ...]:
    """Return the signals that ended the suspension which an attempt comes back from; none after a timeout.

    An attempt that replaces one that failed, or lost its worker, has the same as that: what has been answered is not
    asked again.

    Raises:
        StoreError: see ``Connection.run``.
    """
    suspension = ExecutionKeys.of(lease.execution_id).part("suspension:current")
    fields = ("attempt_index", "close_reason", "waitpoint_id")

    def parse(reply: Any) -> tuple[str, str, str]:
        index, close_reason, waitpoint_id = map(as_text, reply)
        return index, close_reason, waitpoint_id

    index, close_reason, waitpoint_id = await connection.run(Call(("HMGET", suspension, *fields), parse))
    resumed = whole(index)
    if close_reason != "resumed" or not waitpoint_id or resumed > lease.attempt_index:
        return ()
    # The newest first: there is none with a number that only a damaged record has.
    later = range(lease.attempt_index, resumed, -1)
    for first in range(0, len(later), ATTEMPTS_PER_READ):
        reads = [read_made_as(lease, number) for number in later[first : first + ATTEMPTS_PER_READ]]
        if not set(await connection.run_all(reads)) <= REPLACING:
            return ()
    return await read_matched(connection, lease.execution_id, waitpoint_id)


def read_made_as(lease: Lease, number: int) -> Call[str]:
    """Read why an attempt of the lease's execution was made; empty when there is none with this number."""
    return Call(("HGET", ExecutionKeys.of(lease.execution_id).attempt(number), "attempt_type"), as_text)


async def read_matched(
    connection: Connection, execution_id: ExecutionId, waitpoint_id: str
) -> tuple[ReceivedSignal, ...]:
    """Return the signals that a waitpoint's condition has taken, in the order of its names."""
    keys = ExecutionKeys.of(execution_id)
    condition = await connection.run(Call(("HGETALL", keys.waitpoint(waitpoint_id, "condition")), text_fields))
    signal_ids = [
        condition.get(f"matcher:{number}:signal_id", "")
        for number in matchers(condition)
        if condition.get(f"matcher:{number}:satisfied") == "1"
    ]
    reads: list[Call[Any]] = []
    for signal_id in filter(None, signal_ids):
        reads.append(Call(("HGETALL", keys.signal(signal_id)), text_fields))
        reads.append(Call(("GET", keys.signal(signal_id, "payload")), lambda reply: reply or b""))
    answers = await connection.run_all(reads)
    return tuple(
        received(record, payload) for record, payload in zip(answers[::2], answers[1::2], strict=True) if record
    )


def matchers(condition: Mapping[str, str]) -> range:
    """Return the numbers of a condition's matchers: not more than it has fields, whatever it says."""
    return range(min(whole(condition.get("total_matchers", "")), len(condition)))


def received(record: Mapping[str, str], payload: bytes) -> ReceivedSignal:
    """Return a signal from its record."""
    return ReceivedSignal(
        signal_id=record.get("signal_id", ""),
        name=record.get("signal_name", ""),
        category=record.get("signal_category", ""),
        source_type=record.get("source_type", ""),
        source_identity=record.get("source_identity", ""),
        correlation_id=record.get("correlation_id", ""),
        accepted_at_ms=whole(record.get("accepted_at", "")),
        payload=payload,
    )
