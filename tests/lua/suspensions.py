"""What the tests of suspensions, waitpoints and signals share: one execution on partition 7, and its calls by name.

Records are written as they stand after a claim, so that each test can also start from damaged ones.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ffsuper.messages import ExecutionId, LaneId
from ffsuper.store.announcements import ELIGIBLE
from ffsuper.store.keys import ExecutionKeys
from tests.lua.world import Arg, World

EXECUTION = ExecutionId("{fp:7}:550e8400-e29b-41d4-a716-446655440000")
OTHER = ExecutionId("{fp:7}:6ba7b810-9dad-11d1-80b4-00c04fd430c8")
WAITPOINT = "6f9619ff-8b86-4d01-b42d-00c04fc964ff"
WAITPOINT_KEY = f"wpk:{WAITPOINT}"
WAITPOINT_2 = "11111111-2222-3333-4444-555555555555"
SECRET = "0123456789abcdef" * 4
WORKER = "w1"
CREATED_AT = 1700000000000
SCORE = CREATED_AT - 3 * 10**12
FAR_MS = 4102444800000  # the year 2100
SUMMARY = '{"total_count":0,"matched_count":0,"signal_names":[]}'
UNSET = object()

KEYS = ExecutionKeys.of(EXECUTION)
HMAC = KEYS.partition.waitpoint_hmac
SUSPENSION_TIMEOUT = KEYS.partition.index("suspension_timeout")
PENDING = KEYS.partition.index("pending_waitpoint_expiry")
SUSPENSION = KEYS.part("suspension:current")

SUSPEND: dict[str, Arg] = {
    "execution_id": EXECUTION,
    "attempt_index": "0",
    "attempt_id": "attempt-1",
    "lease_id": "lease-1",
    "lease_epoch": "1",
    "suspension_id": "suspension-1",
    "waitpoint_id": WAITPOINT,
    "waitpoint_key": WAITPOINT_KEY,
    "reason_code": "waiting_for_approval",
    "requested_by": "worker",
    "timeout_at": "",
    "resume_condition_json": "{}",
    "resume_policy_json": '{"resume_target":"runnable"}',
    "continuation_metadata_pointer": "",
    "use_pending_waitpoint": "",
    "timeout_behavior": "fail",
    "lease_history_maxlen": "1000",
}


def lane(index: str) -> str:
    """Return an index of the execution's lane."""
    return KEYS.partition.lane(LaneId("default"), index)


def changed(arguments: dict[str, Arg], changes: dict[str, Any]) -> list[Arg]:
    """Return the arguments with changes by name; UNSET cuts the list off before that name."""
    assert changes.keys() <= arguments.keys()
    values: list[Arg] = []
    for value in {**arguments, **changes}.values():
        if value is UNSET:
            break
        values.append(value)
    return values


def named_waitpoint(changes: dict[str, Any]) -> str:
    """Return the waitpoint whose keys a call gets."""
    waitpoint_id = changes.get("waitpoint_id", UNSET)
    return WAITPOINT if waitpoint_id is UNSET else str(waitpoint_id)


def put(world: World, key: str, **fields: Arg) -> None:
    """Set fields of a hash."""
    world.command("HSET", key, *(part for pair in fields.items() for part in pair))


def install_secret(world: World, secret: str = SECRET, kid: str = "k1") -> None:
    """Make a secret the current one."""
    world.command("HSET", HMAC, "current_kid", kid, f"secret:{kid}", secret)


def signed(
    secret: str = SECRET,
    waitpoint_id: str = WAITPOINT,
    waitpoint_key: str = WAITPOINT_KEY,
    created_at: str = "1700000000000",
    kid: str = "k1",
) -> str:
    """Return the token of a waitpoint, computed apart from the library."""
    message = f"{waitpoint_id}|{waitpoint_key}|{created_at}".encode()
    return f"{kid}:{hmac.new(bytes.fromhex(secret), message, hashlib.sha1).hexdigest()}"


def put_active(world: World, **core: Arg) -> None:
    """Write an execution as a claim leaves it, and the secret."""
    install_secret(world)
    record: dict[str, Arg] = {
        "execution_id": EXECUTION,
        "lane_id": "default",
        "lifecycle_phase": "active",
        "ownership_state": "leased",
        "eligibility_state": "not_applicable",
        "blocking_reason": "none",
        "blocking_detail": "",
        "terminal_outcome": "none",
        "attempt_state": "running_attempt",
        "public_state": "active",
        "priority": "3",
        "created_at": CREATED_AT,
        "delay_until": "",
        "current_attempt_index": "0",
        "current_attempt_id": "attempt-1",
        "current_lease_id": "lease-1",
        "current_lease_epoch": "1",
        "current_worker_id": "pool",
        "current_worker_instance_id": WORKER,
        "lease_expires_at": FAR_MS,
        "lease_last_renewed_at": "5",
        "lease_renewal_deadline": "6",
        "current_suspension_id": "",
        "current_waitpoint_id": "",
    }
    put(world, KEYS.core, **{**record, **core})
    put(world, KEYS.attempt(0), attempt_state="started", lease_id="lease-1")
    put(world, KEYS.part("lease:current"), lease_id="lease-1")
    for index in (lane("active"), KEYS.partition.index("lease_expiry"), KEYS.partition.index("attempt_timeout")):
        world.command("ZADD", index, FAR_MS, EXECUTION)
    world.command("SADD", KEYS.partition.worker_leases(WORKER), EXECUTION)


