"""ffsuper_waiting: where executions wait, and which comes first."""

from __future__ import annotations

from typing import Any

import pytest

from ffsuper.messages import LaneId
from ffsuper.store.keys import ExecutionKeys, PartitionKeys
from tests.lua.claims import KIND, KINDS, offers, outcomes_together, ranges_read, with_core
from tests.lua.executions import create, lane_key, new_keys
from tests.lua.test_look import NODE, commands
from tests.lua.world import Arg, World

PAGE = 32
LANES = ["default", "other"]
DEFAULT, OTHER = 1, 2
PARTITION = 7
ELIGIBLE = lane_key(new_keys(PARTITION), "eligible")
CLAIMABLE = ("plain", "without payload", "with deadline", "retried", "replayed", "resumed", "resumed later")


def look(world: World, *places: tuple[int, ...], kinds: list[str] | None = None, page: int = PAGE) -> list[list[Any]]:
    """Look at places, each in a group of its own; return what is told of each that has members."""
    args: list[Arg] = [page, len(kinds or []), *(kinds or []), len(LANES), *LANES, len(places)]
    for position, (_, _, offset) in enumerate(places):
        args += [position, offset]
    for lane, partition, _ in places:
        args += [1, lane, partition]
    return told(world, args)


def told(world: World, args: list[Arg]) -> list[list[Any]]:
    reply = world.call("ffsuper_waiting", NODE, args)
    assert reply[:2] == [1, "OK"]
    return [reply[at : at + 5] for at in range(2, len(reply), 5)]


def look_at_one(world: World, offset: int = 0, **changes: Any) -> list[Any]:
    """Look at the partition that executions are made on; return members, skipped, execution id."""
    ((position, state, *found),) = look(world, (DEFAULT, PARTITION, offset), **changes)
    assert (position, state) == (0, "waiting")
    return found


def in_order(world: World, *executions: ExecutionKeys) -> None:
    world.redis.zadd(ELIGIBLE, {keys.id: number for number, keys in enumerate(executions)})


def test_each_place_with_members_is_told_by_its_position(world: World) -> None:
    one = create(world, new_keys(3))
    two = create(world, new_keys(5), lane_id="other")
    found = look(world, (DEFAULT, 3, 0), (OTHER, 3, 0), (DEFAULT, 5, 0), (OTHER, 5, 0), (OTHER, 9, 0))
    assert found == [[0, "waiting", 1, 0, one.id], [3, "waiting", 1, 0, two.id]]


def test_positions_go_on_from_group_to_group(world: World) -> None:
    one, two = create(world, new_keys(3)), create(world, new_keys(5), lane_id="other")
    places: list[Arg] = [2, DEFAULT, 2, 3, 0, OTHER, 3, OTHER, 3, 4, 5]
    none: list[Arg] = [PAGE, 0, len(LANES), *LANES, 0]
    assert told(world, [*none, *places]) == [[1, "waiting", 1, 0, one.id], [4, "waiting", 1, 0, two.id]]
    first_behind: list[Arg] = [*none[:-1], 1, 1, 1]
    assert told(world, [*first_behind, *places]) == [[4, "waiting", 1, 0, two.id]]


@pytest.mark.parametrize("kind", CLAIMABLE)
def test_what_could_be_claimed_waits(world: World, kind: str) -> None:
    keys = KINDS[kind](world)
    assert look_at_one(world) == look_at_one(world, kinds=["none", KIND]) == [1, 0, keys.id]
    assert [one.reply[1] for one in outcomes_together(world, offers(1))] == ["OK"]


STUCK = {
    **{kind: KINDS[kind] for kind in ("gone", "granted to another", "damaged core", "damaged claim_grant", "owned")},
    "active": with_core(lifecycle_phase="active"),
    "blocked": with_core(eligibility_state="blocked_by_operator"),
}


@pytest.mark.parametrize("kind", STUCK)
def test_what_could_not_be_claimed_is_skipped_and_hides_nothing(world: World, kind: str) -> None:
    stuck = STUCK[kind](world)
    assert look_at_one(world) == [1, 1, ""]
    behind = create(world)
    in_order(world, stuck, behind)
    assert look_at_one(world) == look_at_one(world, kinds=[KIND]) == [2, 1, behind.id]


@pytest.mark.parametrize("member", ["nonsense", "{fp:8}:a", "{fp:07}:a", "{fp:7}:a"])
def test_what_is_no_execution_of_the_partition_is_skipped(world: World, member: str) -> None:
    behind = create(world)
    world.redis.zadd(ELIGIBLE, {member: 0, behind.id: 1})
    world.redis.hset(f"ff:exec:{{fp:7}}:{member}:core", mapping=world.value(behind.core))
    assert look_at_one(world) == [2, 1, behind.id]


