"""Flows: their making, members and end, for clients."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ffsuper.messages import ExecutionId
from ffsuper.store.keys import ExecutionKeys, FlowKeys
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


def create_flow(keys: FlowKeys, kind: str, namespace: str) -> Call[None]:
    """Create a flow without members."""
    return fcall(
        "ff_create_flow",
        (keys.core, keys.members, keys.partition.index("flow_index")),
        (keys.id, kind, namespace, int(time.time() * 1000)),
        lambda _: None,
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


def cancel_flow(keys: FlowKeys, reason: str) -> Call[None]:
    """End a flow; its members are to be cancelled by the caller."""
    return fcall(
        "ff_cancel_flow",
        (keys.core, keys.members, keys.partition.index("flow_index")),
        (keys.id, reason, "cancel_all", int(time.time() * 1000)),
        lambda _: None,
    )


def read_members(keys: FlowKeys) -> Call[list[ExecutionId]]:
    """Read the members, in any order."""
    return Call(("SMEMBERS", keys.members), lambda reply: [ExecutionId(member.decode()) for member in reply])


def read_flow(keys: FlowKeys) -> Call[Mapping[str, str]]:
    """Read the record; empty when there is no such flow."""
    return Call(("HGETALL", keys.core), text_fields)
