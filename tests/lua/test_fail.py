"""ff_fail_execution: protocol 02, section 6.7."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.lua.executions import call_claim, claim, claimed, grant, lane_key
from tests.lua.holders import (
    ENDED,
    FAR_MS,
    FLOW,
    GUARDED,
    RELEASED,
    claim_beside_another,
    fail,
    held,
    open_stream,
    poison,
    promote,
    published,
    since,
)
from tests.lua.suspensions import UNSET, put
from tests.lua.world import World

READ = (*GUARDED, "retry_count")
ONCE = {"max_retries": 1, "backoff": {"type": "fixed", "delay_ms": 500}}


def policy(backoff: Any, max_retries: Any = 100) -> str:
    return json.dumps({"max_retries": max_retries, "backoff": backoff})


def wait_of(world: World, retry_policy: str, retry_count: str = "0") -> tuple[str, str, float, float]:
    """Fail an attempt; return the reply's time, the record's, the index's, and how long after the failure it is."""
    lease = claim(world)
    put(world, lease.keys.core, retry_count=retry_count)
    reply = fail(world, lease, retry_policy)
    assert reply[:3] == [1, "OK", "retry_scheduled"]
    core = world.value(lease.keys.core)
    score = world.value(lane_key(lease.keys, "delayed"))[lease.execution_id]
    return reply[3], core["delay_until"], score, score - int(core["last_mutation_at"])


def test_a_failure_without_a_retry_ends_the_execution(world: World) -> None:
    lease = claim_beside_another(world)
    keys, stream_meta, before = lease.keys, open_stream(world, lease.keys), world.now_ms()
    poison(world, keys.core, keep=READ)
    put(world, keys.core, flow_id="")
    lost = held(world, lease)
    with world.changes() as c:
        assert fail(world, lease) == [1, "OK", "terminal_failed"]
    now = since(before, world, c.written[lease.attempt]["ended_at"])
    assert c.written == {
        keys.core: {
            **RELEASED,
            **ENDED,
            "terminal_outcome": "failed",
            "attempt_state": "attempt_terminal",
            "public_state": "failed",
            "failure_reason": "it broke",
            "completed_at": now,
            "last_transition_at": now,
            "last_mutation_at": now,
        },
        lease.attempt: ended_attempt(now),
        stream_meta: {"closed_at": now, "closed_reason": "attempt_failure"},
        lane_key(keys, "terminal"): {keys.id: float(now)},
        keys.part("lease:history"): [released(lease.lease_id, "failed_terminal", now)],
    }
    assert c.removed == {**lost, keys.partition.index("execution_deadline"): {keys.id: FAR_MS}}


def ended_attempt(now: str) -> dict[str, str]:
    return {
        "attempt_state": "ended_failure",
        "ended_at": now,
        "failure_reason": "it broke",
        "failure_category": "exception",
    }


def released(lease_id: str, reason: str, now: str) -> tuple[str, ...]:
    fields = ("event", "released", "lease_id", lease_id, "lease_epoch", "1", "attempt_index", "0")
    return (*fields, "reason", reason, "ts", now)


def test_a_failure_with_a_retry_left_makes_the_execution_wait_and_keeps_its_deadline(world: World) -> None:
    lease = claim_beside_another(world)
    keys, stream_meta, before = lease.keys, open_stream(world, lease.keys), world.now_ms()
    poison(world, keys.core, keep=READ)
    lost = held(world, lease)
    with world.changes() as c:
        reply = fail(world, lease, ONCE)
    now = since(before, world, c.written[lease.attempt]["ended_at"])
    until = str(int(now) + 500)
    assert reply == [1, "OK", "retry_scheduled", until]
    assert c.written == {
        keys.core: {
            **RELEASED,
            "lifecycle_phase": "runnable",
            "eligibility_state": "not_eligible_until_time",
            "blocking_reason": "waiting_for_retry_backoff",
            "blocking_detail": f"retry backoff until {until} (attempt 0 failed: it broke)",
            "terminal_outcome": "none",
            "attempt_state": "pending_retry_attempt",
            "public_state": "delayed",
            "pending_retry_reason": "it broke",
            "pending_previous_attempt_index": "0",
            "retry_count": "1",
            "current_attempt_id": "",
            "delay_until": until,
            "failure_reason": "it broke",
            "last_transition_at": now,
            "last_mutation_at": now,
        },
        lease.attempt: ended_attempt(now),
        stream_meta: {"closed_at": now, "closed_reason": "attempt_failure"},
        lane_key(keys, "delayed"): {keys.id: float(until)},
        keys.part("lease:history"): [released(lease.lease_id, "failed_retry_scheduled", now)],
    }
    assert c.removed == lost


