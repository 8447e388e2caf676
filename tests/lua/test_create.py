"""ff_create_execution: protocol 02, section 6.1."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ffsuper.store.keys import ExecutionKeys
from tests.lua.executions import CREATE, LANE, call_create, call_grant, create, lane_key, new_keys
from tests.lua.holders import promote
from tests.lua.suspensions import UNSET, nothing_published
from tests.lua.world import World

FUTURE = "4102444800000"  # the year 2100
DEADLINES = new_keys().partition.index("execution_deadline")
ALL = new_keys().partition.index("all_executions")


def record(keys: ExecutionKeys, now: str, **changes: str) -> dict[str, str]:
    """Return the record of a new execution that may run at once."""
    empty = [
        *("blocking_detail", "current_attempt_index", "current_attempt_id", "current_lease_id", "current_worker_id"),
        *("current_worker_instance_id", "started_at", "completed_at", "lease_acquired_at", "lease_expires_at"),
        *("lease_last_renewed_at", "lease_renewal_deadline", "lease_expired_at", "lease_revoked_at"),
        *("lease_revoke_reason", "delay_until", "current_suspension_id", "current_waitpoint_id"),
        *("pending_retry_reason", "pending_replay_reason", "pending_replay_requested_by"),
        *("pending_previous_attempt_index", "progress_pct", "progress_message", "progress_updated_at", "flow_id"),
    ]
    return {
        "execution_id": keys.id,
        "namespace": "ns",
        "lane_id": LANE,
        "execution_kind": "thumbnail",
        "partition_id": "7",
        "priority": "3",
        "creator_identity": "me",
        "lifecycle_phase": "runnable",
        "ownership_state": "unowned",
        "eligibility_state": "eligible_now",
        "blocking_reason": "waiting_for_worker",
        "terminal_outcome": "none",
        "attempt_state": "pending_first_attempt",
        "public_state": "waiting",
        "total_attempt_count": "0",
        "current_lease_epoch": "0",
        "current_lane": LANE,
        "retry_count": "0",
        "replay_count": "0",
        "lease_reclaim_count": "0",
        "created_at": now,
        "last_transition_at": now,
        "last_mutation_at": now,
        **dict.fromkeys(empty, ""),
        **changes,
    }


def test_creating_an_execution_writes_exactly_this(world: World) -> None:
    keys = new_keys()
    before = world.now_ms()
    with nothing_published(world):
        reply = call_create(world, keys)
    now = world.value(keys.core)["created_at"]
    assert reply == [1, "OK", keys.id, "waiting"]
    assert before <= int(now) <= world.now_ms()
    assert world.keyspace() == {
        keys.core: record(keys, now),
        keys.part("payload"): "input",
        keys.part("policy"): "{}",
        lane_key(keys, "eligible"): {keys.id: -3e12 + int(now)},
        ALL: {keys.id},
    }
    assert len(world.value(keys.core)) == 49
    assert world.expiries() == {}


def test_a_delay_that_is_to_come_puts_the_execution_into_the_delayed_index(world: World) -> None:
    keys = new_keys()
    assert call_create(world, keys, delay_until=FUTURE) == [1, "OK", keys.id, "delayed"]
    now = world.value(keys.core)["created_at"]
    assert world.value(keys.core) == record(
        keys,
        now,
        eligibility_state="not_eligible_until_time",
        blocking_reason="waiting_for_delay",
        blocking_detail=f"delayed until {FUTURE}",
        public_state="delayed",
        delay_until=FUTURE,
    )
    assert world.value(lane_key(keys, "delayed")) == {keys.id: float(FUTURE)}
    assert world.value(lane_key(keys, "eligible")) is None


def test_a_delay_is_stored_as_it_was_given(world: World) -> None:
    keys = create(world, delay_until=" 4.1024448e12 ")
    core = world.value(keys.core)
    assert (core["delay_until"], core["blocking_detail"]) == (" 4.1024448e12 ", "delayed until  4.1024448e12 ")
    assert world.value(lane_key(keys, "delayed")) == {keys.id: float(FUTURE)}


@pytest.mark.parametrize("delay_until", ["0", "1", "-5", "-inf", "nan", "1700000000000"])
@pytest.mark.parametrize("lane", ["default", "x:delayed", "a b{c}:eligible"])
def test_a_delay_in_the_past_leaves_the_execution_claimable_where_the_reference_loses_it(
    world: World, delay_until: str, lane: str
) -> None:
    keys = new_keys()
    reply = call_create(world, keys, delay_until=delay_until, lane_id=lane)
    now = world.value(keys.core)["created_at"]
    assert reply == [1, "OK", keys.id, "waiting"]
    assert world.value(keys.core) == record(keys, now, lane_id=lane, current_lane=lane)
    assert world.value(lane_key(keys, "eligible", lane)) == {keys.id: -3e12 + int(now)}
    assert world.value(lane_key(keys, "delayed", lane)) is None


def test_a_delayed_execution_may_have_no_priority_that_is_a_number(world: World) -> None:
    keys = new_keys()
    assert call_create(world, keys, priority="nan", delay_until=FUTURE) == [1, "OK", keys.id, "delayed"]
    assert world.value(lane_key(keys, "delayed")) == {keys.id: float(FUTURE)}
    core = world.value(keys.core)
    assert core["priority"] in ("nan", "-nan")
    assert promote(world, keys, keys.id, FUTURE) == [1, "OK", "promoted"]
    assert world.value(lane_key(keys, "eligible")) == {keys.id: float(core["created_at"])}


def test_an_execution_with_a_past_delay_can_be_granted(world: World) -> None:
    keys = create(world, delay_until="1")
    assert call_grant(world, keys) == [1, "OK", keys.id]


@pytest.mark.parametrize(
    ("priority", "stored", "used"),
    [
        ("0", "0", 0),
        ("-1", "0", 0),
        ("-inf", "0", 0),
        ("9000", "9000", 9000),
        ("9001", "9000", 9000),
        ("inf", "9000", 9000),
        ("0x10", "16", 16),
        (" 1e3 ", "1000", 1000),
        ("0.5", "0.5", 0.5),
    ],
)
def test_the_priority_is_brought_into_its_range(world: World, priority: str, stored: str, used: float) -> None:
    keys = create(world, priority=priority)
    core = world.value(keys.core)
    assert core["priority"] == stored
    assert world.value(lane_key(keys, "eligible")) == {keys.id: 0 - used * 1e12 + int(core["created_at"])}


def test_a_fraction_is_stored_as_the_server_prints_it(world: World) -> None:
    assert world.value(create(world, priority="0.1").core)["priority"] == world.printed("0.1")


def test_an_empty_payload_and_policy_are_not_stored(world: World) -> None:
    keys = create(world, payload="", policy="", tags="")
    assert world.keyspace().keys() == {keys.core, lane_key(keys, "eligible"), ALL}


def test_a_payload_of_any_bytes_is_kept(world: World) -> None:
    payload = bytes(range(256))
    keys = create(world, payload=payload)
    assert world.redis.get(keys.part("payload")) == payload


# --- tags ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "stored"),
    [
        ('{"a":"1","b":"x y"}', {"a": "1", "b": "x y"}),
        ('{"n":2.0,"f":2.5,"big":1e20}', {"n": "2", "f": "2.5", "big": "1e+20"}),
        ('{"yes":true,"no":false}', {"yes": "true", "no": "false"}),
        ('{"null":null}', {"null": "userdata: (nil)"}),
        ('["x","y"]', {"1": "x", "2": "y"}),
        ('{"":"empty name"}', {"": "empty name"}),
        ('{"":""}', {"": ""}),
    ],
)
def test_tags_become_a_hash_of_texts(world: World, tags: str, stored: dict[str, str]) -> None:
    keys = create(world, tags=tags)
    assert world.value(keys.part("tags")) == stored


@pytest.mark.parametrize(
    "tags", ["", "{}", "[]", "{ }", "{", "5", '"text"', "null", "true", "nonsense", '{"a":{"b":1e999}}']
)
def test_tags_that_are_no_object_with_members_are_ignored(world: World, tags: str) -> None:
    keys = create(world, tags=tags)
    assert world.value(keys.part("tags")) is None


def test_nested_tags_are_stored_as_json_where_the_reference_stores_an_address(world: World) -> None:
    keys = create(world, tags='{"a":{"b":["c/d",null]}}')
    assert json.loads(world.value(keys.part("tags"))["a"]) == {"b": ["c/d", None]}


def test_a_nested_tag_that_cannot_be_json_costs_no_other_tag(world: World) -> None:
    keys = create(world, tags='{"a":{"b":1e999},"team":"x"}')
    assert world.value(keys.part("tags")) == {"team": "x"}


@pytest.mark.parametrize("count", [999, 1000, 1001, 3999, 4001, 10_000])
def test_any_number_of_tags_is_stored_where_the_reference_raises_half_way_from_4000_on(
    world: World, count: int
) -> None:
    tags = {f"tag-{number}": str(number) for number in range(count)}
    keys = create(world, tags=json.dumps(tags))
    assert world.value(keys.part("tags")) == tags
    assert world.value(lane_key(keys, "eligible")).keys() == {keys.id}


# --- deadline -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deadline", "score"), [(FUTURE, float(FUTURE)), ("0", 0.0), (" 1e3", 1000.0), ("0.25", 0.25)]
)
def test_a_deadline_goes_into_its_index(world: World, deadline: str, score: float) -> None:
    keys = create(world, execution_deadline=deadline)
    assert world.value(DEADLINES) == {keys.id: score}


# --- repetition ---------------------------------------------------------------------------------------------------


def idempotency_key(keys: ExecutionKeys, name: str = "order-7") -> str:
    return keys.partition.idempotency("ns", name)


def test_an_idempotency_key_keeps_the_id_for_its_time(world: World) -> None:
    keys = new_keys()
    before = world.now_ms()
    assert call_create(world, keys, idempotency=idempotency_key(keys), dedup_ttl_ms="86400000")[1] == "OK"
    assert world.value(idempotency_key(keys)) == keys.id
    assert before + 86_400_000 <= world.expiries()[idempotency_key(keys)] <= world.now_ms() + 86_400_000


def test_a_second_creation_under_the_key_answers_the_first_id(world: World) -> None:
    keys, second = new_keys(), new_keys()
    key = idempotency_key(keys)
    call_create(world, keys, idempotency=key, dedup_ttl_ms="5000")
    with world.unchanged():
        # Everything that comes later would be refused: the policy, absent arguments, the deadline.
        reply = call_create(world, second, idempotency=key, policy="{", payload=UNSET)
    assert reply == [1, "DUPLICATE", keys.id]


def test_the_key_is_found_even_when_its_execution_is_gone(world: World) -> None:
    keys = new_keys()
    world.redis.set(idempotency_key(keys), "gone")
    with world.unchanged():
        assert call_create(world, keys, idempotency=idempotency_key(keys)) == [1, "DUPLICATE", "gone"]


def test_a_second_creation_of_the_id_changes_nothing_and_keeps_no_new_key(world: World) -> None:
    keys = create(world)
    with world.unchanged():
        reply = call_create(world, keys, idempotency=idempotency_key(keys), dedup_ttl_ms="5000", policy="{")
    assert reply == [1, "DUPLICATE", keys.id]


@pytest.mark.parametrize("placeholder", ["", "ff:noop:{fp:7}", "ff:idem:{fp:7}:ns:about ff:noop: keys"])
def test_a_placeholder_is_neither_read_nor_written(world: World, placeholder: str) -> None:
    world.redis.set("ff:noop:{fp:7}", "somebody")
    keys = new_keys()
    reply = call_create(world, keys, idempotency=placeholder, dedup_ttl_ms="5000")
    assert reply == [1, "OK", keys.id, "waiting"]
    assert world.expiries() == {}
    assert world.value("ff:noop:{fp:7}") == "somebody"


@pytest.mark.parametrize("ttl", ["", "0", "-1", "-0.5", "-inf", "nan", "soon"])
def test_a_time_that_is_not_above_0_keeps_no_key(world: World, ttl: str) -> None:
    keys = new_keys()
    assert call_create(world, keys, idempotency=idempotency_key(keys), dedup_ttl_ms=ttl)[1] == "OK"
    assert world.value(idempotency_key(keys)) is None


def test_the_time_of_a_key_that_is_not_kept_is_not_looked_at(world: World) -> None:
    create(world, dedup_ttl_ms="1.5")


# --- bad arguments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("priority", ["", "high", "1,5"])
def test_a_priority_that_is_no_number_is_refused_before_anything_is_looked_at(world: World, priority: str) -> None:
    keys = create(world)
    with world.unchanged():
        reply = call_create(world, keys, priority=priority)
    assert reply == [0, "invalid_input", f"priority must be a number, got: {priority}"]


def test_an_absent_priority_is_named_nil(world: World) -> None:
    keys = create(world)
    assert call_create(world, keys, priority=UNSET) == [0, "invalid_input", "priority must be a number, got: nil"]


@pytest.mark.parametrize("name", list(CREATE)[5:])
def test_an_absent_argument_is_refused_where_the_reference_raises(world: World, name: str) -> None:
    changes: dict[str, Any] = {name: UNSET}
    with world.unchanged():
        reply = call_create(world, new_keys(), **changes)
    assert reply == [0, "invalid_input", f"{name} must be given, got: nil"]


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"priority": "nan"}, "priority must be a number, got: nan"),
        ({"delay_until": "tomorrow"}, "delay_until must be a number, got: tomorrow"),
        ({"delay_until": " "}, "delay_until must be a number, got:  "),
        ({"execution_deadline": "soon"}, "execution_deadline must be a number, got: soon"),
        ({"execution_deadline": "nan"}, "execution_deadline must be a number, got: nan"),
        ({"dedup_ttl_ms": "0.5"}, "dedup_ttl_ms must be an integer, got: 0.5"),
        ({"dedup_ttl_ms": "1e17"}, "dedup_ttl_ms must be an integer, got: 1e17"),
        ({"dedup_ttl_ms": "inf"}, "dedup_ttl_ms must be an integer, got: inf"),
    ],
)
def test_numbers_that_the_reference_raises_on_half_way_are_refused_before_the_first_write(
    world: World, changes: dict[str, Any], detail: str
) -> None:
    keys = new_keys()
    with world.unchanged():
        reply = call_create(world, keys, idempotency=idempotency_key(keys), **changes)
    assert reply == [0, "invalid_input", detail]
