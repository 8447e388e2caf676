"""What the tests of flows share: one flow on partition 7, its calls by name, and children in any state."""

from __future__ import annotations

import uuid
from typing import Any

from ffsuper.store.keys import ExecutionKeys
from tests.lua.executions import create, lane_key
from tests.lua.holders import poison
from tests.lua.suspensions import UNSET, changed, put
from tests.lua.world import Arg, World

FLOW = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
OTHER_FLOW = "550e8400-e29b-41d4-a716-446655440000"
CREATED_AT = 1700000000000
SCORE = CREATED_AT - 3 * 10**12
NOW = "1700000005000"
LATER = "1700000006000"
UPSTREAM_RESULT = "ff:exec:{fp:7}:upstream:result"
FLOW_INDEX = "ff:idx:{fp:7}:flow_index"

CREATE_FLOW: dict[str, Arg] = {"flow_id": FLOW, "flow_kind": "pipeline", "namespace": "ns", "now_ms": "5"}
ADD: dict[str, Arg] = {"flow_id": FLOW, "execution_id": "", "now_ms": "5"}
CANCEL_FLOW: dict[str, Arg] = {
    "flow_id": FLOW,
    "reason": "no longer needed",
    "cancellation_policy": "cancel_all",
    "now_ms": "5",
}
STAGE: dict[str, Arg] = {
    "flow_id": FLOW,
    "edge_id": "",
    "upstream_id": "",
    "downstream_id": "",
    "dependency_kind": "success_only",
    "data_passing_ref": "",
    "expected_revision": "",
    "now_ms": NOW,
}
APPLY: dict[str, Arg] = {
    "flow_id": FLOW,
    "edge_id": "e1",
    "upstream_id": "upstream",
    "graph_revision": "12",
    "dependency_kind": "success_only",
    "data_passing_ref": "",
    "now_ms": NOW,
}
RESOLVE: dict[str, Arg] = {"edge_id": "e1", "outcome": "success", "now_ms": LATER}
PROMOTE: dict[str, Arg] = {"execution_id": "", "now_ms": LATER}


def flow_key(part: str) -> str:
    """Return a key of the flow: ``core``, ``members``, ``edge:<edge id>``, ``out:<execution id>``, …"""
    return f"ff:flow:{{fp:7}}:{FLOW}:{part}"


FLOW_CORE = flow_key("core")
MEMBERS = flow_key("members")


def create_flow(world: World, **changes: Any) -> Any:
    """Call ff_create_flow."""
    return world.call("ff_create_flow", [FLOW_CORE, MEMBERS, FLOW_INDEX], changed(CREATE_FLOW, changes))


def add(world: World, keys: ExecutionKeys, **changes: Any) -> Any:
    """Call ff_add_execution_to_flow."""
    args = changed(ADD, {"execution_id": keys.id, **changes})
    return world.call("ff_add_execution_to_flow", [FLOW_CORE, MEMBERS, FLOW_INDEX, keys.core], args)


def cancel_flow(world: World, **changes: Any) -> Any:
    """Call ff_cancel_flow."""
    return world.call("ff_cancel_flow", [FLOW_CORE, MEMBERS, FLOW_INDEX], changed(CANCEL_FLOW, changes))


def stage(world: World, upstream: ExecutionKeys, downstream: ExecutionKeys, **changes: Any) -> Any:
    """Call ff_stage_dependency_edge with a new edge id, by default for the flow's present revision."""
    args = {
        "edge_id": str(uuid.uuid4()),
        "upstream_id": upstream.id,
        "downstream_id": downstream.id,
        "expected_revision": revision(world),
        **changes,
    }
    edge_id = args["edge_id"] if isinstance(args["edge_id"], str) else "unset"
    keys = [
        FLOW_CORE,
        MEMBERS,
        flow_key(f"edge:{edge_id}"),
        flow_key(f"out:{upstream.id}"),
        flow_key(f"in:{downstream.id}"),
        flow_key(f"grant:{edge_id}"),
    ]
    return world.call("ff_stage_dependency_edge", keys, changed(STAGE, args))


def revision(world: World) -> str:
    """Return the flow's revision, empty without one."""
    return str((world.value(FLOW_CORE) or {}).get("graph_revision", ""))


def flow_of(world: World, size: int) -> list[ExecutionKeys]:
    """Create a flow with so many new members."""
    create_flow(world)
    members = [child(world) for _ in range(size)]
    for keys in members:
        assert add(world, keys)[:2] == [1, "OK"]
    return members


def child(world: World, **core: str) -> ExecutionKeys:
    """Create an execution of priority 3, some time ago, then set fields of its record."""
    keys = create(world)
    put(world, keys.core, **{"created_at": str(CREATED_AT), **core})
    return keys


