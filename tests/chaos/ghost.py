"""One who holds a lease no more, and writes all the same: every such write must be refused."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import trio

from ffsuper.client import Client
from ffsuper.errors import RefusedError, StoreError
from ffsuper.messages import AttemptId, Completed, ExecutionId, Failed, LaneId, Lease, LeaseId, Outcome
from ffsuper.store.leases import renew
from ffsuper.store.outcomes import ends_of
from ffsuper.store.replies import Call
from tests.chaos.supervisors import TTL_MS

LOOK_S = 0.1
KEPT = 200
OUTCOMES: tuple[Outcome, ...] = (Completed(b"of a ghost"), Failed("of a ghost", "ghost"))


@dataclass
class Ghost:
    """Remembers leases, and tries them when they are over.

    Attributes:
        refused: how often, by the store's code. ``taken``: writes that were not refused.
    """

    refused: Counter[str] = field(default_factory=Counter)
    taken: list[str] = field(default_factory=list)
    _known: dict[ExecutionId, tuple[Lease, str]] = field(default_factory=dict)

    async def run(self, client: Client, executions: Callable[[], list[ExecutionId]], seed: int) -> None:
        """Haunt, until cancelled.

        Args:
            executions: returns what there is.
        """
        chance = random.Random(seed)
        while True:
            some = executions()[-KEPT:]
            if some:
                await trio.to_thread.run_sync(self._look, client, chance.choice(some))
            for execution in list(self._known):
                await trio.to_thread.run_sync(self._try, client, execution)
            await trio.sleep(LOOK_S)

    def forget(self) -> None:
        """Forget all leases: the store has gone back to an earlier state, where they may be in force again."""
        self._known.clear()

    def _look(self, client: Client, execution: ExecutionId) -> None:
        """Remember a lease that is in force."""
        try:
            record = client.show(execution).record
        except StoreError:
            return
        if record.get("lifecycle_phase") == "active" and record.get("current_lease_id"):
            self._known[execution] = lease_of(record), record["current_worker_instance_id"]

    def _try(self, client: Client, execution: ExecutionId) -> None:
        """Use a lease if it is over."""
        lease, holder = self._known[execution]
        try:
            record = client.show(execution).record
        except StoreError:
            return
        # One that only ran out is in force again when the store's clock is set back, and nobody else has begun then.
        if record.get("current_lease_id") == lease.lease_id and record.get("lifecycle_phase") == "active":
            return
        if self._known.pop(execution, None) is None:
            return
        calls: list[Call[None]] = [ends_of(lease, holder, outcome, b"")[0] for outcome in OUTCOMES]
        for call in (*calls, renew(lease)):
            try:
                client.run(call)
            except RefusedError as error:
                self.refused[error.code] += 1
            except StoreError:
                continue
            else:
                self.taken.append(f"{call.command[1]!r} {execution} {lease.lease_id}")


def lease_of(record: Mapping[str, str]) -> Lease:
    """Return the lease that a record tells of."""
    return Lease(
        ExecutionId(record["execution_id"]),
        LaneId(record["lane_id"]),
        LeaseId(record["current_lease_id"]),
        int(record["current_lease_epoch"]),
        AttemptId(record["current_attempt_id"]),
        int(record["current_attempt_index"]),
        TTL_MS,
        0.0,
    )
