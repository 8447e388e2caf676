"""ff_replay_execution: protocol 09, section 9."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ffsuper.store.keys import ExecutionKeys
from tests.lua.executions import claim, lane_key, new_keys
from tests.lua.flows import (
    CREATED_AT,
    SCORE,
    add,
    apply,
    child,
    create_flow,
    dep_key,
    replay,
    replay_keys,
    replay_skipped,
    resolve,
)
from tests.lua.holders import complete, poison, since
from tests.lua.suspensions import nothing_published, put
from tests.lua.world import World

READ = ("lifecycle_phase", "replay_count", "terminal_outcome", "flow_id", "priority", "created_at", "execution_id")


def terminal(world: World, policy: str | None = None, **core: str) -> ExecutionKeys:
    """Create an execution that has failed, some time ago, then set fields of its record."""
    keys = child(world, **{"lifecycle_phase": "terminal", "terminal_outcome": "failed", **core})
    if policy is not None:
        world.redis.set(keys.part("policy"), policy)
    world.redis.delete(lane_key(keys, "eligible"))
    world.redis.zadd(lane_key(keys, "terminal"), {keys.id: 5, "another": 6})
    return keys


def skipped(world: World, *edge_ids: str) -> ExecutionKeys:
    """Create a member of a flow that the first of its edges has skipped, by default e1 alone."""
    create_flow(world)
    keys = child(world)
    add(world, keys)
    for edge_id in edge_ids or ("e1",):
        apply(world, keys, edge_id)
    resolve(world, keys, (edge_ids or ("e1",))[0], "failed")
    world.redis.zadd(lane_key(keys, "terminal"), {keys.id: 5, "another": 6})
    return keys


def replayed_core(now: str, **changes: str) -> dict[str, str]:
    return {
        "lifecycle_phase": "runnable",
        "ownership_state": "unowned",
        "eligibility_state": "eligible_now",
        "blocking_reason": "waiting_for_worker",
        "blocking_detail": "",
        "terminal_outcome": "none",
        "attempt_state": "pending_replay_attempt",
        "public_state": "waiting",
        "pending_replay_attempt": "1",
        "replay_count": "1",
        "completed_at": "",
        "last_transition_at": now,
        "last_mutation_at": now,
        **changes,
    }


def event(now: str, kind: str, count: str = "1") -> list[tuple[str, ...]]:
    """Return what the history gains."""
    return [("event", "replay_initiated", "replay_count", count, "replay_type", kind, "ts", now)]


# --- the normal path ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "core",
    [
        {"terminal_outcome": "failed"},
        {"terminal_outcome": "success", "flow_id": "f"},
        {"terminal_outcome": "skipped", "flow_id": ""},
        {"terminal_outcome": "skipped"},
    ],
)
def test_a_replay_writes_exactly_this_at_the_servers_time(world: World, core: dict[str, str]) -> None:
    keys = terminal(world, **core)
    poison(world, keys.core, keep=READ)
    before = world.now_ms()
    with world.changes() as c, nothing_published(world):
        assert replay(world, keys) == [1, "OK", "0"]
    now = since(before, world, c.written[keys.core]["last_mutation_at"])
    assert c.removed == {lane_key(keys, "terminal"): {keys.id: 5}}
    assert c.written == {
        keys.core: replayed_core(now),
        lane_key(keys, "eligible"): {keys.id: SCORE},
        keys.part("lease:history"): event(now, "normal"),
    }


def test_edges_of_an_execution_that_was_not_skipped_are_not_looked_at(world: World) -> None:
    keys = skipped(world)
    put(world, keys.core, terminal_outcome="failed")
    with world.changes() as c:
        assert replay_skipped(world, keys, "e1") == [1, "OK", "0"]
    assert dep_key(keys) not in c.written
    assert world.value(keys.core)["eligibility_state"] == "eligible_now"


def test_a_replayed_execution_can_be_claimed_and_completed_as_a_new_attempt(world: World) -> None:
    lease = claim(world)
    complete(world, lease)
    assert replay(world, lease.keys) == [1, "OK", "0"]
    again = claim(world, lease.keys)
    assert (again.kind, again.epoch, again.index) == ("replay", "2", 1)


def test_a_repeated_replay_is_refused(world: World) -> None:
    keys = terminal(world)
    replay(world, keys)
    with world.unchanged():
        assert replay(world, keys) == [0, "execution_not_terminal"]


@pytest.mark.parametrize("args", [["5"], []])
def test_the_time_argument_may_be_absent(world: World, args: list[str]) -> None:
    keys = terminal(world)
    assert world.call("ff_replay_execution", replay_keys(keys)[:4], [keys.id, *args]) == [1, "OK", "0"]


@pytest.mark.parametrize(
    ("damage", "score"),
    [
        ({"priority": ""}, CREATED_AT),
        ({"priority": "nan"}, CREATED_AT),
        ({"created_at": ""}, -3 * 10**12),
        ({"created_at": "once"}, -3 * 10**12),
    ],
)
def test_a_damaged_priority_or_creation_time_does_not_leave_the_execution_in_no_index(
    world: World, damage: dict[str, str], score: int
) -> None:
    """The reference raises with the execution runnable, and taken out of the terminal index."""
    keys = terminal(world, **damage)
    assert replay(world, keys) == [1, "OK", "0"]
    assert world.value(lane_key(keys, "eligible")) == {keys.id: score}


# --- refusals, in their order, and the limit ----------------------------------------------------------------------


def test_replaying_an_unknown_execution_is_refused(world: World) -> None:
    keys = new_keys()
    with world.unchanged():
        assert world.call("ff_replay_execution", replay_keys(keys)[:1], []) == [0, "execution_not_found"]


@pytest.mark.parametrize("phase", ["runnable", "active", "suspended", "", None])
def test_replaying_what_is_not_terminal_is_refused_before_its_replays_are_counted(
    world: World, phase: str | None
) -> None:
    keys = terminal(world, lifecycle_phase=phase or "", replay_count="10")
    if phase is None:
        world.redis.hdel(keys.core, "lifecycle_phase")
    with world.unchanged():
        assert replay(world, keys) == [0, "execution_not_terminal"]


@pytest.mark.parametrize(
    ("policy", "limit"),
    [
        ({"max_replay_count": 3}, 3),
        ({"max_replay_count": "3"}, 3),
        ({"max_replay_count": 0}, 0),
        ({"max_replay_count": 2.5}, 3),
        ({"max_replay_count": -1}, 0),
        ({"max_replay_count": None}, 10),
        ({"max_replay_count": "many"}, 10),
        ({"max_replay_count": True}, 10),
        ({"max_replay_count": []}, 10),
        ({"timeout_policy": {"max_replay_count": 3}}, 10),
        ([1], 10),
        (5, 10),
        (None, 10),
        ({}, 10),
    ],
)
def test_the_policy_limits_replays_and_what_it_says_badly_counts_as_10(world: World, policy: Any, limit: int) -> None:
    keys = terminal(world, json.dumps(policy), replay_count=str(limit))
    with world.unchanged():
        assert world.call("ff_replay_execution", replay_keys(keys)[:1], []) == [0, "max_replays_exhausted"]
    if limit:
        put(world, keys.core, replay_count=str(limit - 1))
        assert replay(world, keys) == [1, "OK", "0"]
        assert world.value(keys.core)["replay_count"] == str(limit)


@pytest.mark.parametrize("policy", ["{", "", None])
def test_without_a_readable_policy_the_limit_is_10(world: World, policy: str | None) -> None:
    keys = terminal(world, policy or "", replay_count="10")
    if policy is None:
        world.redis.delete(keys.part("policy"))
    assert replay(world, keys) == [0, "max_replays_exhausted"]
    put(world, keys.core, replay_count="9")
    assert replay(world, keys) == [1, "OK", "0"]


@pytest.mark.parametrize("replay_count", ["", "many", "nan"])
def test_a_damaged_number_of_replays_starts_again(world: World, replay_count: str) -> None:
    keys = terminal(world, replay_count=replay_count)
    assert replay(world, keys) == [1, "OK", "0"]
    assert world.value(keys.core)["replay_count"] == "1"


def test_a_replay_without_an_id_changes_nothing(world: World) -> None:
    """The reference raises with the execution runnable and still in the terminal index."""
    keys = terminal(world)
    with world.unchanged():
        reply = world.call("ff_replay_execution", replay_keys(keys)[:4], [])
        assert reply == [0, "invalid_input", "execution_id must be given, got: nil"]


# --- skipped members of a flow ------------------------------------------------------------------------------------


def test_a_skipped_member_waits_for_its_open_edges_again(world: World) -> None:
    keys = skipped(world, "e1", "e2", "e3")
    resolve(world, keys, "e3")
    poison(world, keys.core, keep=READ)
    poison(world, keys.part("deps:meta"), keep=())
    for edge_id in ("e1", "e2", "e3"):
        poison(world, dep_key(keys, edge_id), keep=("state",))
    before = world.now_ms()
    with world.changes() as c, nothing_published(world):
        assert replay_skipped(world, keys, "e1", "e2", "e3", "unknown") == [1, "OK", "2"]
    now = since(before, world, c.written[keys.core]["last_mutation_at"])
    assert c.removed == {lane_key(keys, "terminal"): {keys.id: 5}}
    assert c.written == {
        keys.core: replayed_core(
            now,
            eligibility_state="blocked_by_dependencies",
            blocking_reason="waiting_for_children",
            blocking_detail="2 dep(s) unsatisfied after replay",
            public_state="waiting_children",
        ),
        keys.part("deps:meta"): {
            "unsatisfied_required_count": "2",
            "impossible_required_count": "0",
            "last_dependency_update_at": now,
        },
        keys.part("deps:unresolved"): {"e1"},
        dep_key(keys, "e1"): {"state": "unsatisfied", "last_resolved_at": ""},
        lane_key(keys, "blocked:dependencies"): {keys.id: CREATED_AT},
        keys.part("lease:history"): event(now, "skipped_flow_member"),
    }


@pytest.mark.parametrize("edge_ids", [(), ("unknown",)])
def test_a_skipped_member_without_open_edges_does_not_wait_for_nothing_for_ever(
    world: World, edge_ids: tuple[str, ...]
) -> None:
    """The reference blocks it, and nothing there releases what has no open edge; its server reports it as waiting."""
    keys = skipped(world)
    poison(world, keys.core, keep=READ)
    before = world.now_ms()
    with world.changes() as c:
        assert replay_skipped(world, keys, *edge_ids) == [1, "OK", "0"]
    now = since(before, world, c.written[keys.core]["last_mutation_at"])
    assert c.written == {
        keys.core: replayed_core(now),
        keys.part("deps:meta"): {"impossible_required_count": "0", "last_dependency_update_at": now},
        lane_key(keys, "eligible"): {keys.id: SCORE},
        keys.part("lease:history"): event(now, "skipped_flow_member"),
    }


def test_an_open_edge_that_is_not_passed_is_not_counted_but_waited_for(world: World) -> None:
    """In the reference the count then falls below 0, which it does not take for satisfied: blocked for good."""
    keys = skipped(world, "e1", "e2")
    assert replay_skipped(world, keys) == [1, "OK", "0"]
    core = world.value(keys.core)
    assert core["blocking_detail"] == "0 dep(s) unsatisfied after replay"
    assert core["eligibility_state"] == "blocked_by_dependencies"
    assert resolve(world, keys, "e2") == [1, "OK", "satisfied", ""]
    assert world.value(keys.core)["eligibility_state"] == "eligible_now"


def test_a_member_with_more_edges_than_a_command_takes_is_replayed(world: World) -> None:
    keys = skipped(world)
    edges = [f"edge-{number}" for number in range(5000)]
    for edge_id in edges[::1000]:
        put(world, dep_key(keys, edge_id), state="impossible")
    assert replay_skipped(world, keys, *edges) == [1, "OK", "5"]


@pytest.mark.parametrize("created_at", ["", "once", "nan"])
def test_a_skipped_member_with_a_damaged_creation_time_does_not_end_in_no_index(
    world: World, created_at: str
) -> None:
    keys = skipped(world)
    put(world, keys.core, created_at=created_at)
    assert replay_skipped(world, keys, "e1") == [1, "OK", "1"]
    assert world.value(lane_key(keys, "blocked:dependencies")) == {keys.id: 0}


@pytest.mark.parametrize("passed", [4, 6, 7])
def test_a_skipped_member_with_too_few_keys_is_refused_and_stays_terminal(world: World, passed: int) -> None:
    keys = skipped(world)
    with world.unchanged():
        reply = world.call("ff_replay_execution", replay_keys(keys)[:passed], [keys.id, "5", "e1"])
        assert reply == [0, "invalid_input", f"KEYS must be 8, got: {passed}"]
