"""ff_suspend_execution: protocol 06 section 6."""

from __future__ import annotations

import pytest

from tests.lua.suspensions import (
    EXECUTION,
    FAR_MS,
    HMAC,
    KEYS,
    PENDING,
    SUMMARY,
    SUSPENSION,
    SUSPENSION_TIMEOUT,
    UNSET,
    WAITPOINT,
    WAITPOINT_2,
    WAITPOINT_KEY,
    WORKER,
    field,
    lane,
    nothing_published,
    put,
    put_active,
    put_pending,
    signed,
    suspend,
)
from tests.lua.world import World

CONDITION = KEYS.waitpoint(WAITPOINT, "condition")
HISTORY = KEYS.part("lease:history")
RELEASED = {
    "current_lease_id": "",
    "current_worker_id": "",
    "current_worker_instance_id": "",
    "lease_expires_at": "",
    "lease_last_renewed_at": "",
    "lease_renewal_deadline": "",
}


def put_poisoned(world: World) -> None:
    """An active execution whose every field that a suspension must write, and does not read, holds a '?'."""
    names = ("eligibility_state", "blocking_reason", "blocking_detail", "terminal_outcome", "attempt_state")
    more = ("public_state", "current_suspension_id", "current_waitpoint_id", "last_transition_at", "last_mutation_at")
    put_active(world, **dict.fromkeys(names + more, "?"))


def suspended_core(now: str, waitpoint_id: str = WAITPOINT) -> dict[str, str]:
    """What a suspension writes to a poisoned record."""
    return {
        "lifecycle_phase": "suspended",
        "ownership_state": "unowned",
        "eligibility_state": "not_applicable",
        "blocking_reason": "waiting_for_approval",
        "blocking_detail": f"suspended: waitpoint {waitpoint_id} awaiting waiting_for_approval",
        "terminal_outcome": "none",
        "attempt_state": "attempt_interrupted",
        "public_state": "suspended",
        **RELEASED,
        "current_suspension_id": "suspension-1",
        "current_waitpoint_id": waitpoint_id,
        "last_transition_at": now,
        "last_mutation_at": now,
    }


def suspension_record(now: str, **changes: str) -> dict[str, str]:
    return {
        "suspension_id": "suspension-1",
        "execution_id": EXECUTION,
        "attempt_index": "0",
        "waitpoint_id": WAITPOINT,
        "waitpoint_key": WAITPOINT_KEY,
        "reason_code": "waiting_for_approval",
        "requested_by": "worker",
        "created_at": now,
        "timeout_at": "",
        "timeout_behavior": "fail",
        "resume_condition_json": "{}",
        "resume_policy_json": '{"resume_target":"runnable"}',
        "continuation_metadata_pointer": "",
        "buffered_signal_summary_json": SUMMARY,
        "last_signal_at": "",
        "satisfied_at": "",
        "closed_at": "",
        "close_reason": "",
        **changes,
    }


HISTORY_ENTRY = (
    *("event", "released", "lease_id", "lease-1", "lease_epoch", "1", "attempt_index", "0"),
    *("attempt_id", "attempt-1", "reason", "suspend", "ts"),
)
GONE = {
    KEYS.part("lease:current"): {"lease_id": "lease-1"},
    KEYS.partition.index("lease_expiry"): {EXECUTION: FAR_MS},
    KEYS.partition.index("attempt_timeout"): {EXECUTION: FAR_MS},
    KEYS.partition.worker_leases(WORKER): {EXECUTION},
    lane("active"): {EXECUTION: FAR_MS},
}


def written_condition(now: str) -> dict[str, str]:
    return {
        "condition_type": "signal_set",
        "match_mode": "any",
        "minimum_signal_count": "1",
        "total_matchers": "1",
        "satisfied_count": "0",
        "closed": "0",
        "updated_at": now,
        "matcher:0:name": "",
        "matcher:0:satisfied": "0",
        "matcher:0:signal_id": "",
    }


def test_suspending_on_a_new_waitpoint_writes_exactly_this(world: World) -> None:
    put_poisoned(world)
    before = world.now_ms()
    with world.changes() as c:
        reply = suspend(world, timeout_at=" 4102444800000.0", continuation_metadata_pointer="s3://x")
    now = c.written[KEYS.core]["last_mutation_at"]
    assert before <= int(now) <= world.now_ms()
    token = signed(created_at=now)
    assert reply == [1, "OK", "suspension-1", WAITPOINT, WAITPOINT_KEY, token]
    assert c.written == {
        KEYS.core: suspended_core(now),
        KEYS.attempt(0): {"attempt_state": "suspended", "suspended_at": now, "suspension_id": "suspension-1"},
        KEYS.waitpoint(WAITPOINT): {
            "waitpoint_id": WAITPOINT,
            "execution_id": EXECUTION,
            "attempt_index": "0",
            "suspension_id": "suspension-1",
            "waitpoint_key": WAITPOINT_KEY,
            "waitpoint_token": token,
            "state": "active",
            "created_at": now,
            "activated_at": now,
            "expires_at": " 4102444800000.0",
            "signal_count": "0",
            "matched_signal_count": "0",
            "last_signal_at": "",
        },
        CONDITION: written_condition(now),
        KEYS.part("waitpoints"): {WAITPOINT},
        SUSPENSION: suspension_record(
            now, timeout_at=" 4102444800000.0", continuation_metadata_pointer="s3://x", timeout_behavior="fail"
        ),
        HISTORY: [(*HISTORY_ENTRY, now)],
        lane("suspended"): {EXECUTION: FAR_MS},
        SUSPENSION_TIMEOUT: {EXECUTION: FAR_MS},
    }
    assert c.removed == GONE


