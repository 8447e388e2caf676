"""ffsuper_add_member, ffsuper_settle, ffsuper_count_members and ffsuper_write_summary."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from ffsuper.messages import ExecutionId
from ffsuper.sansio.partition import PartitionCounts
from ffsuper.store.dependencies import LIMIT, Settled, Step, Work, count, settle, summarize, work_out
from ffsuper.store.flows import Edge, add_member, cancel_flow, create_flow
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


def settled(world: World, work: Work) -> Settled:
    call = settle(work)
    return call.parse(world.command(*call.command))


def tell(world: World, keys: ExecutionKeys) -> dict[str, int]:
    """Tell those that wait for an execution how it has ended, and all that comes of it."""
    (work,) = work_out([keys.id])
    return settle_all(world, work)


def settle_all(world: World, work: Work) -> dict[str, int]:
    """Settle until nothing is left; return what became of everything."""
    outcomes = Counter[str]()
    while work.steps:
        result = settled(world, work)
        assert not result.failed, result
        outcomes.update(result.outcomes)
        work = Work(work.key, result.left)
    return dict(outcomes)


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
    assert tell(flow, top) == {"satisfied": 2}
    assert [state(flow, one) for one in (plain, fed)] == ["waiting", "waiting"]
    assert [flow.value(one.part("payload")) for one in (plain, fed)] == ["own", "result"]
    assert tell(flow, top) == {"already_resolved": 2}


def test_what_waits_for_several_waits_for_the_last(flow: World) -> None:
    first, second = member(flow), member(flow)
    keys = member(flow, first, second)
    finish(flow, first)
    tell(flow, first)
    assert state(flow, keys) == "waiting_children"
    finish(flow, second)
    tell(flow, second)
    assert state(flow, keys) == "waiting"


def test_a_failure_skips_what_waits_for_it_and_what_waits_for_that(flow: World) -> None:
    top, other = member(flow), member(flow)
    below = [member(flow, top), member(flow, top)]
    last = member(flow, other, *below)
    finish(flow, top, "fail")
    with published(flow) as announced:
        assert tell(flow, top) == {"skipped": 3, "impossible": 1}
    assert announced == []
    assert [state(flow, one) for one in (*below, last, other)] == ["skipped", "skipped", "skipped", "waiting"]


@pytest.mark.parametrize("how", ["running", "gone", "replayed"])
def test_nothing_is_told_of_an_upstream_that_has_not_ended(flow: World, how: str) -> None:
    top = member(flow)
    member(flow, top)
    if how == "gone":
        flow.redis.delete(top.core)
    elif how == "replayed":
        put(flow, top.core, lifecycle_phase="terminal", terminal_outcome="none")
    with flow.unchanged():
        assert tell(flow, top) == {"not_ended": 1}


def test_a_wide_fan_out_is_told_in_bounded_calls(flow: World) -> None:
    top = member(flow)
    below = [member(flow, top) for _ in range(6 * LIMIT)]
    last = [member(flow, one) for one in below[:50]]
    finish(flow, top, "fail")
    (work,) = work_out([top.id])
    while work.steps:
        result = settled(flow, work)
        # A page of a set may be a bit longer than what was asked for.
        assert sum(result.outcomes.values()) < 2 * LIMIT
        assert len(result.left) < 2 * LIMIT
        work = Work(work.key, result.left)
    assert {state(flow, one) for one in (*below, *last)} == {"skipped"}


def test_a_flow_whose_member_ends_anew_is_in_the_index_again(flow: World) -> None:
    top = member(flow)
    finish(flow, top)
    flow.redis.delete("ff:idx:{fp:7}:flow_index")
    tell(flow, top)
    assert flow.value("ff:idx:{fp:7}:flow_index") == {FLOW.id}


def test_one_that_cannot_be_told_hides_no_other(flow: World) -> None:
    top = member(flow)
    below = [member(flow, top) for _ in range(5)]
    finish(flow, top)
    flow.redis.delete(below[2].part("deps:meta"))
    flow.redis.set(below[2].part("deps:meta"), "x")
    (work,) = work_out([top.id])
    result = settled(flow, work)
    assert (result.failed, result.example, result.outcomes) == (1, below[2].id, {"satisfied": 4})
    assert "WRONGTYPE" in result.why


def test_children_and_edges_that_are_gone_are_counted(flow: World) -> None:
    top = member(flow)
    child, _ = member(flow, top), flow.redis.sadd(f"ff:flow:{{fp:7}}:{FLOW.id}:out:{top.id}", "nonsense")
    flow.redis.delete(child.core, child.part("dep:" + edge(top, child).id))
    finish(flow, top)
    assert tell(flow, top) == {"child_gone": 1, "invalid_dependency": 1}


# --- the sweep ----------------------------------------------------------------------------------------------------


def look_again(world: World, *keys: ExecutionKeys) -> dict[str, int]:
    steps = [Step("in", one.id) for one in keys]
    return settle_all(world, Work(lane_key(keys[0], "blocked:dependencies"), steps))


def test_what_was_not_announced_is_found_by_looking_again(flow: World) -> None:
    top, other = member(flow), member(flow)
    released, waiting = member(flow, top), member(flow, other)
    finish(flow, top)
    assert look_again(flow, released, waiting) == {"satisfied": 1}
    assert [state(flow, one) for one in (released, waiting)] == ["waiting", "waiting_children"]


def test_what_waits_for_a_child_that_is_found_to_be_skipped_is_skipped_with_it(flow: World) -> None:
    top = member(flow)
    keys = member(flow, top)
    last = member(flow, keys)
    finish(flow, top, "fail")
    assert look_again(flow, keys) == {"skipped": 2}
    assert state(flow, last) == "skipped"


def test_a_cascade_that_broke_off_is_found_by_looking_again(flow: World) -> None:
    top = member(flow)
    keys = member(flow, top)
    last = member(flow, keys)
    put(flow, keys.core, lifecycle_phase="terminal", terminal_outcome="skipped", public_state="skipped")
    assert look_again(flow, last) == {"skipped": 1}


def test_many_open_edges_hide_none_and_are_looked_at_in_bounded_calls(flow: World) -> None:
    tops = [member(flow) for _ in range(4 * LIMIT)]
    keys = member(flow, *tops)
    for one in tops[1:]:
        put(flow, one.core, lifecycle_phase="terminal", terminal_outcome="success")
    work = Work(lane_key(keys, "blocked:dependencies"), [Step("in", keys.id)])
    assert sum(settled(flow, work).outcomes.values()) < 2 * LIMIT
    settle_all(flow, work)
    assert flow.value(keys.part("deps:meta"))["unsatisfied_required_count"] == "1"
    assert state(flow, keys) == "waiting_children"
    finish(flow, tops[0])
    assert look_again(flow, keys) == {"satisfied": 1}
    assert state(flow, keys) == "waiting"


@pytest.mark.parametrize("counter", ["0", "-1", "2"])
def test_one_that_waits_for_nothing_any_more_is_released(flow: World, counter: str) -> None:
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


def test_members_of_the_index_that_are_gone_or_not_blocked_leave_it(flow: World) -> None:
    top = member(flow)
    gone, released = member(flow, top), member(flow, top)
    flow.redis.delete(gone.core)
    put(flow, released.core, eligibility_state="eligible_now")
    assert look_again(flow, gone, released) == {"cleaned": 2}
    assert flow.value(lane_key(gone, "blocked:dependencies")) is None


# --- summaries ----------------------------------------------------------------------------------------------------


def summed_up(world: World, flow: FlowKeys = FLOW) -> str:
    """Write the flow's summary; return its state, and whether the flow is over."""
    states, cursor = Counter[str](), ""
    while cursor != "0":
        call = count(flow, cursor or "0")
        page = call.parse(world.command(*call.command))
        states.update(page.counts)
        cursor = page.cursor
    if not page.total:
        return "nothing to write"
    told = carry_out(world, summarize(flow, states))[2]
    return f"{world.value(flow.summary)['public_flow_state']}, {told}"


