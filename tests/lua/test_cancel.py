"""ff_cancel_execution: protocol 02, section 6.4. Who may cancel is in test_cancel_right."""

from __future__ import annotations

import json

import pytest

from ffsuper.store.keys import ExecutionKeys
from tests.lua.executions import claim, create, lane_key, new_keys
from tests.lua.holders import (
    ENDED,
    FAR_MS,
    FLOW,
    POISON,
    RELEASED,
    cancel,
    cancel_keys,
    claim_beside_another,
    delay,
    held,
    open_stream,
    poison,
    published,
    since,
)
from tests.lua.suspensions import EXECUTION, KEYS, SUSPENSION, UNSET, WAITPOINT, lane, put, put_suspended
from tests.lua.world import World

READ = (
    *("lifecycle_phase", "ownership_state", "current_lease_id", "current_lease_epoch", "current_attempt_index"),
    *("attempt_state", "lane_id"),
)
INDEXES = ("eligible", "delayed", "active", "suspended")
BLOCKED = ("dependencies", "budget", "quota", "route", "operator")


def cancelled_core(now: str, *, unleased: bool = False) -> dict[str, str]:
    """What a cancellation changes in a poisoned record, whose lease is released already or not."""
    written = {
        **RELEASED,
        **ENDED,
        "terminal_outcome": "cancelled",
        "attempt_state": "attempt_terminal",
        "public_state": "cancelled",
        "cancellation_reason": "no longer needed",
        "cancelled_by": "operator_override",
        "completed_at": now,
        "current_suspension_id": "",
        "current_waitpoint_id": "",
        "last_transition_at": now,
        "last_mutation_at": now,
    }
    if unleased:
        del written["ownership_state"], written["current_lease_id"]
    return written


def cancelled_attempt(now: str) -> dict[str, str]:
    reason = "cancelled: no longer needed"
    return {"attempt_state": "ended_cancelled", "ended_at": now, "failure_reason": reason}


def every_index(keys: ExecutionKeys) -> list[str]:
    """All indexes that a cancellation clears."""
    partition = ("lease_expiry", "suspension_timeout", "attempt_timeout", "execution_deadline")
    return [
        *(lane_key(keys, name) for name in INDEXES),
        *(lane_key(keys, f"blocked:{name}") for name in BLOCKED),
        *(keys.partition.index(name) for name in partition),
    ]


def put_everywhere(world: World, keys: ExecutionKeys) -> None:
    """Put the execution, and another one, into every index that a cancellation clears."""
    for index in every_index(keys):
        world.redis.zadd(index, {keys.id: 5, "another": 6})
    world.redis.sadd(keys.partition.worker_leases("w1"), keys.id, "another")


def test_cancelling_an_active_execution_ends_its_attempt_and_releases_its_lease(world: World) -> None:
    lease = claim_beside_another(world)
    keys, stream_meta, before = lease.keys, open_stream(world, lease.keys), world.now_ms()
    poison(world, keys.core, keep=READ)
    put(world, keys.core, flow_id="")
    lost = held(world, lease)
    with world.changes() as c:
        assert cancel(world, keys) == [1, "OK", "cancelled", "active"]
    now = since(before, world, c.written[lease.attempt]["ended_at"])
    assert c.written == {
        keys.core: cancelled_core(now),
        lease.attempt: cancelled_attempt(now),
        stream_meta: {"closed_at": now, "closed_reason": "attempt_cancelled"},
        lane_key(keys, "terminal"): {keys.id: float(now)},
        keys.part("lease:history"): [
            (
                *("event", "released", "lease_id", lease.lease_id, "lease_epoch", "1", "attempt_index", "0"),
                *("reason", "cancelled", "ts", now),
            )
        ],
    }
    assert c.removed == {**lost, keys.partition.index("execution_deadline"): {keys.id: FAR_MS}}


