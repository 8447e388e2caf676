"""Submit, inspect and cancel executions, from other people's programs. Blocking; safe to share between threads."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Iterator, Sequence
from typing import TypeVar

from ffsuper.clients import AnyClient, Execution, patiently
from ffsuper.config import StoreConfig
from ffsuper.errors import (
    ExecutionNotFoundError,
    InvalidRequestError,
    LibraryMissingError,
    RefusedError,
    StoreError,
    StoreUnavailableError,
)
from ffsuper.fleet import Fleet
from ffsuper.flows import Flow
from ffsuper.messages import FINAL_STATES, ExecutionId, LaneId
from ffsuper.sansio import partition
from ffsuper.store import embedded, flows, loading, operations, signals, streams, submissions
from ffsuper.store.cluster import open_wire
from ffsuper.store.keys import flow_keys
from ffsuper.store.presence import read_partition_counts
from ffsuper.store.replies import Call
from ffsuper.store.signals import Delivery, OpenWaitpoint, Signal
from ffsuper.store.store import prepare
from ffsuper.store.streams import StreamFrame
from ffsuper.store.submissions import Submission

T = TypeVar("T")

# Submissions of one pipeline: enough to hide the round trip, few enough to keep the server answering others.
SUBMIT_BATCH = 200


class Client(AnyClient):
    """A connection to the store.

    Args:
        store: its URL, or settings with credentials and TLS.
        patience_s: for how long calls are repeated while the store cannot be reached.

    Raises:
        StoreError: the store cannot be reached or used.
    """

    def __init__(self, store: str | StoreConfig = "redis://localhost:6379/0", *, patience_s: float = 10.0) -> None:
        settings = StoreConfig(url=store) if isinstance(store, str) else store
        self._patience_s = patience_s
        self._lock = threading.Lock()
        with contextlib.ExitStack() as opening:
            self._settings = opening.enter_context(embedded.reachable(settings, owner=False))
            self._wire = open_wire(self._settings, "ffsuper-client")
            opening.callback(self._wire.close)
            counts = self.run(read_partition_counts())
            self._counts = prepare(self._settings, embedded.new_counts(settings)) if counts is None else counts
            self._opened = opening.pop_all()

    @property
    def store_url(self) -> str:
        """Where the store is; for the embedded one, where its server listens."""
        return self._settings.url

    def close(self) -> None:
        """Drop the connection."""
        self._opened.close()

    def new_id(self, lane: str) -> ExecutionId:
        """Return a fresh id for an execution of this lane, for ``submit_many``."""
        return partition.mint(submissions.valid_lane(lane), self._counts.flow, uuid.uuid4())

    def submit_many(self, wanted: Sequence[Submission]) -> list[ExecutionId]:
        """Submit executions in few round trips; return their ids in order. Repeating it submits nothing twice."""
        found: list[ExecutionId] = []
        for start in range(0, len(wanted), SUBMIT_BATCH):
            created = self.run_all([submissions.create(one) for one in wanted[start : start + SUBMIT_BATCH]])
            found += [one.execution_id for one in created]
        return found

    def show(self, execution_id: str) -> Execution:
        """Return an execution with its tags and attempts.

        Raises:
            ValueError: that is no execution id.
            ExecutionNotFoundError: there is none with this id.
        """
        known = partition.parse(execution_id)
        record, tags = self.run_all([submissions.read_core(known), submissions.read_tags(known)])
        if not record:
            raise ExecutionNotFoundError("show", "execution_not_found", (execution_id,))
        attempts = self.run_all(submissions.read_attempts(known, record))
        return Execution.of(known, record, tags, attempts)

    def state(self, execution_id: str) -> str:
        """Return an execution's public state.

        Raises:
            ExecutionNotFoundError: there is none with this id.
        """
        state = self.run(submissions.read_public_state(partition.parse(execution_id)))
        if state is None:
            raise ExecutionNotFoundError("state", "execution_not_found", (execution_id,))
        return state

    def states(self, execution_ids: Sequence[ExecutionId]) -> list[str | None]:
        """Return many public states in few round trips, in order; None where there is no such execution."""
        found: list[str | None] = []
        for start in range(0, len(execution_ids), SUBMIT_BATCH):
            batch = execution_ids[start : start + SUBMIT_BATCH]
            found += self.run_all([submissions.read_public_state(one) for one in batch])
        return found

    def result(self, execution_id: str) -> bytes | None:
        """Return the result's bytes; None when there is none (yet)."""
        return self.run(submissions.read_result(partition.parse(execution_id)))

    def results(self, execution_ids: Sequence[ExecutionId]) -> list[bytes | None]:
        """Return many results in few round trips, in order."""
        found: list[bytes | None] = []
        for start in range(0, len(execution_ids), SUBMIT_BATCH):
            batch = execution_ids[start : start + SUBMIT_BATCH]
            found += self.run_all([submissions.read_result(one) for one in batch])
        return found

    def _cancel(self, execution: Execution, reason: str) -> None:
        self.run(submissions.cancel(execution.id, execution.record, reason))

    def replay(self, execution_id: str) -> str:
        """Let an ended execution run again; return its public state. Not repeated when it may have been carried out.

        Raises:
            RefusedError: it has not ended (``execution_not_terminal``), or was replayed too often.
            OutcomeUnknownError: the answer was lost.
            ExecutionNotFoundError: there is none with this id.
        """
        execution = self.show(execution_id)
        edges: list[str] = []
        if operations.is_skipped_member(execution.record):
            edges = self.run(operations.read_incoming(execution.id, execution.record["flow_id"]))
        call = operations.replay(execution.id, execution.record, edges)
        (state,) = patiently(lambda: self._try_all([call]), self._patience_s, (StoreUnavailableError,))
        return state

    def waitpoint(self, execution_id: str) -> OpenWaitpoint | None:
        """Return the waitpoint that a suspended execution waits at, with its token; None when it waits at none."""
        known = partition.parse(execution_id)
        waitpoint_id = self.run(signals.read_current_waitpoint(known))
        return self.run(signals.read_waitpoint(known, waitpoint_id)) if waitpoint_id else None

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
            waitpoint_id: the waitpoint; the execution's current one when empty.
            token: the waitpoint's; read from the store when empty, which needs the right to read there.
            idempotency_key: a repeated signal to the same waitpoint under this key within 24 hours does nothing.
            source: who sends it.

        Raises:
            RefusedError: the execution waits for nothing (``execution_not_suspended``), the token is wrong
                (``invalid_token``), the waitpoint is closed, ...
            ExecutionNotFoundError: there is none with this id.
        """
        execution = self.show(execution_id)
        current = waitpoint_id or execution.record.get("current_waitpoint_id", "")
        point = self.run(signals.read_waitpoint(execution.id, current)) if current else None
        if point is None:
            raise RefusedError("signal", "execution_not_suspended", (execution.state,))
        wanted = Signal(
            execution_id=execution.id,
            waitpoint_id=point.id,
            name=name,
            payload=submissions.as_payload(payload),
            token=token or point.token,
            idempotency_key=idempotency_key or str(uuid.uuid4()),
            source_identity=source,
        )
        if point.state == "pending":
            return self.run(signals.buffer(wanted))
        return self.run(signals.deliver(wanted, LaneId(execution.lane)))

    def tail(self, execution_id: str, *, live: bool = True) -> Iterator[StreamFrame]:
        """Yield the frames of all attempts in order, and those to come until the execution has ended.

        Args:
            live: False to stop at what there is.

        Raises:
            ExecutionNotFoundError: there is none with this id.
        """
        self.state(execution_id)
        wire = open_wire(self._settings, "ffsuper-tail")
        try:
            yield from streams.follow_stored(wire, partition.parse(execution_id), live, FINAL_STATES.__contains__)
        finally:
            wire.close()

    def create_flow(self, kind: str = "flow", *, namespace: str = "default") -> Flow:
        """Create a flow without members.

        Args:
            kind: what it is for; for people.
            namespace: also of its members.
        """
        flow = self._flow(str(uuid.uuid4()), namespace)
        self.run(flows.create_flow(flow.keys, kind, namespace))
        return flow

    def flow(self, flow_id: str) -> Flow:
        """Return a flow that was created before; whether there is one shows when it is used.

        Raises:
            InvalidRequestError: that is no flow id.
        """
        return self._flow(flow_id, None)

    def _flow(self, flow_id: str, namespace: str | None) -> Flow:
        try:
            keys = flow_keys(flow_id, self._counts.flow)
        except ValueError:
            told = f"{flow_id!r} is no flow id: it must be a UUID"
            raise InvalidRequestError("flow", "invalid_input", (told,)) from None
        return Flow(self, keys, namespace)

    def history(self, execution_id: str) -> list[dict[str, str]]:
        """Return the events of an execution's leases, oldest first, as far back as the store keeps them."""
        return self.run(submissions.read_history(partition.parse(execution_id)))

    def list_lane(self, lane: str, index: str = "eligible", limit: int = 100) -> list[Execution]:
        """Return executions of a lane that are in one of its indexes, all partitions together, first ones first.

        Args:
            index: ``eligible``, ``delayed``, ``active``, ``suspended``, ``terminal``, ``blocked:route``, ...
        """
        known = submissions.valid_lane(lane, "list")
        pages = self.run_all(
            [submissions.read_index(known, number, index, 0, limit) for number in range(self._counts.flow)]
        )
        members = sorted((member for page in pages for member in page), key=lambda member: member[1])[:limit]
        return [self.show(execution_id) for execution_id, _ in members]

    def depth(self, lane: str) -> dict[str, int]:
        """Return how many executions of a lane are in each of its indexes."""
        known = submissions.valid_lane(lane, "depth")
        pairs = [(name, number) for name in submissions.LANE_INDEXES for number in range(self._counts.flow)]
        counted = self.run_all([submissions.count_index(known, number, name) for name, number in pairs])
        totals = dict.fromkeys(submissions.LANE_INDEXES, 0)
        for (name, _), count in zip(pairs, counted, strict=True):
            totals[name] += count
        return totals

    @property
    def fleet(self) -> Fleet:
        """The workers and lanes of this store."""
        return Fleet(self, self._counts.flow)

    def run(self, call: Call[T]) -> T:
        """Carry out a call that may be repeated, waiting while the store is away."""
        (result,) = self.run_all([call])
        return result

    def run_all(self, calls: Sequence[Call[T]]) -> list[T]:
        """Carry out calls that may be repeated, waiting while the store is away."""
        if not calls:
            return []
        return patiently(lambda: self._try_all(calls), self._patience_s)

    def ask_servers(self, call: Call[T]) -> list[T]:
        """Carry out a call on every server of a cluster, or the only server."""
        with self._lock:
            return [server.run(call) for server in self._wire.servers()]

    def _try_all(self, calls: Sequence[Call[T]]) -> list[T]:
        with self._lock:
            replies = self._wire.exchange([call.command for call in calls])
            for call, reply in zip(calls, replies, strict=True):
                if isinstance(reply, LibraryMissingError):
                    loading.restore_function(self._wire, self._settings.library, str(call.command[1]))
        for reply in replies:
            if isinstance(reply, StoreError):
                raise reply
        return [call.parse(reply) for call, reply in zip(calls, replies, strict=True)]
