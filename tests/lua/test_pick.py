"""ffsuper_pick: the oldest executions of each priority that a worker might have."""

from __future__ import annotations

from typing import Any

import pytest

from ffsuper.store.keys import ExecutionKeys
from tests.lua.executions import create, grant, lane_key
from tests.lua.suspensions import put
from tests.lua.world import World

STEP = 10**12


def waiting(world: World, priority: int = 0, age_ms: int = 0, **core: str) -> ExecutionKeys:
    """Create an execution so long ago."""
    keys = create(world, priority=priority)
    created_at = world.now_ms() - age_ms
    put(world, keys.core, **{"created_at": str(created_at), "last_transition_at": str(created_at), **core})
    world.redis.zadd(lane_key(keys, "eligible"), {keys.id: created_at - priority * STEP})
    return keys


def pick(
    world: World, keys: ExecutionKeys, capabilities: str = "", count: int = 2, depth: int = 200
) -> list[list[str]]:
    reply = world.call(
        "ffsuper_pick", [lane_key(keys, "eligible"), lane_key(keys, "blocked:route")], [capabilities, count, depth]
    )
    assert reply[:2] == [1, "OK"]
    assert abs(int(reply[2]) - world.now_ms()) < 1_000
    return [reply[at : at + 6] for at in range(3, len(reply), 6)]


def ids(found: list[list[str]]) -> list[str]:
    return [one[0] for one in found]


def test_what_an_admission_needs_is_told_of_each(world: World) -> None:
    keys = waiting(world, 3, budget_ids="a,b", quota_policy_id="q", namespace="books")
    created_at = world.value(keys.core)["created_at"]
    assert pick(world, keys) == [[keys.id, "3", created_at, "books", "a,b", "q"]]


def test_the_oldest_of_each_priority_are_told_highest_first(world: World) -> None:
    low = [waiting(world, 0, age_ms) for age_ms in (3_000, 2_000, 1_000)]
    high = [waiting(world, 9_000, age_ms) for age_ms in (30, 20, 10)]
    middle = waiting(world, 5)
    expected = [*(one.id for one in high[:2]), middle.id, *(one.id for one in low[:2])]
    assert ids(pick(world, middle)) == expected


def test_an_open_grant_hides_nothing(world: World) -> None:
    granted = [waiting(world, 0, 10_000 - number) for number in range(20)]
    for one in granted:
        grant(world, one)
    behind = waiting(world)
    assert ids(pick(world, behind)) == [behind.id]


@pytest.mark.parametrize("how", ["gone", "nonsense", "active"])
def test_an_entry_that_is_stale_is_removed_and_hides_nothing(world: World, how: str) -> None:
    stale, good = waiting(world, 0, 5_000), waiting(world)
    member: str = stale.id
    if how == "gone":
        world.redis.delete(stale.core)
    elif how == "active":
        put(world, stale.core, lifecycle_phase="active")
    else:
        member = "nonsense"
        world.redis.zrem(lane_key(good, "eligible"), stale.id)
        world.redis.zadd(lane_key(good, "eligible"), {"nonsense": 1})
    assert ids(pick(world, good)) == [good.id]
    assert member not in world.value(lane_key(good, "eligible"))


def test_what_has_a_record_but_is_no_execution_id_hides_nothing(world: World) -> None:
    good = waiting(world)
    for number in range(20):
        world.redis.hset(f"ff:exec:{{fp:7}}:{{fp:7}}:{number}:core", mapping=world.value(good.core))
        world.redis.zadd(lane_key(good, "eligible"), {f"{{fp:7}}:{number}": number})
    assert ids(pick(world, good)) == [good.id]


def test_a_damaged_record_stays_and_hides_nothing(world: World) -> None:
    damaged, good = waiting(world, 0, 5_000), waiting(world)
    world.redis.delete(damaged.core)
    world.redis.set(damaged.core, "x")
    assert ids(pick(world, good)) == [good.id]
    assert damaged.id in world.value(lane_key(good, "eligible"))


def test_what_the_worker_lacks_capabilities_for_is_blocked_and_hides_nothing(world: World) -> None:
    demanding = [waiting(world, 0, 5_000, required_capabilities="gpu") for _ in range(10)]
    good = waiting(world)
    assert ids(pick(world, good)) == [good.id]
    assert set(world.value(lane_key(good, "blocked:route"))) == {one.id for one in demanding}
    assert world.value(demanding[0].core)["blocking_reason"] == "waiting_for_capable_worker"
    assert ids(pick(world, good, "cpu,gpu")) == [good.id]


def test_a_call_is_bounded_whatever_the_index_holds(world: World) -> None:
    key = lane_key(waiting(world), "eligible")
    for number in range(2_000):
        keys = f"ff:exec:{{fp:7}}:{number}:core"
        world.redis.set(keys, "x")
        world.redis.zadd(key, {str(number): number})
    world.command("CONFIG", "RESETSTAT")
    world.call("ffsuper_pick", [key, key.replace("eligible", "blocked:route")], ["", 4, 200])
    stats: Any = world.redis.info("commandstats")
    assert stats["cmdstat_hmget"]["calls"] <= 510


@pytest.mark.parametrize(("ago_ms", "is_blocked"), [(1_000, False), (10_000, True)])
def test_what_has_come_back_is_left_for_a_while_to_those_that_can_run_it(
    world: World, ago_ms: int, is_blocked: bool
) -> None:
    back = str(world.now_ms() - ago_ms)
    demanding = waiting(world, age_ms=60_000, required_capabilities="gpu", last_transition_at=back)
    plain = waiting(world)
    assert ids(pick(world, plain)) == [plain.id]
    assert (demanding.id in (world.value(lane_key(plain, "blocked:route")) or {})) is is_blocked
    assert ids(pick(world, plain, "gpu")) == [plain.id] if is_blocked else [demanding.id, plain.id]
