"""What the tests of executions share: an execution's keys, and the calls of its life by name.

``create``, ``grant`` and ``claim`` assert that the call succeeds; ``call_…`` return any reply. Arguments are changed
by name, and UNSET cuts them off before that name.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from ffsuper.messages import ExecutionId, LaneId
from ffsuper.store.keys import ExecutionKeys
from tests.lua.suspensions import UNSET, changed, put
from tests.lua.world import Arg, World

LANE = LaneId("default")
POOL = "pool"
WORKER = "w1"
RECLAIMER = "w2"
TTL_MS = 30_000

CREATE: dict[str, Arg] = {
    "execution_id": "",
    "namespace": "ns",
    "lane_id": LANE,
    "execution_kind": "thumbnail",
    "priority": "3",
    "creator_identity": "me",
    "policy": "{}",
    "payload": "input",
    "delay_until": "",
    "dedup_ttl_ms": "",
    "tags": "{}",
    "execution_deadline": "",
    "partition_id": "7",
}
GRANT: dict[str, Arg] = {
    "execution_id": "",
    "worker_id": POOL,
    "worker_instance_id": WORKER,
    "lane_id": LANE,
    "capability_hash": "",
    "grant_ttl_ms": "5000",
    "route_snapshot_json": "",
    "admission_summary": "",
    "capabilities": "",
}
CLAIM: dict[str, Arg] = {
    "execution_id": "",
    "worker_id": POOL,
    "worker_instance_id": WORKER,
    "lane_id": LANE,
    "capability_hash": "",
    "lease_id": "",
    "lease_ttl_ms": TTL_MS,
    "renew_before_ms": TTL_MS * 2 // 3,
    "attempt_id": "",
    "attempt_policy": "{}",
    "attempt_timeout_ms": "",
    "execution_deadline": "",
}
CLAIM_RESUMED: dict[str, Arg] = {
    "execution_id": "",
    "worker_id": POOL,
    "worker_instance_id": WORKER,
    "lane_id": LANE,
    "capability_hash": "",
    "lease_id": "",
    "lease_ttl_ms": TTL_MS,
    "attempt_timeout_ms": "",
}
RECLAIM: dict[str, Arg] = {
    "execution_id": "",
    "worker_id": POOL,
    "worker_instance_id": RECLAIMER,
    "lane_id": LANE,
    "lease_id": "",
    "lease_ttl_ms": TTL_MS,
    "attempt_id": "",
    "attempt_policy": "{}",
}


# What the end of a lease leaves in the record.
EXPIRED = {
    "ownership_state": "lease_expired_reclaimable",
    "blocking_reason": "waiting_for_worker",
    "blocking_detail": "lease expired, awaiting reclaim",
    "attempt_state": "attempt_interrupted",
    "lease_expired_at": "5",
}
REVOKED = {
    "ownership_state": "lease_revoked",
    "blocking_reason": "waiting_for_worker",
    "blocking_detail": "lease revoked: operator",
    "attempt_state": "attempt_interrupted",
    "lease_revoked_at": "5",
    "lease_revoke_reason": "operator",
}


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim of any kind answered.

    Attributes:
        keys: of the execution.
        expires_at: the lease's, ms on the server's clock.
        kind: ``initial``, ``retry``, ``replay``, ``resumed`` or ``reclaim``.
    """

    keys: ExecutionKeys
    lease_id: str
    epoch: str
    expires_at: int
    attempt_id: str
    index: int
    kind: str

    @property
    def execution_id(self) -> ExecutionId:
        return self.keys.id

    @property
    def attempt(self) -> str:
        """Key of the attempt's record."""
        return self.keys.attempt(self.index)


def new_keys(partition: int = 7) -> ExecutionKeys:
    """Return the keys of an execution that nobody has created."""
    return ExecutionKeys.of(ExecutionId(f"{{fp:{partition}}}:{uuid.uuid4()}"))


def lane_key(keys: ExecutionKeys, index: str, lane: str = LANE) -> str:
    """Return an index of a lane on the execution's partition."""
    return keys.partition.lane(LaneId(lane), index)


def with_id(keys: ExecutionKeys, changes: dict[str, Any]) -> dict[str, Any]:
    """Return the changes with the execution's id, unless they say otherwise."""
    return {"execution_id": keys.id, **changes}


def create(world: World, keys: ExecutionKeys | None = None, **changes: Any) -> ExecutionKeys:
    """Create an execution, by default a new one; return its keys."""
    keys = keys or new_keys()
    assert call_create(world, keys, **changes)[:3] == [1, "OK", keys.id]
    return keys


def call_create(world: World, keys: ExecutionKeys, *, idempotency: str | None = None, **changes: Any) -> Any:
    """Call ff_create_execution as the stock client does: with the delayed index when there is a delay."""
    delayed = changes.get("delay_until", "") not in ("", UNSET)
    call_keys = [
        keys.core,
        keys.part("payload"),
        keys.part("policy"),
        keys.part("tags"),
        lane_key(keys, "delayed" if delayed else "eligible", str(changes.get("lane_id", LANE))),
        keys.partition.noop if idempotency is None else idempotency,
        keys.partition.index("execution_deadline"),
        keys.partition.index("all_executions"),
    ]
    return world.call("ff_create_execution", call_keys, changed(CREATE, with_id(keys, changes)))


