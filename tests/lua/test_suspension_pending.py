"""ff_suspend_execution on a pending waitpoint, its refusals, and bad arguments: protocol 06 section 6."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.lua.signals import buffer
from tests.lua.suspensions import (
    EXECUTION,
    FAR_MS,
    HMAC,
    KEYS,
    OTHER,
    PENDING,
    SUSPENSION,
    SUSPENSION_TIMEOUT,
    UNSET,
    WAITPOINT,
    WAITPOINT_2,
    WAITPOINT_KEY,
    field,
    lane,
    put,
    put_active,
    put_pending,
    suspend,
)
from tests.lua.world import World

CONDITION = KEYS.waitpoint(WAITPOINT, "condition")

PENDING_ORDER: list[tuple[dict[str, str], str]] = [
    ({"state": "active"}, "waitpoint_not_pending"),
    ({"state": ""}, "waitpoint_not_pending"),
    ({"execution_id": OTHER, "attempt_index": "1", "expires_at": "1"}, "invalid_waitpoint_for_execution"),
    ({"attempt_index": "00", "expires_at": "1"}, "invalid_waitpoint_for_execution"),
    ({"expires_at": "1", "waitpoint_token": ""}, "pending_waitpoint_expired"),
    ({"waitpoint_token": ""}, "waitpoint_not_token_bound"),
]


@pytest.mark.parametrize(("waitpoint", "code"), PENDING_ORDER)
@pytest.mark.parametrize("earlier", [True, False])
def test_refusals_of_a_pending_waitpoint_come_in_the_protocols_order(
    world: World, waitpoint: dict[str, str], code: str, earlier: bool
) -> None:
    put_active(world)
    put_pending(world)
    put(world, KEYS.waitpoint(WAITPOINT), **waitpoint)
    assert_refused_after_archiving(world, code, earlier, use_pending_waitpoint="1")


@pytest.mark.parametrize("earlier", [True, False])
def test_a_waitpoint_that_is_missing_cannot_be_used(world: World, earlier: bool) -> None:
    put_active(world)
    assert_refused_after_archiving(world, "waitpoint_not_found", earlier, use_pending_waitpoint="1")


@pytest.mark.parametrize("earlier", [True, False])
def test_a_token_that_cannot_be_minted_is_refused(world: World, earlier: bool) -> None:
    put_active(world)
    world.redis.delete(HMAC)
    assert_refused_after_archiving(world, "hmac_secret_not_initialized", earlier)


def assert_refused_after_archiving(world: World, code: str, earlier: bool, **changes: Any) -> None:
    """The protocol archives an earlier, closed suspension before it looks at the waitpoint."""
    if not earlier:
        with world.unchanged():
            assert suspend(world, **changes, resume_condition_json="{") == [0, code]
        return
    record = {"suspension_id": "old", "closed_at": "5", "waitpoint_id": WAITPOINT_2}
    put(world, SUSPENSION, **record)
    with world.changes() as c:
        assert suspend(world, **changes, resume_condition_json="{") == [0, code]
    assert c.written == {KEYS.part("waitpoints"): {WAITPOINT_2}}
    assert c.removed == {SUSPENSION: record}


def put_buffered(world: World, *names: str) -> str:
    """A pending waitpoint with signals s0, s1, … of these names; return its token."""
    put_active(world)
    token = put_pending(world)
    for n, name in enumerate(names):
        assert buffer(world, token, signal_id=f"s{n}", signal_name=name)[:2] == [1, "OK"]
    return token


def condition_of(*names: str, minimum: Any = 1, mode: str = "any") -> str:
    return json.dumps({"required_signal_names": names, "minimum_signal_count": minimum, "signal_match_mode": mode})


def test_buffered_signals_that_satisfy_the_condition_leave_the_lease_with_its_holder(world: World) -> None:
    token = put_buffered(world, "x", "a", "b", "c")
    with world.changes() as c:
        reply = suspend(
            world,
            use_pending_waitpoint="1",
            resume_condition_json=condition_of("a", "b"),
            timeout_at="not read",
            lease_history_maxlen="not read",
        )
    assert reply == [1, "ALREADY_SATISFIED", "suspension-1", WAITPOINT, WAITPOINT_KEY, token]
    now = c.written[CONDITION]["updated_at"]
    assert c.written == {
        KEYS.waitpoint(WAITPOINT): {
            "suspension_id": "suspension-1",
            "state": "closed",
            "activated_at": now,
            "expires_at": "not read",
            "satisfied_at": now,
            "closed_at": now,
            "close_reason": "resumed",
        },
        CONDITION: {
            "condition_type": "signal_set",
            "match_mode": "any",
            "minimum_signal_count": "1",
            "total_matchers": "2",
            "satisfied_count": "2",
            "closed": "0",
            "updated_at": now,
            "matcher:0:name": "a",
            "matcher:0:satisfied": "1",
            "matcher:0:signal_id": "s1",
            "matcher:1:name": "b",
            "matcher:1:satisfied": "1",
            "matcher:1:signal_id": "s2",
        },
    }
    assert c.removed == {PENDING: {WAITPOINT: FAR_MS}}
    with world.unchanged():
        assert suspend(world, use_pending_waitpoint="1") == [0, "waitpoint_not_pending"]


def test_an_already_satisfied_suspension_still_replaces_an_earlier_one(world: World) -> None:
    put_buffered(world, "a")
    put(world, SUSPENSION, suspension_id="old", closed_at="5", waitpoint_id=WAITPOINT_2)
    assert suspend(world, use_pending_waitpoint="1")[1] == "ALREADY_SATISFIED"
    assert world.value(SUSPENSION) is None
    assert world.value(KEYS.part("waitpoints")) == {WAITPOINT_2}


@pytest.mark.parametrize(
    ("buffered", "condition", "answer", "satisfied"),
    [
        ([], condition_of(minimum=0), "OK", "0"),
        (["x"], condition_of("a", minimum=0), "ALREADY_SATISFIED", "0"),
        (["x"], condition_of("a"), "OK", "0"),
        (["x", "x"], condition_of(), "ALREADY_SATISFIED", "1"),
        (["x", "x"], condition_of(minimum=2), "OK", "1"),
        (["a"], condition_of("a", "b", mode="all"), "OK", "1"),
        (["b", "a"], condition_of("a", "b", mode="all"), "ALREADY_SATISFIED", "2"),
        (["a", "b"], condition_of("", "a", mode="all"), "OK", "1"),
        (["a"], condition_of("a", "b", minimum=2, mode="count"), "OK", "1"),
        (["a"], condition_of(minimum=None), "ALREADY_SATISFIED", "1"),
    ],
)
def test_buffered_signals_are_given_to_the_condition_in_their_order(
    world: World, buffered: list[str], condition: str, answer: str, satisfied: str
) -> None:
    put_buffered(world, *buffered)
    assert suspend(world, use_pending_waitpoint="1", resume_condition_json=condition)[1] == answer
    assert field(world, CONDITION, "satisfied_count") == satisfied
    assert field(world, KEYS.core, "lifecycle_phase") == ("suspended" if answer == "OK" else "active")


def test_partly_satisfied_matchers_survive_into_the_suspension(world: World) -> None:
    put_buffered(world, "b")
    suspend(world, use_pending_waitpoint="1", resume_condition_json=condition_of("a", "b", mode="all"))
    record = world.value(CONDITION)
    assert [record[f"matcher:{n}:satisfied"] for n in (0, 1)] == ["0", "1"]
    assert [record[f"matcher:{n}:signal_id"] for n in (0, 1)] == ["", "s0"]
    assert field(world, KEYS.waitpoint(WAITPOINT), "signal_count") == "0"


@pytest.mark.parametrize("pending", ["", "1"])
@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"timeout_at": "soon"}, "timeout_at must be a number, got: soon"),
        ({"timeout_at": "nan"}, "timeout_at must be a number, got: nan"),
        ({"lease_history_maxlen": ""}, "lease_history_maxlen must be an integer >= 0, got: "),
        ({"lease_history_maxlen": "many"}, "lease_history_maxlen must be an integer >= 0, got: many"),
        ({"lease_history_maxlen": "-1"}, "lease_history_maxlen must be an integer >= 0, got: -1"),
        ({"lease_history_maxlen": "1.5"}, "lease_history_maxlen must be an integer >= 0, got: 1.5"),
        ({"lease_history_maxlen": "nan"}, "lease_history_maxlen must be an integer >= 0, got: nan"),
        ({"lease_history_maxlen": "inf"}, "lease_history_maxlen must be an integer >= 0, got: inf"),
        ({"lease_history_maxlen": "1e17"}, "lease_history_maxlen must be an integer >= 0, got: 1e17"),
    ],
)
def test_a_bad_number_is_refused_where_the_reference_suspends_half_way(
    world: World, pending: str, changes: dict[str, str], detail: str
) -> None:
    put_active(world)
    put(world, SUSPENSION, suspension_id="old", closed_at="5", waitpoint_id=WAITPOINT_2)
    if pending:
        put_pending(world)
    with world.unchanged():
        assert suspend(world, use_pending_waitpoint=pending, **changes) == [0, "invalid_input", detail]


@pytest.mark.parametrize("timeout_at", ["-5", "1e3", "inf", " 7 ", "1.5"])
def test_any_number_is_a_timeout_and_stored_as_it_came(world: World, timeout_at: str) -> None:
    put_active(world)
    assert suspend(world, timeout_at=timeout_at)[1] == "OK"
    assert field(world, SUSPENSION, "timeout_at") == timeout_at
    assert field(world, KEYS.waitpoint(WAITPOINT), "expires_at") == timeout_at
    score = {EXECUTION: float(timeout_at)}
    assert (world.value(SUSPENSION_TIMEOUT), world.value(lane("suspended"))) == (score, score)


@pytest.mark.parametrize(
    "name",
    [
        "suspension_id",
        "waitpoint_id",
        "waitpoint_key",
        "reason_code",
        "requested_by",
        "timeout_at",
        "resume_policy_json",
    ],
)
def test_a_call_that_is_too_short_is_refused_with_the_first_absent_argument(world: World, name: str) -> None:
    put_active(world)
    with world.unchanged():
        assert suspend(world, **{name: UNSET}) == [0, "invalid_input", f"{name} must be given, got: nil"]
