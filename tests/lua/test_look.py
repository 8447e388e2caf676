"""ffsuper_present and ffsuper_due: many indexes at a glance."""

from __future__ import annotations

import pytest

from tests.lua.world import World

NODE = ["any"]


def commands(world: World) -> int:
    return int(world.redis.info("stats")["total_commands_processed"])


def test_keys_that_exist_are_told_by_their_positions(world: World) -> None:
    for key in ("b", "d", "f"):
        world.redis.set(key, "x")
    assert world.call("ffsuper_present", NODE, [3, "a", "b", "c", 1, "d", 2, "e", "f"]) == [1, "OK", 1, 3, 5]


def test_the_lowest_score_from_a_bound_on_is_told_with_the_servers_time(world: World) -> None:
    world.redis.zadd("one", {"a": 5, "b": 7.5})
    world.redis.zadd("two", {"a": 1})
    reply = world.call("ffsuper_due", NODE, [4, "one", "-inf", "one", "5.5", "two", 2, "none", "-inf", 1, "two", 1])
    assert reply[3:] == [0, "5", 1, "7.5", 4, "1"]
    assert abs(int(reply[2]) - world.now_ms()) < 1_000


def test_a_key_of_another_kind_is_told_as_damaged_and_hides_no_other(world: World) -> None:
    world.redis.set("bad", "x")
    world.redis.zadd("good", {"a": 5})
    assert world.call("ffsuper_due", NODE, [2, "bad", "-inf", "good", "-inf"])[3:] == [0, "", 1, "5"]


@pytest.mark.parametrize("function", ["ffsuper_present", "ffsuper_due"])
def test_thousands_of_indexes_that_are_not_there_cost_next_to_nothing(world: World, function: str) -> None:
    keys = [f"index-{number}" for number in range(9_000)]
    args = keys if function == "ffsuper_present" else [part for key in keys for part in (key, "-inf")]
    before = commands(world)
    assert world.call(function, NODE, [len(keys), *args])[3:] == []
    assert commands(world) - before <= 6


def test_one_index_among_thousands_is_found_in_a_few_steps(world: World) -> None:
    world.redis.zadd("index-777", {"a": 5})
    keys = [f"index-{number}" for number in range(3_000)]
    before = commands(world)
    assert world.call("ffsuper_present", NODE, [len(keys), *keys]) == [1, "OK", 777]
    assert commands(world) - before <= 30


@pytest.mark.parametrize("args", [["x"], [2, "a"], ["1.5", "a"], [-1, "a"], [1, "a", "b", -2]])
def test_groups_that_are_cut_short_are_refused(world: World, args: list[str]) -> None:
    for function in ("ffsuper_present", "ffsuper_due"):
        assert world.call(function, NODE, list(args))[:2] == [0, "invalid_input"]
