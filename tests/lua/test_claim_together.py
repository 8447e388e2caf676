"""ffsuper_claim: several claims in one call leave what the protocol's calls leave one by one, and answer the same."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ffsuper.store.batch_claims import claim_all
from ffsuper.store.claim_calls import Wanted
from tests.lua.claims import (
    APART_MS,
    KINDS,
    ME,
    NEEDS_GPU,
    Outcome,
    claim_together,
    outcome_apart,
    outcomes_together,
    plain,
    wish,
)
from tests.lua.executions import Claimed, create, lane_key
from tests.lua.holders import complete, renew
from tests.lua.world import Arg, World

AGAIN = "again"  # the execution before it once more
INDEXES = ("eligible", "active", "blocked:route", "lease_expiry", "execution_deadline", "worker")


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


def compare(world: World, wishes: Sequence[Wanted]) -> list[Outcome]:
    """Claim one by one, and from the same state together; return the outcomes, having found no difference."""
    kept, began_ms = saved(world), world.now_ms()
    apart = [outcome_apart(world, one) for one in wishes]
    left_apart = left(world, began_ms)
    restore(world, kept)
    together = outcomes_together(world, wishes)
    assert timeless([vars(one) for one in together], began_ms) == timeless([vars(one) for one in apart], began_ms)
    left_together = left(world, began_ms)
    assert left_together == left_apart
    return together


@pytest.mark.parametrize("kind", KINDS)
def test_one_claim_is_as_the_protocols(world: World, kind: str) -> None:
    plain(world)
    keys = KINDS[kind](world)
    compare(world, [wish(keys)])


@settings(
    max_examples=400 if os.environ.get("FFSUPER_LONG") else 150,
    derandomize=not os.environ.get("FFSUPER_LONG"),
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(mix=st.lists(st.sampled_from([*KINDS, "plain", "plain", AGAIN]), min_size=2, max_size=9))
def test_any_mix_of_claims_is_as_the_protocols_one_by_one(world: World, mix: list[str]) -> None:
    world.redis.flushall()
    made = [plain(world)]
    for kind in mix:
        made.append(made[-1] if kind == AGAIN else KINDS[kind](world))
    compare(world, [wish(keys) for keys in made])


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("kind", ["plain", "not capable", "resumed"])
def test_a_damaged_index_stops_claims_where_it_stops_the_protocols(world: World, index: str, kind: str) -> None:
    executions = [KINDS[kind](world), KINDS[kind](world)]
    partition = executions[0].partition
    of_partition = {"lease_expiry", "execution_deadline"}
    key = partition.index(index) if index in of_partition else lane_key(executions[0], index)
    key = partition.worker_leases(ME.instance_id) if index == "worker" else key
    world.redis.set(key, "damaged")
    compare(world, [wish(keys) for keys in executions])


def test_what_is_claimed_can_be_renewed_and_completed(world: World) -> None:
    executions = [create(world) for _ in range(3)]
    wishes = [wish(keys) for keys in executions]
    for keys, one, outcome in zip(executions, wishes, outcomes_together(world, wishes), strict=True):
        _, _, lease_id, epoch, expires_at, attempt_id, index, kind = outcome.reply
        assert (lease_id, attempt_id, epoch, kind) == (one.lease.lease_id, one.lease.attempt_id, "1", "initial")
        lease = Claimed(keys, lease_id, epoch, int(expires_at), attempt_id, int(index), kind)
        assert renew(world, lease)[:2] == [1, "OK"]
        assert complete(world, lease) == [1, "OK", "completed"]


def test_one_that_fails_spoils_no_other(world: World) -> None:
    kinds = ("damaged core", "plain", "damaged attempts", "not capable", "plain", "damaged lease:history", "plain")
    found = compare(world, [wish(KINDS[kind](world)) for kind in kinds])
    words = [one.reply if isinstance(one.reply, str) else one.reply[1] for one in found]
    assert words == ["WRONGTYPE", "OK", "WRONGTYPE", "capability_mismatch", "OK", "WRONGTYPE", "OK"]


def test_a_repeated_claim_is_refused_and_changes_nothing(world: World) -> None:
    one = wish(create(world))
    assert outcomes_together(world, [one])[0].reply[0] == 1
    with world.unchanged():
        assert outcomes_together(world, [one]) == [Outcome([0, "execution_not_eligible"])]


def test_a_grant_of_the_same_pool_is_not_used_up(world: World) -> None:
    keys = create(world)
    world.redis.hset(keys.part("claim_grant"), mapping={"worker_id": ME.worker_id, "worker_instance_id": "sibling"})
    with world.unchanged():
        assert outcomes_together(world, [wish(keys)]) == [Outcome([0, "grant_already_exists"])]


def test_a_worker_with_a_list_that_is_too_long_gets_nothing(world: World) -> None:
    boastful = replace(ME, capabilities=",".join(str(number) for number in range(300)))
    wishes = [wish(create(world)), wish(create(world, policy=NEEDS_GPU))]
    refusal = [0, "invalid_capabilities", "worker:too_many_tokens"]
    with world.unchanged():
        assert outcomes_together(world, wishes, boastful) == [Outcome(refusal)] * 2


def test_bytes_come_back_intact_and_tags_in_any_number(world: World) -> None:
    keys = create(world)
    world.redis.set(keys.part("payload"), b"\xff\x00\r\n")
    world.redis.hset(keys.part("tags"), mapping={f"name-{number}": b"\xfe" for number in range(3_000)})
    (reply,) = claim_together(world, [wish(keys)])[2:]
    assert reply[8] == b"\xff\x00\r\n"
    assert dict(zip(reply[11::2], reply[12::2], strict=True)) == {
        f"name-{number}".encode(): b"\xfe" for number in range(3_000)
    }


@pytest.mark.parametrize("count", range(7))
def test_a_call_with_fewer_keys_is_refused_and_writes_nothing(world: World, count: int) -> None:
    keys, args = claim_call(world)
    with world.unchanged():
        reply = world.call("ffsuper_claim", keys[:count], args)
    assert reply == [0, "invalid_input", f"KEYS must be 7, got: {count}"]


@pytest.mark.parametrize("count", [0, 4, 5, 7, 8])
def test_a_call_with_fewer_arguments_writes_nothing(world: World, count: int) -> None:
    keys, args = claim_call(world)
    with world.unchanged():
        reply = world.call("ffsuper_claim", keys, args[:count])
    assert reply[:2] == [0, "invalid_input"]


@pytest.mark.parametrize("position", [4, 5])
@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "1.5", "1e30"])
def test_times_are_whole_numbers(world: World, position: int, text: str) -> None:
    keys, args = claim_call(world)
    args[position] = text
    with world.unchanged():
        assert world.call("ffsuper_claim", keys, args)[:2] == [0, "invalid_input"]


def claim_call(world: World) -> tuple[list[str], list[Arg]]:
    """Return the keys and the arguments of a call that claims one execution."""
    _, _, count, *parts = claim_all([wish(create(world))], ME).command
    return [str(key) for key in parts[: int(count)]], parts[int(count) :]


def test_no_claims_are_answered_with_none(world: World) -> None:
    keys, args = claim_call(world)
    with world.unchanged():
        assert world.call("ffsuper_claim", keys, args[:6]) == [1, "OK"]