def test_cancelling_a_suspended_execution_closes_its_suspension_and_waitpoint(world: World) -> None:
    put_suspended(world)
    stream_meta, before = open_stream(world, KEYS), world.now_ms()
    world.redis.zadd(KEYS.partition.index("suspension_timeout"), {EXECUTION: FAR_MS})
    poison(world, KEYS.core, keep=READ)
    with world.changes() as c:
        assert cancel(world, KEYS) == [1, "OK", "cancelled", "suspended"]
    now = since(before, world, c.written[KEYS.attempt(0)]["ended_at"])
    assert c.written == {
        KEYS.core: cancelled_core(now, unleased=True),
        KEYS.attempt(0): cancelled_attempt(now),
        stream_meta: {"closed_at": now, "closed_reason": "attempt_cancelled"},
        SUSPENSION: {"closed_at": now, "close_reason": "cancelled"},
        KEYS.waitpoint(WAITPOINT): {"state": "closed", "closed_at": now, "close_reason": "cancelled"},
        KEYS.waitpoint(WAITPOINT, "condition"): {"closed": "1", "closed_at": now, "closed_reason": "cancelled"},
        lane("terminal"): {EXECUTION: float(now)},
    }
    assert c.removed == {
        lane("suspended"): {EXECUTION: 9999999999999},
        KEYS.partition.index("suspension_timeout"): {EXECUTION: FAR_MS},
    }


def test_cancelling_a_suspended_execution_makes_no_records_that_are_not_there(world: World) -> None:
    put_suspended(world)
    absent = [SUSPENSION, KEYS.waitpoint(WAITPOINT), KEYS.waitpoint(WAITPOINT, "condition"), KEYS.stream_meta(0)]
    world.redis.delete(*absent)
    assert cancel(world, KEYS)[:2] == [1, "OK"]
    assert [world.value(key) for key in absent] == [None] * 4


def test_cancelling_an_execution_that_never_ran_keeps_its_attempt_state_and_makes_no_attempt(world: World) -> None:
    keys = create(world)
    poison(world, keys.core, keep=READ)
    with world.changes() as c:
        assert cancel(world, keys) == [1, "OK", "cancelled", "runnable"]
    now = c.written[keys.core]["completed_at"]
    written = cancelled_core(now, unleased=True)
    del written["attempt_state"]
    assert c.written == {keys.core: written, lane_key(keys, "terminal"): {keys.id: float(now)}}
    assert [*c.removed] == [lane_key(keys, "eligible")]


def test_cancelling_a_paused_execution_leaves_its_attempt_and_stream_as_they_are(world: World) -> None:
    lease = claim(world)
    delay(world, lease)
    open_stream(world, lease.keys)
    with world.changes() as c:
        assert cancel(world, lease.keys) == [1, "OK", "cancelled", "runnable"]
    assert c.written.keys() == {lease.keys.core, lane_key(lease.keys, "terminal")}
    assert c.written[lease.keys.core]["attempt_state"] == "attempt_terminal"
    assert [*c.removed] == [lane_key(lease.keys, "delayed")]
    assert world.value(lease.keys.core)["delay_until"] == str(FAR_MS)


def test_an_attempt_state_that_the_record_lacks_becomes_none(world: World) -> None:
    keys = create(world)
    world.command("HDEL", keys.core, "attempt_state")
    cancel(world, keys)
    assert world.value(keys.core)["attempt_state"] == "none"


def test_an_active_execution_without_an_attempt_gets_no_attempt_record(world: World) -> None:
    keys = create(world)
    put(world, keys.core, lifecycle_phase="active")
    assert cancel(world, keys) == [1, "OK", "cancelled", "active"]
    assert world.value(keys.attempt(0)) is None


def test_the_execution_leaves_every_index_wherever_an_outdated_reading_has_put_it(world: World) -> None:
    keys = create(world)
    put_everywhere(world, keys)
    cancel(world, keys)
    assert [world.value(index) for index in every_index(keys)] == [{"another": 6}] * len(every_index(keys))
    assert world.value(keys.partition.worker_leases("w1")) == {"another"}


def test_the_lane_of_the_active_and_suspended_index_is_the_records(world: World) -> None:
    keys = create(world, lane_id="gpu")
    other = create(world)
    world.command("HDEL", other.core, "lane_id")
    for lane_id, wanted in (("gpu", keys), ("default", other)):
        for index in ("active", "suspended"):
            world.redis.zadd(lane_key(wanted, index, lane_id), {wanted.id: 5})
    for wanted in (keys, other):
        cancel(world, wanted)
    assert [key for key in world.keyspace() if key.endswith((":active", ":suspended"))] == []


