"""Flows: their making, members and end, for clients."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ffsuper.messages import ExecutionId, LaneId
from ffsuper.store.keys import ExecutionKeys, FlowKeys, read_id
from ffsuper.store.replies import Call, fcall, text_fields
from ffsuper.store.submissions import Submission, create_args


@dataclass(frozen=True, slots=True)
class Edge:
    """What a new member waits for.

    Attributes:
        upstream: a member that has to complete first.
        passes_result: whether its result becomes the new member's payload.
    """

    id: str
    upstream: ExecutionId
    passes_result: bool


def create_flow(keys: FlowKeys, kind: str, namespace: str) -> Call[bool]:
    """Create a flow without members; False when there is one already."""
    return fcall(
        "ff_create_flow",
        (keys.core, keys.members, keys.partition.index("flow_index")),
        (keys.id, kind, namespace, int(time.time() * 1000)),
        lambda status: status.word == "OK",
    )


def add_member(keys: FlowKeys, member: Submission, edges: Sequence[Edge]) -> Call[ExecutionId]:
    """Create an execution as a member of a flow, with all that it waits for, at once; harmless when repeated."""
    at = ExecutionKeys.of(member.execution_id)
    partition = at.partition
    return fcall(
        "ffsuper_add_member",
        (
            *(keys.core, keys.members, partition.index("flow_index")),
            *(at.core, at.part("payload"), at.part("policy"), at.part("tags")),
            *(partition.lane(member.lane, "eligible"), partition.index("execution_deadline")),
            partition.index("all_executions"),
        ),
        (
            *create_args(member),
            keys.id,
            *(part for edge in edges for part in (edge.id, edge.upstream, "result" if edge.passes_result else "")),
        ),
        lambda status: ExecutionId(status.text(0)),
    )


def add_existing(keys: FlowKeys, execution_id: ExecutionId) -> Call[tuple[bool, int]]:
    """Make an execution a member; tells whether it was none, and how many there are."""
    touched = (keys.core, keys.members, keys.partition.index("flow_index"), ExecutionKeys.of(execution_id).core)
    return fcall(
        "ff_add_execution_to_flow",
        touched,
        (keys.id, execution_id, int(time.time() * 1000)),
        lambda status: (status.word == "OK", status.number(1)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    """An edge between two members, in the protocol's two steps.

    Attributes:
        kind: stored only.
        passes: what is passed on, ``result`` for instance; empty for nothing.
        revision: the flow's graph revision, before it is staged or after.
    """

    id: str
    upstream: ExecutionId
    downstream: ExecutionId
    kind: str
    passes: str
    revision: int


def stage_edge(keys: FlowKeys, edge: Dependency) -> Call[int]:
    """Add an edge to the graph, of which the child does not know yet; tells the new revision."""
    return fcall(
        "ff_stage_dependency_edge",
        (
            *(keys.core, keys.members, keys.edge(edge.id), keys.outgoing(edge.upstream)),
            *(keys.incoming(edge.downstream), keys.grant(edge.id)),
        ),
        (
            *(keys.id, edge.id, edge.upstream, edge.downstream, edge.kind, edge.passes, edge.revision),
            int(time.time() * 1000),
        ),
        lambda status: status.number(1),
    )


def apply_edge(keys: FlowKeys, edge: Dependency, lane: LaneId) -> Call[int | None]:
    """Let the child wait for an edge; tells for how many it waits, None when it did wait for this one."""
    at = ExecutionKeys.of(edge.downstream)
    return fcall(
        "ff_apply_dependency_to_child",
        (
            *(at.core, at.part("deps:meta"), at.part("deps:unresolved"), at.part(f"dep:{edge.id}")),
            *(at.partition.lane(lane, "eligible"), at.partition.lane(lane, "blocked:dependencies")),
            at.part("deps:all_edges"),
        ),
        (keys.id, edge.id, edge.upstream, edge.revision, edge.kind, edge.passes, int(time.time() * 1000)),
        lambda status: None if status.text(0) == "already_applied" else status.number(0),
    )


def cancel_flow(keys: FlowKeys, reason: str, policy: str = "cancel_all") -> Call[list[ExecutionId]]:
    """End a flow; tells its members, in any order, which the caller has to cancel if that is the policy."""
    return fcall(
        "ff_cancel_flow",
        (keys.core, keys.members, keys.partition.index("flow_index")),
        (keys.id, reason, policy, int(time.time() * 1000)),
        lambda status: members_of(status.fields[1:]),
    )


def read_members(keys: FlowKeys) -> Call[list[ExecutionId]]:
    """Read the members, in any order."""
    return Call(("SMEMBERS", keys.members), members_of)


def members_of(found: Iterable[bytes]) -> list[ExecutionId]:
    """Return the members, without what can be none."""
    return [member for member in map(read_id, found) if member is not None]


def read_flow(keys: FlowKeys) -> Call[Mapping[str, str]]:
    """Read the record; empty when there is no such flow."""
    return Call(("HGETALL", keys.core), text_fields)