def dep_key(keys: ExecutionKeys, edge_id: str = "e1") -> str:
    """Return the key of an edge's record with the child."""
    return keys.part(f"dep:{edge_id}")


def apply(world: World, keys: ExecutionKeys, edge_id: Any = "e1", **changes: Any) -> Any:
    """Call ff_apply_dependency_to_child; the keys are those of e1 when the edge id is UNSET."""
    call_keys = [
        keys.core,
        *(keys.part(part) for part in ("deps:meta", "deps:unresolved")),
        dep_key(keys, "e1" if edge_id is UNSET else edge_id),
        lane_key(keys, "eligible"),
        lane_key(keys, "blocked:dependencies"),
        keys.part("deps:all_edges"),
    ]
    return world.call("ff_apply_dependency_to_child", call_keys, changed(APPLY, {"edge_id": edge_id, **changes}))


def waiting(world: World, *edge_ids: str, **changes: Any) -> ExecutionKeys:
    """Create a child that waits for these edges, by default for e1."""
    keys = child(world)
    for edge_id in edge_ids or ("e1",):
        assert apply(world, keys, edge_id, **changes)[:2] == [1, "OK"]
    return keys


def resolve_keys(keys: ExecutionKeys, edge_id: str = "e1") -> list[str]:
    """Return the keys of ff_resolve_dependency, for attempt 0."""
    return [
        keys.core,
        *(keys.part(part) for part in ("deps:meta", "deps:unresolved", f"dep:{edge_id}")),
        *(lane_key(keys, index) for index in ("eligible", "terminal", "blocked:dependencies")),
        keys.attempt(0),
        keys.stream_meta(0),
        keys.part("payload"),
        UPSTREAM_RESULT,
    ]


def resolve(world: World, keys: ExecutionKeys, edge_id: Any = "e1", outcome: Any = "success", **changes: Any) -> Any:
    """Call ff_resolve_dependency; the keys are those of e1 when the edge id is UNSET."""
    args = changed(RESOLVE, {"edge_id": edge_id, "outcome": outcome, **changes})
    return world.call("ff_resolve_dependency", resolve_keys(keys, "e1" if edge_id is UNSET else edge_id), args)


def poison_edge(world: World, keys: ExecutionKeys, edge_id: str = "e1") -> None:
    """Make visible what is written to the edge and the counters."""
    poison(world, dep_key(keys, edge_id), keep=("state", "data_passing_ref"))
    poison(world, keys.part("deps:meta"), keep=("unsatisfied_required_count", "impossible_required_count"))


def edge_writes(keys: ExecutionKeys, state: str, **counts: str) -> dict[str, Any]:
    """Return what the verdict on e1 writes to the edge and the counters."""
    return {
        dep_key(keys): {"state": state, "last_resolved_at": LATER},
        keys.part("deps:meta"): {**counts, "last_dependency_update_at": LATER},
    }


def evaluate(world: World, keys: ExecutionKeys) -> Any:
    """Call ff_evaluate_flow_eligibility."""
    return world.call("ff_evaluate_flow_eligibility", [keys.core, keys.part("deps:meta")], [])


def promote_blocked(world: World, keys: ExecutionKeys, **changes: Any) -> Any:
    """Call ff_promote_blocked_to_eligible."""
    call_keys = [
        keys.core,
        lane_key(keys, "blocked:dependencies"),
        lane_key(keys, "eligible"),
        keys.part("deps:meta"),
        keys.part("deps:unresolved"),
    ]
    args = changed(PROMOTE, {"execution_id": keys.id, **changes})
    return world.call("ff_promote_blocked_to_eligible", call_keys, args)


def replay_keys(keys: ExecutionKeys, *edge_ids: str) -> list[str]:
    """Return the keys of ff_replay_execution for a skipped member of a flow."""
    return [
        keys.core,
        lane_key(keys, "terminal"),
        lane_key(keys, "eligible"),
        keys.part("lease:history"),
        lane_key(keys, "blocked:dependencies"),
        keys.part("deps:meta"),
        keys.part("deps:unresolved"),
        *(dep_key(keys, edge_id) for edge_id in edge_ids),
    ]


def replay(world: World, keys: ExecutionKeys) -> Any:
    """Call ff_replay_execution as for an execution that was not skipped."""
    return world.call("ff_replay_execution", replay_keys(keys)[:4], [keys.id, "5"])


def replay_skipped(world: World, keys: ExecutionKeys, *edge_ids: str) -> Any:
    """Call ff_replay_execution as for a skipped member of a flow with these edges."""
    return world.call("ff_replay_execution", replay_keys(keys, *edge_ids), [keys.id, "5", *edge_ids])
