"""Wake-ups: who waits for work of a lane is told when an eligible index of the lane stops being empty."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import fakeredis
import pytest
import redis

from ffsuper.store import libraries
from ffsuper.store.announcements import ELIGIBLE
from ffsuper.store.dependencies import Step, Work
from ffsuper.store.flows import create_flow
from tests.lua import flows, signals, suspensions, test_flow_sweeps, test_sweeps, test_unblock
from tests.lua.claims import RETRY
from tests.lua.executions import LANE, call_create, claim, create, lane_key, new_keys
from tests.lua.holders import FAR_MS, cancel, delay, fail, promote
from tests.lua.suspensions import EXECUTION, SUSPENSION_TIMEOUT, put_suspended
from tests.lua.test_admission import block, blocked, unblock
from tests.lua.test_consistency import reconcile
from tests.lua.test_flow_sweeps import FLOW, carry_out, finish, member
from tests.lua.test_priority import change_priority
from tests.lua.test_replay import skipped, terminal
from tests.lua.test_sweeps import LONG_AGO_MS, delayed, promote_page
from tests.lua.world import World

Act = Callable[[], Any]
PARTITION = "7"
WOKEN = [(f"{ELIGIBLE}{LANE}", PARTITION)]
INDEX = lane_key(new_keys(), "eligible")


def emptied(world: World) -> None:
    """Leave nothing in the eligible index."""
    world.redis.delete(INDEX)


# --- what makes an execution eligible: each prepares one, and returns what is to wake ------------------------------


def created(world: World) -> Act:
    return lambda: create(world)


def created_with_a_delay_that_is_past(world: World) -> Act:
    return lambda: create(world, delay_until="5")


def promoted(world: World) -> Act:
    keys = create(world, delay_until=FAR_MS)
    return lambda: promote(world, keys, keys.id, FAR_MS)


def retried(world: World) -> Act:
    lease = claim(world)
    fail(world, lease, RETRY)
    return lambda: promote(world, lease.keys, lease.execution_id, FAR_MS)


def handed_back(world: World) -> Act:
    lease = claim(world)
    delay(world, lease, delay_until=1)
    return lambda: promote(world, lease.keys, lease.execution_id, FAR_MS)


def promoted_in_a_page(world: World) -> Act:
    keys = [delayed(world) for _ in range(3)]
    return lambda: promote_page(world, keys[0])


def replayed(world: World) -> Act:
    keys = terminal(world)
    return lambda: flows.replay(world, keys)


def replayed_without_open_edges(world: World) -> Act:
    keys = skipped(world)
    return lambda: flows.replay_skipped(world, keys)


def satisfied(world: World) -> Act:
    keys = flows.waiting(world, "e1", "e2")
    flows.resolve(world, keys, "e1")
    return lambda: flows.resolve(world, keys, "e2")


def promoted_from_blocked(world: World) -> Act:
    keys = flows.waiting(world)
    world.redis.delete(keys.part("deps:unresolved"), keys.part("deps:meta"))
    return lambda: flows.promote_blocked(world, keys)


def unblocked(world: World) -> Act:
    keys = blocked(world)
    return lambda: unblock(world, keys)


def unblocked_in_a_page(world: World) -> Act:
    keys = [test_unblock.blocked(world, "blocked:route", "gpu") for _ in range(3)]
    return lambda: test_unblock.unblock(world, keys[0], "blocked:route", "gpu", 9)


def signalled(world: World) -> Act:
    token = put_suspended(world)
    return lambda: signals.deliver(world, token)


def resumed_by_an_operator(world: World) -> Act:
    put_suspended(world)
    return lambda: suspensions.resume(world)


def timed_out(world: World) -> Act:
    put_suspended(world, timeout_at="5", timeout_behavior="auto_resume")
    return lambda: suspensions.expire(world, EXECUTION)


def timed_out_in_a_page(world: World) -> Act:
    put_suspended(world, timeout_at="5", timeout_behavior="auto_resume")
    world.redis.zadd(SUSPENSION_TIMEOUT, {EXECUTION: LONG_AGO_MS})
    return lambda: test_sweeps.sweep(world, "ffsuper_expire_suspensions", [SUSPENSION_TIMEOUT])


def found_again_by_a_change_of_priority(world: World) -> Act:
    keys = create(world)
    return lambda: change_priority(world, keys, "5")


def repaired(world: World) -> Act:
    keys = create(world)
    return lambda: reconcile(world, keys)


def added_to_a_flow(world: World) -> Act:
    carry_out(world, create_flow(FLOW, "test", "default"))
    return lambda: member(world)


def added_after_what_has_ended(world: World) -> Act:
    """It is blocked and released again in the same call."""
    added_to_a_flow(world)
    top = member(world)
    finish(world, top)
    return lambda: member(world, top)


def settled_in_a_page(world: World) -> Act:
    added_to_a_flow(world)
    top = member(world)
    for _ in range(3):
        member(world, top)
    finish(world, top)
    return lambda: test_flow_sweeps.tell(world, top)


def released_in_a_page(world: World) -> Act:
    keys = flows.waiting(world)
    world.redis.delete(keys.part("deps:unresolved"))
    work = Work(lane_key(keys, "blocked:dependencies"), [Step("in", keys.id)])
    return lambda: test_flow_sweeps.settle_all(world, work)


WAKING = [
    created,
    created_with_a_delay_that_is_past,
    promoted,
    retried,
    handed_back,
    promoted_in_a_page,
    replayed,
    replayed_without_open_edges,
    satisfied,
    promoted_from_blocked,
    unblocked,
    unblocked_in_a_page,
    signalled,
    resumed_by_an_operator,
    timed_out,
    timed_out_in_a_page,
    found_again_by_a_change_of_priority,
    repaired,
    added_to_a_flow,
    added_after_what_has_ended,
    settled_in_a_page,
    released_in_a_page,
]


@pytest.mark.parametrize("prepare", WAKING)
def test_the_first_eligible_execution_wakes_once(world: World, prepare: Callable[[World], Act]) -> None:
    act = prepare(world)
    emptied(world)
    with world.messages() as found:
        act()
    assert world.value(INDEX), "nothing became eligible"
    assert found == WOKEN


@pytest.mark.parametrize("prepare", WAKING)
def test_a_further_eligible_execution_wakes_nobody(world: World, prepare: Callable[[World], Act]) -> None:
    act = prepare(world)
    emptied(world)
    world.redis.zadd(INDEX, {"another": 1})
    with world.messages() as found:
        act()
    assert len(world.value(INDEX)) > 1, "nothing became eligible"
    assert found == []


# --- what does not ------------------------------------------------------------------------------------------------


def created_with_a_delay(world: World) -> Act:
    return lambda: create(world, delay_until=FAR_MS)


def created_again(world: World) -> Act:
    keys = create(world)
    return lambda: call_create(world, keys)


def refused(world: World) -> Act:
    return lambda: call_create(world, new_keys(), priority="high")


def promoted_too_early(world: World) -> Act:
    keys = create(world, delay_until=FAR_MS)
    return lambda: promote(world, keys, keys.id, 5)


def resumed_with_a_delay(world: World) -> Act:
    put_suspended(world)
    return lambda: suspensions.resume(world, EXECUTION, "operator", "60000")


def set_aside(world: World) -> Act:
    keys = create(world)
    return lambda: block(world, keys)


def added_after_what_is_still_to_come(world: World) -> Act:
    """It is eligible in between, and blocked in the same call."""
    added_to_a_flow(world)
    top = member(world)
    return lambda: member(world, top)


@pytest.mark.parametrize(
    "prepare",
    [
        created_with_a_delay,
        created_again,
        refused,
        promoted_too_early,
        resumed_with_a_delay,
        set_aside,
        added_after_what_is_still_to_come,
    ],
)
def test_what_leaves_the_index_empty_wakes_nobody(world: World, prepare: Callable[[World], Act]) -> None:
    act = prepare(world)
    emptied(world)
    with world.messages() as found:
        act()
    assert (world.value(INDEX), found) == (None, [])


def test_an_execution_that_changes_its_place_wakes_nobody(world: World) -> None:
    keys = create(world)
    with world.messages() as found:
        assert change_priority(world, keys, "5") == [1, "OK", "3", "5"]
    assert found == []


def test_what_comes_after_the_index_was_emptied_wakes_again(world: World) -> None:
    with world.messages() as found:
        for _ in range(3):
            claim(world)
    assert found == WOKEN * 3


# --- where --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lane", ["photos", "photos:small", "a:lane:b", "photos:eligible", "-%1.*"])
def test_lane_and_partition_are_those_of_the_index(world: World, lane: str) -> None:
    with world.messages() as found:
        create(world, new_keys(255), lane_id=lane)
        create(world, new_keys(0), lane_id=lane)
        create(world, new_keys(0), lane_id="other")
    assert found == [(f"{ELIGIBLE}{lane}", "255"), (f"{ELIGIBLE}{lane}", "0"), (f"{ELIGIBLE}other", "0")]


def test_each_lane_that_a_page_fills_is_told(world: World) -> None:
    keys = [create(world, lane_id=lane) for lane in ("one", "two")]
    for one, lane in zip(keys, ("one", "two"), strict=True):
        world.redis.delete(lane_key(one, "eligible", lane))
    with world.messages() as found:
        reconcile(world, keys[0])
    assert sorted(found) == [(f"{ELIGIBLE}one", PARTITION), (f"{ELIGIBLE}two", PARTITION)]


def test_an_index_with_a_name_of_its_own_is_filled_without_a_word(world: World) -> None:
    keys = create(world, delay_until=FAR_MS)
    with world.messages() as found:
        world.call("ff_promote_delayed", [keys.core, lane_key(keys, "delayed"), "mine"], [keys.id, FAR_MS])
    assert (world.value("mine").keys(), found) == ({keys.id}, [])


def test_nothing_is_added_to_an_eligible_index_without_a_word() -> None:
    files = sorted(libraries.source_folder().glob("*/*.lua"))
    adding = [file.name for file in files if re.search(r"'ZADD', [\w.]*eligible\b", file.read_text(encoding="utf-8"))]
    assert adding == ["05_wake.lua"]


# --- when it cannot be said ---------------------------------------------------------------------------------------


def test_who_may_not_use_the_channel_fills_the_index_as_ever(world: World, restricted: World) -> None:
    with pytest.raises(redis.exceptions.NoPermissionError):
        restricted.redis.publish(f"{ELIGIBLE}{LANE}", PARTITION)
    with world.messages() as found:
        keys = create(restricted)
    assert found == []
    assert world.value(INDEX).keys() == {keys.id}
    assert world.value(keys.partition.index("all_executions")) == {keys.id}


def test_a_message_that_could_not_be_sent_is_no_later_calls(world: World, restricted: World) -> None:
    create(restricted)
    with world.messages() as found:
        create(world, new_keys(8))
    assert found == [(f"{ELIGIBLE}{LANE}", "8")]


def test_a_call_that_fails_half_way_tells_what_it_has_added(world: World) -> None:
    keys = new_keys()
    world.redis.set(keys.partition.index("all_executions"), "damaged")
    with world.messages() as found, pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        call_create(world, keys)
    assert world.value(INDEX).keys() == {keys.id}
    assert found == WOKEN


def test_the_server_in_python_wakes_as_well() -> None:
    with fakeredis.FakeRedis(server=fakeredis.FakeServer()) as client:
        for name in libraries.NAMES:
            client.function_load(libraries.assemble(name))
        world = World(client)
        with world.messages() as found:
            first, second = create(world), create(world)
            cancel(world, first)
            change_priority(world, second, "5")
            promote_page(world, delayed(world, 8))
        # It tells of every change of a key as well.
        woken = [(channel, partition) for channel, partition in found if channel.startswith(ELIGIBLE)]
        assert woken == [*WOKEN, (f"{ELIGIBLE}{LANE}", "8")]
