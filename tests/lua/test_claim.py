"""ff_claim_execution: protocol 02, section 6.2. What it refuses: test_claim_refusals.py."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lua.executions import (
    LANE,
    POOL,
    TTL_MS,
    WORKER,
    call_claim,
    claim,
    claimable,
    claimed,
    create,
    grant,
    lane_key,
)
from tests.lua.holders import poison, since
from tests.lua.suspensions import UNSET, nothing_published, put
from tests.lua.world import World

FAR = "4102444800000"  # the year 2100
READ = (
    *("lifecycle_phase", "ownership_state", "eligibility_state", "terminal_outcome", "attempt_state"),
    *("current_lease_epoch", "total_attempt_count", "started_at"),
)


def test_a_claim_writes_exactly_this(world: World) -> None:
    keys = claimable(world)
    poison(world, keys.core, keep=READ)
    put(world, keys.part("lease:current"), lease_id="left", left="over")
    score = world.value(lane_key(keys, "eligible"))
    admitted = world.value(keys.part("claim_grant"))
    before = world.now_ms()
    with world.changes() as c, nothing_published(world):
        found = claimed(keys, call_claim(world, keys))
    now = since(before, world, str(found.expires_at - TTL_MS))
    assert (found.epoch, found.index, found.kind) == ("1", 0, "initial")
    worker = {"worker_id": POOL, "worker_instance_id": WORKER}
    lease = {"lease_id": found.lease_id, "lease_epoch": "1"}
    times = {
        "expires_at": str(found.expires_at),
        "renewal_deadline": str(int(now) + 20_000),
        "last_renewed_at": now,
    }
    assert c.written == {
        keys.core: {
            "lifecycle_phase": "active",
            "ownership_state": "leased",
            "eligibility_state": "not_applicable",
            "blocking_reason": "none",
            "blocking_detail": "",
            "attempt_state": "running_attempt",
            "public_state": "active",
            "current_attempt_index": "0",
            "total_attempt_count": "1",
            "current_attempt_id": found.attempt_id,
            **{f"current_{name}": value for name, value in (lease | worker).items()},
            "current_lane": LANE,
            "lease_acquired_at": now,
            **{f"lease_{name}": value for name, value in times.items()},
            "lease_revoked_at": "",
            "started_at": now,
            "pending_retry_reason": "",
            "pending_replay_reason": "",
            "pending_replay_requested_by": "",
            "pending_previous_attempt_index": "",
            "last_transition_at": now,
            "last_mutation_at": now,
        },
        keys.attempt(0): {
            "attempt_id": found.attempt_id,
            "execution_id": keys.id,
            "attempt_index": "0",
            "attempt_type": "initial",
            "attempt_state": "started",
            "created_at": now,
            "started_at": now,
            **lease,
            **worker,
        },
        keys.attempt(0, "usage"): {"last_usage_report_seq": "0"},
        keys.part("attempts"): {"0": float(now)},
        keys.part("lease:current"): {
            **lease,
            **worker,
            "execution_id": keys.id,
            "attempt_id": found.attempt_id,
            "acquired_at": now,
            **times,
        },
        keys.part("lease:history"): [
            (
                *(
                    "event",
                    "acquired",
                    "lease_id",
                    found.lease_id,
                    "lease_epoch",
                    "1",
                    "attempt_id",
                    found.attempt_id,
                ),
                *("attempt_index", "0", "worker_id", POOL, "ts", now),
            )
        ],
        keys.partition.index("lease_expiry"): {keys.id: float(found.expires_at)},
        lane_key(keys, "active"): {keys.id: float(found.expires_at)},
        keys.partition.worker_leases(WORKER): {keys.id},
    }
    assert c.removed == {
        keys.part("claim_grant"): admitted,
        lane_key(keys, "eligible"): score,
        keys.part("lease:current"): {"left": "over"},
    }
    assert world.expiries() == {}


def test_the_lane_of_the_claim_is_stored(world: World) -> None:
    keys = claimable(world)
    call_claim(world, keys, lane_id="other")
    assert (world.value(keys.core)["current_lane"], world.value(keys.core)["lane_id"]) == ("other", LANE)


def test_the_attempts_own_keys_are_not_taken_from_the_caller(world: World) -> None:
    keys = claimable(world, total_attempt_count="2", current_lease_epoch="5", started_at="7")
    found = claimed(keys, call_claim(world, keys))
    assert (found.index, found.epoch) == (2, "6")
    assert world.value(keys.attempt(0)) is None
    assert world.value(keys.attempt(2))["attempt_index"] == "2"
    core = world.value(keys.core)
    assert (core["current_attempt_index"], core["total_attempt_count"], core["started_at"]) == ("2", "3", "7")
    assert world.value(keys.part("attempts")).keys() == {"2"}


@pytest.mark.parametrize(
    ("attempt_state", "kind", "why"),
    [
        ("pending_first_attempt", "initial", {}),
        ("attempt_terminal", "initial", {}),
        ("", "initial", {}),
        ("pending_retry_attempt", "retry", {"retry_reason": "broke", "previous_attempt_index": "4"}),
        (
            "pending_replay_attempt",
            "replay",
            {"replay_reason": "again", "replay_requested_by": "ada", "replayed_from_attempt_index": "4"},
        ),
    ],
)
def test_the_attempt_says_why_there_is_another(
    world: World, attempt_state: str, kind: str, why: dict[str, str]
) -> None:
    keys = claimable(
        world,
        attempt_state=attempt_state,
        pending_retry_reason="broke",
        pending_replay_reason="again",
        pending_replay_requested_by="ada",
        pending_previous_attempt_index="4",
    )
    found = claimed(keys, call_claim(world, keys))
    attempt = world.value(keys.attempt(0))
    assert (found.kind, attempt["attempt_type"], len(attempt)) == (kind, kind, 11 + len(why))
    assert {name: attempt[name] for name in why} == why
    core = world.value(keys.core)
    assert {core[name] for name in core if name.startswith("pending_")} == {""}


def test_reasons_that_are_missing_are_empty(world: World) -> None:
    keys = claimable(world, attempt_state="pending_retry_attempt")
    world.redis.hdel(keys.core, "pending_retry_reason", "pending_previous_attempt_index")
    call_claim(world, keys)
    attempt = world.value(keys.attempt(0))
    assert (attempt["retry_reason"], attempt["previous_attempt_index"]) == ("", "")


def test_a_claim_empties_the_mark_of_a_revoked_lease_with_which_the_reference_stops_every_renewal(
    world: World,
) -> None:
    keys = claimable(world, lease_expired_at="5", lease_revoked_at="6", lease_revoke_reason="operator")
    found = claimed(keys, call_claim(world, keys))
    core = world.value(keys.core)
    assert [core[f"lease_{name}"] for name in ("expired_at", "revoked_at", "revoke_reason")] == ["5", "", "operator"]
    renewal = world.call(
        "ff_renew_lease",
        [keys.core, keys.part("lease:current"), keys.part("lease:history"), keys.partition.index("lease_expiry")],
        [keys.id, "0", found.attempt_id, found.lease_id, found.epoch, "30000", "60000"],
    )
    assert renewal[:2] == [1, "OK"]


def test_other_leftovers_of_an_earlier_life_stay(world: World) -> None:
    left = {
        "failure_reason": "broke",
        "cancellation_reason": "mistake",
        "cancelled_by": "ada",
        "delay_until": "5",
        "pending_replay_attempt": "1",
    }
    keys = claimable(world, **left)
    call_claim(world, keys)
    core = world.value(keys.core)
    assert {name: core[name] for name in left} == left


def test_a_lease_record_that_was_left_over_is_replaced_with_its_expiry(world: World) -> None:
    keys = claimable(world)
    put(world, keys.part("lease:current"), lease_id="old", left="over")
    world.redis.pexpire(keys.part("lease:current"), 10_000)
    call_claim(world, keys)
    assert len(world.value(keys.part("lease:current"))) == 10
    assert world.expiries() == {}


def test_an_execution_need_not_be_in_the_eligible_index(world: World) -> None:
    keys = claimable(world)
    world.redis.delete(lane_key(keys, "eligible"))
    assert call_claim(world, keys)[1] == "OK"


def test_a_second_claim_is_refused(world: World) -> None:
    keys = claim(world).keys
    with world.unchanged():
        assert call_claim(world, keys) == [0, "execution_not_leaseable"]


# --- attempt policy, timeout and deadline -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "stored"),
    [
        ('{"a":"text","n":2.0,"big":1e20}', {"a": "text", "n": "2", "big": "1e+20"}),
        ('{"yes":true,"no":false,"null":null}', {"yes": "true", "no": "false", "null": "userdata: (nil)"}),
        ('{"list":[1,"x/y"],"none":[],"object":{}}', {"list": '[1,"x\\/y"]', "none": "{}", "object": "{}"}),
        ('["x",5]', {"1": "x", "2": "5"}),
        ("{}", None),
        ("[]", None),
        (" { } ", None),
        ("", None),
        (UNSET, None),
    ],
)
def test_an_attempt_policy_becomes_a_hash_of_texts(world: World, policy: Any, stored: dict[str, str] | None) -> None:
    keys = claimable(world)
    assert call_claim(world, keys, attempt_policy=policy)[1] == "OK"
    assert world.value(keys.attempt(0, "policy")) == stored


@pytest.mark.parametrize("policy", ["{", "5", '"text"', "null", "true", " ", '{"a":{"b":1e999}}'])
def test_an_attempt_policy_that_is_no_object_is_refused_where_the_reference_uses_the_grant_up(
    world: World, policy: str
) -> None:
    keys = claimable(world)
    with world.unchanged():
        reply = call_claim(world, keys, attempt_policy=policy)
    assert reply == [0, "invalid_input", f"attempt_policy must be a JSON object, got: {policy}"]
    assert call_claim(world, keys)[1] == "OK"


@pytest.mark.parametrize(
    ("timeout", "offset"),
    [("60000", 60_000), (" 1e3", 1000), ("-5", -5), ("0.5", 0.5), ("0.0", 0), ("inf", float("inf"))],
)
def test_a_timeout_counts_from_the_claim(world: World, timeout: str, offset: float) -> None:
    keys = claimable(world)
    now = claimed(keys, call_claim(world, keys, attempt_timeout_ms=timeout)).expires_at - TTL_MS
    assert world.value(keys.partition.index("attempt_timeout")) == {keys.id: now + offset}


@pytest.mark.parametrize("nothing", ["", "0", UNSET])
def test_without_a_timeout_and_a_deadline_the_indexes_stay_as_they_are(world: World, nothing: Any) -> None:
    keys = create(world, execution_deadline=FAR)
    grant(world, keys)
    assert call_claim(world, keys, attempt_timeout_ms=nothing, execution_deadline=nothing)[1] == "OK"
    assert world.value(keys.partition.index("attempt_timeout")) is None
    assert world.value(keys.partition.index("execution_deadline")) == {keys.id: float(FAR)}


@pytest.mark.parametrize(("deadline", "score"), [("5000", 5000.0), ("00", 0.0), ("-1.5", -1.5)])
def test_a_deadline_replaces_that_of_the_creation(world: World, deadline: str, score: float) -> None:
    keys = create(world, execution_deadline=FAR)
    grant(world, keys)
    call_claim(world, keys, execution_deadline=deadline)
    assert world.value(keys.partition.index("execution_deadline")) == {keys.id: score}


# --- odd numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ttl", ["0", "-1000", "0x10", " 5e3 ", "1e20", "0.5"])
def test_any_ttl_is_taken(world: World, ttl: str) -> None:
    keys = claimable(world)
    reply = call_claim(world, keys, lease_ttl_ms=ttl)
    now = float(world.value(keys.core)["lease_acquired_at"])
    expires_at = now + (int(ttl, 16) if "x" in ttl else float(ttl))
    assert reply[4] == world.value(keys.core)["lease_expires_at"] == f"{expires_at:.14g}"
    assert world.value(lane_key(keys, "active")) == {keys.id: expires_at}
    assert world.value(keys.partition.index("lease_expiry")) == {keys.id: expires_at}


@pytest.mark.parametrize(("renew_before", "stored"), [("inf", "inf"), ("-inf", "-inf"), ("nan", "nan")])
def test_any_renewal_time_is_stored(world: World, renew_before: str, stored: str) -> None:
    keys = claimable(world)
    assert call_claim(world, keys, renew_before_ms=renew_before)[1] == "OK"
    assert world.value(keys.core)["lease_renewal_deadline"] == stored


@pytest.mark.parametrize("field", ["current_lease_epoch", "total_attempt_count"])
@pytest.mark.parametrize("damage", ["", "many", None])
def test_a_damaged_count_starts_again_where_the_reference_raises(
    world: World, field: str, damage: str | None
) -> None:
    keys = claimable(world)
    if damage is None:
        world.redis.hdel(keys.core, field)
    else:
        put(world, keys.core, **{field: damage})
    found = claimed(keys, call_claim(world, keys))
    assert (found.epoch, found.index) == ("1", 0)
    assert world.value(keys.core)[field] == "1"