def put_suspended(world: World, condition: Any = None, **suspension: Any) -> str:
    """Suspend the execution on WAITPOINT, then set fields of its suspension record; return the waitpoint's token."""
    put_active(world)
    reply = suspend(world, resume_condition_json=json.dumps(condition or {}))
    assert reply[:2] == [1, "OK"]
    if suspension:
        put(world, SUSPENSION, **suspension)
    return str(reply[5])


def put_pending(world: World, waitpoint_id: str = WAITPOINT) -> str:
    """Create a pending waitpoint of an active execution; return its token."""
    reply = create_pending(world, waitpoint_id=waitpoint_id, waitpoint_key=f"wpk:{waitpoint_id}")
    assert reply[:2] == [1, "OK"]
    return str(reply[4])


def field(world: World, key: str, name: str) -> Any:
    """Return one field of a hash, or None."""
    return world.value(key).get(name)


@contextmanager
def nothing_published(world: World) -> Iterator[None]:
    """Assert that the block publishes nothing but that there is something to do."""
    with world.messages() as found:
        yield
    assert [channel for channel, _ in found if not channel.startswith(ELIGIBLE)] == []


def suspend(world: World, **changes: Any) -> Any:
    """Call ff_suspend_execution."""
    args = changed(SUSPEND, changes)
    return world.call("ff_suspend_execution", suspend_keys(named_waitpoint(changes)), args)


def suspend_keys(waitpoint_id: str) -> list[str]:
    """Return the keys of ff_suspend_execution."""
    return [
        KEYS.core,
        KEYS.attempt(0),
        KEYS.part("lease:current"),
        KEYS.part("lease:history"),
        KEYS.partition.index("lease_expiry"),
        KEYS.partition.worker_leases(WORKER),
        SUSPENSION,
        KEYS.waitpoint(waitpoint_id),
        KEYS.waitpoint(waitpoint_id, "signals"),
        SUSPENSION_TIMEOUT,
        PENDING,
        lane("active"),
        lane("suspended"),
        KEYS.part("waitpoints"),
        KEYS.waitpoint(waitpoint_id, "condition"),
        KEYS.partition.index("attempt_timeout"),
        HMAC,
    ]


def resume(world: World, *args: Arg) -> Any:
    """Call ff_resume_execution, by default without a delay."""
    keys = [
        KEYS.core,
        SUSPENSION,
        KEYS.waitpoint(WAITPOINT),
        KEYS.waitpoint(WAITPOINT, "signals"),
        SUSPENSION_TIMEOUT,
        *(lane(index) for index in ("eligible", "delayed", "suspended")),
    ]
    return world.call("ff_resume_execution", keys, list(args or (EXECUTION, "operator", "0")))


CREATE_PENDING: dict[str, Arg] = {
    "execution_id": EXECUTION,
    "attempt_index": "0",
    "waitpoint_id": WAITPOINT,
    "waitpoint_key": WAITPOINT_KEY,
    "expires_at": FAR_MS,
}


def create_pending(world: World, *, hmac_secrets: Any = HMAC, **changes: Any) -> Any:
    """Call ff_create_pending_waitpoint; without the secrets' key when that is None."""
    args = changed(CREATE_PENDING, changes)
    waitpoint = KEYS.waitpoint(named_waitpoint(changes))
    keys = [KEYS.core, waitpoint, PENDING] + ([] if hmac_secrets is None else [hmac_secrets])
    return world.call("ff_create_pending_waitpoint", keys, args)


def expire(world: World, *args: Arg) -> Any:
    """Call ff_expire_suspension."""
    keys = [
        KEYS.core,
        SUSPENSION,
        KEYS.waitpoint(WAITPOINT),
        KEYS.waitpoint(WAITPOINT, "condition"),
        KEYS.attempt(0),
        KEYS.stream_meta(0),
        SUSPENSION_TIMEOUT,
        *(lane(index) for index in ("suspended", "terminal", "eligible", "delayed")),
        KEYS.part("lease:history"),
    ]
    return world.call("ff_expire_suspension", keys, list(args))
