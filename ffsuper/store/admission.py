"""What the scheduler reads and writes: candidates of a lane, admission to quotas, blocks and grants."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ffsuper.errors import StoreError
from ffsuper.messages import ExecutionId, LaneId
from ffsuper.sansio.partition import PartitionCounts, of_bytes
from ffsuper.store import keys
from ffsuper.store.blocked import Blocked
from ffsuper.store.keys import ExecutionKeys, QuotaKeys
from ffsuper.store.looks import Index
from ffsuper.store.replies import Call, Part, Status, fcall

# Oldest executions of each priority and namespace, of one partition.
PICK = 4


@dataclass(frozen=True, slots=True)
class Waiting:
    """An execution that a worker might have next.

    Attributes:
        budget_ids: comma-separated, as in the record.
        quota_id: empty for none.
    """

    execution_id: ExecutionId
    priority: int
    created_at_ms: float
    namespace: str
    budget_ids: str
    quota_id: str


@dataclass(frozen=True, slots=True)
class Picked:
    """What a partition's lane has for a worker.

    Attributes:
        now_ms: the store's clock.
    """

    now_ms: int
    waiting: Sequence[Waiting]


@dataclass(frozen=True, slots=True)
class Quota:
    """A quota policy; 0 where it sets no limit."""

    rate: float
    window_s: float
    cap: float
    jitter_ms: float

    @property
    def is_limited(self) -> bool:
        """Whether it limits anything."""
        return self.rate > 0 or self.cap > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimant:
    """Who wants work.

    Attributes:
        capabilities: comma-separated, sorted.
        grant_ttl_ms: for how long it has to claim what it is granted.
    """

    worker_id: str
    instance_id: str
    capabilities: str
    grant_ttl_ms: int


class Admission(Blocked):
    """What the scheduler does in the store."""

    def __init__(self, connection: Any, counts: PartitionCounts) -> None:
        super().__init__(connection, counts)
        self.counts = counts

    async def pick(self, places: Sequence[Index], capabilities: str) -> list[Picked | StoreError]:
        """Return what eligible indexes have for a worker; what it cannot run is blocked on the way."""
        return await self._connection.try_all([pick(index, capabilities) for index in places])

    async def last_turns(self, lane: LaneId, namespaces: Sequence[str]) -> dict[str, float]:
        """Return when each namespace was last granted something of a lane, in ms; 0 for never."""
        if not namespaces:
            return {}
        read = Call(("ZMSCORE", keys.turns(lane), *namespaces), lambda reply: [float(part or 0) for part in reply])
        found: list[float] = await self._connection.run(read)
        return dict(zip(namespaces, found, strict=True))

    async def quotas(self, ids: Sequence[str]) -> dict[str, Quota]:
        """Return quota policies by their ids; those that cannot be read limit nothing."""
        known = {text: at for text in ids if (at := self._quota_keys(text)) is not None}
        found: list[Quota | None] = await self._read([read_quota(at) for at in known.values()])
        return {text: quota for text, quota in zip(known, found, strict=True) if quota is not None}

    async def admit(self, waiting: Waiting, quota: Quota, now_ms: int) -> str:
        """Ask a quota to admit an execution; return what it says, ``ADMITTED`` for instance."""
        at = QuotaKeys(of_bytes(uuid.UUID(waiting.quota_id).bytes, self.counts.quota), waiting.quota_id)
        return await self._connection.run(admit(waiting.execution_id, at, quota, now_ms))

    async def give_back(self, waiting: Waiting) -> None:
        """Give an admission back, if that can be done now."""
        at = QuotaKeys(of_bytes(uuid.UUID(waiting.quota_id).bytes, self.counts.quota), waiting.quota_id)
        await self._connection.try_all([release(waiting.execution_id, at)])

    async def block(self, lane: LaneId, waiting: Waiting, name: str, reason: str, detail: str, now_ms: int) -> None:
        """Set an execution aside; a refusal means that it is not there to be set aside any more."""
        await self._connection.try_all([block(lane, waiting.execution_id, name, reason, detail, now_ms)])

    async def grant(self, lane: LaneId, waiting: Waiting, claimant: Claimant, now_ms: int) -> StoreError | None:
        """Grant an execution to a worker, and note that its namespace has had its turn."""
        granted, _ = await self._connection.try_all(
            [grant(lane, waiting.execution_id, claimant), note_turn(lane, waiting.namespace, now_ms)]
        )
        return granted if isinstance(granted, StoreError) else None


def pick(index: Index, capabilities: str) -> Call[Picked]:
    """Ask one partition."""

    def parse(status: Status) -> Picked:
        texts = iter([field.decode(errors="replace") for field in status.fields[1:]])
        found = [
            Waiting(ExecutionId(execution_id), int(number(priority)), number(created_at), namespace, budgets, quota)
            for execution_id, priority, created_at, namespace, budgets, quota in zip(*[texts] * 6, strict=True)
            if keys.is_execution_id(execution_id)
        ]
        return Picked(status.number(0), found)

    return fcall("ffsuper_pick", (index.key, index.beside("blocked:route")), (capabilities, PICK), parse)


def number(text: str) -> float:
    """Read a number; 0 for what is none."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def read_quota(at: QuotaKeys) -> Call[Quota]:
    """Read a quota policy."""
    fields = ("max_requests_per_window", "requests_per_window_seconds", "active_concurrency_cap", "jitter_ms")

    def parse(reply: Sequence[bytes | None]) -> Quota:
        rate, window_s, cap, jitter_ms = (number((part or b"").decode(errors="replace")) for part in reply)
        return Quota(rate, window_s if reply[1] is not None else 60.0, cap, jitter_ms)

    return Call(("HMGET", at.definition, *fields), parse)


