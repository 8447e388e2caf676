"""ff_deliver_signal and ff_buffer_signal_for_pending_waitpoint: protocol 06 sections 11 and 12."""

from __future__ import annotations

from typing import Any

import pytest

from ffsuper.messages import ExecutionId
from tests.lua.signals import CONDITION, FOREIGN, POINT, SIGNAL_KEY, TWO_NAMES, buffer, deliver, recorded
from tests.lua.suspensions import (
    EXECUTION,
    FAR_MS,
    KEYS,
    OTHER,
    SCORE,
    SUSPENSION,
    SUSPENSION_TIMEOUT,
    WAITPOINT_2,
    field,
    lane,
    nothing_published,
    put,
    put_active,
    put_pending,
    put_suspended,
    resume,
    suspend,
)
from tests.lua.world import World


def resumed_core(now: str, **changes: str) -> dict[str, str]:
    return {
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
        **changes,
    }


def closed_by_signal(now: str) -> dict[str, Any]:
    """What the satisfied condition writes beside the execution."""
    closing = {"satisfied_at": now, "closed_at": now, "close_reason": "resumed"}
    return {
        CONDITION: {
            "matcher:0:satisfied": "1",
            "matcher:0:signal_id": "signal-1",
            "satisfied_count": "1",
            "closed": "1",
            "closed_at": now,
            "closed_reason": "satisfied",
        },
        POINT: {
            "state": "closed",
            **closing,
            "signal_count": "1",
            "matched_signal_count": "1",
            "last_signal_at": now,
        },
        SUSPENSION: {**closing, "last_signal_at": now},
    }


def put_poisoned(world: World, condition: dict[str, Any] | None = None) -> str:
    """A suspension with a timeout; fields of the record that a resume must write hold a '?'. Returns the token."""
    token = put_suspended(world, condition)
    names = ("ownership_state", "eligibility_state", "blocking_reason", "blocking_detail", "terminal_outcome")
    more = ("attempt_state", "public_state", "last_transition_at", "last_mutation_at")
    put(world, KEYS.core, **dict.fromkeys(names + more, "?"))
    world.command("ZADD", SUSPENSION_TIMEOUT, FAR_MS, EXECUTION)
    return token


REMOVED = {lane("suspended"): {EXECUTION: 9999999999999}, SUSPENSION_TIMEOUT: {EXECUTION: FAR_MS}}


def test_a_signal_that_satisfies_the_condition_resumes_the_execution(world: World) -> None:
    token = put_poisoned(world)
    before = world.now_ms()
    with world.changes() as c, nothing_published(world):
        assert deliver(world, token) == [1, "OK", "signal-1", "resume_condition_satisfied"]
    now = c.written[KEYS.core]["last_mutation_at"]
    assert before <= int(now) <= world.now_ms()
    assert c.written == {
        **recorded(now, "resume_condition_satisfied"),
        **closed_by_signal(now),
        KEYS.core: resumed_core(now),
        lane("eligible"): {EXECUTION: SCORE},
    }
    assert c.removed == REMOVED


@pytest.mark.parametrize(("delay", "text", "delay_ms"), [("250", "250", 250), ("1e3", "1000", 1000)])
def test_a_resume_delay_writes_delay_until_so_that_the_execution_can_be_promoted(
    world: World, delay: str, text: str, delay_ms: int
) -> None:
    token = put_poisoned(world)
    with world.changes() as c:
        assert deliver(world, token, resume_delay_ms=delay)[-1] == "resume_condition_satisfied"
    now = c.written[KEYS.core]["last_mutation_at"]
    due = int(now) + delay_ms
    assert c.written == {
        **recorded(now, "resume_condition_satisfied"),
        **closed_by_signal(now),
        KEYS.core: resumed_core(
            now,
            eligibility_state="not_eligible_until_time",
            blocking_reason="waiting_for_resume_delay",
            blocking_detail=f"resume delay {text}ms after signal approved",
            public_state="delayed",
            delay_until=str(due),
        ),
        lane("delayed"): {EXECUTION: due},
    }
    assert c.removed == REMOVED


