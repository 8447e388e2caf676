"""ff_create_flow, ff_add_execution_to_flow and ff_cancel_flow: protocol 09, section 2. Edges: test_flow_edge.py."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lua.executions import new_keys
from tests.lua.flows import (
    ADD,
    FLOW,
    FLOW_CORE,
    FLOW_INDEX,
    MEMBERS,
    OTHER_FLOW,
    add,
    cancel_flow,
    child,
    create_flow,
    flow_of,
)
from tests.lua.holders import poison, since
from tests.lua.suspensions import UNSET, changed, nothing_published, put
from tests.lua.world import World

DIFFERENT_FLOW = f"already_member_of_different_flow:{OTHER_FLOW}"
ENDED_FLOWS = ["cancelled", "completed", "failed"]


# --- create -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("now_ms", ["5", "", "soon", UNSET])
def test_creating_a_flow_writes_exactly_this_at_the_servers_time(world: World, now_ms: Any) -> None:
    before = world.now_ms()
    with world.changes() as c, nothing_published(world):
        assert create_flow(world, now_ms=now_ms) == [1, "OK", FLOW]
    now = since(before, world, c.written[FLOW_CORE]["created_at"])
    assert c.removed == {}
    assert c.written == {
        FLOW_CORE: {
            "flow_id": FLOW,
            "flow_kind": "pipeline",
            "namespace": "ns",
            "graph_revision": "0",
            "node_count": "0",
            "edge_count": "0",
            "public_flow_state": "open",
            "created_at": now,
            "last_mutation_at": now,
        },
        FLOW_INDEX: {FLOW},
    }


def test_kind_and_namespace_may_be_empty(world: World) -> None:
    assert create_flow(world, flow_kind="", namespace="") == [1, "OK", FLOW]
    assert (world.value(FLOW_CORE)["flow_kind"], world.value(FLOW_CORE)["namespace"]) == ("", "")


@pytest.mark.parametrize("flow_kind", ["other", UNSET])
def test_a_repeated_create_changes_nothing(world: World, flow_kind: Any) -> None:
    create_flow(world)
    with world.unchanged():
        assert create_flow(world, flow_kind=flow_kind) == [1, "ALREADY_SATISFIED", FLOW]


def test_a_repeated_create_puts_even_a_cancelled_flow_back_into_the_index(world: World) -> None:
    flow_of(world, 1)
    cancel_flow(world)
    world.redis.srem(FLOW_INDEX, FLOW)
    with world.changes() as c:
        assert create_flow(world) == [1, "ALREADY_SATISFIED", FLOW]
    assert (c.written, c.removed) == ({FLOW_INDEX: {FLOW}}, {})


@pytest.mark.parametrize("first_absent", ["flow_id", "flow_kind", "namespace"])
def test_a_flow_without_an_id_a_kind_or_a_namespace_is_not_left_in_the_index_alone(
    world: World, first_absent: str
) -> None:
    with world.unchanged():
        reply = create_flow(world, **{first_absent: UNSET})
        assert reply == [0, "invalid_input", f"{first_absent} must be given, got: nil"]


# --- add ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("now_ms", ["5", "soon", UNSET])
def test_adding_a_member_writes_exactly_this(world: World, now_ms: Any) -> None:
    flow_of(world, 2)
    keys = child(world)
    poison(world, FLOW_CORE, keep=("public_flow_state", "node_count", "graph_revision"))
    poison(world, keys.core, keep=("flow_id",))
    world.redis.srem(FLOW_INDEX, FLOW)
    before = world.now_ms()
    with world.changes() as c, nothing_published(world):
        assert add(world, keys, now_ms=now_ms) == [1, "OK", keys.id, "3"]
    now = since(before, world, c.written[FLOW_CORE]["last_mutation_at"])
    assert c.removed == {}
    assert c.written == {
        FLOW_CORE: {"node_count": "3", "graph_revision": "3", "last_mutation_at": now},
        MEMBERS: {keys.id},
        FLOW_INDEX: {FLOW},
        keys.core: {"flow_id": FLOW},
    }


def test_members_and_revisions_are_counted_apart(world: World) -> None:
    flow_of(world, 1)
    put(world, FLOW_CORE, graph_revision="9")
    keys = child(world)
    assert add(world, keys) == [1, "OK", keys.id, "2"]
    assert world.value(FLOW_CORE)["graph_revision"] == "10"


@pytest.mark.parametrize("phase", ["active", "terminal", "suspended"])
def test_an_execution_is_added_whatever_its_state(world: World, phase: str) -> None:
    create_flow(world)
    keys = child(world, lifecycle_phase=phase)
    assert add(world, keys) == [1, "OK", keys.id, "1"]


def test_a_repeated_add_changes_nothing(world: World) -> None:
    first, _ = flow_of(world, 2)
    with world.unchanged():
        assert add(world, first) == [1, "ALREADY_SATISFIED", first.id, "2"]


def test_a_repeated_add_stamps_the_flow_on_the_execution_again_and_counts_nothing(world: World) -> None:
    (keys,) = flow_of(world, 1)
    put(world, keys.core, flow_id="")
    world.redis.srem(FLOW_INDEX, FLOW)
    world.redis.hdel(FLOW_CORE, "node_count")
    with world.changes() as c:
        assert add(world, keys) == [1, "ALREADY_SATISFIED", keys.id, "0"]
    assert (c.written, c.removed) == ({keys.core: {"flow_id": FLOW}, FLOW_INDEX: {FLOW}}, {})


def test_adding_to_an_unknown_flow_is_refused_before_the_execution_is_looked_for(world: World) -> None:
    with world.unchanged():
        assert add(world, new_keys(), execution_id=UNSET) == [0, "flow_not_found"]


@pytest.mark.parametrize("state", ENDED_FLOWS)
def test_adding_to_a_flow_that_is_over_is_refused_before_the_execution_is_looked_for(
    world: World, state: str
) -> None:
    create_flow(world)
    put(world, FLOW_CORE, public_flow_state=state)
    with world.unchanged():
        assert add(world, new_keys(), execution_id=UNSET) == [0, "flow_already_terminal"]


@pytest.mark.parametrize("state", ["", "running", None])
def test_a_flow_in_an_unknown_state_is_open(world: World, state: str | None) -> None:
    create_flow(world)
    put(world, FLOW_CORE, public_flow_state=state or "")
    if state is None:
        world.redis.hdel(FLOW_CORE, "public_flow_state")
    assert add(world, child(world))[:2] == [1, "OK"]
    assert cancel_flow(world)[:2] == [1, "OK"]


def test_adding_an_unknown_execution_is_refused_and_does_not_touch_the_index(world: World) -> None:
    create_flow(world)
    world.redis.srem(FLOW_INDEX, FLOW)
    with world.unchanged():
        assert add(world, new_keys(), flow_id=UNSET) == [0, "execution_not_found"]


@pytest.mark.parametrize("is_member", [True, False])
def test_a_member_of_another_flow_is_refused_with_that_flow_in_the_code_and_the_index_has_this_one_again(
    world: World, is_member: bool
) -> None:
    (keys,) = flow_of(world, 1)
    if not is_member:
        keys = child(world)
    put(world, keys.core, flow_id=OTHER_FLOW)
    world.redis.srem(FLOW_INDEX, FLOW)
    with world.changes() as c:
        assert add(world, keys) == [0, DIFFERENT_FLOW]
    assert (c.written, c.removed) == ({FLOW_INDEX: {FLOW}}, {})


@pytest.mark.parametrize("first_absent", ["flow_id", "execution_id"])
def test_adding_without_an_id_leaves_nothing_half_done(world: World, first_absent: str) -> None:
    create_flow(world)
    world.redis.srem(FLOW_INDEX, FLOW)
    keys = child(world)
    with world.unchanged():
        reply = add(world, keys, **{first_absent: UNSET})
        assert reply == [0, "invalid_input", f"{first_absent} must be given, got: nil"]


def test_the_stock_client_that_passes_three_keys_is_answered_as_far_as_they_go(world: World) -> None:
    keys = child(world)
    three, args = [FLOW_CORE, MEMBERS, FLOW_INDEX], changed(ADD, {"execution_id": keys.id})
    assert world.call("ff_add_execution_to_flow", three, args) == [0, "flow_not_found"]
    create_flow(world)
    with world.unchanged():
        reply = world.call("ff_add_execution_to_flow", three, args)
        assert reply == [0, "invalid_input", "KEYS must be 4, got: 3"]
    put(world, FLOW_CORE, public_flow_state="failed")
    assert world.call("ff_add_execution_to_flow", three, args) == [0, "flow_already_terminal"]


@pytest.mark.parametrize("damaged", ["", "many", "nan"])
def test_damaged_counters_do_not_leave_a_member_half_added(world: World, damaged: str) -> None:
    """The reference raises with the member in the set, which is then there for good and never counted."""
    create_flow(world)
    put(world, FLOW_CORE, node_count=damaged, graph_revision=damaged)
    keys = child(world)
    assert add(world, keys) == [1, "OK", keys.id, "1"]
    assert world.value(FLOW_CORE)["graph_revision"] == "1"


# --- cancel -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("now_ms", ["5", "soon", UNSET])
def test_cancelling_a_flow_writes_its_record_only_and_lists_the_members(world: World, now_ms: Any) -> None:
    members = flow_of(world, 3)
    poison(world, FLOW_CORE, keep=("public_flow_state",))
    before = world.now_ms()
    with world.changes() as c, nothing_published(world):
        status, code, policy, *listed = cancel_flow(world, now_ms=now_ms)
    now = since(before, world, c.written[FLOW_CORE]["cancelled_at"])
    assert (status, code, policy, sorted(listed)) == (1, "OK", "cancel_all", sorted(keys.id for keys in members))
    assert c.removed == {}
    assert c.written == {
        FLOW_CORE: {
            "public_flow_state": "cancelled",
            "cancelled_at": now,
            "cancel_reason": "no longer needed",
            "cancellation_policy": "cancel_all",
            "last_mutation_at": now,
        }
    }


@pytest.mark.parametrize("policy", ["", "let_active_finish"])
def test_cancelling_an_empty_flow_lists_nobody_and_takes_any_policy(world: World, policy: str) -> None:
    create_flow(world)
    assert cancel_flow(world, reason="", cancellation_policy=policy) == [1, "OK", policy]
    core = world.value(FLOW_CORE)
    assert (core["cancel_reason"], core["cancellation_policy"]) == ("", policy)


def test_a_flow_of_more_members_than_lua_returns_is_cancelled_with_all_of_them(world: World) -> None:
    create_flow(world)
    members = {f"execution-{number}" for number in range(20_000)}
    world.redis.sadd(MEMBERS, *members)
    assert set(cancel_flow(world)[3:]) == members


def test_cancelling_an_unknown_flow_is_refused(world: World) -> None:
    with world.unchanged():
        assert cancel_flow(world, reason=UNSET) == [0, "flow_not_found"]


@pytest.mark.parametrize("state", ENDED_FLOWS)
def test_cancelling_a_flow_that_is_over_is_refused(world: World, state: str) -> None:
    create_flow(world)
    put(world, FLOW_CORE, public_flow_state=state)
    with world.unchanged():
        assert cancel_flow(world, reason=UNSET) == [0, "flow_already_terminal"]


def test_a_repeated_cancel_is_refused(world: World) -> None:
    flow_of(world, 1)
    cancel_flow(world)
    with world.unchanged():
        assert cancel_flow(world, reason="again") == [0, "flow_already_terminal"]


@pytest.mark.parametrize(
    ("first_absent", "named"),
    [("flow_id", "reason"), ("reason", "reason"), ("cancellation_policy", "cancellation_policy")],
)
def test_cancelling_without_a_reason_or_a_policy_is_refused(world: World, first_absent: str, named: str) -> None:
    flow_of(world, 1)
    with world.unchanged():
        reply = cancel_flow(world, **{first_absent: UNSET})
        assert reply == [0, "invalid_input", f"{named} must be given, got: nil"]
