"""The client of a server: what ``Client`` does, over HTTP, and what operators do.

Blocking; safe to share between threads.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from ffsuper.admin.answers import (
    Rotation,
    begun_of,
    counts_of,
    delivery_of,
    details_of,
    execution_of,
    frames_of,
    listed_of,
    rotation_of,
    waitpoint_of,
)
from ffsuper.admin.budgets import BudgetVerbs
from ffsuper.admin.wire import Ask, NoSuchRouteError, ServerWire, about, ignored, now_ms, of_json, path_of
from ffsuper.clients import AnyClient, Execution
from ffsuper.errors import ExecutionNotFoundError, RefusedError
from ffsuper.messages import ExecutionId, LaneId
from ffsuper.sansio import partition
from ffsuper.sansio.partition import PartitionCounts
from ffsuper.store import streams, submissions
from ffsuper.store.signals import Delivery, OpenWaitpoint
from ffsuper.store.streams import Standing, StreamFrame
from ffsuper.store.submissions import Submission

# The protocol's most for one request.
MOST_LISTED = 1_000
MOST_FRAMES = 1_000


class AdminClient(AnyClient, BudgetVerbs):
    """Connections to a server, opened when they are needed.

    Every call may raise StoreUnavailableError (nothing was changed), OutcomeUnknownError (it may have been carried
    out), StoreAccessError (the token is wrong) and StoreUnsuitableError (that is no server, or not one for this).

    Args:
        server: its URL.
        token: the bearer token that it wants, if it wants any.
        ca_file: certificates to trust, for ``https://``; the system's when absent.
        patience_s: for how long calls are repeated while server or store cannot be reached. Those that must not be
            carried out twice are repeated only where they certainly were not.

    Raises:
        ConfigError: httpx is not installed, URL or token cannot be any, or ``ca_file`` holds no certificates.
    """

    def __init__(
        self,
        server: str = "http://127.0.0.1:9090",
        *,
        token: str = "",
        ca_file: Path | None = None,
        patience_s: float = 10.0,
    ) -> None:
        self._wire = ServerWire(server, token, patience_s, ca_file)
        self._known_counts: PartitionCounts | None = None

    def close(self) -> None:
        """Drop the connections."""
        self._wire.close()

    def new_id(self, lane: str) -> ExecutionId:
        """Return a fresh id for an execution of this lane, for ``submit_many``."""
        return partition.mint(submissions.valid_lane(lane), self._counts().flow, uuid.uuid4())

    def _counts(self) -> PartitionCounts:
        """Return how many partitions there are; a server that does not tell has the protocol's."""
        if self._known_counts is None:
            try:
                self._known_counts = self._wire.call(
                    Ask(verb="partitions", path="/v1/partitions", read=of_json(counts_of))
                )
            except NoSuchRouteError:
                self._known_counts = PartitionCounts()
        return self._known_counts

    def submit_many(self, wanted: Sequence[Submission]) -> list[ExecutionId]:
        """Submit executions, a request each; return their ids in order. Repeating it submits nothing twice."""
        return [self._create(one) for one in wanted]

    def _create(self, wanted: Submission) -> ExecutionId:
        body = {
            "execution_id": wanted.execution_id,
            "namespace": wanted.namespace,
            "lane_id": wanted.lane,
            "execution_kind": wanted.execution_kind,
            "input_payload": list(wanted.payload),
            "priority": wanted.priority,
            "creator_identity": wanted.creator,
            "idempotency_key": wanted.idempotency_key or None,
            "tags": submissions.traced_tags(wanted.tags),
            # A FlowFabric server adds "routing_requirements": null where there are none, and then refuses that.
            "policy": {"routing_requirements": {}, **wanted.policy} if wanted.policy else None,
            "delay_until": wanted.delay_until_ms,
            "execution_deadline_at": wanted.deadline_ms,
            "partition_id": partition.partition_of(wanted.execution_id),
            "now": now_ms(),
        }

        def created(told: Any) -> ExecutionId:
            return partition.parse((told.get("Created") or told["Duplicate"])["execution_id"])

        ask = Ask(verb="submit", method="POST", path="/v1/executions", body=body, read=of_json(created))
        return self._wire.call(ask)

    def show(self, execution_id: str) -> Execution:
        """Return an execution with its tags and attempts, as far as the server tells.

        Raises:
            ValueError: that is no execution id.
            ExecutionNotFoundError: there is none with this id.
        """
        try:
            return self._details(execution_id)[0]
        except NoSuchRouteError:
            return self._wire.call(about(execution_id, "show", "", execution_of))

    def history(self, execution_id: str) -> list[dict[str, str]]:
        """Return the events of an execution's leases, oldest first, as far back as the server tells."""
        try:
            return self._details(execution_id)[1]
        except (ExecutionNotFoundError, NoSuchRouteError):
            return []

    def _details(self, execution_id: str) -> tuple[Execution, list[dict[str, str]]]:
        return self._wire.call(about(execution_id, "show", "/details", details_of))

    def state(self, execution_id: str) -> str:
        """Return an execution's public state.

        Raises:
            ExecutionNotFoundError: there is none with this id.
        """
        return self._wire.call(about(execution_id, "state", "/state", str))

    def result(self, execution_id: str) -> bytes | None:
        """Return the result's bytes; None when there is none (yet)."""
        known = partition.parse(execution_id)
        try:
            return self._wire.call(
                Ask(verb="result", path=path_of(known, "/result"), read=lambda content: content, subject=known)
            )
        except ExecutionNotFoundError:
            return None

    def _cancel(self, execution: Execution, reason: str) -> None:
        body = {"execution_id": execution.id, "reason": reason, "now": now_ms()}
        self._wire.call(about(execution.id, "cancel", "/cancel", ignored, body))

    def waitpoints(self, execution_id: str) -> list[OpenWaitpoint]:
        """Return the waitpoints of an execution that take signals, with their tokens.

        Raises:
            ExecutionNotFoundError: there is none with this id.
        """
        return self._wire.call(
            about(execution_id, "waitpoints", "/pending-waitpoints", lambda told: [waitpoint_of(one) for one in told])
        )

    def waitpoint(self, execution_id: str) -> OpenWaitpoint | None:
        """Return the waitpoint that a suspended execution waits at, with its token; None when it waits at none.

        Raises:
            ExecutionNotFoundError: there is none with this id.
        """
        return next((point for point in self.waitpoints(execution_id) if point.state == "active"), None)

    def signal(
        self,
        execution_id: str,
        name: str,
        payload: object = b"",
        *,
        waitpoint_id: str = "",
        token: str = "",
        idempotency_key: str = "",
        source: str = "",
    ) -> Delivery:
        """Deliver a signal to an execution that waits for one, or will.

        Args:
            payload: bytes go as they are, anything else as JSON.
            waitpoint_id: the waitpoint; the one that the execution waits at when empty.
            token: the waitpoint's; the server tells it when empty.
            idempotency_key: a repeated signal to the same waitpoint under this key within 24 hours does nothing.
            source: who sends it.

        Raises:
            RefusedError: the execution waits for nothing (``execution_not_suspended``), the token is wrong
                (``invalid_token``), the waitpoint is closed, ...
            ExecutionNotFoundError: there is none with this id.
        """
        if not (waitpoint_id and token):
            point = self._signalable(execution_id, waitpoint_id)
            waitpoint_id, token = point.id, token or point.token
        body = {
            "execution_id": execution_id,
            "waitpoint_id": waitpoint_id,
            "signal_id": str(uuid.uuid4()),
            "signal_name": name,
            "signal_category": "external",
            "source_type": "client",
            "source_identity": source,
            "payload": list(submissions.as_payload(payload)),
            "payload_encoding": "json",
            "idempotency_key": idempotency_key or str(uuid.uuid4()),
            "target_scope": "waitpoint",
            "waitpoint_token": token,
            "now": now_ms(),
        }
        return self._wire.call(about(execution_id, "signal", "/signal", delivery_of, body))

    def _signalable(self, execution_id: str, waitpoint_id: str) -> OpenWaitpoint:
        for point in self.waitpoints(execution_id):
            if point.id == waitpoint_id or (not waitpoint_id and point.state == "active"):
                return point
        raise RefusedError("signal", "execution_not_suspended", (self.state(execution_id),))

    def tail(self, execution_id: str, *, live: bool = True) -> Iterator[StreamFrame]:
        """Yield the frames of all attempts in order, and those to come until the execution has ended.

        Args:
            live: False to stop at what there is.

        Raises:
            ExecutionNotFoundError: there is none with this id.
        """
        known = partition.parse(execution_id)
        closed: set[int] = set()

        def look(index: int) -> Standing:
            attempts, has_ended = self._wire.call(about(known, "tail", "", begun_of))
            return Standing(attempts, has_ended, is_closed=index in closed)

        def read_after(index: int, after: str, block_ms: int) -> list[StreamFrame]:
            frames, is_closed = self._wire.call(
                Ask(
                    verb="tail",
                    path=path_of(known, f"/attempts/{index}/stream/tail"),
                    query={"after": after, "block_ms": block_ms, "limit": MOST_FRAMES},
                    read=of_json(lambda told: (frames_of(index, told["frames"]), bool(told.get("closed_at")))),
                    subject=known,
                )
            )
            if is_closed:
                closed.add(index)
            return frames

        return streams.follow(look, read_after, live)

    def list_lane(self, lane: str, index: str = "eligible", limit: int = 100) -> list[Execution]:
        """Return executions of a lane that are in one of its indexes, by priority and age; a request per partition.

        Args:
            index: ``eligible``, ``delayed``, ``active``, ``suspended``, ``terminal``, ``blocked:route``, ...
        """
        known = submissions.valid_lane(lane, "list")
        found = [one for number in range(self._counts().flow) for one in self._listed(known, number, index, limit)]
        found.sort(key=itemgetter(0))
        return [execution for _, execution in found[:limit]]

    def _listed(self, lane: LaneId, number: int, index: str, limit: int) -> list[tuple[tuple[int, int], Execution]]:
        """Return what one partition has, ``limit`` at the most, each behind what it is sorted by."""
        found: list[tuple[tuple[int, int], Execution]] = []
        while (wanted := min(limit - len(found), MOST_LISTED)) > 0:
            place: dict[str, str | int]
            place = {"partition": number, "lane": lane, "state": index, "offset": len(found), "limit": wanted}
            page = self._wire.call(
                Ask(
                    verb="list_lane",
                    path="/v1/executions",
                    query=place,
                    read=of_json(listed_of),
                )
            )
            found += page
            if len(page) < wanted:
                break
        return found

    def change_priority(self, execution_id: str, priority: int) -> None:
        """Give an execution that waits for a worker another priority, 0 to 9000.

        Raises:
            RefusedError: it does not wait for a worker (``execution_not_eligible``).
            ExecutionNotFoundError: there is none with this id.
        """
        body = {"new_priority": priority}
        self._wire.call(about(execution_id, "change_priority", "/priority", ignored, body, method="PUT"))

    def replay(self, execution_id: str) -> str:
        """Let an ended execution run again; return its public state. Not repeated when it may have been carried out.

        Raises:
            RefusedError: it has not ended (``execution_not_terminal``), or was replayed too often.
            ExecutionNotFoundError: there is none with this id.
        """

        def replayed(told: Any) -> str:
            return str(told["Replayed"]["public_state"])

        return self._wire.call(about(execution_id, "replay", "/replay", replayed, method="POST", is_repeatable=False))

    def revoke_lease(self, execution_id: str) -> bool:
        """Take the lease from an execution's holder; False when it was lost already.

        Not repeated when it may have been carried out: that could meet the next holder.

        Raises:
            RefusedError: nobody holds a lease (``no_active_lease``).
            ExecutionNotFoundError: there is none with this id.
        """
        wanted = about(
            *(execution_id, "revoke_lease", "/revoke-lease", lambda told: "Revoked" in told),
            method="POST",
            is_repeatable=False,
            missing="no_active_lease",
        )
        try:
            return self._wire.call(wanted)
        except RefusedError as refusal:
            if refusal.code == "no_active_lease":
                self.state(execution_id)
            raise

    def rotate_secret(self, new_kid: str, new_secret_hex: str) -> Rotation:
        """Make another secret the one that waitpoint tokens are signed with; older tokens stay valid for a while.

        Args:
            new_kid: its name, without colons.
            new_secret_hex: an even number of hex digits.
        """
        path, body = "/v1/admin/rotate-waitpoint-secret", {"new_kid": new_kid, "new_secret_hex": new_secret_hex}
        ask = Ask(verb="rotate_secret", method="POST", path=path, body=body, read=of_json(rotation_of))
        return self._wire.call(ask)
