"""The sweeps: a page in one call leaves the same as the protocol's function called for each entry."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from ffsuper.store.keys import ExecutionKeys
from tests.lua.executions import claim, create, lane_key, new_keys
from tests.lua.holders import FLOW, OUTDATED, expire, mark, promote, published
from tests.lua.suspensions import (
    EXECUTION,
    KEYS,
    PENDING,
    SUSPENSION_TIMEOUT,
    WAITPOINT,
    lane,
    put,
    put_active,
    put_pending,
    put_suspended,
)
from tests.lua.suspensions import expire as expire_suspension
from tests.lua.world import World

LONG_AGO_MS = 1_600_000_000_000
TIME = re.compile(r"1[67]\d{11}")


def delayed(world: World, partition: int = 7) -> ExecutionKeys:
    """Create an execution whose delay is over."""
    keys = create(world, new_keys(partition), delay_until="4102444800000")
    put(world, keys.core, delay_until=str(LONG_AGO_MS))
    world.redis.zadd(lane_key(keys, "delayed"), {keys.id: LONG_AGO_MS})
    return keys


def expired(world: World) -> ExecutionKeys:
    """Claim an execution, and let its lease run out."""
    keys = claim(world).keys
    put(world, keys.core, **OUTDATED)
    world.redis.zadd(keys.partition.index("lease_expiry"), {keys.id: LONG_AGO_MS})
    return keys


def overdue(world: World, index: str) -> ExecutionKeys:
    """Claim an execution that has taken too long."""
    keys = claim(world).keys
    world.redis.zadd(keys.partition.index(index), {keys.id: LONG_AGO_MS})
    return keys


def sweep(world: World, function: str, keys: list[str], *args: Any, **page: Any) -> Any:
    return world.call(function, keys, [page.get("since", "-inf"), page.get("offset", 0), page.get("limit", 9), *args])


def promote_page(world: World, keys: ExecutionKeys, **args: Any) -> Any:
    return sweep(world, "ffsuper_promote_delayed", [lane_key(keys, "delayed"), lane_key(keys, "eligible")], **args)


def mark_page(world: World, keys: ExecutionKeys, **args: Any) -> Any:
    return sweep(world, "ffsuper_mark_expired", [keys.partition.index("lease_expiry")], **args)


def same(world: World, before: dict[str, tuple[bytes, int]]) -> None:
    """Put the keyspace back."""
    world.redis.flushall()
    for key, (value, ttl_ms) in before.items():
        world.command("RESTORE", key, ttl_ms, value)


def snapshot(world: World) -> dict[str, tuple[bytes, int]]:
    """Return every key with its value as DUMP gives it, and its time to live in ms."""
    keys = world.command("KEYS", "*")
    return {key.decode(): (world.command("DUMP", key), max(0, int(world.command("PTTL", key)))) for key in keys}


def timeless(value: Any) -> Any:
    """Return a keyspace with the server's times made equal."""
    match value:
        case str():
            return TIME.sub("<time>", value)
        case float():
            return "<time>" if LONG_AGO_MS <= value < 2_000_000_000_000 else value
        case dict():
            return {timeless(key): timeless(item) for key, item in value.items()}
        case list() | tuple():
            return [timeless(item) for item in value]
        case _:
            return value


def case_delayed(world: World) -> tuple[Callable[[], Any], Callable[[], Any]]:
    keys = delayed(world)
    return lambda: promote(world, keys, keys.id, world.now_ms()), lambda: promote_page(world, keys)


def case_lease(world: World) -> tuple[Callable[[], Any], Callable[[], Any]]:
    keys = expired(world)
    return lambda: mark(world, keys, keys.id), lambda: mark_page(world, keys)


def case_overdue(reason: str) -> Callable[[World], tuple[Callable[[], Any], Callable[[], Any]]]:
    def case(world: World) -> tuple[Callable[[], Any], Callable[[], Any]]:
        keys = overdue(world, reason)
        index = keys.partition.index(reason)
        return (
            lambda: expire(world, keys, keys.id, reason),
            lambda: sweep(world, "ffsuper_expire_executions", [index], reason),
        )

    return case


def case_suspension(world: World) -> tuple[Callable[[], Any], Callable[[], Any]]:
    put_suspended(world, timeout_at=str(LONG_AGO_MS), timeout_behavior="fail")
    world.redis.zadd(SUSPENSION_TIMEOUT, {EXECUTION: LONG_AGO_MS})
    return (
        lambda: expire_suspension(world, EXECUTION),
        lambda: sweep(world, "ffsuper_expire_suspensions", [SUSPENSION_TIMEOUT]),
    )


def case_waitpoint(world: World) -> tuple[Callable[[], Any], Callable[[], Any]]:
    put_pending_alone(world)
    keys = [KEYS.core, KEYS.waitpoint(WAITPOINT), PENDING]
    return (
        lambda: world.call("ff_close_waitpoint", keys, [WAITPOINT, "never_committed"]),
        lambda: sweep(world, "ffsuper_close_waitpoints", [PENDING]),
    )


def put_pending_alone(world: World) -> None:
    """Write an execution with a pending waitpoint that is overdue."""
    put_active(world)
    put_pending(world)
    world.redis.zadd(PENDING, {WAITPOINT: LONG_AGO_MS})


