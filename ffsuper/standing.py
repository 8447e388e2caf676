"""How this worker stands: told by the supervisor and the pulses, asked by all who tell it to others."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from enum import Enum
from importlib.metadata import version
from typing import Any

import psutil
import trio

from ffsuper.messages import Offer
from ffsuper.sansio.ledger import Ledger, Running
from ffsuper.sansio.pulse import Pulses

# Read once: it is looked up in a file.
VERSION = version("ffsuper")


class State(Enum):
    """What the worker is about."""

    STARTING = "starting"
    RUNNING = "running"
    QUIET = "quiet"
    DRAINING = "draining"


@dataclass(slots=True)
class Standing:
    """Written by the supervisor; of the store, by those who ask it: presence and health.

    Attributes:
        stuck_after_s: see ``Pulses.stuck``.
        state: what it was told to do.
        detail: a sentence for operators, such as why the last reload was refused; may be empty.
        offer: what it takes on.
        drain_ends_s: when a drain hands back what still runs, on the trio clock.
        status_address: where the health endpoints are; empty when they are not.
        key_held_s: when the alive key was last ours for certain, on the trio clock.
        store_answers: whether the store answered when it was last asked.
    """

    pulses: Pulses
    ledger: Ledger
    stuck_after_s: float
    offer: Offer
    state: State = State.STARTING
    detail: str = ""
    drain_ends_s: float = 0.0
    status_address: str = ""
    key_held_s: float = -math.inf
    store_answers: bool = False
    started_ms: int = field(default_factory=lambda: int(time.time() * 1000))

    def advertised(self) -> Offer:
        """Return what is advertised: who takes on nothing has no capabilities to offer."""
        return self.offer if self.state is State.RUNNING else replace(self.offer, capabilities="")

    def stuck(self) -> list[str]:
        """Return the names of the actors that are stuck."""
        return self.pulses.stuck(self.stuck_after_s)

    def objection(self) -> str:
        """Say which actors are stuck; empty when none is."""
        stuck = self.stuck()
        return f"stuck: {', '.join(stuck)}" if stuck else ""

    def sentence(self) -> str:
        """Say how things stand, in one line."""
        running = len(self.ledger.running)
        if stuck := self.stuck():
            return f"Stuck: {', '.join(stuck)}; {running} running"
        done = self.ledger.finished.total()
        match self.state:
            case State.STARTING:
                told = "Starting"
            case State.RUNNING:
                told = f"Running {running} of {self.offer.slots}, {done} finished"
            case State.QUIET:
                told = f"Quiet: claiming nothing, {running} still running"
            case State.DRAINING:
                left_s = max(0.0, self.drain_ends_s - trio.current_time())
                told = f"Draining: {running} still running, handed back in {left_s:.0f} s"
        return f"{told}. {self.detail}" if self.detail else told

    def report(self) -> dict[str, Any]:
        """Return what the worker tells of itself in the store; times are Unix ms of this host's clock."""
        objection = self.objection()
        offset_s = time.time() - trio.current_time()
        finished: dict[str, dict[str, int]] = defaultdict(dict)
        for (what, outcome), count in self.ledger.finished.items():
            of_lane = finished[what.lane]
            of_lane[outcome] = of_lane.get(outcome, 0) + count
        return {
            "state": "stuck" if objection else self.state.value,
            "detail": objection or self.detail,
            "since_ms": self.started_ms,
            "version": VERSION,
            "lanes": list(self.offer.lanes),
            "capabilities": self.offer.capabilities.split(",") if self.offer.capabilities else [],
            "kinds": list(self.offer.kinds),
            "slots": self.offer.slots,
            "status_address": self.status_address,
            "written_ms": int(time.time() * 1000),
            "memory_bytes": resident_bytes(0),
            "claimed": self.ledger.begun.total(),
            "finished": finished,
            "running": [described(one, offset_s) for one in self.ledger.running.values()],
        }


def described(running: Running, offset_s: float) -> dict[str, Any]:
    """Return what is told of an execution that runs."""
    return {
        "execution": running.claim.lease.execution_id,
        "kind": running.claim.execution_kind,
        "lane": running.claim.lease.lane,
        "attempt": running.claim.lease.attempt_index,
        "since_ms": int((running.since_s + offset_s) * 1000),
        "child": running.child,
        "memory_bytes": resident_bytes(running.child),
    }


def resident_bytes(pid: int) -> int:
    """Return a process's resident memory; of this process for 0, and 0 for one that is gone."""
    try:
        return int(psutil.Process(pid or None).memory_info().rss)
    except psutil.Error:
        return 0
