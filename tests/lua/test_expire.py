"""ff_expire_execution: protocol 02, section 6.9."""

from __future__ import annotations

from typing import Any

import pytest

from ffsuper.store.keys import ExecutionKeys
from tests.lua.executions import claim, create, lane_key, new_keys
from tests.lua.holders import (
    ENDED,
    FAR_MS,
    FLOW,
    claim_beside_another,
    delay,
    expire,
    held,
    open_stream,
    poison,
    published,
    since,
)
from tests.lua.suspensions import EXECUTION, KEYS, SUSPENSION, WAITPOINT, lane, put, put_suspended
from tests.lua.world import World

READ = (
    *("lifecycle_phase", "current_attempt_index", "current_lease_id", "current_lease_epoch", "eligibility_state"),
    *("current_worker_instance_id", "attempt_state", "lane_id", "current_lane"),
)
LANE_INDEXES = {
    "eligible_now": "eligible",
    "not_eligible_until_time": "delayed",
    "blocked_by_dependencies": "blocked:dependencies",
    "blocked_by_budget": "blocked:budget",
    "blocked_by_quota": "blocked:quota",
    "blocked_by_route": "blocked:route",
    "blocked_by_operator": "blocked:operator",
}


def expired_core(now: str, *already: str) -> dict[str, str]:
    """What an expiry changes in a poisoned record, besides the fields that have their last value already."""
    written = {
        **ENDED,
        "ownership_state": "unowned",
        "terminal_outcome": "expired",
        "attempt_state": "attempt_terminal",
        "public_state": "expired",
        "failure_reason": "execution_deadline",
        "completed_at": now,
        "current_lease_id": "",
        "current_worker_id": "",
        "current_worker_instance_id": "",
        "lease_expires_at": "",
        "current_suspension_id": "",
        "current_waitpoint_id": "",
        "last_transition_at": now,
        "last_mutation_at": now,
    }
    return {name: value for name, value in written.items() if name not in already}


def expired_attempt(now: str) -> dict[str, str]:
    return {"attempt_state": "ended_failure", "ended_at": now, "failure_reason": "execution_deadline"}


def put_in_timeouts(world: World, keys: ExecutionKeys) -> dict[str, Any]:
    """Give the execution, and another one, an attempt timeout and a deadline; return what an expiry removes of it."""
    indexes = [keys.partition.index(name) for name in ("attempt_timeout", "execution_deadline")]
    for index in indexes:
        world.redis.zadd(index, {keys.id: 5, "another": 6})
    return {index: {keys.id: 5} for index in indexes}


def test_expiring_an_active_execution_ends_its_attempt_and_releases_its_lease(world: World) -> None:
    lease = claim_beside_another(world)
    keys, stream_meta, before = lease.keys, open_stream(world, lease.keys), world.now_ms()
    poison(world, keys.core, keep=READ)
    lost = held(world, lease)
    with world.changes() as c:
        assert expire(world, keys, keys.id, "execution_deadline") == [1, "OK", "expired", "active"]
    now = since(before, world, c.written[lease.attempt]["ended_at"])
    assert c.written == {
        keys.core: expired_core(now, "eligibility_state"),
        lease.attempt: expired_attempt(now),
        stream_meta: {"closed_at": now, "closed_reason": "expired"},
        lane_key(keys, "terminal"): {keys.id: float(now)},
        keys.part("lease:history"): [
            (
                *("event", "released", "lease_id", lease.lease_id, "lease_epoch", "1", "attempt_index", "0"),
                *("reason", "expired:execution_deadline", "ts", now),
            )
        ],
    }
    assert c.removed == {**lost, keys.partition.index("execution_deadline"): {keys.id: FAR_MS}}


def test_the_passed_lease_index_of_an_instance_is_cleared_as_well(world: World) -> None:
    lease = claim(world)
    passed = lease.keys.partition.worker_leases("")
    world.redis.sadd(passed, lease.execution_id)
    expire(world, lease.keys, lease.execution_id)
    assert world.value(passed) is None