def test_suspending_on_a_pending_waitpoint_writes_exactly_this(world: World) -> None:
    put_poisoned(world)
    token = put_pending(world)
    with world.changes() as c:
        reply = suspend(world, use_pending_waitpoint="1", waitpoint_key="ignored", timeout_at="0x10")
    now = c.written[KEYS.core]["last_mutation_at"]
    assert reply == [1, "OK", "suspension-1", WAITPOINT, WAITPOINT_KEY, token]
    assert c.written == {
        KEYS.core: suspended_core(now),
        KEYS.attempt(0): {"attempt_state": "suspended", "suspended_at": now, "suspension_id": "suspension-1"},
        KEYS.waitpoint(WAITPOINT): {
            "suspension_id": "suspension-1",
            "state": "active",
            "activated_at": now,
            "expires_at": "0x10",
        },
        CONDITION: written_condition(now),
        KEYS.part("waitpoints"): {WAITPOINT},
        SUSPENSION: suspension_record(now, timeout_at="0x10"),
        HISTORY: [(*HISTORY_ENTRY, now)],
        lane("suspended"): {EXECUTION: 16},
        SUSPENSION_TIMEOUT: {EXECUTION: 16},
    }
    assert c.removed == {**GONE, PENDING: {WAITPOINT: FAR_MS}}


def test_a_suspension_without_a_timeout_comes_last_and_never_times_out(world: World) -> None:
    put_active(world)
    assert suspend(world)[1] == "OK"
    assert world.value(lane("suspended")) == {EXECUTION: 9999999999999}
    assert world.value(SUSPENSION_TIMEOUT) is None


def test_the_optional_arguments_may_be_absent(world: World) -> None:
    put_active(world)
    assert suspend(world, continuation_metadata_pointer=UNSET)[1] == "OK"
    record = world.value(SUSPENSION)
    assert (record["continuation_metadata_pointer"], record["timeout_behavior"]) == ("", "fail")


def test_an_empty_timeout_behaviour_is_stored_empty(world: World) -> None:
    put_active(world)
    assert suspend(world, timeout_behavior="")[1] == "OK"
    assert field(world, SUSPENSION, "timeout_behavior") == ""


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("waiting_for_signal", "waiting_for_signal"),
        ("waiting_for_approval", "waiting_for_approval"),
        ("waiting_for_callback", "waiting_for_callback"),
        ("waiting_for_tool_result", "waiting_for_tool_result"),
        ("waiting_for_operator_review", "paused_by_operator"),
        ("paused_by_policy", "paused_by_policy"),
        ("paused_by_budget", "waiting_for_budget"),
        ("step_boundary", "waiting_for_signal"),
        ("manual_pause", "paused_by_operator"),
        ("tea", "waiting_for_signal"),
        ("", "waiting_for_signal"),
    ],
)
def test_the_reason_code_says_what_blocks_the_execution(world: World, code: str, reason: str) -> None:
    put_active(world)
    suspend(world, reason_code=code)
    core = world.value(KEYS.core)
    assert core["blocking_reason"] == reason
    assert core["blocking_detail"] == f"suspended: waitpoint {WAITPOINT} awaiting {code}"


def test_an_unknown_execution_is_refused_before_anything_is_checked(world: World) -> None:
    with world.unchanged():
        assert suspend(world, resume_condition_json=UNSET) == [0, "execution_not_found"]


WRONG_LEASE = {"lease_id": "lease-0", "attempt_index": "7", "resume_condition_json": "{", "timeout_at": "x"}


@pytest.mark.parametrize(
    ("core", "changes", "reply"),
    [
        (
            {"lifecycle_phase": "suspended", "ownership_state": "lease_revoked"},
            {},
            ["execution_not_active", "none", "1"],
        ),
        ({"ownership_state": "lease_revoked", "lease_expires_at": "1"}, {}, ["lease_revoked"]),
        ({}, {}, ["stale_lease"]),
        ({}, {"lease_id": "lease-1", "lease_epoch": "01"}, ["stale_lease"]),
        ({}, {"lease_id": "lease-1", "attempt_id": "attempt-0"}, ["stale_lease"]),
        ({}, {"lease_id": "lease-1"}, ["invalid_lease_for_suspend"]),
        ({}, {"lease_id": "lease-1", "attempt_index": "00"}, ["invalid_lease_for_suspend"]),
        ({}, {"lease_id": "lease-1", "attempt_index": "0"}, ["already_suspended"]),
    ],
)
def test_refusals_of_the_caller_come_in_the_protocols_order(
    world: World, core: dict[str, str], changes: dict[str, str], reply: list[str]
) -> None:
    put_active(world, **core)
    put(world, SUSPENSION, suspension_id="old", closed_at="")
    world.redis.delete(HMAC)
    with world.unchanged():
        assert suspend(world, **{**WRONG_LEASE, **changes}) == [0, *reply]


