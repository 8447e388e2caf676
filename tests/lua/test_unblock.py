"""What blocked executions wait for, whether it is there, and letting them go."""

from __future__ import annotations

from typing import Any

import pytest

from ffsuper.store.keys import ExecutionKeys, QuotaKeys
from tests.lua.executions import lane_key
from tests.lua.suspensions import put
from tests.lua.test_admission import block, runnable
from tests.lua.world import World

REASONS = {
    "blocked:route": ("waiting_for_capable_worker", "required_capabilities"),
    "blocked:budget": ("waiting_for_budget", "budget_ids"),
    "blocked:quota": ("waiting_for_quota", "quota_policy_id"),
}
QUOTA = QuotaKeys(3, "0b1f9e9c-0000-4000-8000-000000000000")


def blocked(world: World, index: str, cause: str, **core: str) -> ExecutionKeys:
    reason, field = REASONS[index]
    keys = runnable(world, **{field: cause})
    assert block(world, keys, into=index, blocking_reason=reason)[0] == 1
    if core:
        put(world, keys.core, **core)
    return keys


def causes(world: World, keys: ExecutionKeys, index: str, offset: int = 0, limit: int = 9) -> dict[str, Any]:
    reply = world.call("ffsuper_blocked_causes", [lane_key(keys, index)], [offset, limit])
    return {"seen": reply[2], **dict(zip(reply[3::2], reply[4::2], strict=True))}


def unblock(world: World, keys: ExecutionKeys, index: str, *room: Any, offset: int = 0, limit: int = 9) -> Any:
    return world.call("ffsuper_unblock", [lane_key(keys, index), lane_key(keys, "eligible")], [offset, limit, *room])


@pytest.mark.parametrize("index", REASONS)
def test_what_a_page_waits_for_is_told_with_its_numbers(world: World, index: str) -> None:
    for cause in ("one", "two", "two"):
        keys = blocked(world, index, cause)
    assert causes(world, keys, index) == {"seen": 3, "one": 1, "two": 2}
    assert causes(world, keys, index, offset=1, limit=1)["seen"] == 1


@pytest.mark.parametrize("index", REASONS)
def test_those_are_let_go_whose_cause_is_there(world: World, index: str) -> None:
    first, second, third = (blocked(world, index, cause) for cause in ("one", "two", "one"))
    assert unblock(world, first, index, "one", 5, "other", 5) == [1, "OK", 3, 2, 0, "", "", "one", 2]
    assert set(world.value(lane_key(first, "eligible"))) == {first.id, third.id}
    assert set(world.value(lane_key(first, index))) == {second.id}
    assert world.value(first.core)["public_state"] == "waiting"


def test_no_more_are_let_go_than_there_is_room_for(world: World) -> None:
    keys = [blocked(world, "blocked:quota", "q") for _ in range(4)]
    assert unblock(world, keys[0], "blocked:quota", "q", 3)[3] == 3
    assert len(world.value(lane_key(keys[0], "blocked:quota"))) == 1


def test_an_operators_pause_in_the_same_index_is_left_alone(world: World) -> None:
    keys = blocked(world, "blocked:route", "gpu", blocking_reason="paused_by_operator")
    assert causes(world, keys, "blocked:route") == {"seen": 1}
    assert unblock(world, keys, "blocked:route", "gpu", 5)[3] == 0


def test_an_execution_without_a_cause_waits_for_the_empty_one(world: World) -> None:
    keys = blocked(world, "blocked:budget", "x")
    world.redis.hdel(keys.core, "budget_ids")
    assert causes(world, keys, "blocked:budget") == {"seen": 1, "": 1}
    assert unblock(world, keys, "blocked:budget", "", 1)[3] == 1


def test_damaged_and_missing_records_stop_nothing(world: World) -> None:
    damaged, gone, good = (blocked(world, "blocked:route", "gpu") for _ in range(3))
    world.redis.delete(damaged.core, gone.core)
    world.redis.set(damaged.core, "x")
    assert causes(world, good, "blocked:route") == {"seen": 3, "gpu": 1}
    assert unblock(world, good, "blocked:route", "gpu", 9)[2:5] == [3, 1, 0]


def test_one_that_cannot_be_let_go_is_told(world: World) -> None:
    stuck, good = (blocked(world, "blocked:route", "gpu") for _ in range(2))
    put(world, stuck.core, lifecycle_phase="active")
    assert unblock(world, good, "blocked:route", "gpu", 9)[2:7] == [2, 1, 1, stuck.id, "execution_not_eligible"]


def test_other_indexes_are_refused(world: World) -> None:
    for function in ("ffsuper_blocked_causes", "ffsuper_unblock"):
        reply = world.call(function, ["ff:idx:{fp:7}:lane:default:eligible", "other"], [0, 9])
        assert reply[:2] == [0, "invalid_input"]


def room(world: World, **policy: Any) -> Any:
    if policy:
        put(world, QUOTA.definition, **policy)
    return world.call("ffsuper_quota_room", [QUOTA.definition, QUOTA.window, QUOTA.concurrency], [])[2]


def test_a_quota_that_is_not_there_has_room_without_end(world: World) -> None:
    assert room(world) == ""


def test_admissions_within_the_window_take_room(world: World) -> None:
    now_ms = world.now_ms()
    world.redis.zadd(QUOTA.window, {"old": now_ms - 11_000, "new": now_ms - 1_000, "newer": now_ms})
    assert room(world, max_requests_per_window="5", requests_per_window_seconds="10") == "3"


def test_a_cap_leaves_room_for_what_is_not_admitted_and_never_less_than_none(world: World) -> None:
    world.redis.set(QUOTA.concurrency, "2")
    assert room(world, active_concurrency_cap="5") == "3"
    assert room(world, active_concurrency_cap="1") == "0"
    assert room(world, active_concurrency_cap="5", max_requests_per_window="1") == "1"
