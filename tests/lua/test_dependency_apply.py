"""ff_apply_dependency_to_child: protocol 09, section 3.2."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lua.executions import claim, lane_key, new_keys
from tests.lua.flows import (
    APPLY,
    CREATED_AT,
    FLOW,
    LATER,
    NOW,
    OTHER_FLOW,
    apply,
    cancel_flow,
    child,
    dep_key,
    flow_of,
    resolve,
    waiting,
)
from tests.lua.holders import poison
from tests.lua.suspensions import UNSET, nothing_published, put
from tests.lua.world import World

READ = (
    "lifecycle_phase",
    "flow_id",
    "terminal_outcome",
    "execution_id",
    "ownership_state",
    "attempt_state",
    "created_at",
)


def blocked_core(detail: str) -> dict[str, str]:
    return {
        "eligibility_state": "blocked_by_dependencies",
        "blocking_reason": "waiting_for_children",
        "blocking_detail": detail,
        "public_state": "waiting_children",
        "last_transition_at": NOW,
        "last_mutation_at": NOW,
    }


def test_applying_an_edge_to_a_runnable_child_writes_exactly_this_at_the_callers_time(world: World) -> None:
    keys, _ = flow_of(world, 2)
    put(world, keys.core, created_at=str(CREATED_AT))
    poison(world, keys.core, keep=READ)
    eligible = {keys.id: world.value(lane_key(keys, "eligible"))[keys.id]}
    with world.changes() as c, nothing_published(world):
        assert apply(world, keys) == [1, "OK", "1"]
    assert c.removed == {lane_key(keys, "eligible"): eligible}
    assert c.written == {
        keys.core: blocked_core("1 dep(s) unresolved incl e1"),
        dep_key(keys): {
            "edge_id": "e1",
            "flow_id": FLOW,
            "upstream_execution_id": "upstream",
            "downstream_execution_id": keys.id,
            "dependency_kind": "success_only",
            "state": "unsatisfied",
            "data_passing_ref": "",
            "last_resolved_at": "",
        },
        keys.part("deps:meta"): {
            "unsatisfied_required_count": "1",
            "flow_id": FLOW,
            "last_flow_graph_revision": "12",
            "last_dependency_update_at": NOW,
        },
        keys.part("deps:unresolved"): {"e1"},
        keys.part("deps:all_edges"): {"e1"},
        lane_key(keys, "blocked:dependencies"): {keys.id: CREATED_AT},
    }


def test_further_edges_are_counted_and_the_last_one_is_named(world: World) -> None:
    keys = waiting(world, "e1")
    poison(world, keys.part("deps:meta"), keep=("unsatisfied_required_count",))
    with world.changes() as c:
        assert apply(world, keys, "e2", graph_revision="13") == [1, "OK", "2"]
    assert c.removed == {}
    assert c.written[keys.core] == {"blocking_detail": "2 dep(s) unresolved incl e2"}
    assert c.written[keys.part("deps:meta")] == {
        "unsatisfied_required_count": "2",
        "flow_id": FLOW,
        "last_flow_graph_revision": "13",
        "last_dependency_update_at": NOW,
    }
    assert c.written[keys.part("deps:unresolved")] == c.written[keys.part("deps:all_edges")] == {"e2"}


def test_what_is_stored_only_may_be_any_text(world: World) -> None:
    keys = child(world)
    texts = {
        "upstream_id": "",
        "graph_revision": "",
        "dependency_kind": "",
        "data_passing_ref": "any",
        "now_ms": "soon",
    }
    assert apply(world, keys, **texts) == [1, "OK", "1"]
    dep = world.value(dep_key(keys))
    assert (dep["upstream_execution_id"], dep["dependency_kind"], dep["data_passing_ref"]) == ("", "", "any")
    assert world.value(keys.core)["last_transition_at"] == "soon"
    assert world.value(keys.part("deps:meta"))["last_dependency_update_at"] == "soon"


def test_a_child_outside_of_any_flow_takes_an_edge_and_stays_outside(world: World) -> None:
    keys = child(world)
    assert apply(world, keys) == [1, "OK", "1"]
    assert world.value(keys.core).get("flow_id", "") == ""


def test_an_edge_can_be_applied_in_a_flow_that_is_cancelled(world: World) -> None:
    (keys,) = flow_of(world, 1)
    cancel_flow(world)
    assert apply(world, keys) == [1, "OK", "1"]


@pytest.mark.parametrize(
    "core",
    [
        {"lifecycle_phase": "active"},
        {"lifecycle_phase": "suspended"},
        {"lifecycle_phase": "terminal", "terminal_outcome": "success"},
        {"terminal_outcome": "failed"},
        {"terminal_outcome": ""},
    ],
)
def test_a_child_that_is_not_runnable_is_given_the_edge_and_keeps_its_state(
    world: World, core: dict[str, str]
) -> None:
    keys = child(world, **core)
    with world.changes() as c:
        assert apply(world, keys) == [1, "OK", "1"]
    assert c.removed == {}
    assert c.written.keys() == {
        dep_key(keys),
        *(keys.part(f"deps:{part}") for part in ("meta", "unresolved", "all_edges")),
    }


def test_a_claimed_child_keeps_its_lease(world: World) -> None:
    lease = claim(world)
    assert apply(world, lease.keys) == [1, "OK", "1"]
    assert world.value(lease.keys.core)["lifecycle_phase"] == "active"


@pytest.mark.parametrize(
    ("field", "default"), [("ownership_state", "unowned"), ("attempt_state", "pending_first_attempt")]
)
def test_only_a_missing_state_becomes_that_of_a_new_execution(world: World, field: str, default: str) -> None:
    missing, empty = child(world), child(world, **{field: ""})
    world.redis.hdel(missing.core, field)
    assert [apply(world, keys)[1] for keys in (missing, empty)] == ["OK", "OK"]
    assert (world.value(missing.core)[field], world.value(empty.core)[field]) == (default, "")


@pytest.mark.parametrize("created_at", ["", "once", "nan", None])
def test_a_damaged_creation_time_does_not_leave_the_child_in_no_index(world: World, created_at: str | None) -> None:
    """The reference raises with the child blocked, and taken out of the eligible index."""
    keys = child(world, created_at=created_at or "")
    if created_at is None:
        world.redis.hdel(keys.core, "created_at")
    assert apply(world, keys) == [1, "OK", "1"]
    assert world.value(lane_key(keys, "blocked:dependencies")) == {keys.id: 0}


@pytest.mark.parametrize("damaged", ["", "many", "nan"])
def test_a_damaged_counter_does_not_leave_an_edge_that_blocks_nothing(world: World, damaged: str) -> None:
    """The reference raises with the edge recorded: a repeat says already_applied, and the child runs at once."""
    keys = child(world)
    put(world, keys.part("deps:meta"), unsatisfied_required_count=damaged)
    assert apply(world, keys) == [1, "OK", "1"]
    assert world.value(keys.core)["eligibility_state"] == "blocked_by_dependencies"


# --- refusals, in their order, and repetition ---------------------------------------------------------------------


def test_applying_to_an_unknown_execution_is_refused(world: World) -> None:
    keys = new_keys()
    put(world, dep_key(keys), edge_id="e1")
    with world.unchanged():
        assert apply(world, keys, now_ms=UNSET) == [0, "execution_not_found"]


@pytest.mark.parametrize("flow_id", [FLOW, "", UNSET])
def test_a_member_of_another_flow_is_refused_even_when_it_has_the_edge(world: World, flow_id: Any) -> None:
    keys = waiting(world)
    put(world, keys.core, flow_id=OTHER_FLOW)
    with world.unchanged():
        assert apply(world, keys, flow_id=flow_id) == [0, "execution_already_in_flow"]


@pytest.mark.parametrize("resolved", [None, "success", "failed"])
def test_an_edge_is_applied_once_whatever_became_of_it(world: World, resolved: str | None) -> None:
    keys = waiting(world)
    if resolved:
        resolve(world, keys, outcome=resolved)
    with world.unchanged():
        assert apply(world, keys, now_ms=LATER) == [1, "OK", "already_applied"]
        assert apply(world, keys, upstream_id=UNSET) == [1, "OK", "already_applied"]


@pytest.mark.parametrize("first_absent", APPLY)
def test_absent_arguments_leave_no_edge_behind(world: World, first_absent: str) -> None:
    """The reference raises with the edge recorded and counted, but the child not blocked."""
    keys = child(world)
    with world.unchanged():
        reply = apply(world, keys, **{first_absent: UNSET})
        assert reply == [0, "invalid_input", "now_ms must be given, got: nil"]
