"""What workers, engines and servers tell of themselves, as it is read from the store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import redis

from ffsuper.config import StoreConfig
from ffsuper.messages import ExecutionId, LaneId
from ffsuper.store import keys
from ffsuper.store.cluster import open_wire
from ffsuper.store.fleet import (
    PRIORITY_STEP,
    age_ms,
    announce,
    highest_score,
    read_engine,
    read_first,
    read_last,
    read_lease_end,
    read_load,
)
from ffsuper.store.keys import ExecutionKeys, PartitionKeys
from ffsuper.store.replies import Call
from ffsuper.store.wire import READS, Wire
from ffsuper.store.workers import ORDER_TTL_S, parse_worker, read_told, write_order

EXECUTION = ExecutionId("{fp:7}:5b1f2f6e-8f0e-4ec5-a31c-2d1f4de6a4f1")
NOW_MS = 1_800_000_000_000
HOLDER = {"nonce": "n1", "host": "box", "pid": 7, "since": "2026-01-01T00:00:00Z"}
STATUS: dict[str, Any] = {
    "state": "draining",
    "detail": "told to by a signal",
    "nonce": "n1",
    "host": "box",
    "pid": 7,
    "since_ms": 5,
    "version": "0.1.0",
    "lanes": ["bulk"],
    "capabilities": ["gpu"],
    "kinds": ["thumbnail"],
    "slots": 4,
    "status_address": "127.0.0.1:9464",
    "written_ms": 9,
    "memory_bytes": 1024,
    "claimed": 3,
    "finished": {"bulk": {"completed": 1, "failed": 1}},
    "running": [
        {
            "execution": EXECUTION,
            "kind": "thumbnail",
            "lane": "bulk",
            "attempt": 2,
            "since_ms": 6,
            "child": 8,
            "memory_bytes": 2048,
        }
    ],
}


@pytest.fixture
def wire(settings: StoreConfig) -> Iterator[Wire]:
    wire = open_wire(settings, "test")
    yield wire
    wire.close()


@pytest.fixture
def store(settings: StoreConfig) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(settings.url) as store:
        store.flushall()
        yield store


def worker_of(holder: Mapping[str, Any] | None, status: Mapping[str, Any] | None, *, is_own: bool = True) -> Any:
    return parse_worker("w-1", holder, status, ("cpu",), is_own=is_own)


def test_a_worker_is_what_it_says() -> None:
    found = worker_of(HOLDER, STATUS)
    assert (found.state, found.detail, found.lanes, found.capabilities) == (
        *("draining", "told to by a signal"),
        *(("bulk",), ("gpu",)),
    )
    assert found.finished == {"bulk": {"completed": 1, "failed": 1}}
    (running,) = found.running
    assert (running.execution, running.attempt, running.child, running.memory_bytes) == (EXECUTION, 2, 8, 2048)
    assert found.lives


@pytest.mark.parametrize(
    ("holder", "status", "is_own", "state"),
    [
        (None, None, True, "dead"),
        (None, STATUS, True, "dead"),  # the status outlives the alive key by a moment
        (None, {**STATUS, "state": "stuck"}, True, "stuck"),  # who is stuck lets the alive key go
        (HOLDER, None, True, "silent"),
        (HOLDER, {**STATUS, "nonce": "another"}, True, "silent"),  # what its predecessor said is not for it
        (HOLDER, STATUS, False, "draining"),  # the list was lost
        ({}, None, True, "reference"),
        ({}, STATUS, False, "reference"),
        (None, None, False, "reference"),
    ],
)
def test_the_state_of_a_worker_follows_from_its_alive_key_and_what_it_says(
    holder: Mapping[str, Any] | None, status: Mapping[str, Any] | None, is_own: bool, state: str
) -> None:
    assert worker_of(holder, status, is_own=is_own).state == state


def test_a_silent_worker_is_known_by_its_alive_key_and_its_advertised_capabilities() -> None:
    found = worker_of(HOLDER, None)
    assert (found.host, found.pid, found.since_ms, found.capabilities) == ("box", 7, 1_767_225_600_000, ("cpu",))


@pytest.mark.parametrize("value", [None, 1, 1.5, float("nan"), float("inf"), "text", [1, {}], {"a": 1}, True])
def test_fields_of_any_kind_are_borne(value: object) -> None:
    for name in STATUS.keys() - {"nonce"}:
        found = worker_of(HOLDER, {**STATUS, name: value})
        assert isinstance(found.pid, int)
        assert isinstance(found.host, str)
        worker_of(HOLDER, {**STATUS, "running": [{**STATUS["running"][0], name: value}]})
    without = {name: told for name, told in STATUS.items() if name == "nonce"}
    assert worker_of(HOLDER, without).running == ()


@pytest.mark.parametrize(("stored", "told"), [(b"1", {}), (b"\xff{", {}), (b"[]", {}), (b'{"a": 1}', {"a": 1})])
def test_what_is_no_object_tells_nothing(stored: bytes, told: object, store: redis.Redis, wire: Wire) -> None:
    assert wire.run(read_told("key")) is None
    store.set("key", stored)
    assert wire.run(read_told("key")) == told


def test_an_order_is_for_one_process_and_does_not_stay_for_ever(store: redis.Redis, wire: Wire) -> None:
    wire.run(write_order("w-1", "n1", "quiet", "anna@box", NOW_MS))
    told = json.loads(store.get(keys.worker_order("w-1")) or b"")
    assert told == {"nonce": "n1", "order": "quiet", "by": "anna@box", "at_ms": NOW_MS}
    assert 0 < store.ttl(keys.worker_order("w-1")) <= ORDER_TTL_S


def test_the_engine_that_led_last_is_named_without_what_only_programs_need(store: redis.Redis, wire: Wire) -> None:
    assert wire.run(read_engine()) is None
    store.hset(keys.LEADER, mapping={"holder": "w-1, process 7, 0f3a", "term": "12", "expires_at": "900"})
    found = wire.run(read_engine())
    assert found is not None
    assert (found.holder, found.term, found.until_ms) == ("w-1, process 7", 12, 900)


def test_a_server_tells_how_busy_it_is(store: redis.Redis, wire: Wire) -> None:
    store.config_set("maxmemory", 500_000_000)
    found = wire.run(read_load())
    store.config_set("maxmemory", 0)
    assert found.memory_bytes > 100_000
    assert (found.operations_per_s >= 0, found.most_memory_bytes) == (True, 500_000_000)


def test_the_end_of_a_lease_is_in_the_index_of_its_partition(store: redis.Redis, wire: Wire) -> None:
    assert wire.run(read_lease_end(EXECUTION)) is None
    store.zadd(ExecutionKeys.of(EXECUTION).partition.index("lease_expiry"), {EXECUTION: NOW_MS})
    assert wire.run(read_lease_end(EXECUTION)) == NOW_MS


def test_the_first_above_a_bound_and_the_last_are_read(store: redis.Redis, wire: Wire) -> None:
    lane = LaneId("bulk")
    assert wire.run(read_first(lane, 3, float("-inf"))) is None
    assert wire.run(read_last(lane, 3)) is None
    store.zadd(PartitionKeys.of_index(3).lane(lane, "eligible"), {"a": -9e15, "b": 5, "c": NOW_MS})
    assert wire.run(read_first(lane, 3, float("-inf"))) == -9e15
    assert wire.run(read_first(lane, 3, -9e15)) == 5
    assert wire.run(read_last(lane, 3)) == NOW_MS


@pytest.mark.parametrize("priority", [0, 1, 7, 9000])
@pytest.mark.parametrize("waited_ms", [-30_000, 0, 1, 86_400_000])
def test_a_score_tells_how_long_an_entry_has_waited_and_where_its_priority_ends(
    priority: int, waited_ms: int
) -> None:
    score = NOW_MS - waited_ms - priority * PRIORITY_STEP
    assert age_ms(score, NOW_MS) == max(0, waited_ms)
    assert score < highest_score(score, NOW_MS) < score + PRIORITY_STEP
    assert highest_score(score, NOW_MS) < NOW_MS - 40_000_000_000 - (priority - 1) * PRIORITY_STEP


def test_a_look_at_a_fleet_waits_for_no_replica() -> None:
    calls: list[Call[Any]] = [
        announce("channel", "*"),
        read_load(),
        read_engine(),
        read_lease_end(EXECUTION),
    ]
    assert {str(call.command[0]) for call in calls} <= READS
