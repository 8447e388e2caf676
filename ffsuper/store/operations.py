"""What operators do to executions: another priority, running again, taking a lease away."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from ffsuper.messages import ExecutionId, LaneId
from ffsuper.store.keys import ExecutionKeys, FlowKeys
from ffsuper.store.replies import Call, Part, Status, fcall


def change_priority(execution_id: ExecutionId, lane: LaneId, priority: int) -> Call[None]:
    """Give an eligible execution another priority."""
    keys = ExecutionKeys.of(execution_id)
    touched = (keys.core, keys.partition.lane(lane, "eligible"))
    return fcall("ff_change_priority", touched, (execution_id, priority), lambda _: None)


def read_incoming(execution_id: ExecutionId, flow_id: str) -> Call[list[str]]:
    """Read the edges that lead to a member of a flow, sorted."""
    key = FlowKeys(ExecutionKeys.of(execution_id).tag, flow_id).incoming(execution_id)
    return Call(("SMEMBERS", key), lambda reply: sorted(edge.decode(errors="replace") for edge in reply))


def is_skipped_member(core: Mapping[str, str]) -> bool:
    """Tell from its record whether an execution was skipped by its flow."""
    return core.get("terminal_outcome") == "skipped" and bool(core.get("flow_id"))


def replay(execution_id: ExecutionId, core: Mapping[str, str], edges: Sequence[str]) -> Call[str]:
    """Let an ended execution run again; tells its public state.

    Args:
        core: its record as just read.
        edges: of a skipped member of a flow: those that lead to it.
    """
    keys, lane = ExecutionKeys.of(execution_id), LaneId(core.get("lane_id", "default"))
    terminal, eligible, blocked = (
        keys.partition.lane(lane, name) for name in ("terminal", "eligible", "blocked:dependencies")
    )
    touched = [keys.core, terminal, eligible, keys.part("lease:history")]
    if is_skipped_member(core):
        touched += [blocked, keys.part("deps:meta"), keys.part("deps:unresolved")]
        touched += [keys.part(f"dep:{edge}") for edge in edges]
    args: tuple[Part, ...] = (execution_id, int(time.time() * 1000), *edges)

    def state(status: Status) -> str:
        return "waiting_children" if status.number(0) else "waiting"

    return fcall("ff_replay_execution", tuple(touched), args, state)


def revoke(execution_id: ExecutionId, instance_id: str) -> Call[tuple[str, str, str]]:
    """Take a lease away from its holder; tells ``revoked`` with lease id and epoch, or why there was no need."""
    keys = ExecutionKeys.of(execution_id)
    touched = (
        *(keys.core, keys.part("lease:current"), keys.part("lease:history")),
        *(keys.partition.index("lease_expiry"), keys.partition.worker_leases(instance_id)),
    )
    return fcall(
        "ff_revoke_lease",
        touched,
        (execution_id, "", "operator_revoke"),
        lambda status: (status.text(0), status.text(1), status.text(2)),
    )
