"""Admission by the stored policy, and giving back: ffsuper_admit and ffsuper_give_back."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lua.test_quota import ADMITTED, CONCURRENCY, E1, E2, ID, POLICIES, QUOTA, WINDOW, guard
from tests.lua.world import World


def policy(world: World, *, window_s: int = 60, rate: int = 0, cap: int = 0) -> None:
    keys = [QUOTA, WINDOW, CONCURRENCY, ADMITTED, POLICIES]
    world.call("ff_create_quota_policy", keys, [ID, window_s, rate, cap, 1])


STAMPS = f"ffsuper:quota:{{q:4}}:{ID}:stamps"


def admit(world: World, execution: str = E1) -> Any:
    return world.call("ffsuper_admit", [WINDOW, CONCURRENCY, QUOTA, guard(execution), ADMITTED, STAMPS], [execution])


def stamp_of(world: World, execution: str = E1) -> str:
    return str((world.value(STAMPS) or {}).get(execution, ""))


def give_back(world: World, execution: str = E1, stamp: str | None = None) -> Any:
    keys = [QUOTA, guard(execution), ADMITTED, CONCURRENCY, STAMPS]
    return world.call("ffsuper_give_back", keys, [execution, stamp_of(world, execution) if stamp is None else stamp])


def test_as_many_are_admitted_as_the_policy_says(world: World) -> None:
    policy(world, cap=1)
    assert admit(world) == [1, "OK", "ADMITTED", "0", "60", "1"]
    assert admit(world) == [1, "OK", "ALREADY_ADMITTED", "0", "60", "1"]
    assert admit(world, E2) == [1, "OK", "CONCURRENCY_EXCEEDED", "0", "60", "1"]
    assert world.value(ADMITTED) == {E1}


def test_the_rate_counts_on_the_servers_clock(world: World) -> None:
    policy(world, rate=1)
    before_ms = world.now_ms()
    assert admit(world)[2] == "ADMITTED"
    assert before_ms <= (world.redis.zscore(WINDOW, E1) or 0) <= world.now_ms()
    assert admit(world, E2) == [1, "OK", "RATE_EXCEEDED", "1", "60", "0"]


def test_no_policy_limits_nothing_and_nothing_is_noted(world: World) -> None:
    with world.changes() as c:
        assert admit(world) == [1, "OK", "UNLIMITED", "0", "60", "0"]
    assert (c.written, c.removed) == ({}, {})


def test_an_execution_that_starts_again_after_its_guard_has_gone_counts_once(world: World) -> None:
    policy(world, cap=5)
    admit(world)
    world.redis.delete(guard(E1))
    assert admit(world)[2] == "ADMITTED"
    assert world.redis.get(CONCURRENCY) == b"1"


def test_a_place_is_given_back_once(world: World) -> None:
    policy(world, cap=2)
    for execution in (E1, E2):
        admit(world, execution)
    assert give_back(world) == [1, "OK", "given_back"]
    assert give_back(world) == [1, "OK", "kept"]
    assert (world.redis.get(CONCURRENCY), world.value(ADMITTED)) == (b"1", {E2})
    assert not world.redis.exists(guard(E1))


def test_where_only_the_rate_is_limited_a_retry_within_the_window_is_no_new_request(world: World) -> None:
    policy(world, rate=1)
    admit(world)
    assert give_back(world) == [1, "OK", "given_back"]
    assert admit(world)[2] == "ALREADY_ADMITTED"


@pytest.mark.parametrize("damaged", ["", "x", "-3", "0"])
def test_a_damaged_counter_does_not_keep_a_place(world: World, damaged: str) -> None:
    policy(world, cap=2)
    admit(world)
    world.redis.set(CONCURRENCY, damaged)
    assert give_back(world) == [1, "OK", "given_back"]
    assert world.redis.get(CONCURRENCY) == damaged.encode()


def test_a_place_that_was_admitted_again_meanwhile_is_kept(world: World) -> None:
    policy(world, cap=2)
    admit(world)
    before = stamp_of(world)
    assert admit(world)[2] == "ALREADY_ADMITTED"
    assert give_back(world, stamp=before) == [1, "OK", "kept"]
    assert (world.redis.get(CONCURRENCY), world.value(ADMITTED)) == (b"1", {E1})
    assert give_back(world) == [1, "OK", "given_back"]
    assert not world.redis.exists(STAMPS)


def test_a_place_that_a_foreign_scheduler_gave_is_given_back_too(world: World) -> None:
    policy(world, cap=2)
    world.redis.sadd(ADMITTED, E1)
    world.redis.set(CONCURRENCY, 1)
    assert give_back(world, stamp="") == [1, "OK", "given_back"]
