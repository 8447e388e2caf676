"""ff_change_priority: protocol 05, section 3."""

from __future__ import annotations

from typing import Any

import pytest

from ffsuper.store.keys import ExecutionKeys
from tests.lua.executions import create, lane_key, new_keys
from tests.lua.suspensions import UNSET, nothing_published, put
from tests.lua.world import World

CREATED_AT = 1700000000000


def change_priority(world: World, keys: ExecutionKeys, priority: Any) -> Any:
    args = [keys.id] + ([] if priority is UNSET else [priority])
    return world.call("ff_change_priority", [keys.core, lane_key(keys, "eligible")], args)


def eligible(world: World, **core: str) -> ExecutionKeys:
    """Create an execution of priority 3, some time ago, then set fields of its record."""
    keys = create(world)
    put(world, keys.core, **{"created_at": str(CREATED_AT), "last_mutation_at": "5", **core})
    return keys


@pytest.mark.parametrize(
    ("priority", "stored", "used"),
    [
        ("7", "7", 7),
        ("3", "3", 3),
        ("-1", "0", 0),
        ("-inf", "0", 0),
        ("9001", "9000", 9000),
        ("inf", "9000", 9000),
        ("0x10", "16", 16),
        (" 1e3", "1000", 1000),
        ("0.1", "0.1", 0.1),
        ("1.00000000000000001", "1", 1),
    ],
)
def test_changing_the_priority_moves_the_execution_and_keeps_its_age(
    world: World, priority: str, stored: str, used: float
) -> None:
    keys = eligible(world, priority="4")
    before = world.now_ms()
    with world.changes() as c, nothing_published(world):
        reply = change_priority(world, keys, priority)
    now = c.written[keys.core]["last_mutation_at"]
    assert reply == [1, "OK", "4", stored]
    assert before <= int(now) <= world.now_ms()
    assert c.written == {
        keys.core: {"priority": stored, "last_mutation_at": now},
        lane_key(keys, "eligible"): {keys.id: 0 - used * 1e12 + CREATED_AT},
    }
    assert c.removed == {}


def test_a_repeated_change_ends_in_the_same_place(world: World) -> None:
    keys = eligible(world)
    change_priority(world, keys, "7")
    place = world.value(lane_key(keys, "eligible"))
    assert change_priority(world, keys, "7") == [1, "OK", "7", "7"]
    assert world.value(lane_key(keys, "eligible")) == place


def test_an_execution_that_was_lost_from_the_index_is_put_back(world: World) -> None:
    keys = eligible(world)
    world.redis.delete(lane_key(keys, "eligible"))
    change_priority(world, keys, "1")
    assert world.value(lane_key(keys, "eligible")) == {keys.id: CREATED_AT - 1e12}


@pytest.mark.parametrize(("stored", "told"), [("", "nil"), ("high", "nil"), ("0x10", "16"), ("2.50", "2.5")])
def test_the_old_priority_is_told_as_a_number(world: World, stored: str, told: str) -> None:
    keys = eligible(world, priority=stored)
    assert change_priority(world, keys, "7") == [1, "OK", told, "7"]


def test_a_missing_old_priority_is_told_as_0(world: World) -> None:
    keys = eligible(world)
    world.redis.hdel(keys.core, "priority")
    assert change_priority(world, keys, "7") == [1, "OK", "0", "7"]


@pytest.mark.parametrize("created_at", ["", "long ago", "nan"])
def test_a_damaged_creation_time_counts_as_0_where_the_reference_raises_half_way(
    world: World, created_at: str
) -> None:
    keys = eligible(world, created_at=created_at)
    assert change_priority(world, keys, "7")[1] == "OK"
    assert world.value(lane_key(keys, "eligible")) == {keys.id: -7e12}


@pytest.mark.parametrize("priority", ["", "high", UNSET])
def test_a_priority_that_is_no_number_is_refused_before_the_record_is_read(world: World, priority: Any) -> None:
    text = "nil" if priority is UNSET else priority
    with world.unchanged():
        reply = change_priority(world, new_keys(), priority)
    assert reply == [0, "invalid_input", f"new_priority must be a number, got: {text}"]


def test_no_arguments_at_all_are_refused(world: World) -> None:
    keys = eligible(world)
    with world.unchanged():
        reply = world.call("ff_change_priority", [keys.core, lane_key(keys, "eligible")], [])
    assert reply == [0, "invalid_input", "new_priority must be a number, got: nil"]


def test_an_unknown_execution_is_refused(world: World) -> None:
    with world.unchanged():
        assert change_priority(world, new_keys(), "nan") == [0, "execution_not_found"]


@pytest.mark.parametrize(
    "core",
    [
        *({"lifecycle_phase": phase} for phase in ("active", "suspended", "terminal", "submitted", "")),
        *(
            {"eligibility_state": state}
            for state in ("not_eligible_until_time", "blocked_by_route", "not_applicable")
        ),
    ],
)
def test_an_execution_that_is_not_eligible_is_refused(world: World, core: dict[str, str]) -> None:
    keys = eligible(world, **core)
    with world.unchanged():
        assert change_priority(world, keys, "nan") == [0, "execution_not_eligible"]


def test_a_priority_that_is_not_a_number_at_all_is_refused_where_the_reference_raises_half_way(world: World) -> None:
    keys = eligible(world)
    with world.unchanged():
        reply = change_priority(world, keys, "nan")
    assert reply == [0, "invalid_input", "new_priority must be a number, got: nan"]
