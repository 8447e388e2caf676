"""ffsuper_claim_first: claims of what comes first leave and answer what the protocol's calls do one by one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ffsuper.messages import ExecutionId, Lease
from ffsuper.sansio.partition import parse
from ffsuper.store.batch_claims import claim_first
from ffsuper.store.keys import ExecutionKeys
from tests.lua.claims import (
    APART_MS,
    KIND,
    KINDS,
    ME,
    NEEDS_GPU,
    NEEDS_TPU,
    PLACE,
    Outcome,
    claim_together,
    offers,
    outcomes_apart,
    outcomes_together,
    ranges_read,
)
from tests.lua.executions import Claimed, create, lane_key, new_keys
from tests.lua.holders import complete, renew
from tests.lua.world import Arg, World

ELIGIBLE = lane_key(new_keys(), "eligible")
HEX = "0123456789abcdef0123456789abcdef"
INDEXES = ("active", "blocked:route", "lease_expiry", "execution_deadline", "worker")


def saved(world: World) -> dict[bytes, tuple[int, bytes]]:
    """Return every key with its expiry, as the server keeps it."""
    keys: Any = world.redis.keys("*")
    return {key: (max(0, world.command("PEXPIRETIME", key)), world.command("DUMP", key)) for key in keys}


def restore(world: World, kept: dict[bytes, tuple[int, bytes]]) -> None:
    world.redis.flushall()
    for key, (expires_at, value) in kept.items():
        world.command("RESTORE", key, expires_at, value, "ABSTTL")


def timeless(value: Any, began_ms: int) -> Any:
    """Return a value with every time from ``began_ms`` on as how far it is away, in multiples of APART_MS."""
    match value:
        case dict():
            return {key: timeless(one, began_ms) for key, one in value.items()}
        case list() | tuple():
            return [timeless(one, began_ms) for one in value]
        case str() if value.isdecimal() and began_ms <= int(value) < 2 * began_ms:
            return f"+{(int(value) - began_ms) // APART_MS}"
        case float() | int() if began_ms <= value < 2 * began_ms:
            return f"+{(value - began_ms) // APART_MS:.0f}"
        case _:
            return value


def left(world: World, began_ms: int) -> Any:
    """Return the keyspace with its expiries, without the times of this run."""
    return timeless(world.keyspace(), began_ms), timeless(world.expiries(), began_ms)


def compare(world: World, leases: Sequence[Lease], offset: int = 0) -> list[Outcome]:
    """Claim one by one, and from the same state together; return the outcomes, having found no difference."""
    kept, began_ms = saved(world), world.now_ms()
    apart = outcomes_apart(world, leases, offset)
    left_apart = left(world, began_ms)
    restore(world, kept)
    together = outcomes_together(world, leases, offset=offset)
    assert timeless([vars(one) for one in together], began_ms) == timeless([vars(one) for one in apart], began_ms)
    left_together = left(world, began_ms)
    assert left_together == left_apart
    return together


def ids(world: World) -> list[str]:
    """Return what is eligible, in order."""
    members: Any = world.redis.zrange(ELIGIBLE, 0, -1)
    return [member.decode() for member in members]


def in_order(world: World, *executions: ExecutionKeys) -> list[str]:
    """Put executions behind one another in the index; return their ids."""
    world.redis.zadd(ELIGIBLE, {keys.id: number for number, keys in enumerate(executions)})
    return [keys.id for keys in executions]


def claimed_ids(outcomes: Sequence[Outcome]) -> list[str]:
    return [one.execution_id for one in outcomes if one.reply[0] == 1]


# --- against the protocol's calls ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_one_claim_is_as_the_protocols(world: World, kind: str) -> None:
    KINDS[kind](world)
    compare(world, offers(2))


@settings(
    max_examples=400 if os.environ.get("FFSUPER_LONG") else 150,
    derandomize=not os.environ.get("FFSUPER_LONG"),
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    mix=st.lists(st.sampled_from([*KINDS, "plain", "plain"]), min_size=2, max_size=9),
    count=st.integers(1, 9),
    offset=st.sampled_from([0, 0, 1, 3]),
)
def test_any_mix_of_claims_is_as_the_protocols_one_by_one(
    world: World, mix: list[str], count: int, offset: int
) -> None:
    world.redis.flushall()
    for kind in mix:
        KINDS[kind](world)
    compare(world, offers(count), offset)


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("kind", ["plain", "not capable", "resumed"])
def test_a_damaged_index_stops_claims_where_it_stops_the_protocols(world: World, index: str, kind: str) -> None:
    executions = [KINDS[kind](world), KINDS[kind](world)]
    partition = executions[0].partition
    of_partition = {"lease_expiry", "execution_deadline"}
    key = partition.index(index) if index in of_partition else lane_key(executions[0], index)
    key = partition.worker_leases(ME.instance_id) if index == "worker" else key
    world.redis.set(key, "damaged")
    compare(world, offers(2))


def test_what_is_claimed_can_be_renewed_and_completed(world: World) -> None:
    for _ in range(3):
        create(world)
    for outcome in outcomes_together(world, offers(3)):
        _, _, lease_id, epoch, expires_at, attempt_id, index, kind = outcome.reply
        assert (epoch, kind) == ("1", "initial")
        keys = ExecutionKeys.of(ExecutionId(outcome.execution_id))
        lease = Claimed(keys, lease_id, epoch, int(expires_at), attempt_id, int(index), kind)
        assert renew(world, lease)[:2] == [1, "OK"]
        assert complete(world, lease) == [1, "OK", "completed"]


# --- which are claimed --------------------------------------------------------------------------------------------


def test_the_first_of_the_index_are_claimed_with_the_ids_in_their_order(world: World) -> None:
    last, first, middle = (create(world, priority=priority) for priority in (1, 9, 5))
    leases = offers(2)
    found = outcomes_together(world, leases)
    assert claimed_ids(found) == [first.id, middle.id]
    assert [(one.reply[2], one.reply[5]) for one in found] == [(one.lease_id, one.attempt_id) for one in leases]
    assert ids(world) == [last.id]


def test_members_in_front_of_the_offset_are_left_alone(world: World) -> None:
    executions = in_order(world, *(create(world) for _ in range(4)))
    assert claimed_ids(outcomes_together(world, offers(2), offset=1)) == executions[1:3]
    assert ids(world) == [executions[0], executions[3]]
    with world.unchanged():
        assert outcomes_together(world, offers(2), offset=2) == []


def test_kinds_of_others_are_passed_over_untouched_and_untold(world: World) -> None:
    kinds = ("b", "a", "c", "a")
    executions = in_order(world, *(create(world, execution_kind=kind) for kind in kinds))
    before = [world.value(ExecutionKeys.of(ExecutionId(executions[at])).core) for at in (0, 2)]
    reply = claim_together(world, offers(4), kinds=["a", "x"])
    assert [(one[1].decode(), one[8]) for one in reply[2:]] == [(executions[at], b"a") for at in (1, 3)]
    assert ids(world) == [executions[0], executions[2]]
    assert [world.value(ExecutionKeys.of(ExecutionId(executions[at])).core) for at in (0, 2)] == before


@pytest.mark.parametrize("kinds", [(), (KIND,)])
def test_what_is_no_execution_hides_nothing(world: World, kinds: tuple[str, ...]) -> None:
    gone, damaged, good = KINDS["gone"](world), KINDS["damaged core"](world), create(world)
    elsewhere = create(world, new_keys(partition=8))
    world.redis.rename(elsewhere.core, f"ff:exec:{{fp:7}}:{elsewhere.id}:core")
    in_order(world, gone, damaged, elsewhere, good)
    world.redis.zadd(ELIGIBLE, {b"\xff\xfe": -1, b"nonsense": -2})
    before = ids_and_others(world)
    found = {one[1]: one[0] for one in claim_together(world, offers(1), kinds=kinds)[2:]}
    told = {} if kinds else {gone.id.encode(): 0}
    assert found == {damaged.id.encode(): -1, good.id.encode(): 1, **told}
    assert ids_and_others(world) == before - {good.id.encode()}


NO_IDS = (
    "a",
    "",
    "x" * 32,
    HEX + "\n",
    HEX[1:],
    HEX + "0",
    "{{" + HEX,
    "uuid:" + HEX,
    "urn:uuid:",
    "urn:UUID:" + HEX,
)


@pytest.mark.parametrize("name", NO_IDS)
def test_what_has_a_record_but_is_no_execution_id_is_claimed_for_nobody(world: World, name: str) -> None:
    good, nobodys = create(world), "{fp:7}:" + name
    record = world.value(good.core)
    world.redis.hset(f"ff:exec:{{fp:7}}:{nobodys}:core", mapping=record)
    world.redis.zadd(ELIGIBLE, {nobodys: -1, good.id: 1})
    with pytest.raises(ValueError, match="is not an execution id"):
        parse(nobodys)
    assert [(one[0], one[1].decode()) for one in claim_together(world, offers(2))[2:]] == [(1, good.id)]
    assert ids(world) == [nobodys]
    assert world.value(f"ff:exec:{{fp:7}}:{nobodys}:core") == record


@pytest.mark.parametrize(
    "name", [HEX, HEX.upper(), "{" + HEX + "}", "urn:uuid:" + HEX, "urn:uuid:{" + HEX, HEX + "}"]
)
def test_every_spelling_of_a_uuid_that_workers_read_is_claimed(world: World, name: str) -> None:
    keys = ExecutionKeys.of(parse("{fp:7}:" + name))
    create(world, keys)
    assert [(one[0], one[1].decode()) for one in claim_together(world, offers(1))[2:]] == [(1, keys.id)]


def ids_and_others(world: World) -> set[bytes]:
    members: Any = world.redis.zrange(ELIGIBLE, 0, -1)
    return set(members)


def test_what_is_refused_is_told_and_the_next_is_claimed(world: World) -> None:
    kinds = ("not capable", "granted to another", "plain", "owned", "plain", "plain")
    executions = in_order(world, *(KINDS[kind](world) for kind in kinds))
    found = outcomes_together(world, offers(2))
    assert [one.execution_id for one in found] == executions[:5]
    codes = ["capability_mismatch", "grant_already_exists", "OK", "lease_conflict", "OK"]
    assert [one.reply[1] for one in found] == codes
    assert ids(world) == [executions[1], executions[3], executions[5]]


def test_one_that_fails_spoils_no_other(world: World) -> None:
    kinds = ("damaged core", "plain", "damaged attempts", "not capable", "plain", "damaged lease:history", "plain")
    in_order(world, *(KINDS[kind](world) for kind in kinds))
    found = compare(world, offers(5))
    words = [one.reply if isinstance(one.reply, str) else one.reply[1] for one in found]
    assert words == ["WRONGTYPE", "OK", "WRONGTYPE", "capability_mismatch", "OK", "WRONGTYPE", "OK"]


def test_ids_that_an_error_may_have_left_in_a_record_are_not_used_again(world: World) -> None:
    kinds = ("damaged core", "damaged lease:history", "plain", "plain")
    executions = in_order(world, *(KINDS[kind](world) for kind in kinds))
    leases = offers(2)
    found = outcomes_together(world, leases)
    assert [one.execution_id for one in found] == executions[:3]
    assert found[2].reply[2] == leases[1].lease_id
    damaged = world.value(ExecutionKeys.of(ExecutionId(executions[1])).core)
    assert damaged["current_lease_id"] == leases[0].lease_id


@pytest.mark.parametrize("blocked", [0, 1, 31, 33])
def test_every_member_has_its_turn_once_whatever_leaves_the_index_meanwhile(world: World, blocked: int) -> None:
    policies = [NEEDS_TPU if number % 34 < blocked else "" for number in range(68)]
    executions = in_order(world, *(create(world, policy=policy) for policy in policies))
    found = outcomes_together(world, offers(68))
    assert [one.execution_id for one in found] == executions
    assert len(claimed_ids(found)) == 68 - 2 * blocked
    assert ids(world) == []


def test_a_call_is_bounded_whatever_the_index_holds(world: World) -> None:
    behind = create(world)
    others = [f"{{fp:7}}:{number}" for number in range(150)]
    for other in others:
        world.redis.hset(ExecutionKeys.of(ExecutionId(other)).core, "execution_kind", "other")
    world.redis.zadd(ELIGIBLE, {other: -1_000 + number for number, other in enumerate(others)})
    world.redis.zadd(ELIGIBLE, {behind.id: 0})
    world.command("CONFIG", "RESETSTAT")
    assert outcomes_together(world, offers(1), kinds=[KIND]) == []
    stats: Any = world.redis.info("commandstats")
    assert stats["cmdstat_hmget"]["calls"] == 100
    assert claimed_ids(outcomes_together(world, offers(1), kinds=[KIND], offset=100)) == [behind.id]


def test_what_comes_first_costs_no_look_at_others(world: World) -> None:
    for _ in range(40):
        create(world)
    world.command("CONFIG", "RESETSTAT")
    assert ranges_read(world, lambda: outcomes_together(world, offers(3), kinds=[KIND])) == [["0", "2"]]
    stats: Any = world.redis.info("commandstats")
    assert [stats[f"cmdstat_{name}"]["calls"] for name in ("fcall", "hmget", "exists")] == [1, 3, 3]


def test_an_index_is_read_to_its_end_and_not_beyond(world: World) -> None:
    others = [create(world, execution_kind="other") for _ in range(40)]
    in_order(world, *others, create(world))
    found = ranges_read(world, lambda: outcomes_together(world, offers(3), kinds=[KIND]))
    assert found == [["0", "2"], ["3", "34"], ["35", "66"]]


def test_a_call_again_when_nothing_is_left_changes_nothing(world: World) -> None:
    create(world)
    assert len(claimed_ids(outcomes_together(world, offers(2)))) == 1
    with world.unchanged():
        assert outcomes_together(world, offers(2)) == []


def test_a_grant_of_the_same_pool_is_not_used_up(world: World) -> None:
    keys = create(world)
    world.redis.hset(keys.part("claim_grant"), mapping={"worker_id": ME.worker_id, "worker_instance_id": "sibling"})
    with world.unchanged():
        assert outcomes_together(world, offers(1)) == [Outcome(keys.id, [0, "grant_already_exists"])]


def test_a_worker_with_a_list_that_is_too_long_gets_nothing(world: World) -> None:
    boastful = replace(ME, capabilities=",".join(str(number) for number in range(300)))
    executions = in_order(world, create(world), create(world, policy=NEEDS_GPU))
    refusal = [0, "invalid_capabilities", "worker:too_many_tokens"]
    with world.unchanged():
        found = outcomes_together(world, offers(1), identity=boastful)
    assert found == [Outcome(execution, refusal) for execution in executions]


def test_bytes_come_back_intact_and_tags_in_any_number(world: World) -> None:
    keys = create(world)
    world.redis.set(keys.part("payload"), b"\xff\x00\r\n")
    world.redis.hset(keys.part("tags"), mapping={f"name-{number}": b"\xfe" for number in range(3_000)})
    (reply,) = claim_together(world, offers(1))[2:]
    assert reply[9] == b"\xff\x00\r\n"
    assert dict(zip(reply[12::2], reply[13::2], strict=True)) == {
        f"name-{number}".encode(): b"\xfe" for number in range(3_000)
    }


# --- calls that are none ------------------------------------------------------------------------------------------


def claim_call(world: World) -> tuple[list[str], list[Arg]]:
    """Return the keys and the arguments of a call that would claim an execution."""
    create(world)
    _, _, count, *parts = claim_first(PLACE, ["other", KIND], offers(1), ME).command
    return [str(key) for key in parts[: int(count)]], parts[int(count) :]


@pytest.mark.parametrize("count", range(7))
def test_a_call_with_fewer_keys_is_refused_and_writes_nothing(world: World, count: int) -> None:
    keys, args = claim_call(world)
    with world.unchanged():
        reply = world.call("ffsuper_claim_first", keys[:count], args)
    assert reply == [0, "invalid_input", f"KEYS must be 7, got: {count}"]


@pytest.mark.parametrize("count", [*range(10), 11])
def test_a_call_with_fewer_arguments_writes_nothing(world: World, count: int) -> None:
    keys, args = claim_call(world)
    assert len(args) == 12
    with world.unchanged():
        reply = world.call("ffsuper_claim_first", keys, args[:count])
    assert reply[:2] == [0, "invalid_input"]


@pytest.mark.parametrize("position", [4, 5, 6, 7])
@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "1.5", "1e30"])
def test_times_and_numbers_are_whole(world: World, position: int, text: str) -> None:
    keys, args = claim_call(world)
    args[position] = text
    with world.unchanged():
        assert world.call("ffsuper_claim_first", keys, args)[:2] == [0, "invalid_input"]


@pytest.mark.parametrize(("position", "number"), [(6, -1), (7, -1), (7, -2), (7, -8)])
def test_numbers_are_not_negative(world: World, position: int, number: int) -> None:
    keys, args = claim_call(world)
    args[position] = number
    with world.unchanged():
        assert world.call("ffsuper_claim_first", keys, args)[:2] == [0, "invalid_input"]


def test_no_claims_are_answered_with_none(world: World) -> None:
    keys, args = claim_call(world)
    with world.unchanged():
        assert world.call("ffsuper_claim_first", keys, args[:10]) == [1, "OK"]


def test_an_index_that_is_none_is_an_error(world: World) -> None:
    keys, args = claim_call(world)
    world.redis.set(ELIGIBLE, "damaged")
    with world.unchanged():
        assert "WRONGTYPE" in world.try_call("ffsuper_claim_first", keys, args)
