"""What the engine does about flows: it settles dependencies and keeps summaries, in calls of bounded length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ffsuper.errors import StoreError
from ffsuper.messages import ExecutionId
from ffsuper.sansio.flow import COUNTED, flow_state, is_ended
from ffsuper.store.housekeeping import BEGIN
from ffsuper.store.keys import ExecutionKeys, FlowKeys
from ffsuper.store.looks import Index, Looks
from ffsuper.store.replies import Call, Part, Status, fcall

# Members of an index or of a flow in a page, and executions in a call.
PAGE = 100
# Edges and executions that a call looks at: two milliseconds of the server's time, if all of them are moved.
LIMIT = 100


@dataclass(frozen=True, slots=True)
class Step:
    """Something to settle about one execution.

    Attributes:
        direction: ``out``: tell those that wait for it how it has ended; ``in``: look whether it still has to wait.
        cursor: how far its edges have been gone through.
    """

    direction: str
    execution_id: ExecutionId
    cursor: str = BEGIN


@dataclass(frozen=True, slots=True)
class Work:
    """Steps to take on one partition.

    Attributes:
        key: the index of blocked executions that the steps ``in`` are from; else any key of the partition.
    """

    key: str
    steps: Sequence[Step]


@dataclass(frozen=True, slots=True)
class Settled:
    """What a call has done.

    Attributes:
        outcomes: what became of edges and executions, by kind.
        failed: how many could not be settled because of an error.
        example: the execution of one of these, ...
        why: ... and its error.
        left: the steps that are still to be taken, those that came up meanwhile included.
    """

    outcomes: Mapping[str, int]
    failed: int
    example: str
    why: str
    left: Sequence[Step]


@dataclass(frozen=True, slots=True)
class Members:
    """A page of an index.

    Attributes:
        cursor: where to go on; ``BEGIN`` at the end.
    """

    cursor: str
    found: Sequence[str]


@dataclass(frozen=True, slots=True)
class Counted:
    """A page of a flow's members.

    Attributes:
        cursor: where to go on; ``BEGIN`` at the end.
        total: how many members the flow has; 0 for a flow that is gone.
        counts: public state -> how many members of the page are in it.
    """

    cursor: str
    total: int
    counts: Mapping[str, int]


class Dependencies(Looks):
    """What the actors for flows do in the store. A StoreError stands in the place of each call that failed."""

    async def blocked(self, cursors: Mapping[Index, str]) -> list[Members | StoreError]:
        """Return a page of each of several indexes of blocked executions."""
        return await self._connection.try_all(
            [scan("ZSCAN", index, cursor, width=2) for index, cursor in cursors.items()]
        )

    async def settle(self, batch: Sequence[Work]) -> list[Settled | StoreError]:
        """Take some of the steps of each work."""
        return await self._connection.try_all([settle(work) for work in batch])

    async def flows(self, index: Index, cursor: str) -> Members | StoreError:
        """Return a page of an index of flows."""
        (page,) = await self._connection.try_all([scan("SSCAN", index, cursor, width=1)])
        return page

    async def count(self, cursors: Mapping[FlowKeys, str]) -> list[Counted | StoreError]:
        """Count a page of the members of each flow."""
        return await self._connection.try_all([count(flow, cursor) for flow, cursor in cursors.items()])

    async def summarize(self, counts: Mapping[FlowKeys, Mapping[str, int]]) -> list[str | StoreError]:
        """Write the summaries of flows; tell which are ``over`` and which are ``going_on``."""
        return await self._connection.try_all([summarize(flow, states) for flow, states in counts.items()])


def work_out(executions: Sequence[ExecutionId]) -> list[Work]:
    """Return the work of telling those that wait for these how they have ended, in pieces for a call each."""
    steps: dict[str, list[Step]] = {}
    for execution_id in executions:
        key = ExecutionKeys.of(execution_id).partition.index("flow_index")
        steps.setdefault(key, []).append(Step("out", execution_id))
    return [Work(key, some[at : at + PAGE]) for key, some in steps.items() for at in range(0, len(some), PAGE)]


def settle(work: Work) -> Call[Settled]:
    """Take some steps."""
    steps = [text for step in work.steps for text in (step.direction, step.execution_id, step.cursor)]
    return fcall("ffsuper_settle", (work.key,), (LIMIT, *steps), settled)


def settled(status: Status) -> Settled:
    """Read the reply to ``settle``."""
    failed, example, why, kinds, *texts = (field.decode(errors="replace") for field in status.fields)
    outcomes, left = texts[: 2 * int(kinds)], texts[2 * int(kinds) :]
    steps = zip(left[::3], map(ExecutionId, left[1::3]), left[2::3], strict=True)
    return Settled(numbers(outcomes), int(failed), example, why, [Step(*step) for step in steps])


def count(flow: FlowKeys, cursor: str) -> Call[Counted]:
    """Count a page of a flow's members."""

    def counted(status: Status) -> Counted:
        cursor, total, *counts = (field.decode(errors="replace") for field in status.fields)
        return Counted(cursor, 0 if total == "gone" else int(total), numbers(counts))

    keys = (flow.core, flow.members, flow.partition.index("flow_index"))
    return fcall("ffsuper_count_members", keys, (flow.id, cursor, PAGE), counted)


def summarize(flow: FlowKeys, counts: Mapping[str, int]) -> Call[str]:
    """Write a flow's summary."""
    total = sum(counts.values())
    fields: list[Part] = ["sampled_members", total, "public_flow_state", flow_state(counts)]
    for state in COUNTED:
        fields += [f"members_{state}", counts.get(state, 0)]
    return fcall(
        "ffsuper_write_summary",
        (flow.summary, flow.members, flow.partition.index("flow_index")),
        (flow.id, total, int(is_ended(counts)), *fields),
        lambda status: status.text(0),
    )


def numbers(texts: Sequence[str]) -> dict[str, int]:
    """Return names and numbers, one after the other, as a mapping."""
    return {name: int(number) for name, number in zip(texts[::2], texts[1::2], strict=True)}


def scan(command: str, index: Index, cursor: str, width: int) -> Call[Members]:
    """Read a page of an index.

    Args:
        width: how many elements of the reply a member takes.
    """

    def members(reply: Any) -> Members:
        return Members(reply[0].decode(), [member.decode(errors="replace") for member in reply[1][::width]])

    return Call((command, index.key, cursor, "COUNT", PAGE), members)
