"""What a worker's executors run and have run, for status and metrics: written by them, decided upon by nobody."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ffsuper.messages import Claim, LaneId, LeaseId

# Upper bounds of the histogram of running times, in seconds; what is longer is counted in one more bucket.
BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
# Lanes and kinds are the submitters' words; what is counted apart must not grow with them for ever.
APART = 1_000
OTHER = "(other)"
NOTHING: Mapping[str, object] = {}


@dataclass(frozen=True, slots=True)
class Running:
    """An execution that runs.

    Attributes:
        child: process id of the child.
        since_s: when it was begun, on the trio clock.
    """

    claim: Claim
    child: int
    since_s: float


@dataclass(frozen=True, slots=True)
class What:
    """What is counted apart."""

    lane: LaneId
    kind: str


@dataclass(slots=True)
class Durations:
    """A histogram of running times.

    Attributes:
        counts: one more than there are bounds.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    sum_s: float = 0.0


class Ledger:
    """The executions of one worker, and the children that run them.

    Attributes:
        running: by lease.
        cut_off: how many attempts were ended by the worker's own end.
        begun: attempts begun since the start.
        finished: attempts that came to an outcome, by that: ``completed``, ``failed``, ``deferred``, ..., and
            ``lost`` for those whose lease ended first.
        durations: of attempts, whatever their outcome.
        lost: leases that ended before the attempt, by why.
        children: process ids of those that are there.
        deaths: of children that nobody had asked to go, by cause.
    """

    def __init__(self) -> None:
        self.running: dict[LeaseId, Running] = {}
        self.cut_off = 0
        self.begun: Counter[What] = Counter()
        self.finished: Counter[tuple[What, str]] = Counter()
        self.durations: dict[What, Durations] = {}
        self.lost: Counter[str] = Counter()
        self.children: set[int] = set()
        self.deaths: Counter[str] = Counter()

    def copy(self) -> Ledger:
        """Return one that stays as this one is now."""
        copy = Ledger()
        copy.running = dict(self.running)
        copy.cut_off = self.cut_off
        copy.begun = self.begun.copy()
        copy.finished = self.finished.copy()
        copy.durations = {what: Durations([*one.counts], one.sum_s) for what, one in self.durations.items()}
        copy.lost = self.lost.copy()
        copy.children = set(self.children)
        copy.deaths = self.deaths.copy()
        return copy

    def began(self, claim: Claim, child: int, now_s: float) -> None:
        """Note that an attempt begins, or goes on in another child."""
        known = self.running.get(claim.lease.lease_id)
        if known is None:
            self.begun[self._what(claim)] += 1
            self.running[claim.lease.lease_id] = Running(claim, child, now_s)
        else:
            self.running[claim.lease.lease_id] = replace(known, child=child)

    def traceparent(self, lease_id: LeaseId) -> str:
        """Return the trace context of an attempt, for its handler; empty where nothing is traced."""
        return ""

    def lease_ended(self, lease_id: LeaseId, code: str, *, by_order: bool) -> None:
        """Note that a lease has ended before its attempt.

        Args:
            by_order: because the execution was ended, by a cancellation for instance.
        """
        self.lost[code] += 1

    def ended(self, lease_id: LeaseId, outcome: str, now_s: float, why: Mapping[str, object] = NOTHING) -> None:
        """Note what became of an attempt; one that had not begun counts nothing.

        Args:
            why: of a failure, its ``category`` and perhaps ``reason``.
        """
        running = self.running.pop(lease_id, None)
        if running is None:
            return
        what = self._what(running.claim)
        self.finished[what, outcome] += 1
        durations = self.durations.setdefault(what, Durations())
        durations.counts[bisect_left(BOUNDS_S, now_s - running.since_s)] += 1
        durations.sum_s += now_s - running.since_s

    def _what(self, claim: Claim) -> What:
        what = What(claim.lease.lane, claim.execution_kind)
        if what in self.begun or len(self.begun) < APART:
            return what
        return What(LaneId(OTHER), OTHER)
