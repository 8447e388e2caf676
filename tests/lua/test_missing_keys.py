"""Calls with fewer keys than a function writes to: the functions of leases, ends and pauses.

The reference raises at the first key that it misses, with all that it wrote before. Whatever it answers with fewer
keys, ours answers too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from tests.lua import holders
from tests.lua.executions import claim, create
from tests.lua.suspensions import EXECUTION, KEYS, put, put_suspended
from tests.lua.world import Arg, World

RETRY = {"max_retries": 9}


class WithKeys(World):
    """A world in which functions get a number of their keys only. A script error is a text."""

    def __init__(self, world: World, count: int) -> None:
        super().__init__(world.redis)
        self.count = count

    def call(self, function: str, keys: list[str], args: list[Arg]) -> Any:
        """Call a function with its first keys."""
        try:
            return super().call(function, keys[: self.count], args)
        except redis.ResponseError as error:
            return str(error)


Act = Callable[[World], Any]


def of_a_holder(act: Callable[..., Any], *args: Any) -> Callable[[World], Act]:
    """Return what claims an execution and returns its holder's call."""

    def prepare(world: World) -> Act:
        lease = holders.claim_beside_another(world)
        holders.open_stream(world, lease.keys)
        return lambda given: act(given, lease, *args)

    return prepare


def of_others(act: Callable[..., Any]) -> Callable[[World], Act]:
    """Return what claims an execution and returns a call by its keys and id."""

    def prepare(world: World) -> Act:
        lease = holders.claim_beside_another(world)
        holders.open_stream(world, lease.keys)
        return lambda given: act(given, lease.keys, lease.execution_id)

    return prepare


def cancel_active(world: World) -> Act:
    lease = holders.claim_beside_another(world)
    return lambda given: holders.cancel(given, lease.keys)


def cancel_suspended(world: World) -> Act:
    put_suspended(world)
    return lambda given: holders.cancel(given, KEYS)


def expire_suspended(world: World) -> Act:
    put_suspended(world)
    world.redis.zadd(KEYS.partition.index("execution_deadline"), {EXECUTION: 5})
    return lambda given: holders.expire(given, KEYS, EXECUTION)


def expire_runnable(world: World) -> Act:
    keys = create(world)
    world.redis.zadd(keys.partition.index("attempt_timeout"), {keys.id: 5})
    return lambda given: holders.expire(given, keys, keys.id)


def promote(world: World) -> Act:
    keys = create(world, delay_until=holders.FAR_MS)
    return lambda given: holders.promote(given, keys, keys.id, holders.FAR_MS)


NEEDED = [
    pytest.param(of_a_holder(holders.complete), 12, id="complete"),
    pytest.param(of_a_holder(holders.fail), 12, id="fail"),
    pytest.param(of_a_holder(holders.fail, RETRY), 11, id="fail-retry"),
    pytest.param(of_a_holder(holders.delay), 9, id="delay"),
    pytest.param(of_a_holder(holders.wait_for_children), 9, id="wait"),
    pytest.param(cancel_active, 12, id="cancel-active"),
    pytest.param(cancel_suspended, 12, id="cancel-suspended"),
    pytest.param(of_others(holders.expire), 11, id="expire-active"),
    pytest.param(expire_suspended, 14, id="expire-suspended"),
    pytest.param(expire_runnable, 11, id="expire-runnable"),
    pytest.param(promote, 3, id="promote"),
    pytest.param(of_a_holder(holders.renew), 4, id="renew"),
    pytest.param(of_others(holders.revoke), 5, id="revoke"),
]


@pytest.mark.parametrize(("prepare", "needed"), NEEDED)
def test_a_missing_key_is_refused_before_anything_is_written(
    world: World, prepare: Callable[[World], Act], needed: int
) -> None:
    act = prepare(world)
    with world.unchanged():
        for count in range(needed):
            reply = act(WithKeys(world, count))
            assert isinstance(reply, str) or reply[0] == 0
        assert reply == [0, "invalid_input", f"KEYS must be {needed}, got: {needed - 1}"]
    assert act(WithKeys(world, needed))[:2] == [1, "OK"]


@pytest.mark.parametrize(
    ("prepare", "before_history"),
    [
        pytest.param(of_a_holder(holders.complete), 6, id="complete"),
        pytest.param(of_a_holder(holders.fail), 7, id="fail"),
        pytest.param(of_a_holder(holders.delay), 3, id="delay"),
        pytest.param(of_a_holder(holders.wait_for_children), 3, id="wait"),
        pytest.param(of_a_holder(holders.renew), 2, id="renew"),
        pytest.param(of_others(holders.mark), 3, id="mark"),
    ],
)
def test_a_lease_that_has_run_out_is_not_marked_without_its_history(
    world: World, prepare: Callable[[World], Act], before_history: int
) -> None:
    act = prepare(world)
    for core in (key for key in world.keyspace() if key.endswith(":core")):
        put(world, core, **holders.OUTDATED)
    with world.unchanged():
        reply = act(WithKeys(world, before_history))
        assert reply == [0, "invalid_input", "lease_history must be given, got: nil"]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_marking_clears_no_index_that_is_not_passed(world: World, count: int) -> None:
    lease = claim(world)
    put(world, lease.keys.core, ownership_state="unowned")
    with world.unchanged():
        assert isinstance(holders.mark(WithKeys(world, count), lease.keys, lease.execution_id), str)
