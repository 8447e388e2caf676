"""Flows, for clients: executions that wait for one another and pass results on."""

from __future__ import annotations

import contextlib
import math
import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ffsuper.errors import ExecutionNotFoundError, InvalidRequestError, LeaseLostError, RefusedError
from ffsuper.messages import FINAL_STATES, ExecutionId
from ffsuper.sansio.partition import parse
from ffsuper.store import flows, submissions
from ffsuper.store.flows import Edge
from ffsuper.store.keys import FlowKeys
from ffsuper.store.submissions import Submission

if TYPE_CHECKING:
    from ffsuper.client import Client


# A member and its edges are made in one call, some 40 us of the server's time each.
MOST_UPSTREAM = 1_000
# In the place of a state: retention has deleted the member, as it does what has ended.
GONE = "gone"


@dataclass(frozen=True, slots=True)
class FlowState:
    """A flow as it was when it was read.

    Attributes:
        state: ``completed`` when all members have completed, those that are gone left aside; ``failed`` when all have
            ended and some otherwise; ``cancelled``; else ``running``.
        members: each member's public state; ``gone`` for what has ended and was deleted since.
        record: all fields of the flow's record, by the protocol's names.
    """

    id: str
    state: str
    members: Mapping[ExecutionId, str]
    record: Mapping[str, str]

    @property
    def is_final(self) -> bool:
        """Whether all members have ended."""
        return not still_open(self.members)


class Flow:
    """A flow that is being made, or that runs; made by ``Client.create_flow`` or ``Client.flow``.

    Attributes:
        id: a UUID; it decides on which partition the members are.
        keys: its keys in the store.
    """

    def __init__(self, client: Client, keys: FlowKeys, namespace: str | None) -> None:
        self.id = keys.id
        self.keys = keys
        self._client = client
        self._namespace = namespace

    def add(
        self,
        kind: str,
        payload: object = b"",
        *,
        after: Collection[str] = (),
        passing: str | None = None,
        lane: str = "default",
        priority: int = 0,
        tags: Mapping[str, str] | None = None,
        policy: Mapping[str, Any] | None = None,
    ) -> ExecutionId:
        """Add a member, which runs when all that it waits for have completed; return its id.

        It is skipped when one of these ends otherwise, and so is everything that waits for it.

        Args:
            payload: bytes go as they are, anything else as JSON.
            after: members that it waits for.
            passing: one more that it waits for, whose result takes the payload's place if it has one.

        Raises:
            InvalidRequestError: an argument is not acceptable, or there are too many to wait for.
            RefusedError: there is no such flow, it was cancelled, or one of ``after`` is none of its members.
            StoreError: the store cannot be reached or used.
        """
        if self._namespace is None:
            self._namespace = self._record().get("namespace", "default")
        upstream = {parse(one): False for one in after} | ({parse(passing): True} if passing else {})
        if len(upstream) > MOST_UPSTREAM:
            told = f"a member can wait for {MOST_UPSTREAM} others at most, got {len(upstream)}: gather them in steps"
            raise InvalidRequestError("flow", "invalid_input", (told,))
        member = Submission(
            execution_id=ExecutionId(f"{self.keys.tag}:{uuid.uuid4()}"),
            lane=submissions.valid_lane(lane),
            execution_kind=kind,
            payload=submissions.as_payload(payload),
            namespace=self._namespace,
            priority=priority,
            policy=policy or {},
            tags=tags or {},
        )
        edges = [Edge(str(uuid.uuid4()), one, passes) for one, passes in upstream.items()]
        return self._client.run(flows.add_member(self.keys, member, edges))

    def show(self) -> FlowState:
        """Return the flow with the states of all its members.

        Raises:
            RefusedError: there is no such flow.
        """
        record = self._record()
        found = self._client.run(flows.read_members(self.keys))
        members = sorted(found)
        states = self._client.states(members)
        known = {one: state or GONE for one, state in zip(members, states, strict=True)}
        return FlowState(self.id, state_of(record, list(known.values())), known, record)

    def _record(self) -> Mapping[str, str]:
        record = self._client.run(flows.read_flow(self.keys))
        if not record:
            raise RefusedError("flow", "flow_not_found", (self.id,))
        return record

    def wait(self, timeout_s: float | None = None) -> FlowState:
        """Wait until all members have ended, and return the flow as it is then.

        Raises:
            TimeoutError: they have not in time.
            RefusedError: there is no such flow.
        """
        give_up_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while not (shown := self.show()).is_final:
            # All have ended when the one has that ends last; whichever that is, it has not ended now.
            for one in still_open(shown.members):
                left_s = max(0.0, give_up_s - time.monotonic())
                try:
                    with contextlib.suppress(ExecutionNotFoundError):  # it has ended, and was deleted since
                        self._client.wait_final(one, None if left_s == math.inf else left_s)
                except TimeoutError:
                    raise TimeoutError(
                        f"flow {self.id}: {one} and perhaps others have not ended after {timeout_s:g} s"
                    ) from None
        return shown

    def cancel(self, reason: str = "cancelled by operator") -> FlowState:
        """Cancel the flow and all members that have not ended, and return it as it is then.

        Repeating it goes on with what an interrupted one has left.

        Raises:
            RefusedError: there is no such flow.
        """
        try:
            self._client.run(flows.cancel_flow(self.keys, reason))
        except RefusedError as refusal:
            if refusal.code != "flow_already_terminal":
                raise
        states = self.show().members
        # What runs comes last: its end is announced, and by then nobody is left that would be skipped for it.
        for one in sorted(still_open(states), key=lambda one: states[one] == "active"):
            self._cancel_member(one, reason, running=states[one] == "active")
        return self.show()

    def _cancel_member(self, execution_id: ExecutionId, reason: str, *, running: bool) -> None:
        with contextlib.suppress(LeaseLostError, ExecutionNotFoundError):  # it has ended by itself, or was deleted
            if not running:
                with contextlib.suppress(LeaseLostError):  # it has just been claimed
                    record = self._client.run(submissions.read_core(execution_id))
                    self._client.run(submissions.cancel(execution_id, record, reason, source="flow_cascade"))
                    return
            self._client.cancel(execution_id, reason)


def still_open(members: Mapping[ExecutionId, str]) -> list[ExecutionId]:
    """Return the members that have not ended."""
    return [one for one, state in members.items() if state not in FINAL_STATES and state != GONE]


def state_of(record: Mapping[str, str], states: Collection[str]) -> str:
    """Return a flow's state."""
    if record.get("public_flow_state") == "cancelled":
        return "cancelled"
    left = [state for state in states if state != GONE]
    if not all(state in FINAL_STATES for state in left):
        return "running"
    return "completed" if all(state == "completed" for state in left) else "failed"