def test_expiring_a_suspended_execution_closes_its_suspension_but_not_its_waitpoint(world: World) -> None:
    put_suspended(world)
    stream_meta, before = open_stream(world, KEYS), world.now_ms()
    world.redis.zadd(KEYS.partition.index("suspension_timeout"), {EXECUTION: FAR_MS})
    lost = put_in_timeouts(world, KEYS)
    poison(world, KEYS.core, keep=READ)
    with world.changes() as c:
        assert expire(world, KEYS, EXECUTION, "execution_deadline") == [1, "OK", "expired", "suspended"]
    now = since(before, world, c.written[KEYS.attempt(0)]["ended_at"])
    already = ("eligibility_state", "current_lease_id", "current_worker_instance_id")
    assert c.written == {
        KEYS.core: expired_core(now, *already),
        KEYS.attempt(0): expired_attempt(now),
        stream_meta: {"closed_at": now, "closed_reason": "expired"},
        SUSPENSION: {"closed_at": now, "close_reason": "expired:execution_deadline"},
        lane("terminal"): {EXECUTION: float(now)},
    }
    assert c.removed == {
        lane("suspended"): {EXECUTION: 9999999999999},
        KEYS.partition.index("suspension_timeout"): {EXECUTION: FAR_MS},
        **lost,
    }
    assert world.value(KEYS.waitpoint(WAITPOINT))["state"] == "active"


@pytest.mark.parametrize("make", [put_suspended, None])
def test_an_expiry_makes_no_records_that_are_not_there(world: World, make: Any) -> None:
    keys = KEYS if make else claim(world).keys
    if make:
        make(world)
    absent = [keys.part("suspension:current"), keys.stream_meta(0)]
    world.redis.delete(*absent)
    assert expire(world, keys, keys.id)[2] == "expired"
    assert [world.value(key) for key in absent] == [None, None]


@pytest.mark.parametrize("phase", ["active", "suspended"])
def test_an_execution_without_an_attempt_gets_no_attempt_record(world: World, phase: str) -> None:
    keys = create(world)
    put(world, keys.core, lifecycle_phase=phase)
    assert expire(world, keys, keys.id) == [1, "OK", "expired", phase]
    assert world.value(keys.attempt(0)) is None
    assert world.value(keys.core)["attempt_state"] == "pending_first_attempt"


@pytest.mark.parametrize(("eligibility_state", "index"), LANE_INDEXES.items())
def test_a_runnable_execution_leaves_the_index_that_its_state_names(
    world: World, eligibility_state: str, index: str
) -> None:
    keys = put_runnable(world, eligibility_state)
    timeouts = put_in_timeouts(world, keys)
    with world.changes() as c:
        assert expire(world, keys, keys.id, "execution_deadline") == [1, "OK", "expired", "runnable"]
    now = c.written[keys.core]["completed_at"]
    assert c.removed == {lane_key(keys, index): {keys.id: 5}, **timeouts}
    already = ("attempt_state", "current_lease_id", "current_worker_instance_id")
    assert c.written == {
        keys.core: expired_core(now, *already),
        lane_key(keys, "terminal"): {keys.id: float(now)},
    }


@pytest.mark.parametrize("eligibility_state", ["blocked_by_lane_state", "not_applicable", "", None])
def test_a_runnable_execution_whose_state_names_no_index_leaves_all(
    world: World, eligibility_state: str | None
) -> None:
    keys = put_runnable(world, eligibility_state or "")
    if eligibility_state is None:
        world.command("HDEL", keys.core, "eligibility_state")
    with world.changes() as c:
        expire(world, keys, keys.id)
    assert c.removed == {lane_key(keys, index): {keys.id: 5} for index in LANE_INDEXES.values()}


def put_runnable(world: World, eligibility_state: str) -> ExecutionKeys:
    """Write a runnable execution that is, with another one, in all indexes of its lane."""
    keys = create(world)
    poison(world, keys.core, keep=READ)
    put(world, keys.core, eligibility_state=eligibility_state)
    for index in LANE_INDEXES.values():
        world.redis.zadd(lane_key(keys, index), {keys.id: 5, "another": 6})
    return keys


