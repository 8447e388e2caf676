"""ff_resolve_dependency with an outcome that makes the edge impossible: protocol 09, section 4.1."""

from __future__ import annotations

import pytest

from tests.lua.executions import call_grant, claim, lane_key
from tests.lua.flows import CREATED_AT, LATER, apply, edge_writes, flow_of, poison_edge, replay, resolve, waiting
from tests.lua.holders import open_stream, poison
from tests.lua.suspensions import nothing_published, put
from tests.lua.world import World

SKIPPED = {
    "lifecycle_phase": "terminal",
    "ownership_state": "unowned",
    "eligibility_state": "not_applicable",
    "blocking_reason": "none",
    "blocking_detail": "",
    "terminal_outcome": "skipped",
    "attempt_state": "none",
    "public_state": "skipped",
    "completed_at": LATER,
    "last_transition_at": LATER,
    "last_mutation_at": LATER,
}


@pytest.mark.parametrize("outcome", ["failed", "cancelled", "skipped", "none", "", "Success", "success "])
def test_anything_but_success_skips_the_child_and_leaves_its_other_edges_open(world: World, outcome: str) -> None:
    keys = waiting(world, "e1", "e2")
    poison_edge(world, keys)
    poison(world, keys.core, keep=("terminal_outcome", "attempt_state", "execution_id"))
    with world.changes() as c, nothing_published(world):
        assert resolve(world, keys, outcome=outcome) == [1, "OK", "impossible", "child_skipped"]
    assert c.written == {
        **edge_writes(keys, "impossible", unsatisfied_required_count="1", impossible_required_count="1"),
        keys.core: SKIPPED,
        lane_key(keys, "terminal"): {keys.id: float(LATER)},
    }
    assert c.removed == {
        keys.part("deps:unresolved"): {"e1"},
        lane_key(keys, "blocked:dependencies"): {keys.id: CREATED_AT},
    }


@pytest.mark.parametrize("state", ["attempt_interrupted", "running_attempt"])
@pytest.mark.parametrize("has_stream", [True, False])
def test_an_attempt_that_has_begun_ends_with_the_skip_and_so_does_its_stream(
    world: World, state: str, has_stream: bool
) -> None:
    keys = waiting(world)
    put(world, keys.core, attempt_state=state)
    put(world, keys.attempt(0), attempt_state="started")
    if has_stream:
        open_stream(world, keys)
    with world.changes() as c:
        assert resolve(world, keys, outcome="failed") == [1, "OK", "impossible", "child_skipped"]
    assert c.written[keys.core]["attempt_state"] == "attempt_terminal"
    assert c.written[keys.attempt(0)] == {
        "attempt_state": "ended_cancelled",
        "ended_at": LATER,
        "failure_reason": "dependency_impossible",
    }
    closed = {"closed_at": LATER, "closed_reason": "dependency_impossible"}
    assert c.written.get(keys.stream_meta(0)) == (closed if has_stream else None)


@pytest.mark.parametrize(
    ("state", "after"),
    [
        ("pending_first_attempt", "none"),
        ("pending_retry_attempt", "none"),
        ("attempt_terminal", "none"),
        ("none", "none"),
        (None, "none"),
        ("", ""),
    ],
)
def test_no_other_attempt_ends_with_the_skip(world: World, state: str | None, after: str) -> None:
    keys = waiting(world)
    put(world, keys.core, attempt_state=state or "")
    if state is None:
        world.redis.hdel(keys.core, "attempt_state")
    open_stream(world, keys)
    with world.changes() as c:
        resolve(world, keys, outcome="failed")
    assert world.value(keys.core)["attempt_state"] == after
    assert not c.written.keys() & {keys.attempt(0), keys.stream_meta(0)}


def test_an_active_child_is_skipped_under_its_worker_and_keeps_the_traces_of_its_lease(world: World) -> None:
    lease = claim(world)
    keys = lease.keys
    apply(world, keys)
    with world.changes() as c:
        assert resolve(world, keys, outcome="failed") == [1, "OK", "impossible", "child_skipped"]
    assert c.removed == {keys.part("deps:unresolved"): {"e1"}}
    assert keys.part("lease:current") not in c.written
    core = world.value(keys.core)
    assert (core["lifecycle_phase"], core["ownership_state"], core["public_state"]) == (
        "terminal",
        "unowned",
        "skipped",
    )
    assert core["current_lease_id"] == lease.lease_id


def test_a_skipped_child_does_not_stay_at_the_head_of_its_lane(world: World) -> None:
    """The reference leaves it in the eligible index, of which its workers look at the first entry only."""
    (keys,) = flow_of(world, 1)
    apply(world, keys)
    put(world, keys.core, lifecycle_phase="terminal", terminal_outcome="failed")
    assert replay(world, keys) == [1, "OK", "0"]
    assert keys.id in world.value(lane_key(keys, "eligible"))
    assert resolve(world, keys, outcome="failed") == [1, "OK", "impossible", "child_skipped"]
    assert world.value(lane_key(keys, "eligible")) is None
    assert call_grant(world, keys) == [0, "execution_not_eligible"]


@pytest.mark.parametrize("outcome", ["success", "failed", "skipped", ""])
def test_a_child_that_has_ended_stays_as_it_is(world: World, outcome: str) -> None:
    keys = waiting(world)
    put(world, keys.core, terminal_outcome=outcome)
    with world.changes() as c:
        assert resolve(world, keys, outcome="failed", now_ms=LATER) == [1, "OK", "impossible", ""]
    counts = {"unsatisfied_required_count": "0", "impossible_required_count": "1"}
    assert c.written == edge_writes(keys, "impossible", **counts)
    assert c.removed == {keys.part("deps:unresolved"): {"e1"}}


@pytest.mark.parametrize("damaged", ["", "many", "nan"])
def test_a_damaged_counter_does_not_leave_an_edge_resolved_without_effect(world: World, damaged: str) -> None:
    """The reference raises with the edge impossible: a repeat says already_resolved, and the child waits for ever."""
    keys = waiting(world)
    put(world, keys.part("deps:meta"), unsatisfied_required_count=damaged, impossible_required_count=damaged)
    assert resolve(world, keys, outcome="failed") == [1, "OK", "impossible", "child_skipped"]
    meta = world.value(keys.part("deps:meta"))
    assert (meta["unsatisfied_required_count"], meta["impossible_required_count"]) == ("-1", "1")


@pytest.mark.parametrize(
    ("now_ms", "score"), [("1e3", 1000), ("0x10", 16), (" 7 ", 7), ("1.5", 1.5), ("inf", float("inf"))]
)
def test_whatever_reads_as_a_number_is_the_time_of_a_skip(world: World, now_ms: str, score: float) -> None:
    keys = waiting(world)
    resolve(world, keys, outcome="failed", now_ms=now_ms)
    assert world.value(lane_key(keys, "terminal")) == {keys.id: score}
    assert world.value(keys.core)["completed_at"] == now_ms


@pytest.mark.parametrize("now_ms", ["", "soon", "5 s", "nan"])
def test_a_skip_at_no_time_is_refused_and_leaves_no_child_in_no_index(world: World, now_ms: str) -> None:
    """The reference raises with the child ended, in neither the blocked nor the terminal index."""
    keys = waiting(world)
    with world.unchanged():
        reply = resolve(world, keys, outcome="failed", now_ms=now_ms)
        assert reply == [0, "invalid_input", f"now_ms must be a number, got: {now_ms}"]
    put(world, keys.core, terminal_outcome="cancelled")
    assert resolve(world, keys, outcome="failed", now_ms=now_ms) == [1, "OK", "impossible", ""]
