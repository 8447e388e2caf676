"""ff_promote_delayed: protocol 05, section 5."""

from __future__ import annotations

from typing import Any

import pytest

from ffsuper.store.keys import ExecutionKeys
from tests.lua.executions import call_claim_resumed, claimed, create, grant, lane_key, new_keys
from tests.lua.holders import FAR_MS, poison, promote
from tests.lua.suspensions import EXECUTION, KEYS, WORKER, lane, put, put_suspended, resume
from tests.lua.world import World

READ = ("lifecycle_phase", "eligibility_state", "delay_until", "priority", "created_at")
CREATED_AT = 1700000000000
SCORE = CREATED_AT - 3 * 10**12


def put_delayed(world: World, **core: str) -> ExecutionKeys:
    """Write an execution that is delayed until 5000, beside another one; its other fields hold POISON."""
    keys = create(world, delay_until=FAR_MS)
    poison(world, keys.core, keep=READ)
    fields = {"delay_until": "5000", "priority": "3", "created_at": str(CREATED_AT), **core}
    put(world, keys.core, **fields)
    world.redis.zadd(lane_key(keys, "delayed"), {keys.id: 5000, "another": 6})
    return keys


def promoted_core(now: str) -> dict[str, str]:
    return {
        "ownership_state": "unowned",
        "eligibility_state": "eligible_now",
        "blocking_reason": "waiting_for_worker",
        "blocking_detail": "",
        "terminal_outcome": "none",
        "public_state": "waiting",
        "delay_until": "",
        "last_transition_at": now,
        "last_mutation_at": now,
    }


@pytest.mark.parametrize(
    ("now_ms", "stored"),
    [
        ("5000", "5000"),
        ("5000.5", "5000.5"),
        ("0x2000", "8192"),
        (" 6e3 ", "6000"),
        ("1e15", "1e+15"),
        ("inf", "inf"),
    ],
)
def test_a_due_execution_becomes_claimable_at_the_callers_time(world: World, now_ms: str, stored: str) -> None:
    keys = put_delayed(world)
    with world.changes() as c:
        assert promote(world, keys, keys.id, now_ms) == [1, "OK", "promoted"]
    assert c.written == {keys.core: promoted_core(stored), lane_key(keys, "eligible"): {keys.id: SCORE}}
    assert c.removed == {lane_key(keys, "delayed"): {keys.id: 5000}}


@pytest.mark.parametrize("now_ms", ["4999", "4999.99", "-1", "0", "-inf"])
def test_an_execution_whose_time_has_not_come_stays_delayed(world: World, now_ms: str) -> None:
    keys = put_delayed(world)
    with world.unchanged():
        assert promote(world, keys, keys.id, now_ms) == [1, "OK", "not_yet_due"]


def test_the_records_time_decides_and_not_the_indexs(world: World) -> None:
    early, late = put_delayed(world, delay_until="100"), put_delayed(world, delay_until="9000")
    assert promote(world, early, early.id, "4000") == [1, "OK", "promoted"]
    assert promote(world, late, late.id, "6000") == [1, "OK", "not_yet_due"]


def test_a_record_without_a_time_is_due(world: World) -> None:
    keys = put_delayed(world)
    world.command("HDEL", keys.core, "delay_until")
    assert promote(world, keys, keys.id, "1") == [1, "OK", "promoted"]


@pytest.mark.parametrize("delay_until", ["", "later"])
def test_an_execution_that_the_reference_has_resumed_with_a_delay_is_promoted_at_its_time_in_the_index(
    world: World, delay_until: str
) -> None:
    """The reference wrote no delay_until, and raises here for ever."""
    keys = put_delayed(world, delay_until=delay_until)
    with world.unchanged():
        assert promote(world, keys, keys.id, "4999") == [1, "OK", "not_yet_due"]
    assert promote(world, keys, keys.id, "5000") == [1, "OK", "promoted"]
    assert world.value(keys.core)["delay_until"] == ""


def test_an_execution_with_no_time_anywhere_need_not_wait(world: World) -> None:
    keys = put_delayed(world, delay_until="")
    world.redis.zrem(lane_key(keys, "delayed"), keys.id)
    assert promote(world, keys, keys.id, "1") == [1, "OK", "promoted"]
    assert world.value(lane_key(keys, "eligible")) == {keys.id: SCORE}


def test_a_suspension_that_was_resumed_with_a_delay_goes_on_after_it(world: World) -> None:
    put_suspended(world)
    assert resume(world, EXECUTION, "operator", "60000") == [1, "OK", "delayed"]
    due_ms = world.value(lane("delayed"))[EXECUTION]
    assert promote(world, KEYS, EXECUTION, due_ms - 1) == [1, "OK", "not_yet_due"]
    assert promote(world, KEYS, EXECUTION, due_ms) == [1, "OK", "promoted"]
    grant(world, KEYS)
    assert claimed(KEYS, call_claim_resumed(world, KEYS, worker_instance_id=WORKER)).kind == "resumed"


