"""ffsuper_reconcile: executions that are missing from their indexes come back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ffsuper.store.keys import ExecutionKeys
from tests.lua.executions import claim, create, lane_key
from tests.lua.holders import FAR_MS, complete, mark, revoke
from tests.lua.suspensions import KEYS, put, put_suspended
from tests.lua.test_admission import block, runnable
from tests.lua.test_sweeps import expired
from tests.lua.world import World


def reconcile(world: World, keys: ExecutionKeys, cursor: Any = 0, count: Any = 100) -> Any:
    index = keys.partition.index
    return world.call("ffsuper_reconcile", [index("all_executions"), index("lease_expiry")], [cursor, count])


def outcomes(reply: Any) -> dict[str, int]:
    assert reply[:3] == [1, "OK", "0"]
    return dict(zip(reply[6::2], reply[7::2], strict=True))


def eligible(world: World) -> tuple[ExecutionKeys, str]:
    keys = create(world, priority="3")
    return keys, lane_key(keys, "eligible")


def delayed(world: World) -> tuple[ExecutionKeys, str]:
    keys = create(world, delay_until=str(FAR_MS))
    return keys, lane_key(keys, "delayed")


def active(world: World) -> tuple[ExecutionKeys, str]:
    keys = claim(world).keys
    return keys, lane_key(keys, "active")


def leased(world: World) -> tuple[ExecutionKeys, str]:
    keys = claim(world).keys
    return keys, keys.partition.index("lease_expiry")


def marked(world: World) -> tuple[ExecutionKeys, str]:
    keys = expired(world)
    put(world, keys.core, lease_expires_at="1600000000000")
    mark(world, keys, keys.id)
    return keys, keys.partition.index("lease_expiry")


def terminal(world: World) -> tuple[ExecutionKeys, str]:
    lease = claim(world)
    complete(world, lease)
    return lease.keys, lane_key(lease.keys, "terminal")


def blocked(world: World) -> tuple[ExecutionKeys, str]:
    keys = runnable(world)
    block(world, keys, into="blocked:route", blocking_reason="waiting_for_capable_worker", now_ms="1700000000000")
    return keys, lane_key(keys, "blocked:route")


def suspended(world: World) -> tuple[ExecutionKeys, str]:
    put_suspended(world)
    world.redis.sadd(KEYS.partition.index("all_executions"), KEYS.id)
    return KEYS, lane_key(KEYS, "suspended")


CASES = [eligible, delayed, active, leased, marked, terminal, blocked, suspended]


@pytest.mark.parametrize("case", CASES)
def test_what_is_where_it_belongs_is_left_alone(world: World, case: Callable[[World], Any]) -> None:
    keys, _ = case(world)
    with world.unchanged():
        assert outcomes(reconcile(world, keys)) == {"consistent": 1}


@pytest.mark.parametrize("case", CASES)
def test_what_is_missing_from_its_index_comes_back_to_its_place(world: World, case: Callable[[World], Any]) -> None:
    keys, index = case(world)
    score = world.value(index)[keys.id]
    world.redis.zrem(index, keys.id)
    name = index.removeprefix(lane_key(keys, "")).removeprefix(keys.partition.index(""))
    assert outcomes(reconcile(world, keys)) == {f"restored:{name}": 1}
    if case is not blocked:  # nobody knows when it was blocked
        assert world.value(index)[keys.id] == score
    assert outcomes(reconcile(world, keys)) == {"consistent": 1}


def test_a_revoked_execution_comes_into_the_index_that_reclaimers_look_at(world: World) -> None:
    lease = claim(world)
    revoke(world, lease.keys, lease.keys.id)
    assert outcomes(reconcile(world, lease.keys)) == {"revoked": 1}
    revoked_at = float(world.value(lease.keys.core)["lease_revoked_at"])
    assert world.value(lease.keys.partition.index("lease_expiry")) == {lease.keys.id: revoked_at}


def test_members_that_are_gone_are_forgotten_and_damaged_ones_are_told(world: World) -> None:
    gone, damaged, good = create(world), create(world), create(world)
    world.redis.delete(gone.core, damaged.core)
    world.redis.set(damaged.core, "x")
    reply = reconcile(world, good)
    assert outcomes(reply) == {"gone": 1, "consistent": 1}
    assert reply[3:5] == [1, damaged.id]
    assert world.value(good.partition.index("all_executions")) == {damaged.id, good.id}


@pytest.mark.parametrize("core", [{"lifecycle_phase": "nonsense"}, {"eligibility_state": "blocked_by_lane_state"}])
def test_unknown_states_are_left_alone(world: World, core: dict[str, str]) -> None:
    keys = create(world)
    put(world, keys.core, **core)
    with world.unchanged():
        assert outcomes(reconcile(world, keys)) == {"consistent": 1}


def test_truncated_records_are_put_where_what_is_left_of_them_says(world: World) -> None:
    keys = create(world)
    world.redis.hdel(keys.core, "created_at", "priority", "lane_id")
    world.redis.zrem(lane_key(keys, "eligible"), keys.id)
    assert outcomes(reconcile(world, keys)) == {"restored:eligible": 1}


def test_a_large_set_is_gone_through_page_by_page(world: World) -> None:
    keys = [create(world) for _ in range(600)]
    cursor, seen, calls = "0", 0, 0
    while calls == 0 or cursor != "0":
        reply = reconcile(world, keys[0], cursor, 50)
        cursor, seen, calls = reply[2], seen + sum(reply[7::2]), calls + 1
    assert seen >= 600
    assert calls > 3