def test_the_retry_is_a_new_attempt_once_its_time_has_come(world: World) -> None:
    lease = claim(world)
    until = fail(world, lease, ONCE)[3]
    assert promote(world, lease.keys, lease.execution_id, until) == [1, "OK", "promoted"]
    grant(world, lease.keys)
    again = claimed(lease.keys, call_claim(world, lease.keys))
    assert (again.index, again.kind, again.epoch) == (1, "retry", "2")
    assert world.value(again.attempt)["retry_reason"] == "it broke"
    assert fail(world, again, ONCE) == [1, "OK", "terminal_failed"]


@pytest.mark.parametrize(("outcome", "retry_policy"), [(["failed"], ""), ([], ONCE)])
def test_only_the_final_failure_of_a_flow_member_is_announced(
    world: World, outcome: list[str], retry_policy: Any
) -> None:
    lease = claim(world)
    put(world, lease.keys.core, flow_id=FLOW)
    with published(world) as messages:
        fail(world, lease, retry_policy)
    found = [json.loads(message) for message in messages]
    assert found == [{"flow_id": FLOW, "execution_id": lease.execution_id, "outcome": what} for what in outcome]


@pytest.mark.parametrize(("retry_policy", "outcome"), [("", "failed"), (ONCE, "none")])
def test_a_repeated_failure_is_told_the_outcome_and_changes_nothing(
    world: World, retry_policy: Any, outcome: str
) -> None:
    lease = claim(world)
    fail(world, lease, retry_policy)
    with world.unchanged():
        assert fail(world, lease, retry_policy) == [0, "execution_not_active", outcome, "1"]


@pytest.mark.parametrize(
    "retry_policy",
    [
        *("", UNSET, "null", "{", "5", '"x"', "true", "[]", "[1]", "{}", '{"max_retries":0}', '{"max_retries":-1}'),
        *('{"max_retries":false}', '{"max_retries":1}', '{"max_retries":"1.0"}', '{"max_retries":nan}'),
    ],
)
def test_no_policy_and_no_retry_left_mean_no_retry(world: World, retry_policy: Any) -> None:
    lease = claim(world)
    put(world, lease.keys.core, retry_count="1")
    assert fail(world, lease, retry_policy=retry_policy) == [1, "OK", "terminal_failed"]


@pytest.mark.parametrize("max_retries", [2, 1.5, "2", "0x2", 1e99, "inf"])
def test_a_retry_is_left_while_their_number_is_below_the_limit(world: World, max_retries: Any) -> None:
    lease = claim(world)
    put(world, lease.keys.core, retry_count="1")
    assert fail(world, lease, policy({}, max_retries))[2] == "retry_scheduled"
    assert world.value(lease.keys.core)["retry_count"] == "2"


@pytest.mark.parametrize("max_retries", [None, "many", "", True, [], {}])
def test_a_number_of_retries_that_is_none_does_not_leave_a_failed_attempt_under_its_lease(
    world: World, max_retries: Any
) -> None:
    """The reference raises with the attempt ended and the execution still leased."""
    lease = claim(world)
    assert fail(world, lease, policy({}, max_retries)) == [1, "OK", "terminal_failed"]


@pytest.mark.parametrize("backoff", [None, True, 5])
def test_a_backoff_that_is_none_does_not_leave_a_failed_attempt_under_its_lease(world: World, backoff: Any) -> None:
    """The reference raises with the attempt ended and the execution still leased."""
    assert wait_of(world, policy(backoff))[3] == 1000


@pytest.mark.parametrize("damage", ["", "many", None])
def test_a_retry_count_that_is_none_counts_as_no_retry_yet(world: World, damage: str | None) -> None:
    lease = claim(world)
    if damage is None:
        world.command("HDEL", lease.keys.core, "retry_count")
    else:
        put(world, lease.keys.core, retry_count=damage)
    assert fail(world, lease, ONCE)[2] == "retry_scheduled"
    assert world.value(lease.keys.core)["retry_count"] == "1"


EXPONENTIAL = {"type": "exponential"}


