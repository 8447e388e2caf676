"""ff_expire_suspension: protocol 06 section 10."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lua.signals import deliver
from tests.lua.suspensions import (
    EXECUTION,
    FAR_MS,
    KEYS,
    SCORE,
    SUSPENSION,
    SUSPENSION_TIMEOUT,
    WAITPOINT,
    expire,
    field,
    lane,
    nothing_published,
    put,
    put_suspended,
)
from tests.lua.world import World

CONDITION = KEYS.waitpoint(WAITPOINT, "condition")
DEADLINE = KEYS.partition.index("execution_deadline")
IN_INDEX = {SUSPENSION_TIMEOUT: {EXECUTION: 1000}}
WAS_SUSPENDED = {lane("suspended"): {EXECUTION: 9999999999999}}


def put_due(world: World, **suspension: str) -> str:
    """A suspension whose time was over at 1000 ms; fields that a timeout must write hold a '?'. Returns the token."""
    token = put_suspended(world, **{"timeout_at": "1000", **suspension})
    names = ("ownership_state", "eligibility_state", "blocking_reason", "blocking_detail", "terminal_outcome")
    more = ("public_state", "last_transition_at", "last_mutation_at")
    put(world, KEYS.core, **dict.fromkeys(names + more, "?"))
    world.command("ZADD", SUSPENSION_TIMEOUT, 1000, EXECUTION)
    world.command("ZADD", DEADLINE, FAR_MS, EXECUTION)
    return token


@pytest.mark.parametrize("behavior", ["auto_resume", "auto_resume_with_timeout_signal"])
def test_auto_resume_makes_the_execution_claimable(world: World, behavior: str) -> None:
    put_due(world, timeout_behavior=behavior)
    put(world, KEYS.core, attempt_state="?")
    before = world.now_ms()
    with world.changes() as c, nothing_published(world):
        assert expire(world, EXECUTION) == [1, "OK", "auto_resume", "waiting"]
    now = c.written[KEYS.core]["last_mutation_at"]
    assert before <= int(now) <= world.now_ms()
    closing = {"closed_at": now, "close_reason": "timed_out_auto_resume"}
    assert c.written == {
        KEYS.core: {
            "lifecycle_phase": "runnable",
            "ownership_state": "unowned",
            "eligibility_state": "eligible_now",
            "blocking_reason": "waiting_for_worker",
            "blocking_detail": "",
            "terminal_outcome": "none",
            "attempt_state": "attempt_interrupted",
            "public_state": "waiting",
            "current_suspension_id": "",
            "current_waitpoint_id": "",
            "last_transition_at": now,
            "last_mutation_at": now,
        },
        lane("eligible"): {EXECUTION: SCORE},
        KEYS.waitpoint(WAITPOINT): {"state": "closed", **closing},
        CONDITION: {"closed": "1", "closed_at": now, "closed_reason": "timed_out_auto_resume"},
        SUSPENSION: closing,
    }
    assert c.removed == {**IN_INDEX, **WAS_SUSPENDED}
    with world.unchanged():
        assert expire(world, EXECUTION) == [1, "OK", "not_suspended_cleaned"]


@pytest.mark.parametrize(("timeout_at", "text"), [("1000", "1000"), ("1e3", "1000"), ("-7.25", "-7.25")])
def test_escalation_keeps_the_suspension_and_takes_its_timeout_away(world: World, timeout_at: str, text: str) -> None:
    put_due(world, timeout_behavior="escalate", timeout_at=timeout_at)
    with world.changes() as c, nothing_published(world):
        assert expire(world, EXECUTION) == [1, "OK", "escalate", "suspended"]
    now = c.written[KEYS.core]["last_mutation_at"]
    assert c.written == {
        KEYS.core: {
            "ownership_state": "unowned",
            "eligibility_state": "not_applicable",
            "blocking_reason": "paused_by_operator",
            "blocking_detail": f"suspension escalated: timeout at {text}",
            "terminal_outcome": "none",
            "public_state": "suspended",
            "last_mutation_at": now,
        },
        SUSPENSION: {"reason_code": "waiting_for_operator_review", "timeout_at": "", "timeout_behavior": ""},
    }
    assert c.removed == IN_INDEX


def test_escalation_keeps_the_attempts_state_and_fills_in_a_missing_one(world: World) -> None:
    put_due(world, timeout_behavior="escalate")
    put(world, KEYS.core, attempt_state="kept")
    expire(world, EXECUTION)
    assert field(world, KEYS.core, "attempt_state") == "kept"
    world.redis.hdel(KEYS.core, "attempt_state")
    put(world, SUSPENSION, timeout_at="1000", timeout_behavior="escalate")
    expire(world, EXECUTION)
    assert field(world, KEYS.core, "attempt_state") == "attempt_interrupted"


def test_a_signal_still_resumes_an_escalated_execution(world: World) -> None:
    token = put_due(world, timeout_behavior="escalate")
    expire(world, EXECUTION)
    assert deliver(world, token)[-1] == "resume_condition_satisfied"
    assert field(world, KEYS.core, "lifecycle_phase") == "runnable"


@pytest.mark.parametrize(
    ("behavior", "outcome", "close_reason", "attempt_state"),
    [
        ("cancel", "cancelled", "timed_out_cancel", "ended_cancelled"),
        ("expire", "expired", "timed_out_expire", "ended_failure"),
        ("fail", "failed", "timed_out_fail", "ended_failure"),
        ("tea", "failed", "timed_out_fail", "ended_failure"),
        ("", "failed", "timed_out_fail", "ended_failure"),
    ],
)
def test_every_other_behaviour_ends_the_execution(
    world: World, behavior: str, outcome: str, close_reason: str, attempt_state: str
) -> None:
    put_due(world, timeout_behavior=behavior)
    put(world, KEYS.stream_meta(0), closed_at="5", closed_reason="earlier")
    with world.changes() as c, nothing_published(world):
        assert expire(world, EXECUTION) == [1, "OK", behavior, outcome]
    now = c.written[KEYS.core]["last_mutation_at"]
    failure_reason = f"suspension_timeout:{behavior}"
    closing = {"closed_at": now, "close_reason": close_reason}
    assert c.written == {
        KEYS.core: {
            "lifecycle_phase": "terminal",
            "ownership_state": "unowned",
            "eligibility_state": "not_applicable",
            "blocking_reason": "none",
            "blocking_detail": "",
            "terminal_outcome": outcome,
            "attempt_state": "attempt_terminal",
            "public_state": outcome,
            "failure_reason": failure_reason,
            "completed_at": now,
            "current_suspension_id": "",
            "current_waitpoint_id": "",
            "last_transition_at": now,
            "last_mutation_at": now,
        },
        KEYS.attempt(0): {
            "attempt_state": attempt_state,
            "ended_at": now,
            "failure_reason": failure_reason,
            "suspended_at": "",
            "suspension_id": "",
        },
        KEYS.stream_meta(0): {"closed_at": now, "closed_reason": "suspension_timeout"},
        KEYS.waitpoint(WAITPOINT): {"state": "closed", **closing},
        CONDITION: {"closed": "1", "closed_at": now, "closed_reason": close_reason},
        SUSPENSION: closing,
        lane("terminal"): {EXECUTION: int(now)},
    }
    assert c.removed == {**IN_INDEX, **WAS_SUSPENDED}
    with world.unchanged():
        assert expire(world, EXECUTION) == [1, "OK", "not_suspended_cleaned"]


def test_a_missing_behaviour_fails_and_no_attempt_or_stream_is_made_up(world: World) -> None:
    put_due(world)
    world.redis.hdel(SUSPENSION, "timeout_behavior")
    put(world, KEYS.core, current_attempt_index="")
    with world.changes() as c:
        assert expire(world, EXECUTION) == [1, "OK", "fail", "failed"]
    assert KEYS.attempt(0) not in c.written
    assert KEYS.stream_meta(0) not in c.written


def cleaned(world: World, answer: str) -> None:
    with world.changes() as c:
        assert expire(world, EXECUTION) == [1, "OK", answer]
    assert (c.written, c.removed) == ({}, IN_INDEX)


def test_an_unknown_execution_leaves_the_index(world: World) -> None:
    world.command("ZADD", SUSPENSION_TIMEOUT, 1000, EXECUTION)
    cleaned(world, "not_found_cleaned")


@pytest.mark.parametrize("core", [{"lifecycle_phase": "active"}, {"lifecycle_phase": "terminal"}, {"lane_id": "x"}])
def test_an_execution_that_is_not_suspended_leaves_the_index(world: World, core: dict[str, Any]) -> None:
    put_due(world)
    world.redis.delete(KEYS.core)
    put(world, KEYS.core, **core)
    cleaned(world, "not_suspended_cleaned")


@pytest.mark.parametrize("suspension", [{"closed_at": "5"}, {"suspension_id": ""}, None])
def test_a_suspension_that_is_closed_or_missing_leaves_the_index(
    world: World, suspension: dict[str, str] | None
) -> None:
    put_due(world, **(suspension or {}))
    if suspension is None:
        world.redis.delete(SUSPENSION)
    cleaned(world, "no_active_suspension_cleaned")


@pytest.mark.parametrize("timeout_at", ["0", "00", str(FAR_MS), "inf", None])
def test_a_suspension_whose_time_is_not_over_is_left_alone(world: World, timeout_at: str | None) -> None:
    put_due(world, timeout_at=timeout_at or "")
    if timeout_at is None:
        world.redis.hdel(SUSPENSION, "timeout_at")
    with world.unchanged():
        assert expire(world, EXECUTION) == [1, "OK", "not_yet_due"]
        assert expire(world) == [1, "OK", "not_yet_due"]


@pytest.mark.parametrize("timeout_at", ["", "soon"])
def test_a_suspension_without_a_timeout_leaves_the_index_where_the_reference_raises(
    world: World, timeout_at: str
) -> None:
    put_due(world, timeout_at=timeout_at)
    cleaned(world, "not_yet_due")


def test_an_absent_execution_id_is_refused_before_anything_is_written(world: World) -> None:
    refusal = [0, "invalid_input", "execution_id must be given, got: nil"]
    assert expire(world) == refusal
    put_due(world)
    for change in ({"timeout_at": "1000"}, {"timeout_at": ""}, {"closed_at": "5"}):
        put(world, SUSPENSION, **change)
        with world.unchanged():
            assert expire(world) == refusal
    put(world, KEYS.core, lifecycle_phase="active")
    with world.unchanged():
        assert expire(world) == refusal


def test_keys_of_a_waitpoint_that_does_not_exist_are_written_all_the_same(world: World) -> None:
    put_due(world)
    world.redis.delete(KEYS.waitpoint(WAITPOINT), CONDITION)
    assert expire(world, EXECUTION)[1] == "OK"
    assert world.value(KEYS.waitpoint(WAITPOINT)).keys() == {"state", "closed_at", "close_reason"}
    assert world.value(CONDITION).keys() == {"closed", "closed_at", "closed_reason"}
