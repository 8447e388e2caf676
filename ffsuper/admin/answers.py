"""What a server answers, as the values that its clients get."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ffsuper.child.context import Usage
from ffsuper.clients import Execution
from ffsuper.sansio import partition
from ffsuper.sansio.partition import PartitionCounts
from ffsuper.store import streams
from ffsuper.store.signals import Delivery, OpenWaitpoint
from ffsuper.store.streams import StreamFrame

MOST_PARTITIONS = 65_535


@dataclass(frozen=True, slots=True)
class Budget:
    """A budget as it was when it was read.

    Attributes:
        usage: by dimension; so are the limits, 0 for none.
        last_breach_at_ms: Unix time; 0 for never, as in the others.
        last_breach_dimension: empty for none.
    """

    id: str
    scope_type: str
    scope_id: str
    usage: Mapping[str, int]
    hard_limits: Mapping[str, int]
    soft_limits: Mapping[str, int]
    breach_count: int
    soft_breach_count: int
    last_breach_at_ms: int
    last_breach_dimension: str
    next_reset_at_ms: int
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class Rotation:
    """How far the rotation of the waitpoint secret came; to be repeated unless it is complete.

    Attributes:
        rotated: on how many partitions the new secret is the current one.
        failed: the partitions where that failed, and ``in_progress``: where somebody else is at it.
    """

    rotated: int
    failed: Sequence[int]
    in_progress: Sequence[int]

    @property
    def is_complete(self) -> bool:
        """Whether the new secret is the current one everywhere."""
        return not self.failed and not self.in_progress


def counts_of(told: Mapping[str, int]) -> PartitionCounts:
    """Return how many partitions there are."""
    counts = [int(told[f"num_{family}_partitions"]) for family in ("flow", "budget", "quota")]
    if not all(0 < count <= MOST_PARTITIONS for count in counts):
        raise ValueError
    return PartitionCounts(*counts)


def execution_of(told: Mapping[str, Any]) -> Execution:
    """Return an execution; what the server does not tell is absent from its record."""
    fields = {**told, **told.get("state_vector", {})}
    fields.pop("state_vector", None)
    return Execution.of(partition.parse(told["execution_id"]), texts_of(fields), {}, [])


def listed_of(told: Mapping[str, Any]) -> list[tuple[tuple[int, int], Execution]]:
    """Return executions of a lane, each behind what they are sorted by: priority and age."""
    found = [execution_of(one) for one in told["executions"]]
    return [((-int(one.record["priority"]), int(one.record["created_at"] or 0)), one) for one in found]


def begun_of(told: Mapping[str, Any]) -> tuple[int, bool]:
    """Return how many attempts of an execution have begun, and whether it has ended."""
    execution = execution_of(told)
    return int(execution.record["current_attempt_index"]) + 1, execution.is_final


def details_of(told: Mapping[str, Any]) -> tuple[Execution, list[dict[str, str]]]:
    """Return an execution with all that a server tells of it, and the events of its leases."""
    record, attempts = texts_of(told["record"]), [texts_of(one) for one in told["attempts"]]
    execution = Execution.of(partition.parse(record["execution_id"]), record, texts_of(told["tags"]), attempts)
    return execution, [texts_of(event) for event in told["history"]]


def texts_of(told: Mapping[str, Any]) -> dict[str, str]:
    """Return members as a record has them."""
    return {name: text_of(value) for name, value in told.items()}


def text_of(value: object) -> str:
    """Return a member as the record has it."""
    return "" if value is None else str(value)


def waitpoint_of(told: Mapping[str, Any]) -> OpenWaitpoint:
    """Return an open waitpoint."""
    return OpenWaitpoint(
        id=str(told["waitpoint_id"]),
        key=str(told["waitpoint_key"]),
        state=str(told["state"]),
        token=str(told["waitpoint_token"]),
        signal_names=tuple(map(str, told.get("required_signal_names", ()))),
        created_at_ms=ms_of(told.get("created_at")),
        activated_at_ms=ms_of(told.get("activated_at")),
        expires_at_ms=ms_of(told.get("expires_at")),
    )


def ms_of(value: object) -> int | None:
    """Return a Unix time that may be absent."""
    return int(str(value)) if value else None


def delivery_of(told: Mapping[str, Any]) -> Delivery:
    """Return what became of a signal."""
    if "Duplicate" in told:
        return Delivery(str(told["Duplicate"]["existing_signal_id"]), "duplicate")
    return Delivery(str(told["Accepted"]["signal_id"]), str(told["Accepted"]["effect"]))


def frames_of(index: int, told: Iterable[Mapping[str, Any]]) -> list[StreamFrame]:
    """Return frames of an attempt."""
    return [
        streams.frame_of(
            index,
            one["id"].encode(),
            [part.encode(errors="replace") for pair in one["fields"].items() for part in pair],
        )
        for one in told
    ]


def usage_of(told: Any) -> Usage:
    """Return what a usage report came to."""
    match told:
        case "Ok":
            return Usage("ok")
        case "AlreadyApplied":
            return Usage("already_applied")
        case {"SoftBreach": over}:
            return Usage("soft_breach", str(over["dimension"]), int(over["current_usage"]), int(over["soft_limit"]))
    over = told["HardBreach"]
    return Usage("hard_breach", str(over["dimension"]), int(over["current_usage"]), int(over["hard_limit"]))


def budget_of(told: Mapping[str, Any]) -> Budget:
    """Return a budget."""
    return Budget(
        id=str(told["budget_id"]),
        scope_type=str(told["scope_type"]),
        scope_id=str(told["scope_id"]),
        usage=dict(told["usage"]),
        hard_limits=dict(told["hard_limits"]),
        soft_limits=dict(told["soft_limits"]),
        breach_count=int(told["breach_count"]),
        soft_breach_count=int(told["soft_breach_count"]),
        last_breach_at_ms=int(told["last_breach_at"] or 0),
        last_breach_dimension=told["last_breach_dim"] or "",
        next_reset_at_ms=int(told["next_reset_at"] or 0),
        created_at_ms=int(told["created_at"] or 0),
    )


def rotation_of(told: Mapping[str, Any]) -> Rotation:
    """Return how far a rotation came."""
    return Rotation(int(told["rotated"]), list(told["failed"]), list(told["in_progress"]))