@pytest.mark.parametrize("delay", ["-1", "nan"])
def test_a_delay_that_is_not_positive_is_none(world: World, delay: str) -> None:
    token = put_poisoned(world)
    deliver(world, token, resume_delay_ms=delay)
    assert field(world, KEYS.core, "public_state") == "waiting"


def test_a_signal_that_satisfies_one_matcher_of_several_is_appended(world: World) -> None:
    token = put_poisoned(world, TWO_NAMES)
    with world.changes() as c:
        assert deliver(world, token) == [1, "OK", "signal-1", "appended_to_waitpoint"]
    now = c.written[SIGNAL_KEY]["accepted_at"]
    assert c.written == {
        **recorded(now, "appended_to_waitpoint"),
        CONDITION: {"matcher:0:satisfied": "1", "matcher:0:signal_id": "signal-1", "satisfied_count": "1"},
        POINT: {"signal_count": "1", "matched_signal_count": "1", "last_signal_at": now},
        SUSPENSION: {"last_signal_at": now},
    }
    assert c.removed == {}


def test_a_signal_that_no_matcher_takes_is_counted_only(world: World) -> None:
    token = put_poisoned(world, {"required_signal_names": ["paid"]})
    with world.changes() as c:
        assert deliver(world, token) == [1, "OK", "signal-1", "no_op"]
    now = c.written[SIGNAL_KEY]["accepted_at"]
    assert c.written == {
        **recorded(now, "no_op"),
        POINT: {"signal_count": "1", "last_signal_at": now},
        SUSPENSION: {"last_signal_at": now},
    }
    assert c.removed == {}


def test_a_missing_suspension_record_is_not_made_up(world: World) -> None:
    token = put_poisoned(world, TWO_NAMES)
    world.redis.delete(SUSPENSION)
    deliver(world, token)
    assert deliver(world, token, signal_id="s2", signal_name="paid")[-1] == "resume_condition_satisfied"
    assert world.value(SUSPENSION) is None


def test_an_active_waitpoint_of_an_execution_that_goes_on_is_closed_and_nothing_resumed(world: World) -> None:
    token = put_poisoned(world)
    put(world, KEYS.core, lifecycle_phase="active")
    with world.changes() as c:
        assert deliver(world, token, resume_delay_ms="")[-1] == "resume_condition_satisfied"
    assert KEYS.core not in c.written
    assert c.removed == {SUSPENSION_TIMEOUT: {EXECUTION: FAR_MS}}


def test_a_signal_to_an_earlier_waitpoint_of_the_same_execution_ends_its_new_suspension(world: World) -> None:
    token = put_suspended(world)
    resume(world)
    put_active(world)
    assert suspend(world, waitpoint_id=WAITPOINT_2)[1] == "OK"
    assert deliver(world, token)[-1] == "resume_condition_satisfied"
    assert field(world, KEYS.core, "lifecycle_phase") == "runnable"
    assert field(world, KEYS.waitpoint(WAITPOINT_2), "state") == "active"


def test_an_unknown_execution_is_refused_first(world: World) -> None:
    with world.unchanged():
        assert deliver(world, "", hmac_secrets="") == [0, "execution_not_found"]
        assert buffer(world, "", hmac_secrets="") == [0, "execution_not_found"]


def test_a_waitpoint_without_a_creation_time_is_refused_without_a_stamp(world: World) -> None:
    put_active(world)
    for record in ({}, {"state": "pending"}):
        if record:
            put(world, POINT, **record)
        with world.unchanged():
            assert deliver(world, "", hmac_secrets="") == [0, "invalid_token"]
            assert buffer(world, "", hmac_secrets="") == [0, "waitpoint_not_found"]


