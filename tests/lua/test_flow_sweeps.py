"""ffsuper_add_member, ffsuper_dispatch, ffsuper_resolve_blocked and ffsuper_summarize_flows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ffsuper.messages import ExecutionId
from ffsuper.sansio.partition import PartitionCounts
from ffsuper.store.flows import Completion, Edge, add_member, cancel_flow, create_flow, dispatch
from ffsuper.store.keys import ExecutionKeys, FlowKeys
from ffsuper.store.replies import Call
from ffsuper.store.submissions import Submission
from tests.fakes import LANE
from tests.lua.executions import claim, lane_key, new_keys
from tests.lua.holders import cancel, complete, fail, published
from tests.lua.suspensions import put
from tests.lua.world import World, decoded

FLOW = FlowKeys("{fp:7}", "6ba7b810-9dad-11d1-80b4-00c04fd430c8")
COUNTS = PartitionCounts()


def carry_out(world: World, call: Call[Any]) -> Any:
    return decoded(world.command(*call.command))


@pytest.fixture
def flow(world: World) -> World:
    carry_out(world, create_flow(FLOW, "test", "default"))
    return world


def edge(upstream: ExecutionKeys, downstream: ExecutionKeys, *, passes: bool = False) -> Edge:
    return Edge(f"{upstream.id[-12:]}-{downstream.id[-12:]}", upstream.id, passes)


def member(world: World, *after: ExecutionKeys, passing: ExecutionKeys | None = None) -> ExecutionKeys:
    """Add a member that waits for others."""
    keys = new_keys()
    edges = [edge(one, keys) for one in after] + ([edge(passing, keys, passes=True)] if passing else [])
    reply = add(world, keys, edges)
    assert reply[:2] == [1, "OK"], reply
    return keys


def add(world: World, keys: ExecutionKeys, edges: list[Edge], **changes: Any) -> Any:
    wanted = Submission(execution_id=keys.id, lane=LANE, execution_kind="job", payload=b"own", **changes)
    return carry_out(world, add_member(FLOW, wanted, edges))


def finish(world: World, keys: ExecutionKeys, how: str = "complete") -> None:
    lease = claim(world, keys)
    if how == "complete":
        complete(world, lease, result="result")
    else:
        fail(world, lease, '{"max_retries":0}')


def tell(world: World, keys: ExecutionKeys, cursor: str = "0") -> Any:
    return carry_out(world, dispatch(Completion(keys.id, FLOW.id), cursor))


def outcomes(reply: Any, at: int = 6) -> dict[str, int]:
    assert reply[:2] == [1, "OK"], reply
    return dict(zip(reply[at::2], reply[at + 1 :: 2], strict=True))


def state(world: World, keys: ExecutionKeys) -> str:
    return str(world.value(keys.core)["public_state"])


# --- members ------------------------------------------------------------------------------------------------------


def test_a_member_without_edges_can_run_at_once(flow: World) -> None:
    keys = member(flow)
    assert state(flow, keys) == "waiting"
    assert keys.id in flow.value(lane_key(keys, "eligible"))
    assert flow.value(FLOW.members) == {keys.id}
    assert flow.value(keys.core)["flow_id"] == FLOW.id


def test_a_member_that_waits_is_never_among_the_eligible(flow: World) -> None:
    first, second = member(flow), member(flow)
    keys = member(flow, first, second)
    assert state(flow, keys) == "waiting_children"
    assert keys.id not in flow.value(lane_key(keys, "eligible"))
    assert flow.value(lane_key(keys, "blocked:dependencies")).keys() == {keys.id}
    assert flow.value(keys.part("deps:meta"))["unsatisfied_required_count"] == "2"
    assert flow.value(FLOW.core)["edge_count"] == "2"


def test_adding_the_same_member_again_changes_nothing(flow: World) -> None:
    first = member(flow)
    keys = member(flow, first)
    with flow.unchanged():
        assert add(flow, keys, [edge(first, keys)]) == [1, "ALREADY_SATISFIED", keys.id]


def test_an_upstream_that_has_ended_is_told_at_once(flow: World) -> None:
    done, failed = member(flow), member(flow)
    finish(flow, done)
    finish(flow, failed, "fail")
    assert state(flow, member(flow, done)) == "waiting"
    assert flow.value(member(flow, passing=done).part("payload")) == "result"
    assert state(flow, member(flow, failed)) == "skipped"
    assert state(flow, member(flow, done, failed)) == "skipped"


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("no flow", "flow_not_found"),
        ("cancelled", "flow_already_terminal"),
        ("foreign", "execution_not_in_flow"),
        ("taken", "execution_already_exists"),
        ("edge", "dependency_already_exists"),
        ("policy", "invalid_capabilities"),
        ("delay", "invalid_input"),
    ],
)
def test_a_refused_member_leaves_nothing(flow: World, how: str, code: str) -> None:
    keys, edges, changes = new_keys(), list[Edge](), dict[str, Any]()
    if how == "no flow":
        flow.redis.delete(FLOW.core)
    elif how == "cancelled":
        carry_out(flow, cancel_flow(FLOW, "no"))
    elif how == "foreign":
        edges = [edge(new_keys(), keys)]
    elif how == "edge":
        first = member(flow)
        edges = [edge(first, member(flow, first))]
    elif how == "taken":
        put(flow, keys.core, lifecycle_phase="runnable")
    elif how == "policy":
        changes["policy"] = {"routing_requirements": {"required_capabilities": 5}}
    else:
        changes["delay_until_ms"] = 5
    with flow.unchanged():
        assert add(flow, keys, edges, **changes)[:2] == [0, code]


# --- dispatch -----------------------------------------------------------------------------------------------------


def test_the_end_of_an_upstream_releases_what_waits_for_it(flow: World) -> None:
    top = member(flow)
    plain, fed = member(flow, top), member(flow, passing=top)
    finish(flow, top)
    assert outcomes(tell(flow, top)) == {"satisfied": 2}
    assert [state(flow, one) for one in (plain, fed)] == ["waiting", "waiting"]
    assert [flow.value(one.part("payload")) for one in (plain, fed)] == ["own", "result"]
    assert outcomes(tell(flow, top)) == {"already_resolved": 2}


def test_what_waits_for_several_waits_for_the_last(flow: World) -> None:
    first, second = member(flow), member(flow)
    keys = member(flow, first, second)
    finish(flow, first)
    tell(flow, first)
    assert state(flow, keys) == "waiting_children"
    finish(flow, second)
    tell(flow, second)
    assert state(flow, keys) == "waiting"


def test_a_failure_skips_what_waits_for_it_and_announces_that(flow: World) -> None:
    top = member(flow)
    keys = member(flow, top)
    last = member(flow, keys)
    finish(flow, top, "fail")
    with published(flow) as announced:
        assert outcomes(tell(flow, top)) == {"skipped": 1}
    assert json.loads(announced[0]) == {"execution_id": keys.id, "flow_id": FLOW.id, "outcome": "skipped"}
    assert outcomes(tell(flow, keys)) == {"skipped": 1}
    assert [state(flow, one) for one in (keys, last)] == ["skipped", "skipped"]


@pytest.mark.parametrize("how", ["running", "gone", "replayed"])
def test_nothing_is_told_of_an_upstream_that_has_not_ended(flow: World, how: str) -> None:
    top = member(flow)
    member(flow, top)
    if how == "gone":
        flow.redis.delete(top.core)
    elif how == "replayed":
        put(flow, top.core, lifecycle_phase="terminal", terminal_outcome="none")
    with flow.unchanged():
        assert outcomes(tell(flow, top)) == {"not_ended": 1}


def test_a_wide_fan_out_is_told_page_by_page(flow: World) -> None:
    top = member(flow)
    below = [member(flow, top) for _ in range(600)]
    finish(flow, top)
    reply = tell(flow, top)
    assert reply[2] != "0"
    assert sum(outcomes(reply).values()) < 600
    while reply[2] != "0":
        reply = tell(flow, top, reply[2])
    assert {state(flow, one) for one in below} == {"waiting"}


def test_a_flow_is_summarized_again_when_a_member_ends_anew(flow: World) -> None:
    top = member(flow)
    finish(flow, top)
    summarize(flow)
    assert flow.value("ff:idx:{fp:7}:flow_index") is None
    tell(flow, top)
    assert flow.value("ff:idx:{fp:7}:flow_index") == {FLOW.id}


def test_children_and_edges_that_are_gone_are_counted(flow: World) -> None:
    top = member(flow)
    child, _ = member(flow, top), flow.redis.sadd(FLOW.outgoing(top.id), "nonsense")
    flow.redis.delete(child.core, child.part("dep:" + edge(top, child).id))
    finish(flow, top)
    assert outcomes(tell(flow, top)) == {"child_gone": 1, "invalid_dependency": 1}


# --- the sweep ----------------------------------------------------------------------------------------------------


def look_again(world: World, keys: ExecutionKeys, **page: Any) -> dict[str, int]:
    args = ["-inf", page.get("offset", 0), page.get("limit", 9)]
    return outcomes(world.call("ffsuper_resolve_blocked", [lane_key(keys, "blocked:dependencies")], args), 8)


def test_what_was_not_announced_is_found_by_looking_again(flow: World) -> None:
    top, other = member(flow), member(flow)
    released, waiting = member(flow, top), member(flow, other)
    finish(flow, top)
    assert look_again(flow, released) == {"satisfied": 1, "waits": 1}
    assert [state(flow, one) for one in (released, waiting)] == ["waiting", "waiting_children"]


def test_a_skipped_child_found_by_looking_again_is_announced(flow: World) -> None:
    top = member(flow)
    keys = member(flow, top)
    finish(flow, top, "fail")
    with published(flow) as announced:
        assert look_again(flow, keys) == {"skipped": 1}
    assert keys.id in announced[0]


@pytest.mark.parametrize("counter", ["0", "1"])
def test_one_that_waits_for_nothing_any_more_is_released_whatever_its_counter_says(flow: World, counter: str) -> None:
    keys = member(flow, member(flow))
    flow.redis.delete(keys.part("deps:unresolved"))
    put(flow, keys.part("deps:meta"), unsatisfied_required_count=counter)
    assert look_again(flow, keys) == {"released": 1}
    assert state(flow, keys) == "waiting"


def test_one_whose_upstream_is_gone_waits_and_is_told(flow: World) -> None:
    top = member(flow)
    keys = member(flow, top)
    flow.redis.delete(top.core)
    assert look_again(flow, keys) == {"upstream_gone": 1}
    assert state(flow, keys) == "waiting_children"


@pytest.mark.parametrize("how", ["gone", "eligible", "ended"])
def test_members_of_the_index_that_do_not_wait_leave_it(flow: World, how: str) -> None:
    keys = member(flow, member(flow))
    if how == "gone":
        flow.redis.delete(keys.core)
    elif how == "eligible":
        put(flow, keys.core, eligibility_state="eligible_now")
    else:
        put(flow, keys.core, eligibility_state="not_applicable", lifecycle_phase="terminal")
    assert look_again(flow, keys) == {"cleaned": 1}
    assert flow.value(lane_key(keys, "blocked:dependencies")) is None


# --- summaries ----------------------------------------------------------------------------------------------------


def summarize(world: World) -> dict[str, int]:
    return outcomes(world.call("ffsuper_summarize_flows", ["ff:idx:{fp:7}:flow_index"], [0, 100]))


def test_a_summary_counts_the_members_by_their_states(flow: World) -> None:
    done, running, waiting = member(flow), member(flow), member(flow)
    finish(flow, done)
    claim(flow, running)
    member(flow, waiting)
    assert summarize(flow) == {"running": 1}
    summary = flow.value("ff:flow:{fp:7}:" + FLOW.id + ":summary")
    assert abs(int(summary.pop("last_summary_update_at")) - flow.now_ms()) < 1_000
    zeros = ("failed", "cancelled", "expired", "skipped", "suspended", "delayed", "rate_limited")
    assert summary == {
        "total_members": "4",
        "sampled_members": "4",
        "members_completed": "1",
        "members_active": "1",
        "members_waiting": "1",
        "members_waiting_children": "1",
        "public_flow_state": "running",
        **{f"members_{name}": "0" for name in zeros},
    }


@pytest.mark.parametrize(
    ("how", "expected", "is_over"),
    [
        ("complete", "completed", True),
        ("fail", "failed", True),
        ("cancel", "failed", True),
        ("wait", "open", False),
        ("block", "blocked", False),
    ],
)
def test_a_flow_whose_members_have_all_ended_leaves_the_index(
    flow: World, how: str, expected: str, is_over: bool
) -> None:
    keys = member(flow)
    if how in ("complete", "fail"):
        finish(flow, keys, how)
    elif how == "cancel":
        cancel(flow, keys)
    elif how == "block":
        put(flow, keys.core, public_state="rate_limited")
    assert summarize(flow) == {expected: 1}
    assert (flow.value("ff:idx:{fp:7}:flow_index") is None) == is_over


def test_flows_that_are_gone_leave_the_index_and_empty_ones_stay(flow: World) -> None:
    flow.redis.sadd("ff:idx:{fp:7}:flow_index", "gone")
    assert summarize(flow) == {"gone": 1, "empty": 1}
    assert flow.value("ff:idx:{fp:7}:flow_index") == {FLOW.id}


def test_members_that_are_gone_are_unknown(flow: World) -> None:
    flow.redis.sadd(FLOW.members, ExecutionId("{fp:7}:gone"))
    assert summarize(flow) == {"open": 1}
