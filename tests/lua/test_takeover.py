"""ffsuper_reclaimable and ffsuper_end_leases: what can be taken over; a dead worker's work at once."""

from __future__ import annotations

from typing import Any

import pytest

from ffsuper.store.keys import ExecutionKeys
from tests.lua.executions import WORKER, claim, create, lane_key
from tests.lua.holders import complete, mark, revoke
from tests.lua.suspensions import put
from tests.lua.test_sweeps import LONG_AGO_MS, expired
from tests.lua.world import Arg, World


def reclaimable(world: World, keys: ExecutionKeys, **offer: Any) -> Any:
    """Ask what a worker can take over; by default one for the default lane, without capabilities, for any kind."""
    lanes, kinds = offer.get("lanes", ("default",)), offer.get("kinds", ())
    args: list[Arg] = ["-inf", 0, 9, offer.get("capabilities", ""), len(lanes), *lanes, len(kinds), *kinds]
    return world.call("ffsuper_reclaimable", [keys.partition.index("lease_expiry")], args)


def found(reply: Any) -> list[str]:
    return [str(one) for one in reply[8::4]]


def end_leases(world: World, keys: ExecutionKeys, instance: str = WORKER, limit: int = 9) -> Any:
    call_keys = [keys.partition.worker_leases(instance), keys.partition.index("lease_expiry")]
    return world.call("ffsuper_end_leases", call_keys, [instance, limit])


def test_a_lease_that_ran_out_is_marked_and_its_execution_told(world: World) -> None:
    keys = expired(world)
    kind = world.value(keys.core)["execution_kind"]
    assert reclaimable(world, keys)[3:] == [1, 1, 0, "", "", keys.id, kind, "0", "default"]
    assert world.value(keys.core)["ownership_state"] == "lease_expired_reclaimable"


def test_one_that_is_marked_already_is_told_as_well(world: World) -> None:
    keys = expired(world)
    mark(world, keys, keys.id)
    assert found(reclaimable(world, keys)) == [keys.id]


def test_what_can_be_taken_over_is_the_old_workers_no_more_and_what_it_holds_is(world: World) -> None:
    lost, held = expired(world), claim(world)
    holder = held.keys.partition.worker_leases(WORKER)
    assert world.redis.smembers(holder) == {lost.id.encode(), held.keys.id.encode()}
    reclaimable(world, lost)
    assert world.redis.smembers(holder) == {held.keys.id.encode()}


@pytest.mark.parametrize(
    ("offer", "is_told"),
    [
        ({}, False),
        ({"capabilities": "cuda,gpu"}, True),
        ({"capabilities": "gpu"}, False),
        ({"capabilities": "cuda,gpu", "lanes": ("other",)}, False),
        ({"capabilities": "cuda,gpu", "lanes": ()}, False),
        ({"capabilities": "cuda,gpu", "kinds": ("other",)}, False),
        ({"capabilities": "cuda,gpu", "kinds": ("other", "job")}, True),
    ],
)
def test_only_what_the_worker_can_take_is_told(world: World, offer: dict[str, Any], is_told: bool) -> None:
    keys = expired(world)
    put(world, keys.core, required_capabilities="cuda,gpu", execution_kind="job")
    assert bool(found(reclaimable(world, keys, **offer))) == is_told
    assert world.value(keys.core)["ownership_state"] == "lease_expired_reclaimable"


def test_leases_that_hold_and_executions_that_have_ended_are_not_told(world: World) -> None:
    held = claim(world)
    ended = claim(world)
    complete(world, ended)
    world.redis.zadd(
        held.keys.partition.index("lease_expiry"), {held.keys.id: LONG_AGO_MS, ended.keys.id: LONG_AGO_MS}
    )
    assert found(reclaimable(world, held.keys)) == []


def test_damaged_records_are_counted_and_hide_nothing(world: World) -> None:
    damaged, good = expired(world), expired(world)
    world.redis.delete(damaged.core)
    world.redis.set(damaged.core, "x")
    reply = reclaimable(world, good)
    assert reply[3:7] == [2, 2, 1, damaged.id]
    assert found(reply) == [good.id]


def test_the_leases_of_a_dead_worker_end_at_once_and_others_hold(world: World) -> None:
    dead, other = claim(world), claim(world)
    put(world, other.keys.core, current_worker_instance_id="another")
    world.redis.srem(dead.keys.partition.worker_leases(WORKER), other.keys.id)
    assert end_leases(world, dead.keys) == [1, "OK", 1, 0]
    assert world.value(dead.keys.core)["ownership_state"] == "lease_expired_reclaimable"
    assert world.value(other.keys.core)["ownership_state"] == "leased"
    assert found(reclaimable(world, dead.keys)) == [dead.keys.id]
    events = [
        dict(zip(entry[::2], entry[1::2], strict=True)) for entry in world.value(dead.keys.part("lease:history"))
    ]
    assert events[-1]["event"] == "expired"


def test_the_old_attempt_can_write_nothing_after_its_lease_was_ended(world: World) -> None:
    lease = claim(world)
    end_leases(world, lease.keys)
    assert complete(world, lease)[:2] == [0, "lease_expired"]


def test_entries_of_leases_that_went_to_others_are_only_cleaned_away(world: World) -> None:
    mine, elsewhere, over = claim(world), claim(world), create(world)
    put(world, elsewhere.keys.core, current_worker_instance_id="another")
    world.redis.sadd(mine.keys.partition.worker_leases(WORKER), over.id, "nonsense")
    revoke(world, mine.keys, mine.keys.id)
    assert end_leases(world, mine.keys) == [1, "OK", 0, 0]
    assert world.value(elsewhere.keys.core)["ownership_state"] == "leased"
    assert lane_key(over, "eligible") in world.keyspace()


def test_many_leases_are_ended_a_page_at_a_time(world: World) -> None:
    leases = [claim(world) for _ in range(5)]
    assert end_leases(world, leases[0].keys, limit=2) == [1, "OK", 2, 3]
    assert end_leases(world, leases[0].keys, limit=9) == [1, "OK", 3, 0]