def admit(execution_id: ExecutionId, at: QuotaKeys, quota: Quota, now_ms: int) -> Call[str]:
    """Ask a quota; its answer is a bare list."""
    args = (now_ms, quota.window_s, quota.rate, quota.cap, execution_id, quota.jitter_ms)
    touched = (at.window, at.concurrency, at.definition, at.admitted(execution_id), at.admitted_set)
    texts = [str(one) for one in args]
    command: tuple[Part, ...] = ("FCALL", "ff_check_admission_and_record", len(touched), *touched, *texts)
    return Call(command, lambda reply: bytes(reply[0]).decode() if isinstance(reply[0], bytes) else "REFUSED")


def release(execution_id: ExecutionId, at: QuotaKeys) -> Call[None]:
    """Give an admission back."""
    touched = (at.admitted(execution_id), at.admitted_set, at.concurrency)
    return fcall("ff_release_admission", touched, (execution_id,), lambda _: None)


def block(lane: LaneId, execution_id: ExecutionId, name: str, reason: str, detail: str, now_ms: int) -> Call[None]:
    """Set an execution aside into the lane's index of that name."""
    at = ExecutionKeys.of(execution_id)
    touched = (at.core, at.partition.lane(lane, "eligible"), at.partition.lane(lane, name))
    return fcall("ff_block_execution_for_admission", touched, (execution_id, reason, detail, now_ms), lambda _: None)


def grant(lane: LaneId, execution_id: ExecutionId, claimant: Claimant) -> Call[None]:
    """Grant an execution."""
    at = ExecutionKeys.of(execution_id)
    return fcall(
        "ff_issue_claim_grant",
        (at.core, at.part("claim_grant"), at.partition.lane(lane, "eligible")),
        (
            *(execution_id, claimant.worker_id, claimant.instance_id, lane),
            *("", claimant.grant_ttl_ms, "", "", claimant.capabilities),
        ),
        lambda _: None,
    )


def note_turn(lane: LaneId, namespace: str, now_ms: int) -> Call[None]:
    """Note that a namespace has had its turn."""
    return Call(("ZADD", keys.turns(lane), now_ms, namespace), lambda _: None)