@pytest.mark.parametrize(
    ("case", "outcome"),
    [
        (case_delayed, "promoted"),
        (case_lease, "marked_expired"),
        (case_overdue("attempt_timeout"), "expired"),
        (case_overdue("execution_deadline"), "expired"),
        (case_suspension, "fail"),
        (case_waitpoint, "OK"),
    ],
    ids=["delayed", "lease", "attempt timeout", "deadline", "suspension", "waitpoint"],
)
def test_a_page_leaves_what_the_protocols_function_leaves(world: World, case: Any, outcome: str) -> None:
    alone, in_page = case(world)
    before = snapshot(world)
    alone()
    wanted = world.keyspace()
    if case is case_waitpoint:  # retention has to find it
        wanted[KEYS.part("waitpoints")] = {WAITPOINT}
    same(world, before)
    reply = in_page()
    assert timeless(world.keyspace()) == timeless(wanted)
    assert reply[:2] == [1, "OK"]
    assert (reply[3], reply[5:8], reply[8:]) == (1, [0, "", ""], [outcome, 1])


def test_a_page_begins_at_its_offset_and_has_its_limit(world: World) -> None:
    keys = [delayed(world) for _ in range(5)]
    for number, one in enumerate(keys):
        world.redis.zadd(lane_key(one, "delayed"), {one.id: LONG_AGO_MS + number})
    assert promote_page(world, keys[0], offset=1, limit=2)[3:5] == [2, 0]
    assert set(world.value(lane_key(keys[0], "eligible"))) == {keys[1].id, keys[2].id}


def test_a_page_begins_at_its_score_and_ends_at_the_servers_time(world: World) -> None:
    early, late, not_due = delayed(world), delayed(world), delayed(world)
    world.redis.zadd(lane_key(early, "delayed"), {early.id: LONG_AGO_MS - 1, not_due.id: world.now_ms() + 60_000})
    assert promote_page(world, early, since=LONG_AGO_MS)[3:5] == [1, 0]
    assert set(world.value(lane_key(early, "eligible"))) == {late.id}


def test_what_is_marked_stays_in_its_index_and_is_counted_as_still_due(world: World) -> None:
    keys = expired(world)
    assert mark_page(world, keys)[3:5] == [1, 1]
    assert mark_page(world, keys)[8:] == ["already_expired", 1]


def test_an_entry_that_cannot_be_moved_is_told_and_hides_no_other(world: World) -> None:
    damaged, good = delayed(world), delayed(world)
    world.redis.delete(damaged.core)
    world.redis.set(damaged.core, "no hash")
    reply = promote_page(world, good)
    assert (reply[3:7], reply[8:]) == ([2, 1, 1, damaged.id], ["promoted", 1])
    assert "WRONGTYPE" in reply[7]


@pytest.mark.parametrize(
    "member", ["", "nonsense", "{fp:7}:not-a-uuid", "{fp:8}:0b1f9e9c-0000-4000-8000-000000000000", "\xff"]
)
def test_members_without_an_execution_are_cleaned_away(world: World, member: str) -> None:
    good = delayed(world)
    world.redis.zadd(lane_key(good, "delayed"), {member: LONG_AGO_MS})
    reply = promote_page(world, good)
    assert reply[3:6] == [2, 0, 0]
    assert world.value(lane_key(good, "delayed")) is None


def test_waitpoints_that_are_gone_leave_the_index(world: World) -> None:
    world.redis.zadd(PENDING, {"gone": LONG_AGO_MS})
    assert sweep(world, "ffsuper_close_waitpoints", [PENDING])[8:] == ["gone", 1]
    assert world.value(PENDING) is None


def test_waitpoints_of_an_execution_that_is_gone_go_too(world: World) -> None:
    put_pending_alone(world)
    world.redis.delete(KEYS.core)
    assert sweep(world, "ffsuper_close_waitpoints", [PENDING])[8:] == ["gone", 1]
    assert world.value(KEYS.waitpoint(WAITPOINT)) is None


@pytest.mark.parametrize("how", ["deadline", "suspension"])
def test_a_member_of_a_flow_that_runs_out_of_time_is_announced(world: World, how: str) -> None:
    if how == "deadline":
        keys = overdue(world, "execution_deadline")
        index = keys.partition.index("execution_deadline")
        call: tuple[Any, ...] = ("ffsuper_expire_executions", [index], "execution_deadline")
    else:
        put_suspended(world, timeout_at=str(LONG_AGO_MS), timeout_behavior="fail")
        world.redis.zadd(SUSPENSION_TIMEOUT, {EXECUTION: LONG_AGO_MS})
        keys, call = KEYS, ("ffsuper_expire_suspensions", [SUSPENSION_TIMEOUT])
    put(world, keys.core, flow_id=FLOW)
    with published(world) as announced:
        sweep(world, *call)
    (message,) = announced
    assert keys.id in message
    assert FLOW in message


def test_a_suspension_that_is_resumed_by_its_timeout_is_not_announced(world: World) -> None:
    put_suspended(world, timeout_at=str(LONG_AGO_MS), timeout_behavior="auto_resume_with_timeout_signal")
    put(world, KEYS.core, flow_id=FLOW)
    world.redis.zadd(SUSPENSION_TIMEOUT, {EXECUTION: LONG_AGO_MS})
    with published(world) as announced:
        sweep(world, "ffsuper_expire_suspensions", [SUSPENSION_TIMEOUT])
    assert announced == []
    assert EXECUTION in world.value(lane("eligible"))


@pytest.mark.parametrize("args", [[], ["-inf"], ["-inf", "x", 1], ["-inf", 0, "x"]])
def test_missing_and_wrong_arguments_are_refused(world: World, args: list[Any]) -> None:
    keys = delayed(world)
    with world.unchanged():
        reply = world.call("ffsuper_promote_delayed", [lane_key(keys, "delayed"), lane_key(keys, "eligible")], args)
    assert reply[:2] == [0, "invalid_input"]
