"""ff_resolve_dependency: protocol 09, section 4.1, and the worked example of section 11.

Impossible edges: test_dependency_impossible.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from ffsuper.store.keys import ExecutionKeys
from tests.lua.executions import lane_key, new_keys
from tests.lua.flows import (
    CREATED_AT,
    FLOW_CORE,
    LATER,
    SCORE,
    UPSTREAM_RESULT,
    apply,
    child,
    dep_key,
    edge_writes,
    flow_of,
    poison_edge,
    replay,
    replay_skipped,
    resolve,
    stage,
    waiting,
)
from tests.lua.holders import poison
from tests.lua.suspensions import UNSET, nothing_published, put
from tests.lua.world import World

READ = (
    "lifecycle_phase",
    "ownership_state",
    "terminal_outcome",
    "eligibility_state",
    "execution_id",
    "attempt_state",
)
RELEASED = {
    "eligibility_state": "eligible_now",
    "blocking_reason": "waiting_for_worker",
    "blocking_detail": "",
    "public_state": "waiting",
    "last_transition_at": LATER,
    "last_mutation_at": LATER,
}


# --- satisfied ----------------------------------------------------------------------------------------------------


def test_the_last_satisfied_edge_releases_the_child_at_its_old_place(world: World) -> None:
    keys = waiting(world)
    poison_edge(world, keys)
    poison(world, keys.core, keep=(*READ, "priority", "created_at"))
    with world.changes() as c, nothing_published(world):
        assert resolve(world, keys) == [1, "OK", "satisfied", ""]
    assert c.written == {
        **edge_writes(keys, "satisfied", unsatisfied_required_count="0"),
        keys.core: RELEASED,
        lane_key(keys, "eligible"): {keys.id: SCORE},
    }
    assert c.removed == {
        keys.part("deps:unresolved"): {"e1"},
        lane_key(keys, "blocked:dependencies"): {keys.id: CREATED_AT},
    }


def test_a_satisfied_edge_of_several_leaves_the_child_waiting_with_its_old_detail(world: World) -> None:
    keys = waiting(world, "e1", "e2", "e3")
    poison_edge(world, keys)
    with world.changes() as c:
        assert resolve(world, keys) == [1, "OK", "satisfied", ""]
    assert c.written == edge_writes(keys, "satisfied", unsatisfied_required_count="2")
    assert c.removed == {keys.part("deps:unresolved"): {"e1"}}
    assert world.value(keys.core)["blocking_detail"] == "3 dep(s) unresolved incl e3"


@pytest.mark.parametrize(
    ("attempt_state", "after"),
    [
        ("pending_retry_attempt", "pending_retry_attempt"),
        ("attempt_interrupted", "attempt_interrupted"),
        ("none", "pending_first_attempt"),
        ("", "pending_first_attempt"),
        (None, "pending_first_attempt"),
    ],
)
def test_the_attempt_state_stays_unless_it_says_nothing(world: World, attempt_state: str | None, after: str) -> None:
    keys = waiting(world)
    put(world, keys.core, attempt_state=attempt_state or "")
    if attempt_state is None:
        world.redis.hdel(keys.core, "attempt_state")
    resolve(world, keys)
    assert world.value(keys.core)["attempt_state"] == after


@pytest.mark.parametrize(
    "core",
    [
        {"lifecycle_phase": "active"},
        {"ownership_state": "leased"},
        {"terminal_outcome": "skipped"},
        {"eligibility_state": "eligible_now"},
    ],
)
def test_a_child_that_does_not_wait_for_it_is_left_alone_by_its_last_edge(world: World, core: dict[str, str]) -> None:
    keys = waiting(world)
    put(world, keys.core, **core)
    with world.changes() as c:
        assert resolve(world, keys) == [1, "OK", "satisfied", ""]
    assert c.written == edge_writes(keys, "satisfied", unsatisfied_required_count="0")


@pytest.mark.parametrize("outcome", ["success", "failed"])
def test_the_edge_of_a_child_that_is_gone_is_resolved_all_the_same(world: World, outcome: str) -> None:
    keys = waiting(world)
    world.redis.delete(keys.core)
    state = "satisfied" if outcome == "success" else "impossible"
    with world.changes() as c:
        assert resolve(world, keys, outcome=outcome, now_ms=LATER) == [1, "OK", state, ""]
    assert c.written[dep_key(keys)]["state"] == state
    assert world.value(keys.core) is None


@pytest.mark.parametrize(("count", "after"), [("0", "-1"), ("5", "4"), ("", "-1"), ("nan", "-1"), (None, "-1")])
def test_a_child_whose_counter_is_out_of_step_is_released_by_its_last_open_edge(
    world: World, count: str | None, after: str
) -> None:
    """The reference looks for a count of exactly 0, and leaves such a child blocked for good."""
    keys = waiting(world, "e1", "e2")
    resolve(world, keys)
    put(world, keys.part("deps:meta"), unsatisfied_required_count=count or "")
    if count is None:
        world.redis.hdel(keys.part("deps:meta"), "unsatisfied_required_count")
    assert resolve(world, keys, "e2") == [1, "OK", "satisfied", ""]
    assert world.value(keys.core)["eligibility_state"] == "eligible_now"
    assert world.value(lane_key(keys, "eligible")) == {keys.id: SCORE}
    assert world.value(keys.part("deps:meta"))["unsatisfied_required_count"] == after


def test_a_counter_that_reaches_0_releases_the_child_whatever_the_set_says(world: World) -> None:
    keys = waiting(world)
    world.redis.sadd(keys.part("deps:unresolved"), "unknown")
    resolve(world, keys)
    assert world.value(keys.core)["eligibility_state"] == "eligible_now"


@pytest.mark.parametrize("damaged", ["", "high", "nan"])
@pytest.mark.parametrize(("field", "score"), [("priority", CREATED_AT), ("created_at", -3 * 10**12)])
def test_a_damaged_priority_or_creation_time_does_not_leave_the_child_in_no_index(
    world: World, field: str, score: int, damaged: str
) -> None:
    """The reference raises with the child taken out of the blocked index."""
    keys = waiting(world)
    put(world, keys.core, **{field: damaged})
    assert resolve(world, keys) == [1, "OK", "satisfied", ""]
    assert world.value(lane_key(keys, "eligible")) == {keys.id: score}


@pytest.mark.parametrize("now_ms", ["", "soon", "nan"])
def test_the_time_of_a_satisfied_edge_is_any_text(world: World, now_ms: str) -> None:
    keys = waiting(world)
    assert resolve(world, keys, now_ms=now_ms) == [1, "OK", "satisfied", ""]
    assert world.value(keys.core)["last_transition_at"] == world.value(dep_key(keys))["last_resolved_at"] == now_ms


# --- data passing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "core", [{}, {"lifecycle_phase": "active", "ownership_state": "leased"}, {"eligibility_state": "eligible_now"}]
)
@pytest.mark.parametrize("edges", [("e1",), ("e1", "e2")])
def test_an_edge_that_passes_data_replaces_the_payload_of_a_child_in_any_phase(
    world: World, edges: tuple[str, ...], core: dict[str, str]
) -> None:
    keys = waiting(world, *edges, data_passing_ref="result")
    put(world, keys.core, priority="3", **core)
    world.redis.set(UPSTREAM_RESULT, b"\x00\xff")
    with world.changes() as c:
        assert resolve(world, keys) == [1, "OK", "satisfied", "data_injected"]
    assert c.written[keys.part("payload")] == "\x00\xff"
    assert world.value(UPSTREAM_RESULT) == "\x00\xff"


def test_a_result_that_lapses_gives_a_payload_that_lapses(world: World) -> None:
    keys = waiting(world, data_passing_ref="result")
    world.redis.set(UPSTREAM_RESULT, "out", px=600_000)
    resolve(world, keys)
    expiries = world.expiries()
    assert expiries[keys.part("payload")] == expiries[UPSTREAM_RESULT]


def test_an_upstream_without_a_result_leaves_the_old_payload(world: World) -> None:
    keys = waiting(world, data_passing_ref="result")
    assert resolve(world, keys) == [1, "OK", "satisfied", ""]
    assert world.value(keys.part("payload")) == "input"
    assert world.value(keys.core)["eligibility_state"] == "eligible_now"


@pytest.mark.parametrize("reference", ["", None])
def test_an_edge_that_passes_no_data_leaves_the_payload(world: World, reference: str | None) -> None:
    keys = waiting(world)
    if reference is None:
        world.redis.hdel(dep_key(keys), "data_passing_ref")
    world.redis.set(UPSTREAM_RESULT, "out")
    assert resolve(world, keys) == [1, "OK", "satisfied", ""]
    assert world.value(keys.part("payload")) == "input"


@pytest.mark.parametrize("outcome", ["cancelled", ""])
def test_a_child_that_has_ended_gets_no_data(world: World, outcome: str) -> None:
    keys = waiting(world, data_passing_ref="result")
    put(world, keys.core, terminal_outcome=outcome)
    world.redis.set(UPSTREAM_RESULT, "out")
    assert resolve(world, keys) == [1, "OK", "satisfied", ""]
    assert world.value(keys.part("payload")) == "input"


# --- refusals and repetition --------------------------------------------------------------------------------------


def test_an_edge_that_was_never_applied_is_refused(world: World) -> None:
    keys = child(world)
    with world.unchanged():
        assert resolve(world, keys, now_ms=UNSET) == [0, "invalid_dependency"]
    assert resolve(world, new_keys()) == [0, "invalid_dependency"]


@pytest.mark.parametrize("first", ["success", "failed"])
@pytest.mark.parametrize("second", ["success", "failed", UNSET])
def test_the_first_verdict_on_an_edge_is_final(world: World, first: str, second: Any) -> None:
    keys = waiting(world, "e1", "e2")
    resolve(world, keys, outcome=first)
    with world.unchanged():
        assert resolve(world, keys, outcome=second) == [1, "OK", "already_resolved"]


@pytest.mark.parametrize("state", ["", "open", None])
def test_an_edge_in_an_unknown_state_is_open(world: World, state: str | None) -> None:
    keys = waiting(world)
    put(world, dep_key(keys), state=state or "")
    if state is None:
        world.redis.hdel(dep_key(keys), "state")
    assert resolve(world, keys) == [1, "OK", "satisfied", ""]


@pytest.mark.parametrize("first_absent", ["edge_id", "outcome", "now_ms"])
def test_absent_arguments_leave_the_edge_open(world: World, first_absent: str) -> None:
    keys = waiting(world)
    with world.unchanged():
        reply = resolve(world, keys, **{first_absent: UNSET})
        assert reply == [0, "invalid_input", "now_ms must be given, got: nil"]


# --- the worked example -------------------------------------------------------------------------------------------


def states(world: World, *members: ExecutionKeys) -> list[str]:
    return [world.value(keys.core)["public_state"] for keys in members]


def test_a_flow_goes_its_way_as_in_the_protocols_example(world: World) -> None:
    a, b, c, d, e = flow_of(world, 5)
    edges = {"e1": (a, b), "e2": (a, c), "e3": (b, d), "e4": (c, d), "e5": (d, e)}
    for edge_id, (upstream, downstream) in edges.items():
        assert stage(world, upstream, downstream, edge_id=edge_id)[:2] == [1, "OK"]
    core = world.value(FLOW_CORE)
    assert (core["graph_revision"], core["edge_count"], core["node_count"]) == ("10", "5", "5")
    applied = [
        apply(world, downstream, edge_id, upstream_id=upstream.id)[2]
        for edge_id, (upstream, downstream) in edges.items()
    ]
    assert applied == ["1", "1", "1", "2", "1"]
    assert world.value(d.core)["blocking_detail"] == "2 dep(s) unresolved incl e4"
    assert states(world, a, b, c, d, e) == ["waiting", *["waiting_children"] * 4]

    assert [resolve(world, b, "e1")[2:], resolve(world, c, "e2")[2:]] == [["satisfied", ""]] * 2
    assert states(world, b, c) == ["waiting"] * 2
    assert world.value(b.part("deps:unresolved")) is None
    assert world.value(b.part("deps:all_edges")) == {"e1"}

    assert resolve(world, d, "e3", "failed")[2:] == ["impossible", "child_skipped"]
    assert resolve(world, e, "e5", "skipped")[2:] == ["impossible", "child_skipped"]
    assert states(world, d, e) == ["skipped"] * 2
    assert resolve(world, d, "e4")[2:] == ["satisfied", ""]
    meta = world.value(d.part("deps:meta"))
    assert (meta["unsatisfied_required_count"], meta["impossible_required_count"]) == ("0", "1")

    put(world, b.core, lifecycle_phase="terminal", terminal_outcome="failed")
    assert replay(world, b) == [1, "OK", "0"]
    assert replay_skipped(world, d, "e3", "e4") == [1, "OK", "1"]
    assert world.value(d.core)["blocking_detail"] == "1 dep(s) unsatisfied after replay"
    assert world.value(d.part("deps:unresolved")) == {"e3"}
    assert states(world, b, d, e) == ["waiting", "waiting_children", "skipped"]
    assert resolve(world, d, "e3")[2:] == ["satisfied", ""]
    assert states(world, d) == ["waiting"]
