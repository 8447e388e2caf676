"""ff_reclaim_execution at the limit of reclaims: protocol 02, section 6.8."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.lua.executions import (
    EXPIRED,
    RECLAIMER,
    REVOKED,
    WORKER,
    call_reclaim,
    grant_reclaim,
    lane_key,
    reclaimable,
)
from tests.lua.holders import FLOW, poison, since
from tests.lua.suspensions import UNSET, nothing_published, put
from tests.lua.world import World

READ = (
    *("lifecycle_phase", "ownership_state", "lease_reclaim_count", "current_worker_instance_id"),
    *("lane_id", "flow_id"),
)


def policy_with(limit: Any) -> str:
    return json.dumps({"max_reclaim_count": limit})


@pytest.mark.parametrize(
    ("policy", "allowed"),
    [
        ("", 100),
        ("{}", 100),
        ("[]", 100),
        ("5", 100),
        ("{", 100),
        ('{"timeout_policy":{"max_reclaim_count":1}}', 100),
        (policy_with(2), 2),
        (policy_with("2"), 2),
        (policy_with(1.5), 2),
        (policy_with(0), 0),
        (policy_with(-1), 0),
    ],
)
def test_the_policy_says_how_many_reclaims_there_may_be(world: World, policy: str, allowed: int) -> None:
    for count, expected in ((allowed - 1, "OK"), (allowed, "max_retries_exhausted")):
        if count < 0:
            continue
        keys = reclaimable(world, lease_reclaim_count=str(count)).keys
        world.redis.set(keys.part("policy"), policy)
        grant_reclaim(world, keys)
        assert call_reclaim(world, keys)[1] == expected


@pytest.mark.parametrize("limit", [None, "many", True, False, [], {}])
def test_a_limit_that_is_no_number_counts_as_none_where_the_reference_can_never_reclaim(
    world: World, limit: Any
) -> None:
    keys = reclaimable(world, policy=policy_with(limit), lease_reclaim_count="99").keys
    grant_reclaim(world, keys)
    assert call_reclaim(world, keys)[1] == "OK"


@pytest.mark.parametrize("lost", [EXPIRED, REVOKED], ids=["expired", "revoked"])
def test_at_the_limit_the_execution_fails_and_its_attempt_stays_as_it_is(world: World, lost: dict[str, str]) -> None:
    keys = reclaimable(world, policy=policy_with(3), **lost, lease_reclaim_count="3", flow_id=FLOW).keys
    put(world, keys.stream_meta(0), closed_at="")
    put(world, keys.part("claim_grant"), worker_id="another")
    world.command("SADD", keys.partition.worker_leases(RECLAIMER), keys.id)
    poison(world, keys.core, keep=READ)
    before = world.now_ms()
    with world.changes() as c, nothing_published(world):
        reply = call_reclaim(world, keys)
    now = since(before, world, c.written[keys.core]["completed_at"])
    assert reply == [0, "max_retries_exhausted"]
    # The times of the lease stay in the record, and a grant where it is. A flow's sweep finds the failed member.
    assert c.written == {
        keys.core: {
            "lifecycle_phase": "terminal",
            "ownership_state": "unowned",
            "eligibility_state": "not_applicable",
            "blocking_reason": "none",
            "blocking_detail": "",
            "terminal_outcome": "failed",
            "attempt_state": "attempt_terminal",
            "public_state": "failed",
            "failure_reason": "max_reclaims_exceeded",
            "completed_at": now,
            "current_lease_id": "",
            "current_worker_id": "",
            "current_worker_instance_id": "",
            "last_transition_at": now,
            "last_mutation_at": now,
        },
        lane_key(keys, "terminal"): {keys.id: float(now)},
    }
    assert c.removed.keys() == {
        *(keys.partition.worker_leases(instance) for instance in (WORKER, RECLAIMER)),
        *(keys.partition.index(name) for name in ("lease_expiry", "attempt_timeout", "execution_deadline")),
        lane_key(keys, "active"),
        keys.part("lease:current"),
    }


@pytest.mark.parametrize(
    ("core", "lane"),
    [
        ({"lane_id": "gpu", "current_lane": "other"}, "gpu"),
        ({"lane_id": None, "current_lane": "other"}, "other"),
        ({"lane_id": None, "current_lane": None}, "default"),
        ({"lane_id": "", "current_lane": "other"}, ""),
    ],
)
def test_at_the_limit_the_record_names_the_lane(world: World, core: dict[str, str | None], lane: str) -> None:
    keys = reclaimable(world, policy=policy_with(0)).keys
    for name, value in core.items():
        if value is None:
            world.redis.hdel(keys.core, name)
        else:
            put(world, keys.core, **{name: value})
    call_reclaim(world, keys)
    assert world.value(lane_key(keys, "terminal", lane)).keys() == {keys.id}


def test_at_the_limit_an_execution_without_attempt_and_holder_ends_too(world: World) -> None:
    keys = reclaimable(
        world,
        policy=policy_with(0),
        current_attempt_index="",
        current_worker_instance_id="",
        current_lease_id="",
    ).keys
    world.redis.delete(keys.attempt(0))
    assert call_reclaim(world, keys) == [0, "max_retries_exhausted"]
    assert world.value(keys.attempt(0)) is None
    assert world.value(keys.core)["public_state"] == "failed"


def test_at_the_limit_other_arguments_are_not_needed(world: World) -> None:
    keys = reclaimable(world, policy=policy_with(0)).keys
    assert call_reclaim(world, keys, lease_ttl_ms="nan", attempt_id=UNSET) == [0, "max_retries_exhausted"]