def test_a_terminal_index_that_is_passed_for_another_one_keeps_the_execution(world: World) -> None:
    keys = create(world)
    call_keys = cancel_keys(keys)
    call_keys[11] = call_keys[14]
    reply = world.call("ff_cancel_execution", call_keys, [keys.id, "why", "operator_override", "", ""])
    assert reply == [1, "OK", "cancelled", "runnable"]
    completed_at = world.value(keys.core)["completed_at"]
    assert world.value(lane_key(keys, "eligible")) == {keys.id: float(completed_at)}


@pytest.mark.parametrize(("passed", "cleared"), [(14, 0), (15, 1), (16, 4), (17, 5), (20, 8)])
def test_with_fewer_keys_the_indexes_are_cleared_up_to_the_first_that_is_missing(
    world: World, passed: int, cleared: int
) -> None:
    keys = create(world)
    put_everywhere(world, keys)
    reply = world.call("ff_cancel_execution", cancel_keys(keys)[:passed], [keys.id, "why", "operator_override"])
    assert reply == [1, "OK", "cancelled", "runnable"]
    left = [keys.id not in world.value(index) for index in every_index(keys)]
    assert left == [position < cleared for position in range(len(left))]
    assert world.value(keys.partition.worker_leases("w1")) == {"another"}


def test_a_repeated_cancellation_is_told_so_and_changes_nothing(world: World) -> None:
    lease = claim(world)
    cancel(world, lease.keys)
    with world.unchanged():
        assert cancel(world, lease.keys) == [0, "execution_not_active", "cancelled", "1"]


# --- announcements and arguments ----------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["operator_override", "lease_holder", ""])
def test_cancelling_a_member_of_a_flow_is_announced(world: World, source: str) -> None:
    keys = create(world)
    put(world, keys.core, flow_id=FLOW)
    with published(world) as messages:
        cancel(world, keys, source=source)
    (message,) = messages
    assert json.loads(message) == {"flow_id": FLOW, "execution_id": keys.id, "outcome": "cancelled"}


def test_a_cancellation_that_a_flow_spreads_is_not_announced(world: World) -> None:
    keys, alone = create(world), create(world)
    put(world, keys.core, flow_id=FLOW)
    with published(world) as messages:
        cancel(world, keys, source="flow_cascade")
        cancel(world, alone)
    assert messages == []


@pytest.mark.parametrize("phase", ["active", "runnable", "suspended"])
@pytest.mark.parametrize("first_absent", ["execution_id", "reason"])
def test_an_absent_reason_is_refused_before_anything_is_written(world: World, phase: str, first_absent: str) -> None:
    lease = claim(world)
    put(world, lease.keys.core, lifecycle_phase=phase)
    with world.unchanged():
        reply = cancel(world, lease.keys, **{first_absent: UNSET})
        assert reply == [0, "invalid_input", "reason must be given, got: nil"]


def test_an_empty_reason_is_stored(world: World) -> None:
    lease = claim(world)
    cancel(world, lease.keys, reason="")
    assert world.value(lease.keys.core)["cancellation_reason"] == ""
    assert world.value(lease.attempt)["failure_reason"] == "cancelled: "


def test_a_record_without_a_phase_is_cancelled(world: World) -> None:
    keys = new_keys()
    put(world, keys.core, execution_id=POISON)
    assert cancel(world, keys) == [1, "OK", "cancelled", ""]
    assert world.value(keys.core)["lifecycle_phase"] == "terminal"


def test_an_active_record_that_lacks_its_lease_and_attempt_is_cancelled(world: World) -> None:
    lease = claim(world)
    world.command("HDEL", lease.keys.core, "current_lease_id", "current_lease_epoch", "current_attempt_index")
    assert cancel(world, lease.keys) == [1, "OK", "cancelled", "active"]
    event = world.value(lease.keys.part("lease:history"))[-1]
    assert event[:8] == ("event", "released", "lease_id", "", "lease_epoch", "", "attempt_index", "")


def test_who_may_use_no_channel_cancels_all_the_same(world: World, restricted: World) -> None:
    lease = claim(world)
    assert cancel(restricted, lease.keys)[:2] == [1, "OK"]
    assert world.value(lease.keys.core)["public_state"] == "cancelled"


def test_who_may_use_no_channel_cancels_a_member_of_a_flow_all_the_same(world: World, restricted: World) -> None:
    keys = create(world)
    put(world, keys.core, flow_id=FLOW)
    assert cancel(restricted, keys)[:2] == [1, "OK"]
    assert world.value(keys.core)["public_state"] == "cancelled"
