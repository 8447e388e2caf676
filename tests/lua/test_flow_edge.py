"""ff_stage_dependency_edge: protocol 09, section 3.1."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from ffsuper.store.keys import ExecutionKeys
from tests.lua.executions import new_keys
from tests.lua.flows import FLOW, FLOW_CORE, MEMBERS, NOW, create_flow, flow_key, flow_of, revision, stage
from tests.lua.holders import poison
from tests.lua.suspensions import UNSET, nothing_published, put
from tests.lua.world import World


def put_edge(world: World, edge_id: str, upstream_id: str, downstream_id: str) -> None:
    """Write an edge as it stands after staging, as far as the search for cycles goes."""
    put(world, flow_key(f"edge:{edge_id}"), downstream_execution_id=downstream_id)
    world.redis.sadd(flow_key(f"out:{upstream_id}"), edge_id)


def edge(a: ExecutionKeys, b: ExecutionKeys, edge_id: str = "e1", **changes: str) -> dict[str, str]:
    """Return the record of a staged edge."""
    return {
        "edge_id": edge_id,
        "flow_id": FLOW,
        "upstream_execution_id": a.id,
        "downstream_execution_id": b.id,
        "dependency_kind": "success_only",
        "satisfaction_condition": "all_required",
        "data_passing_ref": "",
        "edge_state": "pending",
        "created_at": NOW,
        "created_by": "engine",
        **changes,
    }


def test_staging_an_edge_writes_exactly_this_at_the_callers_time(world: World) -> None:
    a, b = flow_of(world, 2)
    put(world, FLOW_CORE, graph_revision="9", edge_count="4")
    poison(world, FLOW_CORE, keep=("public_flow_state", "graph_revision", "edge_count"))
    with world.changes() as c, nothing_published(world):
        assert stage(world, a, b, edge_id="e1") == [1, "OK", "e1", "10"]
    assert c.removed == {}
    assert c.written == {
        flow_key("edge:e1"): edge(a, b),
        flow_key(f"out:{a.id}"): {"e1"},
        flow_key(f"in:{b.id}"): {"e1"},
        FLOW_CORE: {"graph_revision": "10", "edge_count": "5", "last_mutation_at": NOW},
    }


@pytest.mark.parametrize("now_ms", ["", "yesterday", "1e3"])
def test_kind_reference_and_time_are_stored_as_they_come(world: World, now_ms: str) -> None:
    a, b = flow_of(world, 2)
    assert stage(world, a, b, edge_id="e1", dependency_kind="", data_passing_ref="any", now_ms=now_ms)[:2] == [
        1,
        "OK",
    ]
    expected = edge(a, b, dependency_kind="", data_passing_ref="any", created_at=now_ms)
    assert world.value(flow_key("edge:e1")) == expected
    assert world.value(FLOW_CORE)["last_mutation_at"] == now_ms


def test_two_edges_between_the_same_two_are_two_edges(world: World) -> None:
    a, b = flow_of(world, 2)
    assert [stage(world, a, b, edge_id=edge_id)[3] for edge_id in ("e1", "e2")] == ["3", "4"]
    assert world.value(flow_key(f"out:{a.id}")) == world.value(flow_key(f"in:{b.id}")) == {"e1", "e2"}
    assert world.value(FLOW_CORE)["edge_count"] == "2"


def test_a_flow_without_a_revision_is_at_0(world: World) -> None:
    a, b = flow_of(world, 2)
    world.redis.hdel(FLOW_CORE, "graph_revision", "edge_count")
    assert stage(world, a, b, expected_revision="0")[3] == "1"
    assert world.value(FLOW_CORE)["edge_count"] == "1"


@pytest.mark.parametrize("damaged", ["", "many", "nan"])
def test_a_damaged_revision_that_the_caller_knows_does_not_leave_half_an_edge(world: World, damaged: str) -> None:
    """The reference raises with the edge written and the revision not."""
    a, b = flow_of(world, 2)
    put(world, FLOW_CORE, graph_revision=damaged, edge_count=damaged)
    assert stage(world, a, b)[3] == "1"
    assert world.value(FLOW_CORE)["edge_count"] == "1"


# --- refusals, in their order -------------------------------------------------------------------------------------


def test_an_edge_from_an_execution_to_itself_is_refused_before_the_flow_is_looked_for(world: World) -> None:
    keys = new_keys()
    with world.unchanged():
        assert stage(world, keys, keys, now_ms=UNSET) == [0, "self_referencing_edge"]


@pytest.mark.parametrize("first_absent", ["flow_id", "edge_id", "upstream_id"])
def test_an_edge_from_nothing_to_nothing_is_one_to_itself(world: World, first_absent: str) -> None:
    a, b = flow_of(world, 2)
    with world.unchanged():
        assert stage(world, a, b, **{first_absent: UNSET}) == [0, "self_referencing_edge"]


def test_an_edge_in_an_unknown_flow_is_refused(world: World) -> None:
    with world.unchanged():
        assert stage(world, new_keys(), new_keys(), expected_revision="x") == [0, "flow_not_found"]


@pytest.mark.parametrize("state", ["cancelled", "completed", "failed"])
def test_an_edge_in_a_flow_that_is_over_is_refused(world: World, state: str) -> None:
    create_flow(world)
    put(world, FLOW_CORE, public_flow_state=state)
    with world.unchanged():
        assert stage(world, new_keys(), new_keys(), expected_revision="x") == [0, "flow_already_terminal"]


@pytest.mark.parametrize("expected", ["1", "3", "02", "2.0", " 2", "", UNSET])
def test_another_revision_is_refused_before_the_members_are_looked_at(world: World, expected: Any) -> None:
    flow_of(world, 2)
    with world.unchanged():
        assert stage(world, new_keys(), new_keys(), expected_revision=expected) == [0, "stale_graph_revision"]


@pytest.mark.parametrize("first_absent", ["downstream_id", "dependency_kind", "data_passing_ref"])
def test_arguments_that_end_before_the_revision_do_not_match_it(world: World, first_absent: str) -> None:
    a, b = flow_of(world, 2)
    with world.unchanged():
        assert stage(world, a, b, **{first_absent: UNSET}) == [0, "stale_graph_revision"]


@pytest.mark.parametrize("missing", [0, 1])
def test_both_ends_must_be_members_whatever_the_edges_say(world: World, missing: int) -> None:
    ends = flow_of(world, 2)
    put_edge(world, "back", ends[1].id, ends[0].id)
    put(world, flow_key("edge:e1"), edge_id="e1")
    world.redis.srem(MEMBERS, ends[missing].id)
    with world.unchanged():
        assert stage(world, *ends, edge_id="e1", now_ms=UNSET) == [0, "execution_not_in_flow"]


@pytest.mark.parametrize("length", [2, 3, 5])
def test_an_edge_that_closes_a_cycle_is_refused_even_when_it_exists(world: World, length: int) -> None:
    members = flow_of(world, length)
    for upstream, downstream in itertools.pairwise(members):
        assert stage(world, upstream, downstream)[:2] == [1, "OK"]
    put(world, flow_key("edge:e1"), edge_id="e1")
    with world.unchanged():
        assert stage(world, members[-1], members[0], edge_id="e1", now_ms=UNSET) == [0, "cycle_detected"]


def test_a_cycle_is_found_behind_any_of_several_edges(world: World) -> None:
    a, b, c, d = flow_of(world, 4)
    for upstream, downstream in ((a, b), (a, c), (c, d), (b, d)):
        assert stage(world, upstream, downstream)[:2] == [1, "OK"]
    assert stage(world, d, a) == [0, "cycle_detected"]
    assert stage(world, d, c) == [0, "cycle_detected"]
    assert stage(world, b, c)[:2] == [1, "OK"]


def test_an_existing_edge_is_refused(world: World) -> None:
    a, b = flow_of(world, 2)
    stage(world, a, b, edge_id="e1")
    with world.unchanged():
        assert stage(world, b, a, edge_id="e1") == [0, "cycle_detected"]
        assert stage(world, a, b, edge_id="e1", now_ms=UNSET) == [0, "dependency_already_exists"]


def test_a_repeat_with_the_old_revision_is_refused_as_stale(world: World) -> None:
    a, b = flow_of(world, 2)
    old = revision(world)
    stage(world, a, b, edge_id="e1", expected_revision=old)
    with world.unchanged():
        assert stage(world, a, b, edge_id="e1", expected_revision=old) == [0, "stale_graph_revision"]


def test_an_edge_without_a_time_is_not_half_staged(world: World) -> None:
    a, b = flow_of(world, 2)
    with world.unchanged():
        assert stage(world, a, b, now_ms=UNSET) == [0, "invalid_input", "now_ms must be given, got: nil"]


# --- the search for cycles ----------------------------------------------------------------------------------------


def put_fan(world: World, root: str, size: int) -> None:
    """Lead so many edges from one execution to as many others."""
    with world.redis.pipeline(transaction=False) as pipe:
        for number in range(size):
            pipe.hset(flow_key(f"edge:{number}"), "downstream_execution_id", f"x{number}")
            pipe.sadd(flow_key(f"out:{root}"), str(number))
        pipe.execute()


@pytest.mark.parametrize(("others", "reply"), [(999, [1, "OK"]), (1000, [0, "cycle_detected"])])
def test_a_graph_of_more_than_a_thousand_executions_downstream_counts_as_a_cycle(
    world: World, others: int, reply: list[Any]
) -> None:
    a, b = flow_of(world, 2)
    put_fan(world, b.id, others)
    assert stage(world, a, b, edge_id="new")[:2] == reply


def test_executions_that_are_reached_twice_count_once(world: World) -> None:
    a, b = flow_of(world, 2)
    put_fan(world, b.id, 999)
    for number in range(50):
        put_edge(world, f"again-{number}", "x0", f"x{number}")
    assert stage(world, a, b)[:2] == [1, "OK"]


@pytest.mark.parametrize("downstream", [None, ""])
def test_edges_that_lead_nowhere_are_passed_over(world: World, downstream: str | None) -> None:
    a, b = flow_of(world, 2)
    put_edge(world, "broken", b.id, downstream or "")
    if downstream is None:
        world.redis.delete(flow_key("edge:broken"))
    assert stage(world, a, b)[:2] == [1, "OK"]