@pytest.mark.parametrize(
    ("fields", "lane_id"), [(("nothing",), "gpu"), (("lane_id",), "cpu"), (("lane_id", "current_lane"), "default")]
)
def test_the_lane_of_a_runnable_execution_is_the_records(world: World, fields: tuple[str, ...], lane_id: str) -> None:
    keys = create(world, lane_id="gpu")
    put(world, keys.core, current_lane="cpu")
    world.command("HDEL", keys.core, *fields)
    world.redis.zadd(lane_key(keys, "eligible", lane_id), {keys.id: 5, "another": 6})
    expire(world, keys, keys.id)
    assert world.value(lane_key(keys, "eligible", lane_id)) == {"another": 6}


def test_a_paused_attempt_keeps_its_record_and_its_open_stream(world: World) -> None:
    lease = claim(world)
    delay(world, lease)
    open_stream(world, lease.keys)
    with world.changes() as c:
        assert expire(world, lease.keys, lease.execution_id) == [1, "OK", "expired", "runnable"]
    assert c.written.keys() == {lease.keys.core, lane_key(lease.keys, "terminal")}
    assert world.value(lease.keys.core)["attempt_state"] == "attempt_terminal"


def test_a_lease_that_has_been_marked_or_revoked_is_ended_as_well(world: World) -> None:
    for ownership_state in ("lease_expired_reclaimable", "lease_revoked"):
        lease = claim(world)
        put(world, lease.keys.core, ownership_state=ownership_state)
        assert expire(world, lease.keys, lease.execution_id) == [1, "OK", "expired", "active"]


@pytest.mark.parametrize("phase", ["submitted", None])
def test_an_execution_in_no_phase_of_its_own_is_ended(world: World, phase: str | None) -> None:
    keys = create(world)
    put(world, keys.core, lifecycle_phase=phase or "")
    if phase is None:
        world.command("HDEL", keys.core, "lifecycle_phase", "attempt_state")
    assert expire(world, keys, keys.id) == [1, "OK", "expired", phase or ""]
    core = world.value(keys.core)
    assert core["attempt_state"] == ("pending_first_attempt" if phase else "none")
    assert core["lifecycle_phase"] == "terminal"


@pytest.mark.parametrize(("args", "reason"), [((), "attempt_timeout"), (("",), ""), (("why",), "why")])
def test_the_reason_is_kept_and_is_the_attempts_timeout_when_absent(
    world: World, args: tuple[str, ...], reason: str
) -> None:
    lease = claim(world)
    expire(world, lease.keys, lease.execution_id, *args)
    assert world.value(lease.keys.core)["failure_reason"] == reason
    assert world.value(lease.attempt)["failure_reason"] == reason


def test_an_execution_that_is_gone_leaves_the_timeouts(world: World) -> None:
    keys = new_keys()
    lost = put_in_timeouts(world, keys)
    with world.changes() as c:
        assert expire(world, keys, keys.id) == [1, "OK", "not_found_cleaned"]
    assert (c.written, c.removed) == ({}, lost)


def test_an_execution_that_has_ended_leaves_the_timeouts(world: World) -> None:
    keys = create(world)
    expire(world, keys, keys.id)
    lost = put_in_timeouts(world, keys)
    with world.changes() as c:
        assert expire(world, keys, keys.id) == [1, "OK", "already_terminal"]
    assert (c.written, c.removed) == ({}, lost)
    with world.unchanged():
        assert expire(world, keys, keys.id) == [1, "OK", "already_terminal"]


def test_an_expiry_is_not_announced_and_left_to_the_dependency_sweep(world: World) -> None:
    lease = claim(world)
    put(world, lease.keys.core, flow_id=FLOW)
    with published(world) as messages:
        expire(world, lease.keys, lease.execution_id)
    assert messages == []


def test_an_absent_execution_id_is_refused_before_anything_is_written(world: World) -> None:
    lease = claim(world)
    with world.unchanged():
        assert expire(world, lease.keys) == [0, "invalid_input", "execution_id must be given, got: nil"]


def test_an_active_record_that_lacks_its_lease_and_attempt_is_expired(world: World) -> None:
    lease = claim(world)
    fields = ("current_lease_id", "current_lease_epoch", "current_attempt_index", "current_worker_instance_id")
    world.command("HDEL", lease.keys.core, *fields)
    assert expire(world, lease.keys, lease.execution_id) == [1, "OK", "expired", "active"]
    event = world.value(lease.keys.part("lease:history"))[-1]
    assert event[:8] == ("event", "released", "lease_id", "", "lease_epoch", "", "attempt_index", "")