@pytest.mark.parametrize(
    ("backoff", "retry_count", "wait_ms"),
    [
        *[
            (EXPONENTIAL, str(count), wait)
            for count, wait in [(0, 1000), (1, 2000), (2, 4000), (3, 8000), (20, 60000)]
        ],
        ({**EXPONENTIAL, "initial_delay_ms": 10, "multiplier": 3, "max_delay_ms": 80}, "1", 30),
        ({**EXPONENTIAL, "initial_delay_ms": 10, "multiplier": 3, "max_delay_ms": 80}, "2", 80),
        ({**EXPONENTIAL, "initial_delay_ms": "10", "multiplier": "3", "max_delay_ms": "80"}, "1", 30),
        ({**EXPONENTIAL, "initial_delay_ms": None, "multiplier": "x", "max_delay_ms": []}, "1", 2000),
        ({**EXPONENTIAL, "multiplier": 0.5}, "2", 250),
        ({**EXPONENTIAL, "multiplier": 0}, "1", 0),
        ({**EXPONENTIAL, "multiplier": -2}, "1", -2000),
        ({**EXPONENTIAL, "multiplier": 1e300}, "9", 60000),
        ({**EXPONENTIAL, "max_delay_ms": -7}, "0", -7),
        ({**EXPONENTIAL, "jitter": True}, "0", 1000),
        ({"type": "fixed", "delay_ms": 250}, "7", 250),
        ({"type": "fixed", "delay_ms": "0x10"}, "0", 16),
        ({"type": "fixed", "delay_ms": -250}, "0", -250),
        ({"type": "fixed", "delay_ms": None}, "0", 1000),
        ({"type": "fixed"}, "0", 1000),
        ({"type": "linear", "delay_ms": 5}, "0", 1000),
        ({"delay_ms": 5}, "0", 1000),
        ({}, "0", 1000),
        ([], "0", 1000),
        (False, "0", 1000),
        ("fixed", "0", 1000),
    ],
)
def test_the_backoff_says_how_long_a_retry_waits(world: World, backoff: Any, retry_count: str, wait_ms: int) -> None:
    replied, stored, score, waited_ms = wait_of(world, policy(backoff), retry_count)
    assert waited_ms == wait_ms
    assert replied == stored == str(int(score))


def test_a_policy_without_a_backoff_waits_a_second(world: World) -> None:
    assert wait_of(world, '{"max_retries":1}')[3] == 1000


def test_the_categories_that_a_policy_names_are_not_looked_at(world: World) -> None:
    assert wait_of(world, '{"max_retries":1,"retryable_categories":["timeout"]}')[3] == 1000


def test_a_fractional_backoff_keeps_one_decimal_in_the_text_and_all_in_the_index(world: World) -> None:
    backoff = {**EXPONENTIAL, "multiplier": 1.5}
    replied, stored, score, waited_ms = wait_of(world, policy(backoff), "5")
    assert waited_ms == 7593.75
    assert replied == stored == f"{int(score)}.8"


@pytest.mark.parametrize(
    ("delay_ms", "until", "score"),
    [("1e30", "1e+30", 1e30), ("1e999", "inf", float("inf")), ("-inf", "-inf", -float("inf"))],
)
def test_a_huge_backoff_is_taken_at_its_word(world: World, delay_ms: str, until: str, score: float) -> None:
    backoff = f'{{"max_retries":1,"backoff":{{"type":"fixed","delay_ms":{delay_ms}}}}}'
    assert wait_of(world, backoff)[:3] == (until, until, score)


@pytest.mark.parametrize(
    "backoff",
    [
        '{"type":"fixed","delay_ms":nan}',
        '{"type":"fixed","delay_ms":"nan"}',
        '{"type":"exponential","multiplier":"nan"}',
        '{"type":"exponential","initial_delay_ms":0,"multiplier":1e999}',
    ],
)
def test_a_backoff_that_is_no_number_does_not_leave_a_failed_attempt_under_its_lease(
    world: World, backoff: str
) -> None:
    """The reference raises at the delayed index, with the lease gone and the execution in no index."""
    assert wait_of(world, f'{{"max_retries":3,"backoff":{backoff}}}', "1")[3] == 1000


@pytest.mark.parametrize("name", ["failure_reason", "failure_category"])
def test_an_absent_reason_or_category_is_refused_before_anything_is_written(world: World, name: str) -> None:
    lease = claim(world)
    open_stream(world, lease.keys)
    with world.unchanged():
        assert fail(world, lease, **{name: UNSET}) == [0, "invalid_input", f"{name} must be given, got: nil"]


def test_an_empty_reason_and_category_are_stored(world: World) -> None:
    lease = claim(world)
    assert fail(world, lease, ONCE, failure_reason="", failure_category="")[2] == "retry_scheduled"
    attempt = world.value(lease.attempt)
    assert (attempt["failure_reason"], attempt["failure_category"]) == ("", "")
    assert world.value(lease.keys.core)["blocking_detail"].endswith(" (attempt 0 failed: )")


@pytest.mark.parametrize("retry_policy", ["", ONCE])
def test_an_attempt_index_that_the_record_lacks_is_empty_in_the_history(world: World, retry_policy: Any) -> None:
    lease = claim(world)
    world.command("HDEL", lease.keys.core, "current_attempt_index")
    assert fail(world, lease, retry_policy)[:2] == [1, "OK"]
    event = world.value(lease.keys.part("lease:history"))[-1]
    assert event[event.index("attempt_index") + 1] == ""
