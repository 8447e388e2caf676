"""ff_block_execution_for_admission and ff_unblock_execution: protocol 08, section 3."""

from __future__ import annotations

from typing import Any

import pytest

from ffsuper.store.keys import ExecutionKeys
from tests.lua.executions import create, lane_key, new_keys
from tests.lua.suspensions import UNSET, changed, nothing_published, put
from tests.lua.world import Arg, World

CREATED_AT = 1700000000000
NOW = "1700000005000"
BLOCK: dict[str, Arg] = {
    "execution_id": "",
    "blocking_reason": "waiting_for_budget",
    "blocking_detail": "budget b is used up",
    "now_ms": NOW,
}
UNBLOCK: dict[str, Arg] = {"execution_id": "", "now_ms": NOW, "expected_reason": ""}
STATES = {
    "waiting_for_budget": "blocked_by_budget",
    "waiting_for_quota": "blocked_by_quota",
    "waiting_for_capable_worker": "blocked_by_route",
    "paused_by_operator": "blocked_by_operator",
    "paused_by_policy": "blocked_by_lane_state",
}


def block(world: World, keys: ExecutionKeys, *, into: str = "blocked:budget", **changes: Any) -> Any:
    args = changed(BLOCK, {"execution_id": keys.id, **changes})
    call_keys = [keys.core, lane_key(keys, "eligible"), lane_key(keys, into)]
    return world.call("ff_block_execution_for_admission", call_keys, args)


def unblock(world: World, keys: ExecutionKeys, **changes: Any) -> Any:
    args = changed(UNBLOCK, {"execution_id": keys.id, **changes})
    call_keys = [keys.core, lane_key(keys, "blocked:budget"), lane_key(keys, "eligible")]
    return world.call("ff_unblock_execution", call_keys, args)


def runnable(world: World, **core: str) -> ExecutionKeys:
    """Create an execution of priority 3, some time ago, then set fields of its record."""
    keys = create(world)
    put(world, keys.core, **{"created_at": str(CREATED_AT), **core})
    return keys


def blocked(world: World, **core: str) -> ExecutionKeys:
    """Block an execution, then set fields of its record."""
    keys = runnable(world)
    assert block(world, keys) == [1, "OK", "blocked"]
    if core:
        put(world, keys.core, **core)
    return keys


# --- block --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reason", "state"), STATES.items())
def test_blocking_moves_the_execution_from_eligible_to_the_callers_index(
    world: World, reason: str, state: str
) -> None:
    keys = runnable(world)
    with world.changes() as c, nothing_published(world):
        reply = block(world, keys, blocking_reason=reason)
    assert reply == [1, "OK", "blocked"]
    assert c.written == {
        keys.core: {
            "eligibility_state": state,
            "blocking_reason": reason,
            "blocking_detail": "budget b is used up",
            "public_state": "rate_limited",
            "last_transition_at": NOW,
            "last_mutation_at": NOW,
        },
        lane_key(keys, "blocked:budget"): {keys.id: float(NOW)},
    }
    assert set(c.removed) == {lane_key(keys, "eligible")}


def test_blocking_sets_the_record_straight_but_keeps_the_attempts_state(world: World) -> None:
    keys = runnable(world, ownership_state="leased", terminal_outcome="failed", attempt_state="pending_retry_attempt")
    block(world, keys)
    core = world.value(keys.core)
    assert (core["lifecycle_phase"], core["ownership_state"]) == ("runnable", "unowned")
    assert (core["terminal_outcome"], core["attempt_state"]) == ("none", "pending_retry_attempt")


@pytest.mark.parametrize("call", [block, unblock])
def test_only_a_missing_attempt_state_becomes_that_of_a_new_execution(world: World, call: Any) -> None:
    missing, empty = (blocked(world) for _ in range(2))
    world.redis.hdel(missing.core, "attempt_state")
    put(world, empty.core, attempt_state="")
    assert [call(world, keys)[1] for keys in (missing, empty)] == ["OK", "OK"]
    assert world.value(missing.core)["attempt_state"] == "pending_first_attempt"
    assert world.value(empty.core)["attempt_state"] == ""


def test_a_repeated_block_takes_the_new_reason_and_leaves_the_old_index_alone(world: World) -> None:
    keys = blocked(world)
    again = {"blocking_reason": "waiting_for_quota", "blocking_detail": "", "now_ms": "1700000006000"}
    assert block(world, keys, into="blocked:quota", **again) == [1, "OK", "blocked"]
    core = world.value(keys.core)
    assert (core["eligibility_state"], core["blocking_reason"]) == ("blocked_by_quota", "waiting_for_quota")
    assert (core["blocking_detail"], core["last_transition_at"]) == ("", "1700000006000")
    assert world.value(lane_key(keys, "blocked:budget")) == {keys.id: float(NOW)}
    assert world.value(lane_key(keys, "blocked:quota")) == {keys.id: 1700000006000.0}


def test_a_delayed_execution_can_be_blocked_and_stays_in_the_delayed_index(world: World) -> None:
    keys = create(world, delay_until="4102444800000")
    assert block(world, keys) == [1, "OK", "blocked"]
    assert world.value(lane_key(keys, "delayed")) == {keys.id: 4102444800000.0}


