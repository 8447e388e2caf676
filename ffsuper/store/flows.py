"""Flows: their making, members and end, for clients; and telling those that wait for a member how it has ended."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ffsuper.errors import StoreError
from ffsuper.messages import ExecutionId
from ffsuper.store.connection import Connection
from ffsuper.store.housekeeping import SCAN_COUNT, Scanned, scanned
from ffsuper.store.keys import ExecutionKeys, FlowKeys
from ffsuper.store.replies import Call, fcall, text_fields
from ffsuper.store.submissions import Submission, create_args


@dataclass(frozen=True, slots=True)
class Completion:
    """A member of a flow that is said to have ended."""

    execution_id: ExecutionId
    flow_id: str


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


class Dispatcher:
    """What the completions actor does in the store."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def dispatch(self, ended: Sequence[tuple[Completion, str]]) -> list[Scanned | StoreError]:
        """Tell some of those that wait for each, from a cursor on."""
        return await self._connection.try_all([dispatch(one, cursor) for one, cursor in ended])


def dispatch(ended: Completion, cursor: str) -> Call[Scanned]:
    """Tell some of those that wait for an execution."""
    keys = FlowKeys(ExecutionKeys.of(ended.execution_id).tag, ended.flow_id)
    args = (ended.execution_id, ended.flow_id, cursor, SCAN_COUNT)
    return fcall("ffsuper_dispatch", (keys.outgoing(ended.execution_id),), args, scanned)


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
