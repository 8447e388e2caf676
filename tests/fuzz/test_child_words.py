"""What a child says goes to the store as it is: whatever that may be, it makes commands that can be sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis
import trio
from hypothesis import example, given

from ffsuper.errors import RefusedError, StoreError
from ffsuper.messages import (
    AttemptId,
    CreateWaitpoint,
    Emit,
    Ended,
    ExecutionId,
    FromChild,
    LaneId,
    Lease,
    LeaseId,
    OnTimeout,
    Progress,
    ReportUsage,
    Suspended,
)
from ffsuper.store.attempts import Attempts
from ffsuper.store.cluster import key_of
from ffsuper.store.connection import Connection
from ffsuper.store.outcomes import Outcomes
from ffsuper.store.replies import Call
from ffsuper.store.wire import packed_for
from tests.fuzz.examples import fuzz
from tests.fuzz.messages import SAID

UUID = "0b1f3c52-9d6c-4a6e-8f0e-5b1d3d1f0a11"
LEASE = Lease(
    ExecutionId(f"{{fp:7}}:{UUID}"), LaneId("default"), LeaseId(UUID), 3, AttemptId(UUID), 0, 30_000, asked_at_s=0.0
)


class Packing(Connection):
    """Writes commands as they would be sent to a server or a cluster, and has them all refused."""

    def __init__(self) -> None:
        self.sent = 0
        self._packer: Any = redis.Connection()  # type: ignore[no-untyped-call]

    async def run(self, call: Call[Any], timeout_s: float | None = None) -> Any:
        (answer,) = await self.try_all([call], timeout_s)
        if isinstance(answer, StoreError):
            raise answer
        return answer

    async def try_all(self, calls: Sequence[Call[Any]], timeout_s: float | None = None) -> list[Any]:
        for call in calls:
            assert b"".join(packed_for(self._packer, [call.command]))
            key_of(call.command)
        self.sent += len(calls)
        # In answer to these some more is sent.
        refusals = {"ff_suspend_execution": "waitpoint_not_pending", "ff_create_pending_waitpoint": ALREADY}
        return [
            RefusedError(str(call.command[1]), refusals.get(str(call.command[1]), "invalid_input"))
            if call.command[0] == "FCALL"
            else call.parse(b"7" if call.command[0] == "HGET" else [b"key", b"token"])
            for call in calls
        ]


ALREADY = "waitpoint_already_exists"


async def tell(connection: Connection, message: FromChild) -> None:
    """Do with a message what executors do."""
    attempts, outcomes = Attempts(connection, 32), Outcomes(connection, "worker@host")
    try:
        match message:
            case Progress():
                await attempts.progress(LEASE, message)
            case Emit():
                await attempts.frames(LEASE).write([message])
            case ReportUsage() | CreateWaitpoint():
                await attempts.answer(LEASE, message)
            case Ended(_, outcome):
                await outcomes.deliver(LEASE, outcome, b"")
    except RefusedError:
        return


SUSPENDED = Suspended("", (), False, None, OnTimeout.FAIL, "")


@fuzz(250)
@given(message=SAID)
@example(message=Ended(1, Suspended("", ("\ud800",), False, 2**1024 - 1, OnTimeout.FAIL, "\ud800")))
@example(message=CreateWaitpoint(1, 1, "\ud800", 2**1024 - 1))
@example(message=ReportUsage(1, 1, UUID, {"\ud800": -(2**1023)}, "\ud800"))
@example(message=ReportUsage(1, 1, f"\n{{urn:uuid:{UUID}", {"a": 1}, ""))
def test_whatever_a_child_says_can_be_sent(message: FromChild) -> None:
    connection = Packing()
    trio.run(tell, connection, message)
    match message:
        case Progress() | Emit() | CreateWaitpoint() | Ended():
            assert connection.sent