@pytest.mark.parametrize(
    ("core", "refusal"),
    [
        (
            {"lifecycle_phase": "terminal", "terminal_outcome": "failed", "current_lease_epoch": "4"},
            ["execution_not_active", "failed", "4"],
        ),
        *(
            ({"lifecycle_phase": phase}, ["execution_not_eligible"])
            for phase in ("active", "suspended", "submitted", "")
        ),
        ({}, ["invalid_blocking_reason"]),
    ],
)
@pytest.mark.parametrize("reason", ["", "blocked_by_budget", "waiting_for_signal"])
def test_blocking_is_refused_in_the_protocols_order(
    world: World, core: dict[str, str], refusal: list[str], reason: str
) -> None:
    keys = runnable(world, **core)
    with world.unchanged():
        assert block(world, keys, blocking_reason=reason, now_ms="x") == [0, *refusal]


def test_details_of_a_terminal_execution_are_empty_when_missing(world: World) -> None:
    keys = new_keys()
    put(world, keys.core, lifecycle_phase="terminal")
    assert block(world, keys) == [0, "execution_not_active", "", ""]


@pytest.mark.parametrize("call", [block, unblock])
def test_an_unknown_execution_is_refused(world: World, call: Any) -> None:
    with world.unchanged():
        assert call(world, new_keys(), now_ms=UNSET) == [0, "execution_not_found"]


def test_an_absent_reason_is_no_reason(world: World) -> None:
    keys = runnable(world)
    with world.unchanged():
        assert block(world, keys, blocking_reason=UNSET) == [0, "invalid_blocking_reason"]


@pytest.mark.parametrize("now", ["", "soon", "nan", UNSET])
def test_a_time_that_is_no_number_is_refused_where_the_reference_leaves_the_execution_in_no_index(
    world: World, now: Any
) -> None:
    keys = runnable(world)
    with world.unchanged():
        reply = block(world, keys, now_ms=now)
    assert reply == [0, "invalid_input", f"now_ms must be a number, got: {'nil' if now is UNSET else now}"]


@pytest.mark.parametrize(("now", "score"), [("inf", float("inf")), ("-1.5", -1.5), (" 0x10", 16.0)])
def test_the_time_is_stored_as_it_was_given(world: World, now: str, score: float) -> None:
    keys = runnable(world)
    block(world, keys, now_ms=now)
    assert world.value(keys.core)["last_mutation_at"] == now
    assert world.value(lane_key(keys, "blocked:budget")) == {keys.id: score}


# --- unblock ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("expected", ["", "waiting_for_budget", UNSET])
def test_unblocking_puts_the_execution_back_at_its_old_place(world: World, expected: Any) -> None:
    keys = blocked(world)
    with world.changes() as c, nothing_published(world):
        reply = unblock(world, keys, now_ms="1700000006000", expected_reason=expected)
    assert reply == [1, "OK", "unblocked"]
    assert c.written == {
        keys.core: {
            "eligibility_state": "eligible_now",
            "blocking_reason": "waiting_for_worker",
            "blocking_detail": "",
            "public_state": "waiting",
            "last_transition_at": "1700000006000",
            "last_mutation_at": "1700000006000",
        },
        lane_key(keys, "eligible"): {keys.id: CREATED_AT - 3e12},
    }
    assert c.removed == {lane_key(keys, "blocked:budget"): {keys.id: float(NOW)}}


def test_a_repeated_unblock_is_refused(world: World) -> None:
    keys = blocked(world)
    unblock(world, keys)
    with world.unchanged():
        assert unblock(world, keys) == [0, "execution_not_eligible"]


@pytest.mark.parametrize("state", ["blocked_by_quota", "blocked_by_route", "blocked_by_operator"])
def test_every_block_but_that_of_the_lane_can_be_undone(world: World, state: str) -> None:
    keys = blocked(world, eligibility_state=state)
    assert unblock(world, keys) == [1, "OK", "unblocked"]


@pytest.mark.parametrize(
    "core",
    [
        *({"lifecycle_phase": phase} for phase in ("active", "suspended", "terminal", "")),
        *(
            {"eligibility_state": state}
            for state in ("blocked_by_lane_state", "blocked_by_dependencies", "not_eligible_until_time", "")
        ),
        {"blocking_reason": "waiting_for_quota"},
        {"blocking_reason": ""},
    ],
)
def test_what_is_not_blocked_for_that_reason_is_refused(world: World, core: dict[str, str]) -> None:
    keys = blocked(world, **core)
    with world.unchanged():
        assert unblock(world, keys, expected_reason="waiting_for_budget") == [0, "execution_not_eligible"]


def test_a_missing_eligibility_is_refused(world: World) -> None:
    keys = blocked(world)
    world.redis.hdel(keys.core, "eligibility_state")
    assert unblock(world, keys) == [0, "execution_not_eligible"]


def test_an_absent_time_is_refused_where_the_reference_raises(world: World) -> None:
    keys = blocked(world)
    with world.unchanged():
        assert unblock(world, keys, now_ms=UNSET) == [0, "invalid_input", "now_ms must be given, got: nil"]


def test_the_time_of_an_unblock_is_stored_unread(world: World) -> None:
    keys = blocked(world)
    assert unblock(world, keys, now_ms="some day") == [1, "OK", "unblocked"]
    assert world.value(keys.core)["last_transition_at"] == "some day"


@pytest.mark.parametrize(
    ("core", "score"),
    [
        ({"priority": ""}, CREATED_AT),
        ({"created_at": ""}, -3e12),
        ({"created_at": "nan"}, -3e12),
        ({"priority": "high", "created_at": "long ago"}, 0),
    ],
)
def test_a_damaged_place_counts_as_0_where_the_reference_raises_for_ever(
    world: World, core: dict[str, str], score: float
) -> None:
    keys = blocked(world, **core)
    assert unblock(world, keys) == [1, "OK", "unblocked"]
    assert world.value(lane_key(keys, "eligible")) == {keys.id: score}
