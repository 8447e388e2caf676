"""ff_reclaim_execution: protocol 02, section 6.8. Its limit: test_reclaim_limit.py."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lua.executions import (
    EXPIRED,
    LANE,
    POOL,
    RECLAIM,
    RECLAIMER,
    REVOKED,
    TTL_MS,
    WORKER,
    call_reclaim,
    claimed,
    grant_reclaim,
    lane_key,
    new_keys,
    reclaimable,
)
from tests.lua.holders import poison, since
from tests.lua.suspensions import UNSET, nothing_published, put
from tests.lua.world import World

READ = (
    *("lifecycle_phase", "ownership_state", "lease_reclaim_count", "total_attempt_count", "current_lease_epoch"),
    *("current_attempt_index", "current_worker_instance_id"),
)


@pytest.mark.parametrize("lost", [EXPIRED, REVOKED], ids=["expired", "revoked"])
def test_a_reclaim_writes_exactly_this(world: World, lost: dict[str, str]) -> None:
    keys = reclaimable(world, **lost, lease_reclaim_count="2").keys
    put(world, keys.stream_meta(0), closed_at="5", closed_reason="lease_expired")
    granted = grant_reclaim(world, keys)
    timeout = world.value(keys.partition.index("attempt_timeout"))
    poison(world, keys.core, keep=READ)
    poison(world, keys.part("lease:current"), keep=())
    before = world.now_ms()
    with world.changes() as c, nothing_published(world):
        # A lease that is a second longer than the old one, so that no expiry is the same by chance.
        found = claimed(keys, call_reclaim(world, keys, lease_ttl_ms=TTL_MS + 1000))
    now = since(before, world, str(found.expires_at - TTL_MS - 1000))
    assert (found.epoch, found.index, found.kind) == ("2", 1, "reclaim")
    worker = {"worker_id": POOL, "worker_instance_id": RECLAIMER}
    lease = {"lease_id": found.lease_id, "lease_epoch": "2"}
    times = {
        "expires_at": str(found.expires_at),
        "renewal_deadline": str(int(now) + 20_666),
        "last_renewed_at": now,
    }
    reason = f"lease_{lost['ownership_state']}"
    assert c.written == {
        keys.core: {
            "ownership_state": "leased",
            "eligibility_state": "not_applicable",
            "blocking_reason": "none",
            "blocking_detail": "",
            "terminal_outcome": "none",
            "attempt_state": "running_attempt",
            "public_state": "active",
            "current_attempt_index": "1",
            "total_attempt_count": "2",
            "current_attempt_id": found.attempt_id,
            **{f"current_{name}": value for name, value in (lease | worker).items()},
            "current_lane": LANE,
            "lease_reclaim_count": "3",
            "lease_acquired_at": now,
            **{f"lease_{name}": value for name, value in times.items()},
            "lease_expired_at": "",
            "lease_revoked_at": "",
            "lease_revoke_reason": "",
            "last_transition_at": now,
            "last_mutation_at": now,
        },
        keys.attempt(0): {"attempt_state": "interrupted_reclaimed", "ended_at": now, "failure_reason": reason},
        keys.stream_meta(0): {"closed_at": now, "closed_reason": "reclaimed"},
        keys.attempt(1): {
            "attempt_id": found.attempt_id,
            "execution_id": keys.id,
            "attempt_index": "1",
            "attempt_type": "reclaim",
            "attempt_state": "started",
            "created_at": now,
            "started_at": now,
            **lease,
            **worker,
            "reclaim_reason": reason,
            "previous_attempt_index": "0",
        },
        keys.attempt(1, "usage"): {"last_usage_report_seq": "0"},
        keys.part("attempts"): {"1": float(now)},
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
                *("event", "reclaimed", "old_lease_epoch", "1", "new_lease_id", found.lease_id),
                *("new_lease_epoch", "2", "new_attempt_id", found.attempt_id, "new_attempt_index", "1"),
                *("worker_id", POOL, "ts", now),
            )
        ],
        keys.partition.index("lease_expiry"): {keys.id: float(found.expires_at)},
        lane_key(keys, "active"): {keys.id: float(found.expires_at)},
        keys.partition.worker_leases(RECLAIMER): {keys.id},
    }
    assert c.removed == {
        keys.part("claim_grant"): granted,
        keys.partition.index("attempt_timeout"): timeout,
    }
    assert world.expiries() == {}


def test_a_worker_that_reclaims_from_itself_keeps_the_execution(world: World) -> None:
    keys = reclaimable(world).keys
    grant_reclaim(world, keys)
    assert call_reclaim(world, keys, worker_instance_id=WORKER)[1] == "OK"
    assert world.value(keys.partition.worker_leases(WORKER)) == {keys.id}


def test_the_old_attempts_timeout_goes_where_the_reference_lets_it_end_the_new_attempt(world: World) -> None:
    keys = reclaimable(world).keys
    grant_reclaim(world, keys)
    call_reclaim(world, keys)
    assert world.value(keys.partition.index("attempt_timeout")) is None
    assert world.value(keys.partition.index("execution_deadline")) == {keys.id: 4102444800000.0}


def test_no_attempt_policy_is_stored_and_no_stream_is_made(world: World) -> None:
    keys = reclaimable(world).keys
    grant_reclaim(world, keys)
    assert call_reclaim(world, keys, attempt_policy='{"a":1}')[1] == "OK"
    assert world.value(keys.attempt(1, "policy")) is None
    assert world.value(keys.stream_meta(0)) is None


def test_a_repeated_reclaim_is_refused(world: World) -> None:
    keys = reclaimable(world).keys
    grant_reclaim(world, keys)
    call_reclaim(world, keys)
    with world.unchanged():
        assert call_reclaim(world, keys) == [0, "execution_not_reclaimable"]


def test_the_end_of_the_grant_is_not_looked_at(world: World) -> None:
    keys = reclaimable(world).keys
    grant_reclaim(world, keys)
    put(world, keys.part("claim_grant"), grant_expires_at="5")
    assert call_reclaim(world, keys)[1] == "OK"


@pytest.mark.parametrize("ttl", ["0", "-1000", " 0x10", "0.75", "1e20", "inf"])
def test_any_ttl_is_taken(world: World, ttl: str) -> None:
    keys = reclaimable(world).keys
    grant_reclaim(world, keys)
    reply = call_reclaim(world, keys, lease_ttl_ms=ttl)
    now = int(world.value(keys.core)["lease_acquired_at"])
    expires_at = now + (16 if "x" in ttl else float(ttl))
    assert reply[4] == world.value(keys.core)["lease_expires_at"] == f"{expires_at:.14g}"
    assert world.value(keys.partition.index("lease_expiry")) == {keys.id: expires_at}


# --- refusals, in order -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "soon", UNSET])
def test_a_ttl_that_is_no_number_is_refused_first(world: World, text: Any) -> None:
    with world.unchanged():
        reply = call_reclaim(world, new_keys(), lease_ttl_ms=text)
    told = "nil" if text is UNSET else text
    assert reply == [0, "invalid_input", f"lease_ttl_ms must be a number, got: {told}"]


def test_an_unknown_execution_is_refused(world: World) -> None:
    with world.unchanged():
        assert call_reclaim(world, new_keys(), attempt_id=UNSET) == [0, "execution_not_found"]


@pytest.mark.parametrize(
    "core",
    [
        *({"lifecycle_phase": phase} for phase in ("runnable", "suspended", "terminal", "")),
        *({"ownership_state": state} for state in ("leased", "unowned", "")),
    ],
)
def test_an_execution_whose_lease_is_not_over_is_refused(world: World, core: dict[str, str]) -> None:
    keys = reclaimable(world, policy='{"max_reclaim_count":0}', **core).keys
    with world.unchanged():
        assert call_reclaim(world, keys, attempt_id=UNSET) == [0, "execution_not_reclaimable"]


@pytest.mark.parametrize("damage", [{}, {"worker_id": "another"}])
def test_a_grant_that_is_not_there_or_another_workers_is_refused(world: World, damage: dict[str, str]) -> None:
    keys = reclaimable(world).keys
    if damage:
        put(world, keys.part("claim_grant"), **damage)
    with world.unchanged():
        assert call_reclaim(world, keys, attempt_id=UNSET, lease_ttl_ms="nan") == [0, "invalid_claim_grant"]


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"lease_ttl_ms": "nan"}, "lease_ttl_ms must be a number, got: nan"),
        ({"attempt_id": UNSET}, "attempt_id must be given, got: nil"),
    ],
)
def test_arguments_that_the_reference_raises_on_half_way_are_refused_before_the_first_write(
    world: World, changes: dict[str, Any], detail: str
) -> None:
    keys = reclaimable(world).keys
    grant_reclaim(world, keys)
    with world.unchanged():
        assert call_reclaim(world, keys, **changes) == [0, "invalid_input", detail]


@pytest.mark.parametrize("name", list(RECLAIM)[:6])
def test_too_few_arguments_are_refused(world: World, name: str) -> None:
    keys = reclaimable(world).keys
    grant_reclaim(world, keys)
    changes: dict[str, Any] = {name: UNSET}
    with world.unchanged():
        reply = call_reclaim(world, keys, **changes)
    assert reply == [0, "invalid_input", "lease_ttl_ms must be a number, got: nil"]


@pytest.mark.parametrize("field", ["current_lease_epoch", "lease_reclaim_count", "total_attempt_count"])
@pytest.mark.parametrize("damage", ["", "many", None])
def test_a_damaged_count_starts_again_where_the_reference_raises(
    world: World, field: str, damage: str | None
) -> None:
    keys = reclaimable(world).keys
    if damage is None:
        world.redis.hdel(keys.core, field)
    else:
        put(world, keys.core, **{field: damage})
    grant_reclaim(world, keys)
    assert call_reclaim(world, keys)[1] == "OK"
    assert world.value(keys.core)[field] == "1"
