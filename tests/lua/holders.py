"""What the tests of leases and endings share: their calls by name, and the state that shows every write.

Executions are created, granted and claimed by the library itself. A test then fills the fields that the function
under test does not read with POISON: what it writes differs from that, whatever the value, and what it must not write
does not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ffsuper.store.keys import ExecutionKeys
from tests.lua.executions import WORKER, Claimed, claim, lane_key
from tests.lua.suspensions import WAITPOINT, changed, put
from tests.lua.world import Arg, World, decoded

COMPLETIONS = "ff:dag:completions"
FLOW = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
FAR_MS = 4102444800000  # the year 2100
POISON = "?"
OUTDATED = {"lease_expires_at": "1000"}

RELEASED = {
    "ownership_state": "unowned",
    "current_lease_id": "",
    "current_worker_id": "",
    "current_worker_instance_id": "",
    "lease_expires_at": "",
    "lease_last_renewed_at": "",
    "lease_renewal_deadline": "",
}
ENDED = {
    "lifecycle_phase": "terminal",
    "eligibility_state": "not_applicable",
    "blocking_reason": "none",
    "blocking_detail": "",
}
# What the lease guard reads, and every function behind it.
GUARDED = (
    *("lifecycle_phase", "ownership_state", "lease_expires_at", "current_lease_id", "current_lease_epoch"),
    *("current_attempt_id", "current_attempt_index"),
)


def fence(lease: Claimed) -> dict[str, Arg]:
    """Return the arguments that prove who calls."""
    return {
        "execution_id": lease.execution_id,
        "lease_id": lease.lease_id,
        "lease_epoch": lease.epoch,
        "attempt_id": lease.attempt_id,
    }


def complete(world: World, lease: Claimed, **changes: Any) -> Any:
    """Call ff_complete_execution, by default without a result."""
    keys, index = lease.keys, lease.keys.partition.index
    call_keys = [
        keys.core,
        lease.attempt,
        index("lease_expiry"),
        keys.partition.worker_leases(WORKER),
        lane_key(keys, "terminal"),
        keys.part("lease:current"),
        keys.part("lease:history"),
        lane_key(keys, "active"),
        keys.stream_meta(lease.index),
        keys.part("result"),
        index("attempt_timeout"),
        index("execution_deadline"),
    ]
    return world.call("ff_complete_execution", call_keys, changed({**fence(lease), "result": ""}, changes))


def fail(world: World, lease: Claimed, policy: Any = "", **changes: Any) -> Any:
    """Call ff_fail_execution; a policy that is no text is sent as JSON."""
    keys, index = lease.keys, lease.keys.partition.index
    call_keys = [
        keys.core,
        lease.attempt,
        index("lease_expiry"),
        keys.partition.worker_leases(WORKER),
        lane_key(keys, "terminal"),
        lane_key(keys, "delayed"),
        keys.part("lease:current"),
        keys.part("lease:history"),
        lane_key(keys, "active"),
        keys.stream_meta(lease.index),
        index("attempt_timeout"),
        index("execution_deadline"),
    ]
    args: dict[str, Arg] = {
        **fence(lease),
        "failure_reason": "it broke",
        "failure_category": "exception",
        "retry_policy": policy if isinstance(policy, str) else json.dumps(policy),
    }
    return world.call("ff_fail_execution", call_keys, changed(args, changes))


def delay(world: World, lease: Claimed, **changes: Any) -> Any:
    """Call ff_delay_execution, by default until the year 2100."""
    args = changed({**fence(lease), "delay_until": FAR_MS}, changes)
    return world.call("ff_delay_execution", pause_keys(lease, "delayed"), args)


def wait_for_children(world: World, lease: Claimed, **changes: Any) -> Any:
    """Call ff_move_to_waiting_children."""
    call_keys = pause_keys(lease, "blocked:dependencies")
    return world.call("ff_move_to_waiting_children", call_keys, changed(fence(lease), changes))


def pause_keys(lease: Claimed, index: str) -> list[str]:
    """Return the keys of a pause that puts the execution into an index of its lane."""
    keys = lease.keys
    return [
        keys.core,
        lease.attempt,
        keys.part("lease:current"),
        keys.part("lease:history"),
        keys.partition.index("lease_expiry"),
        keys.partition.worker_leases(WORKER),
        lane_key(keys, "active"),
        lane_key(keys, index),
        keys.partition.index("attempt_timeout"),
    ]


def renew(world: World, lease: Claimed, **changes: Any) -> Any:
    """Call ff_renew_lease, by default for a minute."""
    keys = lease.keys
    args: dict[str, Arg] = {
        "execution_id": keys.id,
        "attempt_index": str(lease.index),
        "attempt_id": lease.attempt_id,
        "lease_id": lease.lease_id,
        "lease_epoch": lease.epoch,
        "lease_ttl_ms": "60000",
        "lease_history_grace_ms": "5000",
    }
    call_keys = [keys.core, *lease_parts(keys), keys.partition.index("lease_expiry")]
    return world.call("ff_renew_lease", call_keys, changed(args, changes))


def mark(world: World, keys: ExecutionKeys, *args: Arg) -> Any:
    """Call ff_mark_lease_expired_if_due with these arguments."""
    lease_current, lease_history = lease_parts(keys)
    call_keys = [keys.core, lease_current, keys.partition.index("lease_expiry"), lease_history]
    return world.call("ff_mark_lease_expired_if_due", call_keys, list(args))


def revoke(world: World, keys: ExecutionKeys, *args: Arg) -> Any:
    """Call ff_revoke_lease with these arguments."""
    partition = keys.partition
    call_keys = [keys.core, *lease_parts(keys), partition.index("lease_expiry"), partition.worker_leases(WORKER)]
    return world.call("ff_revoke_lease", call_keys, list(args))


def lease_parts(keys: ExecutionKeys) -> list[str]:
    """Return the keys of the lease and of its history."""
    return [keys.part("lease:current"), keys.part("lease:history")]


def cancel_keys(keys: ExecutionKeys) -> list[str]:
    """Return the keys of ff_cancel_execution, for attempt 0 and the waitpoint of ``suspensions``."""
    partition = keys.partition
    blocked = ("dependencies", "budget", "quota", "route", "operator")
    return [
        keys.core,
        keys.attempt(0),
        keys.stream_meta(0),
        *lease_parts(keys),
        partition.index("lease_expiry"),
        partition.worker_leases(WORKER),
        keys.part("suspension:current"),
        keys.waitpoint(WAITPOINT),
        keys.waitpoint(WAITPOINT, "condition"),
        partition.index("suspension_timeout"),
        lane_key(keys, "terminal"),
        partition.index("attempt_timeout"),
        partition.index("execution_deadline"),
        lane_key(keys, "eligible"),
        lane_key(keys, "delayed"),
        *(lane_key(keys, f"blocked:{reason}") for reason in blocked),
    ]


def cancel(world: World, keys: ExecutionKeys, **changes: Any) -> Any:
    """Call ff_cancel_execution, by default as an operator."""
    args: dict[str, Arg] = {
        "execution_id": keys.id,
        "reason": "no longer needed",
        "source": "operator_override",
        "lease_id": "",
        "lease_epoch": "",
    }
    return world.call("ff_cancel_execution", cancel_keys(keys), changed(args, changes))


def expire(world: World, keys: ExecutionKeys, *args: Arg) -> Any:
    """Call ff_expire_execution as the sweeps do: with the lease index of no instance."""
    partition = keys.partition
    call_keys = [
        keys.core,
        keys.attempt(0),
        keys.stream_meta(0),
        *lease_parts(keys),
        partition.index("lease_expiry"),
        partition.worker_leases(""),
        lane_key(keys, "active"),
        lane_key(keys, "terminal"),
        partition.index("attempt_timeout"),
        partition.index("execution_deadline"),
        lane_key(keys, "suspended"),
        partition.index("suspension_timeout"),
        keys.part("suspension:current"),
    ]
    return world.call("ff_expire_execution", call_keys, list(args))


def promote(world: World, keys: ExecutionKeys, *args: Arg) -> Any:
    """Call ff_promote_delayed with these arguments."""
    call_keys = [keys.core, lane_key(keys, "delayed"), lane_key(keys, "eligible")]
    return world.call("ff_promote_delayed", call_keys, list(args))


def claim_beside_another(world: World) -> Claimed:
    """Claim one of two executions that share all indexes, with an attempt timeout and a deadline."""
    leases = [claim(world, attempt_timeout_ms=60_000, execution_deadline=FAR_MS) for _ in range(2)]
    return leases[0]


def held(world: World, lease: Claimed) -> dict[str, Any]:
    """Return all that belongs to a lease: what its release removes."""
    keys = lease.keys
    indexes = [
        keys.partition.index("lease_expiry"),
        lane_key(keys, "active"),
        keys.partition.index("attempt_timeout"),
    ]
    return {
        **{index: member(world, index, keys) for index in indexes},
        keys.partition.worker_leases(WORKER): {keys.id},
        keys.part("lease:current"): world.value(keys.part("lease:current")),
    }


def member(world: World, index: str, keys: ExecutionKeys) -> dict[str, float]:
    """Return the execution's entry in a sorted set."""
    return {keys.id: world.value(index)[keys.id]}


def poison(world: World, key: str, *, keep: Iterable[str]) -> None:
    """Fill all fields of a hash with POISON, except those that the function under test reads."""
    put(world, key, **dict.fromkeys(world.value(key).keys() - set(keep), POISON))


def since(before_ms: int, world: World, written: str) -> str:
    """Return a written time, having made sure that it is one from ``before_ms`` until now."""
    assert before_ms <= int(written) <= world.now_ms()
    return written


def open_stream(world: World, keys: ExecutionKeys) -> str:
    """Describe an open output stream of attempt 0; return its key."""
    put(world, keys.stream_meta(0), stream_id="s", closed_at="", closed_reason="")
    return keys.stream_meta(0)


@contextmanager
def published(world: World) -> Iterator[list[str]]:
    """Collect the completions that the block publishes; read them after the block."""
    found: list[str] = []
    with world.redis.pubsub() as subscription:  # type: ignore[no-untyped-call]
        subscription.subscribe(COMPLETIONS)
        messages = subscription.listen()
        assert next(messages)["type"] == "subscribe"
        yield found
        world.command("PUBLISH", COMPLETIONS, "end")
        found += iter(lambda: str(decoded(next(messages)["data"])), "end")