def test_what_is_no_execution_leaves_the_delayed_index(world: World) -> None:
    keys = new_keys()
    world.redis.zadd(lane_key(keys, "delayed"), {keys.id: 5000, "another": 6})
    with world.changes() as c:
        assert promote(world, keys, keys.id, "1") == [1, "OK", "not_found_cleaned"]
    assert (c.written, c.removed) == ({}, {lane_key(keys, "delayed"): {keys.id: 5000}})


@pytest.mark.parametrize("phase", ["active", "suspended", "terminal", "submitted", ""])
def test_what_is_not_runnable_leaves_the_delayed_index(world: World, phase: str) -> None:
    keys = put_delayed(world, lifecycle_phase=phase, eligibility_state="eligible_now")
    with world.changes() as c:
        assert promote(world, keys, keys.id, "1") == [1, "OK", "not_runnable_cleaned"]
    assert (c.written, c.removed) == ({}, {lane_key(keys, "delayed"): {keys.id: 5000}})


def test_a_record_without_a_phase_leaves_the_delayed_index(world: World) -> None:
    keys = put_delayed(world)
    world.command("HDEL", keys.core, "lifecycle_phase")
    assert promote(world, keys, keys.id, "1") == [1, "OK", "not_runnable_cleaned"]


@pytest.mark.parametrize("state", ["eligible_now", "blocked_by_quota", "not_applicable", ""])
def test_what_is_not_delayed_leaves_the_delayed_index(world: World, state: str) -> None:
    keys = put_delayed(world, eligibility_state=state)
    with world.changes() as c:
        assert promote(world, keys, keys.id, "1") == [1, "OK", "not_delayed_cleaned"]
    assert (c.written, c.removed) == ({}, {lane_key(keys, "delayed"): {keys.id: 5000}})


def test_a_repeated_promotion_finds_it_done_and_changes_nothing(world: World) -> None:
    keys = put_delayed(world)
    promote(world, keys, keys.id, "5000")
    with world.unchanged():
        assert promote(world, keys, keys.id, "6000") == [1, "OK", "not_delayed_cleaned"]


@pytest.mark.parametrize("attempt_state", ["pending_first_attempt", "pending_retry_attempt", "attempt_interrupted"])
def test_the_attempt_state_stays_and_decides_about_the_next_claim(world: World, attempt_state: str) -> None:
    keys = put_delayed(world, attempt_state=attempt_state)
    promote(world, keys, keys.id, "5000")
    assert world.value(keys.core)["attempt_state"] == attempt_state


@pytest.mark.parametrize(
    ("damage", "score"),
    [
        ({"priority": ""}, CREATED_AT),
        ({"priority": "high"}, CREATED_AT),
        ({"priority": "nan"}, CREATED_AT),
        ({"created_at": ""}, -3 * 10**12),
        ({"created_at": "nan"}, -3 * 10**12),
    ],
)
def test_a_damaged_priority_or_creation_time_counts_as_none(world: World, damage: dict[str, str], score: int) -> None:
    """The reference raises: on nan after it has taken the execution out of the delayed index."""
    keys = put_delayed(world, **damage)
    assert promote(world, keys, keys.id, "5000") == [1, "OK", "promoted"]
    assert world.value(lane_key(keys, "eligible")) == {keys.id: score}


def test_a_record_without_priority_and_creation_time_is_promoted(world: World) -> None:
    keys = put_delayed(world)
    world.command("HDEL", keys.core, "priority", "created_at")
    promote(world, keys, keys.id, "5000")
    assert world.value(lane_key(keys, "eligible")) == {keys.id: 0}


@pytest.mark.parametrize(
    ("args", "shown"), [(("soon",), "soon"), (("",), ""), (("5 s",), "5 s"), ((), "nil"), (None, "nil")]
)
def test_a_time_that_is_no_number_is_refused_before_the_record_is_read(world: World, args: Any, shown: str) -> None:
    keys = put_delayed(world, eligibility_state="eligible_now")
    with world.unchanged():
        reply = promote(world, keys, *([] if args is None else [keys.id, *args]))
        assert reply == [0, "invalid_input", f"now_ms must be a number, got: {shown}"]


def test_a_time_that_is_nan_is_after_everything_as_in_the_reference(world: World) -> None:
    keys = put_delayed(world)
    assert promote(world, keys, keys.id, "nan") == [1, "OK", "promoted"]
