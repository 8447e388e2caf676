"""ff_claim_resumed_execution: protocol 06, section 13."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ffsuper.store.keys import ExecutionKeys
from tests.lua.executions import (
    CLAIM_RESUMED,
    LANE,
    POOL,
    TTL_MS,
    WORKER,
    call_claim,
    call_claim_resumed,
    claimed,
    create,
    grant,
    lane_key,
    new_keys,
)
from tests.lua.holders import poison, since
from tests.lua.suspensions import UNSET, nothing_published, put
from tests.lua.world import World

READ = ("lifecycle_phase", "attempt_state", "current_lease_epoch", "current_attempt_id", "current_attempt_index")
ATTEMPT = {"attempt_id": "attempt-1", "attempt_state": "suspended", "suspended_at": "5", "suspension_id": "s"}


def resumable(world: World, **core: str) -> ExecutionKeys:
    """Create and grant an execution whose first attempt was interrupted, then set fields of its record."""
    keys = create(world)
    grant(world, keys)
    interrupted = {
        "attempt_state": "attempt_interrupted",
        "current_attempt_index": "0",
        "current_attempt_id": "attempt-1",
        "current_lease_epoch": "1",
        "total_attempt_count": "1",
    }
    put(world, keys.core, **{**interrupted, **core})
    put(world, keys.attempt(0), **ATTEMPT)
    return keys


def test_a_resumed_claim_writes_exactly_this(world: World) -> None:
    keys = resumable(world)
    poison(world, keys.core, keep=READ)
    put(world, keys.part("lease:current"), lease_id="left", left="over")
    score = world.value(lane_key(keys, "eligible"))
    admitted = world.value(keys.part("claim_grant"))
    before = world.now_ms()
    with world.changes() as c, nothing_published(world):
        found = claimed(keys, call_claim_resumed(world, keys))
    now = since(before, world, str(found.expires_at - TTL_MS))
    assert (found.epoch, found.attempt_id, found.index, found.kind) == ("2", "attempt-1", 0, "resumed")
    worker = {"worker_id": POOL, "worker_instance_id": WORKER}
    lease = {"lease_id": found.lease_id, "lease_epoch": "2"}
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
            "terminal_outcome": "none",
            "attempt_state": "running_attempt",
            "public_state": "active",
            **{f"current_{name}": value for name, value in (lease | worker).items()},
            "current_lane": LANE,
            "lease_acquired_at": now,
            **{f"lease_{name}": value for name, value in times.items()},
            "lease_expired_at": "",
            "lease_revoked_at": "",
            "lease_revoke_reason": "",
            "last_transition_at": now,
            "last_mutation_at": now,
        },
        keys.attempt(0): {
            "attempt_state": "started",
            "resumed_at": now,
            **lease,
            **worker,
            "suspended_at": "",
            "suspension_id": "",
        },
        keys.part("lease:current"): {
            **lease,
            **worker,
            "execution_id": keys.id,
            "attempt_id": "attempt-1",
            "acquired_at": now,
            **times,
        },
        keys.part("lease:history"): [
            (
                *("event", "acquired", "lease_id", found.lease_id, "lease_epoch", "2", "attempt_index", "0"),
                *("attempt_id", "attempt-1", "worker_id", POOL, "reason", "claim_resumed", "ts", now),
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


def test_a_lease_record_that_was_left_over_is_replaced_with_its_expiry(world: World) -> None:
    keys = resumable(world)
    put(world, keys.part("lease:current"), lease_id="old", left="over")
    world.redis.pexpire(keys.part("lease:current"), 10_000)
    call_claim_resumed(world, keys)
    assert len(world.value(keys.part("lease:current"))) == 10
    assert world.expiries() == {}


def test_the_grant_that_the_usual_claim_leaves_can_be_used(world: World) -> None:
    keys = resumable(world)
    assert call_claim(world, keys) == [0, "use_claim_resumed_execution"]
    assert call_claim_resumed(world, keys)[1] == "OK"


def test_a_repeated_claim_is_refused(world: World) -> None:
    keys = resumable(world)
    call_claim_resumed(world, keys)
    with world.unchanged():
        assert call_claim_resumed(world, keys) == [0, "execution_not_leaseable"]


@pytest.mark.parametrize(
    "core",
    [{"eligibility_state": "not_eligible_until_time"}, {"ownership_state": "leased"}, {"terminal_outcome": "failed"}],
)
def test_other_states_are_not_looked_at(world: World, core: dict[str, str]) -> None:
    keys = resumable(world, **core)
    world.redis.delete(lane_key(keys, "eligible"))
    world.command("ZADD", lane_key(keys, "delayed"), 5, keys.id)
    assert call_claim_resumed(world, keys)[1] == "OK"
    assert world.value(lane_key(keys, "delayed")) == {keys.id: 5.0}


@pytest.mark.parametrize(
    ("timeout", "offset"), [("60000", 60_000), (" 0x10", 16), ("0.5", 0.5), ("inf", float("inf"))]
)
def test_what_is_left_of_the_timeout_counts_from_the_claim(world: World, timeout: str, offset: float) -> None:
    keys = resumable(world)
    now = claimed(keys, call_claim_resumed(world, keys, attempt_timeout_ms=timeout)).expires_at - TTL_MS
    assert world.value(keys.partition.index("attempt_timeout")) == {keys.id: now + offset}


@pytest.mark.parametrize("timeout", ["", "0", "-1", "-inf", "nan", UNSET])
def test_no_time_left_makes_no_timeout(world: World, timeout: Any) -> None:
    keys = resumable(world)
    assert call_claim_resumed(world, keys, attempt_timeout_ms=timeout)[1] == "OK"
    assert world.value(keys.partition.index("attempt_timeout")) is None


@pytest.mark.parametrize("ttl", ["0", "-1000", "1000", "0.75", "1e20"])
def test_any_ttl_is_taken_and_two_thirds_of_it_are_the_renewal_deadline(world: World, ttl: str) -> None:
    keys = resumable(world)
    reply = call_claim_resumed(world, keys, lease_ttl_ms=ttl)
    core = world.value(keys.core)
    now = int(core["lease_acquired_at"])
    assert reply[4] == core["lease_expires_at"] == f"{now + float(ttl):.14g}"
    assert core["lease_renewal_deadline"] == f"{now + math.floor(float(ttl) * 2 / 3):.14g}"
    assert world.value(keys.partition.index("lease_expiry")) == {keys.id: now + float(ttl)}


@pytest.mark.parametrize("text", ["", "soon", UNSET])
def test_a_ttl_that_is_no_number_is_refused_first(world: World, text: Any) -> None:
    with world.unchanged():
        reply = call_claim_resumed(world, new_keys(), lease_ttl_ms=text)
    told = "nil" if text is UNSET else text
    assert reply == [0, "invalid_input", f"lease_ttl_ms must be a number, got: {told}"]


def test_an_unknown_execution_is_refused(world: World) -> None:
    with world.unchanged():
        assert call_claim_resumed(world, new_keys(), lease_ttl_ms="nan") == [0, "execution_not_found"]


@pytest.mark.parametrize("phase", ["active", "suspended", "terminal"])
def test_an_execution_that_is_not_runnable_is_refused(world: World, phase: str) -> None:
    keys = resumable(world, lifecycle_phase=phase, attempt_state="pending_first_attempt")
    world.redis.delete(keys.part("claim_grant"))
    with world.unchanged():
        assert call_claim_resumed(world, keys, lease_ttl_ms="nan") == [0, "execution_not_leaseable"]


@pytest.mark.parametrize("state", ["pending_first_attempt", "pending_retry_attempt", "running_attempt", ""])
def test_an_execution_without_an_interrupted_attempt_is_refused(world: World, state: str) -> None:
    keys = resumable(world, attempt_state=state)
    world.redis.delete(keys.part("claim_grant"))
    with world.unchanged():
        assert call_claim_resumed(world, keys, lease_ttl_ms="nan") == [0, "not_a_resumed_execution"]


@pytest.mark.parametrize("damage", [{}, {"worker_id": "another"}])
def test_a_grant_that_is_not_there_or_another_workers_is_refused(world: World, damage: dict[str, str]) -> None:
    keys = resumable(world)
    if damage:
        put(world, keys.part("claim_grant"), grant_expires_at="5", **damage)
    else:
        world.redis.delete(keys.part("claim_grant"))
    with world.unchanged():
        assert call_claim_resumed(world, keys, lease_ttl_ms="nan") == [0, "invalid_claim_grant"]


def test_a_grant_that_is_over_is_refused_and_deleted(world: World) -> None:
    keys = resumable(world)
    put(world, keys.part("claim_grant"), grant_expires_at="1700000000000")
    with world.changes() as c:
        assert call_claim_resumed(world, keys, lease_ttl_ms="nan") == [0, "claim_grant_expired"]
    assert (c.written, set(c.removed)) == ({}, {keys.part("claim_grant")})


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"lease_ttl_ms": "nan"}, "lease_ttl_ms must be a number, got: nan"),
        ({"attempt_timeout_ms": "soon"}, "attempt_timeout_ms must be a number, got: soon"),
    ],
)
def test_arguments_that_the_reference_raises_on_half_way_are_refused_before_the_first_write(
    world: World, changes: dict[str, str], detail: str
) -> None:
    keys = resumable(world)
    arguments: dict[str, Any] = changes
    with world.unchanged():
        assert call_claim_resumed(world, keys, **arguments) == [0, "invalid_input", detail]


@pytest.mark.parametrize("name", list(CLAIM_RESUMED)[:7])
def test_too_few_arguments_are_refused(world: World, name: str) -> None:
    keys = resumable(world)
    changes: dict[str, Any] = {name: UNSET}
    with world.unchanged():
        reply = call_claim_resumed(world, keys, **changes)
    assert reply == [0, "invalid_input", "lease_ttl_ms must be a number, got: nil"]


@pytest.mark.parametrize(
    ("damage", "epoch", "attempt_id"),
    [
        ({"current_lease_epoch": ""}, "1", "attempt-1"),
        ({"current_lease_epoch": "many"}, "1", "attempt-1"),
        ({"current_attempt_id": ""}, "2", ""),
        ({"current_attempt_id": None}, "2", ""),
    ],
)
def test_a_damaged_record_is_claimed_where_the_reference_raises_half_way(
    world: World, damage: dict[str, str | None], epoch: str, attempt_id: str
) -> None:
    keys = resumable(world)
    for name, value in damage.items():
        if value is None:
            world.redis.hdel(keys.core, name)
        else:
            put(world, keys.core, **{name: value})
    found = claimed(keys, call_claim_resumed(world, keys))
    assert (found.epoch, found.attempt_id) == (epoch, attempt_id)
    assert world.value(keys.part("lease:current"))["attempt_id"] == attempt_id
