"""What the protocol says of one execution's life: the model that the state machine holds a real server to.

A state is what decides which calls are allowed; each has the one lane index that the execution must be in:

    eligible  delayed  dependencies  budget     waiting, in the index of that name
    held      outdated  expired  revoked        a worker has it: lease good, over, marked so, taken away
    suspended                                   waiting for a signal
    terminal                                    ended; only a replay leads out
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ffsuper.store.keys import ExecutionKeys

OK = [1, "OK"]
HELD = ("held", "outdated", "expired", "revoked")
INDEX = {
    **{state: state for state in ("eligible", "delayed", "suspended", "terminal")},
    "dependencies": "blocked:dependencies",
    "budget": "blocked:budget",
    **dict.fromkeys(HELD, "active"),
}


@dataclass(frozen=True)
class Fence:
    """A lease as its holder knows it."""

    lease_id: str
    epoch: int
    attempt_id: str
    index: int


@dataclass
class Life:
    """One execution.

    Attributes:
        interrupted: the next claim must go on with the attempt; otherwise it begins one of ``next_type``.
        fences: every lease that there has been, the latest last.
        attempts: how many have begun; the last one's index is one less.
        waitpoint_id: the latest suspension's, with its token. An expired execution leaves it open.
        pending_id: a waitpoint that was made beforehand and not used yet. ``buffered``: signals that wait at it.
        open_edges: edges that are not resolved; ``impossible`` counts those that never will be satisfied.
        open_count: as the record counts them: a replay sets it to what its caller names.
    """

    keys: ExecutionKeys
    max_retries: int
    max_reclaims: int
    state: str = "eligible"
    outcome: str = "none"
    interrupted: bool = False
    next_type: str = "initial"
    fences: list[Fence] = field(default_factory=list)
    attempts: int = 0
    retries: int = 0
    reclaims: int = 0
    replays: int = 0
    has_deadline: bool = False
    has_timeout: bool = False
    waitpoint_id: str = ""
    token: str = ""
    is_waitpoint_open: bool = False
    pending_id: str = ""
    pending_token: str = ""
    pending_attempt: int = 0
    buffered: list[str] = field(default_factory=list)
    in_flow: bool = False
    open_edges: set[str] = field(default_factory=set)
    impossible: set[str] = field(default_factory=set)
    open_count: int = 0

    @property
    def epoch(self) -> int:
        """How many leases there have been."""
        return len(self.fences)

    @property
    def phase(self) -> str:
        """The record's lifecycle phase."""
        if self.state in HELD:
            return "active"
        return self.state if self.state in ("suspended", "terminal") else "runnable"

    def not_active(self) -> list[Any]:
        """Return the refusal of everything that needs a lease where there is none."""
        return [0, "execution_not_active", self.outcome, str(self.epoch)]

    def refusal(self, fence: Fence, *, marks: bool = True) -> list[Any] | None:
        """Return what a holder's call with this fence is refused with; note what it marks."""
        match self.state:
            case "held":
                return None if fence == self.fences[-1] else [0, "stale_lease"]
            case "revoked":
                return [0, "lease_revoked"]
            case "outdated" | "expired":
                self.state = "expired" if marks else self.state
                return [0, "lease_expired"]
            case _:
                return self.not_active()

    def release(self, state: str, *, interrupted: bool) -> None:
        """End the lease."""
        self.state, self.interrupted, self.has_timeout = state, interrupted, False

    def end(self, outcome: str, *, keeps_deadline: bool = False) -> None:
        """End the execution. What has no key for the deadline's index leaves the entry to the sweep."""
        self.release("terminal", interrupted=False)
        self.outcome, self.has_deadline = outcome, self.has_deadline and keeps_deadline

    def runs(self, fence: Fence) -> None:
        """Begin a lease."""
        self.fences.append(fence)
        self.state, self.interrupted = "held", False
        self.attempts = max(self.attempts, fence.index + 1)