def test_details_of_an_execution_that_is_not_active_are_empty_when_missing(world: World) -> None:
    put(world, KEYS.core, lifecycle_phase="runnable")
    assert suspend(world) == [0, "execution_not_active", "", ""]


def test_arguments_after_the_execution_id_may_be_absent_as_long_as_the_lease_is_refused(world: World) -> None:
    put_active(world)
    with world.unchanged():
        assert suspend(world, attempt_index=UNSET) == [0, "stale_lease"]


EXPIRED = {
    "ownership_state": "lease_expired_reclaimable",
    "blocking_reason": "waiting_for_worker",
    "blocking_detail": "lease expired, awaiting reclaim",
    "attempt_state": "attempt_interrupted",
}


@pytest.mark.parametrize("lease_expires_at", ["1", "", "0"])
@pytest.mark.parametrize("maxlen", ["1000", "5", "x", ""])
def test_an_expired_lease_is_marked_whatever_else_is_wrong(world: World, lease_expires_at: str, maxlen: str) -> None:
    put_active(world, lease_expires_at=lease_expires_at)
    put(world, KEYS.stream_meta(0), closed_at="")
    with world.changes() as c:
        assert suspend(world, **WRONG_LEASE, lease_history_maxlen=maxlen) == [0, "lease_expired"]
    now = c.written[KEYS.core]["last_mutation_at"]
    assert c.written == {
        KEYS.core: {**EXPIRED, "lease_expired_at": now, "last_mutation_at": now},
        KEYS.stream_meta(0): {"closed_at": now, "closed_reason": "lease_expired"},
        HISTORY: [
            (
                *("event", "expired", "lease_id", "lease-1", "lease_epoch", "1", "attempt_index", "0"),
                *("attempt_id", "attempt-1", "worker_id", "pool", "worker_instance_id", WORKER, "ts", now),
            )
        ],
    }
    with world.unchanged():
        assert suspend(world, lease_history_maxlen=maxlen) == [0, "lease_expired"]


@pytest.mark.parametrize("maxlen", ["5", "0", "-0"])
def test_the_length_of_the_lease_history_is_the_callers(world: World, maxlen: str) -> None:
    put_active(world)
    for _ in range(150):
        world.command("XADD", HISTORY, "*", "event", "x")
    assert suspend(world, lease_history_maxlen=maxlen)[1] == "OK"
    assert len(world.value(HISTORY)) < 100


def test_an_earlier_closed_suspension_is_replaced_and_its_waitpoint_remembered(world: World) -> None:
    put_active(world)
    put(world, SUSPENSION, suspension_id="old", closed_at="5", waitpoint_id=WAITPOINT_2, stray="1")
    assert suspend(world)[1] == "OK"
    assert world.value(KEYS.part("waitpoints")) == {WAITPOINT, WAITPOINT_2}
    assert "stray" not in world.value(SUSPENSION)


@pytest.mark.parametrize("waitpoint_id", ["", None])
def test_an_earlier_suspension_without_a_waitpoint_leaves_nothing_to_remember(
    world: World, waitpoint_id: str | None
) -> None:
    put_active(world)
    put(
        world,
        SUSPENSION,
        suspension_id="old",
        closed_at="5",
        **({} if waitpoint_id is None else {"waitpoint_id": ""}),
    )
    assert suspend(world)[1] == "OK"
    assert world.value(KEYS.part("waitpoints")) == {WAITPOINT}


def test_suspending_twice_is_refused_because_the_execution_is_no_longer_active(world: World) -> None:
    put_active(world)
    suspend(world)
    with world.unchanged():
        assert suspend(world) == [0, "execution_not_active", "none", "1"]


def test_a_waitpoint_that_exists_is_overlaid_and_a_pending_one_stays_in_its_index(world: World) -> None:
    put_active(world)
    put_pending(world)
    put(world, KEYS.waitpoint(WAITPOINT), close_reason="kept", suspension_id="?")
    assert suspend(world)[1] == "OK"
    record = world.value(KEYS.waitpoint(WAITPOINT))
    assert (record["state"], record["close_reason"], record["suspension_id"]) == ("active", "kept", "suspension-1")
    assert world.value(PENDING) == {WAITPOINT: FAR_MS}


def test_suspending_publishes_nothing(world: World) -> None:
    put_active(world)
    with nothing_published(world):
        assert suspend(world)[1] == "OK"