def grant(world: World, keys: ExecutionKeys, **changes: Any) -> None:
    """Grant the execution to the worker."""
    assert call_grant(world, keys, **changes) == [1, "OK", keys.id]


def call_grant(world: World, keys: ExecutionKeys, **changes: Any) -> Any:
    """Call ff_issue_claim_grant."""
    call_keys = [keys.core, keys.part("claim_grant"), lane_key(keys, "eligible")]
    return world.call("ff_issue_claim_grant", call_keys, changed(GRANT, with_id(keys, changes)))


def call_reclaim_grant(world: World, keys: ExecutionKeys, **changes: Any) -> Any:
    """Call ff_issue_reclaim_grant."""
    call_keys = [keys.core, keys.part("claim_grant"), keys.partition.index("lease_expiry")]
    return world.call("ff_issue_reclaim_grant", call_keys, changed(GRANT, with_id(keys, changes)))


def grant_reclaim(world: World, keys: ExecutionKeys) -> Any:
    """Grant the execution to the worker instance that reclaims it; return the grant's record."""
    assert call_reclaim_grant(world, keys, worker_instance_id=RECLAIMER) == [1, "OK", keys.id]
    return world.value(keys.part("claim_grant"))


def claim(world: World, keys: ExecutionKeys | None = None, **changes: Any) -> Claimed:
    """Grant the execution, by default a new one, and claim it."""
    keys = keys or create(world)
    grant(world, keys)
    return claimed(keys, call_claim(world, keys, **changes))


def call_claim(world: World, keys: ExecutionKeys, **changes: Any) -> Any:
    """Call ff_claim_execution with a new lease id and attempt id."""
    ids = {"lease_id": str(uuid.uuid4()), "attempt_id": str(uuid.uuid4())}
    worker = str(changes.get("worker_instance_id", WORKER))
    call_keys = [
        keys.core,
        keys.part("claim_grant"),
        lane_key(keys, "eligible"),
        keys.partition.index("lease_expiry"),
        keys.partition.worker_leases(worker),
        *(keys.attempt(0, part) for part in ("", "usage", "policy")),
        keys.part("attempts"),
        keys.part("lease:current"),
        keys.part("lease:history"),
        lane_key(keys, "active"),
        keys.partition.index("attempt_timeout"),
        keys.partition.index("execution_deadline"),
    ]
    return world.call("ff_claim_execution", call_keys, changed(CLAIM, with_id(keys, {**ids, **changes})))


def call_claim_resumed(world: World, keys: ExecutionKeys, **changes: Any) -> Any:
    """Call ff_claim_resumed_execution with a new lease id, for attempt 0."""
    worker = str(changes.get("worker_instance_id", WORKER))
    call_keys = [
        keys.core,
        keys.part("claim_grant"),
        lane_key(keys, "eligible"),
        keys.partition.index("lease_expiry"),
        keys.partition.worker_leases(worker),
        keys.attempt(0),
        keys.part("lease:current"),
        keys.part("lease:history"),
        lane_key(keys, "active"),
        keys.partition.index("attempt_timeout"),
        keys.partition.index("execution_deadline"),
    ]
    args = changed(CLAIM_RESUMED, with_id(keys, {"lease_id": str(uuid.uuid4()), **changes}))
    return world.call("ff_claim_resumed_execution", call_keys, args)


def call_reclaim(world: World, keys: ExecutionKeys, *, old_index: int = 0, **changes: Any) -> Any:
    """Call ff_reclaim_execution with a new lease id and attempt id, for another worker instance than the claim's."""
    ids = {"lease_id": str(uuid.uuid4()), "attempt_id": str(uuid.uuid4())}
    worker = str(changes.get("worker_instance_id", RECLAIMER))
    call_keys = [
        keys.core,
        keys.part("claim_grant"),
        keys.attempt(old_index),
        keys.stream_meta(old_index),
        keys.attempt(old_index + 1),
        keys.attempt(old_index + 1, "usage"),
        keys.part("attempts"),
        keys.part("lease:current"),
        keys.part("lease:history"),
        keys.partition.index("lease_expiry"),
        keys.partition.worker_leases(worker),
        lane_key(keys, "active"),
        keys.partition.index("attempt_timeout"),
        keys.partition.index("execution_deadline"),
    ]
    return world.call("ff_reclaim_execution", call_keys, changed(RECLAIM, with_id(keys, {**ids, **changes})))


def reclaimable(world: World, *, policy: str = "{}", **core: str) -> Claimed:
    """Claim a new execution with a timeout and a deadline, then set its record as an expired lease leaves it."""
    keys = create(world, policy=policy, execution_deadline="4102444800000")
    lease = claim(world, keys, attempt_timeout_ms="60000")
    put(world, keys.core, **{**EXPIRED, **core})
    return lease


def claimable(world: World, **core: str) -> ExecutionKeys:
    """Create and grant a new execution, then set fields of its record."""
    keys = create(world)
    grant(world, keys)
    if core:
        put(world, keys.core, **core)
    return keys


def claimed(keys: ExecutionKeys, reply: Any) -> Claimed:
    """Return what a successful claim of any kind answered."""
    assert reply[:2] == [1, "OK"], reply
    _, _, lease_id, epoch, expires_at, attempt_id, index, kind = reply
    return Claimed(keys, lease_id, epoch, int(expires_at), attempt_id, int(index), kind)
