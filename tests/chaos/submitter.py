"""Who submits work, sends signals and cancels; and what the store has acknowledged of it."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from ffsuper.client import Client
from ffsuper.clock import boottime_s
from ffsuper.config import StoreConfig
from ffsuper.errors import ExecutionNotFoundError, LeaseLostError, RefusedError, StoreError
from ffsuper.messages import ExecutionId, LaneId
from ffsuper.store.submissions import Submission

# What is submitted: how often, what the handler does, how many steps of 50 ms at least and at most.
MIX: tuple[tuple[int, str, int, int], ...] = (
    (30, "work", 0, 4),
    (12, "work", 5, 30),
    (3, "work", 60, 120),
    (4, "hold", 1, 20),
    (8, "fail once", 0, 6),
    (6, "crash once", 0, 6),
    (8, "approval", 0, 4),
    (5, "defer once", 0, 4),
    (8, "stream", 0, 0),
    (2, "helper", 0, 4),
    (4, "cancel", 20, 60),
    (4, "delay", 0, 3),
    (4, "flow", 0, 3),
)
# Deaths and failures are many here, and none may use up what there is.
POLICY = {
    "retry_policy": {"max_retries": 100, "backoff": {"type": "fixed", "delay_ms": 50}},
    "max_reclaim_count": 1000,
}
PATIENCE_S = 20.0
FLOW_MEMBERS = 3
LOOK_S = 0.3


@dataclass
class Submitted:
    """An execution that the store has acknowledged.

    Attributes:
        acknowledged_s: when, on the clock of the history.
        is_cancelled: somebody has tried to cancel it.
    """

    id: ExecutionId
    does: str
    acknowledged_s: float
    is_cancelled: bool = False


@dataclass
class Submitter:
    """Submits at a steady rate.

    Attributes:
        acknowledged: what the store has taken. ``in_doubt``: what it may have taken.
    """

    folder: Path
    seed: int
    rate: float
    acknowledged: dict[ExecutionId, Submitted] = field(default_factory=dict)
    in_doubt: set[ExecutionId] = field(default_factory=set)
    signals_sent: int = 0
    _seen: int = 0

    def open_client(self, port: int) -> Client:
        """Return a client that bears a lot."""
        return Client(StoreConfig(url=f"redis://127.0.0.1:{port}/0", timeout_s=1.0), patience_s=PATIENCE_S)

    async def run(self, port: int, seconds: float, number: int, of: int) -> None:
        """Be one of several that submit."""
        chance = random.Random(self.seed * 1000 + number)
        weights = [weight for weight, *_ in MIX]
        client = await trio.to_thread.run_sync(self.open_client, port)
        with client:
            began_s = trio.current_time()
            count = 0
            while trio.current_time() < began_s + seconds:
                _, does, least, most = chance.choices(MIX, weights)[0]
                await trio.to_thread.run_sync(
                    self._submit, client, does, chance.randint(least, most), chance.random()
                )
                count += 1
                await trio.sleep_until(began_s + count * of / self.rate)

    def _submit(self, client: Client, does: str, steps: int, share: float) -> None:
        job: dict[str, Any] = {"folder": str(self.folder), "does": does, "steps": steps}
        if does == "flow":
            self._submit_flow(client, job)
            return
        if does in ("cancel", "delay"):
            job["does"] = "work"
        submission = Submission(
            execution_id=client.new_id("default"),
            lane=LaneId("default"),
            execution_kind="chaos",
            payload=json.dumps(job).encode(),
            policy=POLICY,
            delay_until_ms=int((time.time() + 2 * share) * 1000) if does == "delay" else None,
        )
        self._note(does, lambda: client.submit_many([submission])[0], submission.execution_id)

    def _submit_flow(self, client: Client, job: dict[str, Any]) -> None:
        with contextlib.suppress(StoreError):
            flow = client.create_flow()
            before: list[ExecutionId] = []
            for _ in range(FLOW_MEMBERS):
                member = flow.add("chaos", job | {"does": "work"}, after=before, policy=POLICY)
                self.acknowledged[member] = Submitted(member, "flow", boottime_s())
                before = [member]

    def _note(self, does: str, submit: Callable[[], ExecutionId], execution: ExecutionId) -> None:
        try:
            submit()
        except StoreError:
            self.in_doubt.add(execution)
        else:
            self.acknowledged[execution] = Submitted(execution, does, boottime_s())

    async def attend(self, port: int) -> None:
        """Send signals to what waits for them and cancel what is to be cancelled, until cancelled."""
        client = await trio.to_thread.run_sync(self.open_client, port)
        open_ones: dict[ExecutionId, Submitted] = {}
        with client:
            while True:
                everything = list(self.acknowledged.values())
                open_ones |= {one.id: one for one in everything[self._seen :] if one.does in ("approval", "cancel")}
                self._seen = len(everything)
                ended = await trio.to_thread.run_sync(self._attend_to, client, list(open_ones.values()))
                for execution in ended:
                    del open_ones[execution]
                await trio.sleep(LOOK_S)

    def look_again(self) -> None:
        """Attend to all once more: the store has gone back to an earlier state."""
        self._seen = 0

    def _attend_to(self, client: Client, wanting: list[Submitted]) -> list[ExecutionId]:
        """Do what is to be done; return those that need nothing more."""
        try:
            states = client.states([one.id for one in wanting])
        except StoreError:
            return []
        ended = []
        for one, state in zip(wanting, states, strict=True):
            with contextlib.suppress(RefusedError, LeaseLostError, ExecutionNotFoundError, StoreError):
                if state in ("completed", "failed", "cancelled", None):
                    ended.append(one.id)
                elif one.does == "approval" and state == "suspended":
                    client.signal(one.id, "go", b"", idempotency_key=one.id)
                    self.signals_sent += 1
                elif one.does == "cancel" and state == "active":
                    one.is_cancelled = True
                    client.cancel(one.id, reason="chaos")
        return ended
