"""What the clients of a store and of a server do alike."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self, TypeVar

from ffsuper.errors import LeaseLostError, OutcomeUnknownError, StoreError, StoreUnavailableError
from ffsuper.messages import FINAL_STATES, ExecutionId
from ffsuper.store import submissions
from ffsuper.store.submissions import Submission

T = TypeVar("T")

FIRST_POLL_S = 0.002
LONGEST_POLL_S = 0.1
AWAY = (StoreUnavailableError, OutcomeUnknownError)


@dataclass(frozen=True, slots=True)
class Execution:
    """An execution as it was when it was read.

    Attributes:
        state: ``waiting``, ``delayed``, ``active``, ``suspended``, ..., or one of the final ones: ``completed``,
            ``failed``, ``cancelled``, ``expired``, ``skipped``.
        record: all fields of the authoritative record, by the protocol's names; from a server without the ids of
            leases, and where it knows no more than the protocol's routes, only what these tell.
        tags: empty from such a server, and in lists from any; so are the attempts.
        attempts: the records of its attempts, oldest first.
    """

    id: ExecutionId
    state: str
    kind: str
    lane: str
    record: Mapping[str, str]
    tags: Mapping[str, str]
    attempts: Sequence[Mapping[str, str]]

    @classmethod
    def of(
        cls,
        execution_id: ExecutionId,
        record: Mapping[str, str],
        tags: Mapping[str, str],
        attempts: Sequence[Mapping[str, str]],
    ) -> Self:
        """Return the execution with this record; what a damaged one lacks is empty."""
        state, kind, lane = (record.get(name, "") for name in ("public_state", "execution_kind", "lane_id"))
        return cls(execution_id, state, kind, lane, record, tags, attempts)

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.state in FINAL_STATES


class AnyClient(ABC):
    """Submits executions, waits for them and cancels them, by whatever way it reaches the store."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Drop the connection."""

    def submit(
        self,
        kind: str,
        payload: object = b"",
        *,
        lane: str = "default",
        namespace: str = "default",
        priority: int = 0,
        delay: float | timedelta | datetime | None = None,
        idempotency_key: str = "",
        tags: Mapping[str, str] | None = None,
        policy: Mapping[str, Any] | None = None,
    ) -> ExecutionId:
        """Submit one execution and return its id.

        Args:
            kind: what a handler is registered for.
            payload: bytes go as they are, anything else as JSON.
            lane: printable ASCII, at most 64 characters.
            priority: 0 to 9000, higher first.
            delay: seconds, or a span, or a time with zone, before which it does not start.
            idempotency_key: a repeated submission to the same lane and namespace under this key within 24 hours
                returns the id of the first.
            policy: ``retry_policy``, ``max_reclaim_count``, ``routing_requirements``, ...

        Raises:
            InvalidRequestError: an argument is not acceptable.
            StoreError: the store cannot be reached or used.
        """
        (execution_id,) = self.submit_many(
            [
                Submission(
                    execution_id=self.new_id(lane),
                    lane=submissions.valid_lane(lane),
                    execution_kind=kind,
                    payload=submissions.as_payload(payload),
                    namespace=namespace,
                    priority=priority,
                    policy=policy or {},
                    tags=tags or {},
                    idempotency_key=idempotency_key,
                    delay_until_ms=None if delay is None else due_ms(delay),
                )
            ]
        )
        return execution_id

    @abstractmethod
    def new_id(self, lane: str) -> ExecutionId:
        """Return a fresh id for an execution of this lane, for ``submit_many``."""

    @abstractmethod
    def submit_many(self, wanted: Sequence[Submission]) -> list[ExecutionId]:
        """Submit executions; return their ids in order. Repeating it submits nothing twice."""

    @abstractmethod
    def show(self, execution_id: str) -> Execution:
        """Return an execution.

        Raises:
            ValueError: that is no execution id.
            ExecutionNotFoundError: there is none with this id.
        """

    @abstractmethod
    def history(self, execution_id: str) -> list[dict[str, str]]:
        """Return the events of an execution's leases, oldest first, as far back as the store keeps them."""

    @abstractmethod
    def state(self, execution_id: str) -> str:
        """Return an execution's public state.

        Raises:
            ExecutionNotFoundError: there is none with this id.
        """

    def wait(self, execution_id: str, timeout_s: float | None = None) -> Execution:
        """Wait until an execution has ended, and return it.

        Raises:
            TimeoutError: it has not ended in time.
            ExecutionNotFoundError: there is none with this id.
        """
        self.wait_final(execution_id, timeout_s)
        return self.show(execution_id)

    def wait_final(self, execution_id: str, timeout_s: float | None = None) -> str:
        """Wait until an execution has ended, and return its state.

        Raises:
            TimeoutError: it has not ended in time.
            ExecutionNotFoundError: there is none with this id.
        """
        give_up_s = None if timeout_s is None else time.monotonic() + timeout_s
        pause_s = FIRST_POLL_S
        while (state := self.state(execution_id)) not in FINAL_STATES:
            if give_up_s is not None and time.monotonic() + pause_s > give_up_s:
                raise TimeoutError(f"{execution_id} is still {state} after {timeout_s:g} s")
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, LONGEST_POLL_S)
        return state

    def cancel(self, execution_id: str, reason: str = "cancelled by operator") -> Execution:
        """Cancel an execution in whatever state it is, and return it as it is then.

        Raises:
            LeaseLostError: it has already ended.
            ExecutionNotFoundError: there is none with this id.
        """
        execution = self.show(execution_id)
        try:
            self._cancel(execution, reason)
        except LeaseLostError:
            ended = self.show(execution_id)
            if execution.is_final or ended.state != "cancelled":
                raise
            return ended
        return self.show(execution_id)

    @abstractmethod
    def _cancel(self, execution: Execution, reason: str) -> None: ...

    @abstractmethod
    def replay(self, execution_id: str) -> str:
        """Let an ended execution run again; return its public state. Not repeated when it may have been carried out.

        Raises:
            RefusedError: it has not ended (``execution_not_terminal``), or was replayed too often.
            ExecutionNotFoundError: there is none with this id.
        """


def patiently(attempt: Callable[[], T], patience_s: float, repeat_on: tuple[type[StoreError], ...] = AWAY) -> T:
    """Return what an attempt returns, repeating it while it fails with one of these errors."""
    give_up_s = time.monotonic() + patience_s
    pause_s = FIRST_POLL_S
    while True:
        try:
            return attempt()
        except repeat_on:
            if time.monotonic() + pause_s > give_up_s:
                raise
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 1.0)


def due_ms(delay: float | timedelta | datetime, now_s: Callable[[], float] = time.time) -> int:
    """Return the Unix time at which a delay is over."""
    match delay:
        case datetime():
            if delay.tzinfo is None:
                raise ValueError(f"delay {delay} names no time zone")
            return int(delay.timestamp() * 1000)
        case timedelta():
            return int((now_s() + delay.total_seconds()) * 1000)
        case _:
            return int((now_s() + delay) * 1000)
