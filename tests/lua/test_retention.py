"""ffsuper_trim: deleting executions that were kept for long enough, with all that belongs to them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ffsuper.store.keys import ExecutionKeys
from tests.lua.executions import claim, create, lane_key
from tests.lua.flows import (
    FLOW,
    FLOW_CORE,
    FLOW_INDEX,
    MEMBERS,
    add,
    cancel_flow,
    create_flow,
    flow_key,
    flow_of,
    replay_skipped,
    resolve,
    stage,
    waiting,
)
from tests.lua.holders import complete, fail
from tests.lua.suspensions import put
from tests.lua.world import World

DAY_MS = 86_400_000
KEPT_WITHIN_THE_PARTITION = ("ff:sec:", "ff:idx:")


def ended(world: World, age_ms: float = 0, policy: Any = None, **core: str) -> ExecutionKeys:
    """Complete an execution, so long ago."""
    keys = create(world, policy=json.dumps(policy or {}))
    complete(world, claim(world, keys), result="r")
    at = str(world.now_ms() - int(age_ms))
    put(world, keys.core, completed_at=at, **core)
    world.redis.zadd(lane_key(keys, "terminal"), {keys.id: float(at)})
    return keys


def trim(world: World, keys: ExecutionKeys, age_ms: int = 0, **page: Any) -> dict[str, int]:
    """Trim a page; return the outcomes."""
    args = [page.get("since", "-inf"), page.get("offset", 0), page.get("limit", 9), age_ms]
    reply = world.call("ffsuper_trim", [lane_key(keys, "terminal"), keys.partition.index("all_executions")], args)
    assert reply[:2] == [1, "OK"]
    return dict(zip(reply[8::2], reply[9::2], strict=True))


def left_of(world: World, keys: ExecutionKeys) -> list[str]:
    return [key for key in world.keyspace() if keys.id in key]


def retention(value: Any) -> dict[str, Any]:
    return {"stream_policy": {"retention_ttl_ms": value}}


@pytest.mark.parametrize(
    ("policy", "kept_ms"),
    [
        ({}, DAY_MS),
        (retention(None), DAY_MS),
        (retention(-1), DAY_MS),
        (retention(1.5), DAY_MS),
        (retention("5"), DAY_MS),
        ({"stream_policy": None}, DAY_MS),
        (retention(60_000), 60_000),
        (retention(7 * DAY_MS), 7 * DAY_MS),
    ],
)
def test_an_execution_is_kept_for_as_long_as_its_policy_says(world: World, policy: Any, kept_ms: int) -> None:
    young, old = ended(world, kept_ms - 10_000, policy), ended(world, kept_ms, policy)
    assert trim(world, young) == {f"kept:{kept_ms}": 1, "trimmed": 1}
    assert left_of(world, old) == []
    assert world.value(young.core)


def test_one_without_retention_goes_at_once(world: World) -> None:
    keys = ended(world, 0, retention(0))
    assert trim(world, keys) == {"trimmed": 1}


def test_a_policy_that_cannot_be_read_means_a_day(world: World) -> None:
    keys = ended(world, 1_000)
    world.redis.set(keys.part("policy"), "{")
    assert trim(world, keys) == {f"kept:{DAY_MS}": 1}


def test_everything_that_belongs_to_it_goes(world: World) -> None:
    keys = create(world, payload="p", tags='{"a":"b"}')
    fail(world, claim(world, keys), '{"max_retries":0}')
    names = ("result", "lease:current", "claim_grant", "suspension:current", "deps:meta")
    for name in names:
        put(world, keys.part(name), x="y")
    for name in ("deps:unresolved", "deps:all_edges"):
        world.redis.sadd(keys.part(name), "edge-1", "edge-2")
    put(world, keys.part("dep:edge-1"), x="y")
    for index in range(2):
        put(world, keys.attempt(index, "policy"), x="y")
        world.command("XADD", keys.stream(index), "*", "a", "b")
        put(world, keys.stream_meta(index), x="y")
    world.redis.sadd(keys.part("waitpoints"), "point")
    for part in ("", "condition"):
        put(world, keys.waitpoint("point", part), x="y")
    world.command("XADD", keys.waitpoint("point", "signals"), "*", "a", "b")
    world.redis.zadd(keys.part("signals"), {"signal": 5})
    put(world, keys.signal("signal"), x="y")
    world.redis.set(keys.signal("signal", "payload"), "x")
    put(world, keys.core, completed_at="1000", total_attempt_count="2")
    world.redis.zadd(lane_key(keys, "terminal"), {keys.id: 1000})
    assert trim(world, keys) == {"trimmed": 1}
    assert [key for key in world.keyspace() if not key.startswith(KEPT_WITHIN_THE_PARTITION)] == []
    assert not any(keys.id in str(value) for value in world.keyspace().values())


@pytest.mark.parametrize("core", [{"lifecycle_phase": "runnable"}, {"completed_at": ""}, {"completed_at": "x"}])
def test_what_has_not_ended_only_leaves_the_index(world: World, core: dict[str, str]) -> None:
    keys = ended(world, 2 * DAY_MS)
    put(world, keys.core, **core)
    assert trim(world, keys) == {"cleaned": 1}
    assert world.value(lane_key(keys, "terminal")) is None
    assert world.value(keys.core)


def test_members_that_are_gone_or_nonsense_leave_the_index(world: World) -> None:
    keys = ended(world, 2 * DAY_MS)
    world.redis.delete(keys.core)
    world.redis.zadd(lane_key(keys, "terminal"), {"nonsense": 1})
    assert trim(world, keys) == {"cleaned": 2}


def test_a_page_holds_what_is_old_enough_only(world: World) -> None:
    keys = ended(world, 5_000)
    assert trim(world, keys, age_ms=6_000) == {}
    assert trim(world, keys, age_ms=4_000) == {f"kept:{DAY_MS}": 1}


def test_one_with_very_many_parts_is_deleted_over_several_calls(world: World) -> None:
    keys = ended(world, 2 * DAY_MS)
    pipeline = world.redis.pipeline(transaction=False)
    for number in range(3_000):
        pipeline.zadd(keys.part("signals"), {f"signal-{number}": number})
        pipeline.hset(keys.signal(f"signal-{number}"), "x", "y")
    pipeline.execute()
    calls = 1
    while trim(world, keys) == {"partly": 1}:
        calls += 1
        assert world.value(keys.core), "the record goes last"
    assert 2 < calls < 9
    assert left_of(world, keys) == []
    assert not any(key.startswith("ff:signal:") for key in world.keyspace())


@pytest.mark.parametrize(
    ("dep", "child_outcome", "is_kept"),
    [("unsatisfied", "none", True), ("satisfied", "none", False), ("unsatisfied", "cancelled", False)],
)
def test_a_member_is_kept_while_another_waits_to_be_told_of_its_end(
    world: World, dep: str, child_outcome: str, is_kept: bool
) -> None:
    keys = ended(world, 2 * DAY_MS, flow_id=FLOW)
    child = create(world)
    flow = f"ff:flow:{keys.tag}:{FLOW}"
    world.redis.sadd(f"{flow}:out:{keys.id}", "edge")
    put(world, f"{flow}:edge:edge", downstream_execution_id=child.id)
    put(world, child.part("dep:edge"), state=dep)
    put(world, child.core, terminal_outcome=child_outcome)
    assert trim(world, keys) == ({"awaited": 1} if is_kept else {"trimmed": 1})


def end(world: World, keys: ExecutionKeys, **core: str) -> None:
    """Have an execution ended two days ago."""
    at = str(world.now_ms() - 2 * DAY_MS)
    put(world, keys.core, lifecycle_phase="terminal", terminal_outcome="success", completed_at=at, **core)
    world.redis.zrem(lane_key(keys, "eligible"), keys.id)
    world.redis.zadd(lane_key(keys, "terminal"), {keys.id: float(at)})


def flow_keys_left(world: World) -> set[str]:
    return {key for key in world.keyspace() if key.startswith("ff:flow:")}


def test_the_edges_of_a_member_go_with_it_and_those_of_others_stay(world: World) -> None:
    top, middle, bottom = flow_of(world, 3)
    for number, (upstream, downstream) in enumerate([(top, middle), (middle, bottom), (top, bottom)]):
        assert stage(world, upstream, downstream, edge_id=f"e{number}")[:2] == [1, "OK"]
    record = world.value(FLOW_CORE)
    end(world, top)
    assert trim(world, top) == {"trimmed": 1}
    into = {flow_key(f"in:{one.id}") for one in (middle, bottom)}
    others = {flow_key("edge:e1"), flow_key(f"out:{middle.id}")}
    assert flow_keys_left(world) == {FLOW_CORE, MEMBERS, *into, *others}
    end(world, middle)
    end(world, bottom)
    assert trim(world, top) == {"trimmed": 2}
    assert flow_keys_left(world) == {FLOW_CORE, MEMBERS}
    assert (world.value(FLOW_CORE), world.value(MEMBERS)) == (record, {top.id, middle.id, bottom.id})


def test_a_flow_without_its_members_answers_as_before(world: World) -> None:
    gone, other = flow_of(world, 2)
    stage(world, gone, other, edge_id="e1")
    end(world, gone)
    assert trim(world, gone) == {"trimmed": 1}
    assert create_flow(world) == [1, "ALREADY_SATISFIED", FLOW]
    late = create(world)
    assert add(world, late) == [1, "OK", late.id, "3"]
    assert stage(world, other, late, edge_id="e2") == [1, "OK", "e2", "5"]
    assert stage(world, late, other) == [0, "cycle_detected"]
    assert sorted(cancel_flow(world)[3:]) == sorted(one.id for one in (gone, other, late))
    assert FLOW in (world.value(FLOW_INDEX) or ())


def test_a_member_whose_upstream_is_gone_can_still_be_replayed(world: World) -> None:
    (gone,) = flow_of(world, 1)
    skipped = waiting(world, flow_id=FLOW, upstream_id=gone.id)
    add(world, skipped)
    stage(world, gone, skipped, edge_id="e1")
    resolve(world, skipped, outcome="failed")
    put(world, skipped.core, completed_at=str(world.now_ms()))
    end(world, gone)
    assert trim(world, gone) == {"trimmed": 1, f"kept:{DAY_MS}": 1}
    assert world.value(flow_key(f"in:{skipped.id}")) == {"e1"}
    assert replay_skipped(world, skipped, "e1")[:2] == [1, "OK"]
    assert world.value(skipped.part("deps:unresolved")) == {"e1"}


def test_very_many_edges_are_deleted_over_several_calls(world: World) -> None:
    (member,) = flow_of(world, 1)
    pipeline = world.redis.pipeline(transaction=False)
    for number in range(5_000):
        pipeline.sadd(flow_key(f"out:{member.id}"), f"e{number}")
        pipeline.hset(flow_key(f"edge:e{number}"), "x", "y")
    pipeline.execute()
    end(world, member)
    calls = 1
    while trim(world, member) == {"partly": 1}:
        calls += 1
        assert world.value(member.core), "the record goes last"
    assert 2 < calls < 9
    assert flow_keys_left(world) == {FLOW_CORE, MEMBERS}