def test_executions_of_other_kinds_are_skipped(world: World) -> None:
    executions = [create(world, execution_kind=kind) for kind in ("a", "b", "c")]
    in_order(world, *executions)
    assert look_at_one(world, kinds=["c", "b"]) == [3, 1, executions[1].id]
    assert look_at_one(world, kinds=["d"]) == [3, 3, ""]
    assert look_at_one(world) == [3, 0, executions[0].id]


def test_a_page_begins_at_the_offset_and_ends_with_it(world: World) -> None:
    executions = [create(world, execution_kind="b" if number == 3 else "a") for number in range(6)]
    in_order(world, *executions)
    assert look_at_one(world, kinds=["b"], page=3) == [3, 3, ""]
    assert look_at_one(world, 3, kinds=["b"], page=3) == [3, 0, executions[3].id]
    assert look_at_one(world, 2, kinds=["b"], page=3) == [3, 1, executions[3].id]
    assert look_at_one(world, 4, kinds=["b"], page=3) == [2, 2, ""]
    assert look(world, (DEFAULT, PARTITION, 6)) == []
    assert look(world, (DEFAULT, PARTITION, 9)) == []


def test_what_is_no_index_is_told_and_hides_no_other(world: World) -> None:
    keys = create(world)
    world.redis.set(PartitionKeys.of_index(3).lane(LaneId("other"), "eligible"), "damaged")
    damaged, good = look(world, (OTHER, 3, 0), (DEFAULT, PARTITION, 0))
    assert damaged[:4] == [0, "damaged", 0, 0]
    assert damaged[4].startswith("WRONGTYPE")
    assert good == [1, "waiting", 1, 0, keys.id]


def test_a_look_writes_nothing(world: World) -> None:
    for kind in KINDS.values():
        kind(world)
    with world.unchanged():
        look(world, (DEFAULT, PARTITION, 0), kinds=["none"])


def test_hundreds_of_places_where_nothing_waits_cost_one_command(world: World) -> None:
    groups: list[Arg] = [part for lane in (DEFAULT, OTHER) for part in (256, lane, *range(256))]
    before = commands(world)
    assert told(world, [PAGE, 0, len(LANES), *LANES, 0, *groups]) == []
    assert commands(world) - before == 2 + 2  # one for each lane, the look itself, and the count of commands


def test_others_are_looked_at_only_where_the_first_is_none_of_ours(world: World) -> None:
    for kind in ("b", *["a"] * PAGE):
        create(world, execution_kind=kind, priority=9 if kind == "b" else 1)
    assert ranges_read(world, lambda: look_at_one(world, kinds=["b"])) == [["0", "0"]]
    assert ranges_read(world, lambda: look_at_one(world, 1, kinds=["b"])) == [["1", "1"], ["2", "32"]]


WHOLE: list[Arg] = [PAGE, 1, "kind", 2, *LANES, 1, 0, 0, 1, DEFAULT, PARTITION]
CUT_SHORT = [
    *(WHOLE[:count] for count in (0, 1, 2, 3, 5, 6, 7, 8, 10, 11)),
    *([*WHOLE[:at], "x", *WHOLE[at + 1 :]] for at in (0, 1, 3, 6, 7, 8, 9, 10)),
    *([*WHOLE[:at], "1.5", *WHOLE[at + 1 :]] for at in (0, 1, 3, 6, 7, 8, 9, 10)),
    *([*WHOLE[:at], -2, *WHOLE[at + 1 :]] for at in (1, 3, 6, 9)),
    [*WHOLE[:9], 3, DEFAULT, PARTITION],
]


@pytest.mark.parametrize("args", CUT_SHORT)
def test_arguments_that_are_cut_short_or_name_no_lane_are_refused(world: World, args: list[Arg]) -> None:
    assert world.call("ffsuper_waiting", NODE, list(WHOLE)) == [1, "OK"]
    assert world.call("ffsuper_waiting", NODE, list(args))[:2] == [0, "invalid_input"]


def test_thousands_of_places_are_looked_at_in_groups(world: World) -> None:
    execution = create(world, new_keys(3_999))
    groups: list[Arg] = [4_000, DEFAULT, *range(4_000)] * 2
    found = told(world, [PAGE, 0, len(LANES), *LANES, 0, *groups])
    assert [one[0] for one in found] == [3_999, 7_999]
    assert found[0][4] == execution.id