def test_a_summary_counts_the_members_by_their_states(flow: World) -> None:
    done, running, waiting = member(flow), member(flow), member(flow)
    finish(flow, done)
    claim(flow, running)
    member(flow, waiting)
    assert summed_up(flow) == "running, going_on"
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
    assert summed_up(flow) == f"{expected}, {'over' if is_over else 'going_on'}"
    assert (flow.value("ff:idx:{fp:7}:flow_index") is None) == is_over


def test_flows_that_are_gone_leave_the_index_and_empty_ones_stay(flow: World) -> None:
    gone = FlowKeys("{fp:7}", "gone")
    flow.redis.sadd("ff:idx:{fp:7}:flow_index", gone.id)
    assert {summed_up(flow), summed_up(flow, gone)} == {"nothing to write"}
    assert flow.value("ff:idx:{fp:7}:flow_index") == {FLOW.id}


def test_members_that_are_gone_keep_no_flow_from_ending(flow: World) -> None:
    done = member(flow)
    finish(flow, done)
    flow.redis.sadd(FLOW.members, ExecutionId("{fp:7}:gone"))
    assert summed_up(flow) == "completed, over"


def test_all_members_of_a_large_flow_are_counted_and_it_leaves_the_index(flow: World) -> None:
    members = [member(flow) for _ in range(1_500)]
    for one in members:
        put(flow, one.core, lifecycle_phase="terminal", terminal_outcome="success", public_state="completed")
    assert summed_up(flow) == "completed, over"
    assert flow.value(FLOW.summary)["members_completed"] == "1500"


def test_a_flow_that_has_grown_while_it_was_counted_stays_in_the_index(flow: World) -> None:
    finish(flow, member(flow))
    member(flow)
    assert carry_out(flow, summarize(FLOW, {"completed": 1}))[2] == "going_on"
    assert flow.value("ff:idx:{fp:7}:flow_index") == {FLOW.id}