@pytest.mark.parametrize(
    ("phase", "state", "code"),
    [
        ("terminal", "active", "target_not_signalable"),
        ("terminal", "pending", "target_not_signalable"),
        ("active", "pending", "waitpoint_pending_use_buffer_script"),
        ("runnable", "pending", "waitpoint_pending_use_buffer_script"),
        ("submitted", "pending", "waitpoint_pending_use_buffer_script"),
        ("active", "closed", "target_not_signalable"),
        ("runnable", "closed", "target_not_signalable"),
        ("submitted", "", "target_not_signalable"),
        ("active", "active", "waitpoint_not_found"),
        ("suspended", "pending", "waitpoint_not_found"),
        ("suspended", "closed", "waitpoint_not_found"),
        ("other", "closed", "waitpoint_not_found"),
    ],
)
def test_deliver_looks_at_phase_then_state_then_condition(world: World, phase: str, state: str, code: str) -> None:
    token = put_suspended(world)
    put(world, KEYS.core, lifecycle_phase=phase)
    put(world, POINT, state=state, execution_id=OTHER)
    world.redis.delete(CONDITION)
    with world.unchanged():
        assert deliver(world, token, max_signals_per_execution="x", signal_maxlen="x") == [0, code]


def test_a_closed_condition_is_found_before_the_limit_and_the_limit_before_a_duplicate(world: World) -> None:
    token = put_suspended(world, TWO_NAMES)
    again = {"idempotency_key": "once", "max_signals_per_execution": "1"}
    assert deliver(world, token, **again)[:2] == [1, "OK"]
    with world.unchanged():
        assert deliver(world, token, **again) == [0, "signal_limit_exceeded"]
        assert deliver(world, token, **{**again, "max_signals_per_execution": "2"}) == [1, "DUPLICATE", "signal-1"]
    put(world, CONDITION, closed="1")
    with world.unchanged():
        assert deliver(world, token, **{**again, "max_signals_per_execution": ""}) == [0, "waitpoint_closed"]


@pytest.mark.parametrize("limit", ["0", "-1", "nan", "1.5", "1e9"])
def test_the_limit_of_signals_counts_when_positive(world: World, limit: str) -> None:
    token = put_suspended(world, TWO_NAMES)
    assert deliver(world, token, max_signals_per_execution=limit)[1] == "OK"


def test_the_token_of_one_execution_resumes_no_other(world: World) -> None:
    token = put_suspended(world)
    other_token = suspend_other(world)
    with world.unchanged():
        assert deliver(world, other_token, waitpoint_id=WAITPOINT_2) == FOREIGN
        assert buffer(world, other_token, waitpoint_id=WAITPOINT_2) == FOREIGN
    assert deliver(world, token)[-1] == "resume_condition_satisfied"


def test_a_duplicate_of_another_execution_answers_as_it_did(world: World) -> None:
    put_suspended(world)
    other_token = suspend_other(world)
    world.command("SET", KEYS.signal_dedup(WAITPOINT_2, "once"), "first")
    with world.unchanged():
        reply = deliver(world, other_token, waitpoint_id=WAITPOINT_2, idempotency_key="once")
    assert reply == [1, "DUPLICATE", "first"]


def suspend_other(world: World) -> str:
    """Make WAITPOINT_2 the waitpoint of another execution of the partition; return its token."""
    put_active(world, lifecycle_phase="active")
    token = put_pending(world, WAITPOINT_2)
    put(world, KEYS.waitpoint(WAITPOINT_2), execution_id=OTHER)
    put(world, KEYS.waitpoint(WAITPOINT_2, "condition"), **world.value(CONDITION))
    put(world, KEYS.core, lifecycle_phase="suspended")
    return token


@pytest.mark.parametrize("owner", ["", None])
def test_a_waitpoint_that_names_no_execution_takes_signals_still(world: World, owner: str | None) -> None:
    token = put_suspended(world)
    put(world, POINT, execution_id="")
    if owner is None:
        world.redis.hdel(POINT, "execution_id")
    assert deliver(world, token)[-1] == "resume_condition_satisfied"


def test_the_waitpoints_execution_is_compared_as_text(world: World) -> None:
    token = put_suspended(world)
    spelled_otherwise = ExecutionId(EXECUTION.upper())
    with world.unchanged():
        assert deliver(world, token, execution_id=spelled_otherwise) == FOREIGN
