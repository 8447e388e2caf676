"""A store in memory, with the trio clock for its own; the contract suite holds it to what the real one does."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

import trio

from ffsuper.errors import (
    LeaseLostError,
    OutcomeUnknownError,
    RefusedError,
    StoreError,
    StoreScriptError,
    StoreUnavailableError,
)
from ffsuper.messages import (
    Answer,
    AttemptId,
    CancelledByHandler,
    Candidate,
    Claim,
    ClaimKind,
    Completed,
    CreateWaitpoint,
    Deferred,
    Emit,
    ExecutionId,
    Failed,
    LaneId,
    Lease,
    LeaseId,
    Outcome,
    Progress,
    ReceivedSignal,
    ReportUsage,
    Suspended,
    UsageReported,
    WaitingForChildren,
    WaitpointCreated,
)
from ffsuper.sansio.scan import Place
from ffsuper.store.attempts import Attempts, FrameWriter
from ffsuper.store.claims import ClaimDoubtError, Claims
from ffsuper.store.leases import Leases
from ffsuper.store.outcomes import RELEASED_AS, Outcomes
from ffsuper.store.presence import Presence
from ffsuper.store.scans import Page, Scans
from ffsuper.store.sweeps import Sweeps

LANE = LaneId("default")
# Far longer than any test's virtual time: what is still waiting then waits for ever.
HOUR_S = 3600.0


@dataclass
class Record:
    """One execution. ``state`` is waiting, delayed, stuck, active, expired, ..., completed or failed."""

    id: ExecutionId
    kind: str = "job"
    payload: bytes = b""
    lane: LaneId = LANE
    state: str = "waiting"
    interrupted: bool = False
    attempts: int = 0
    epoch: int = 0
    lease_id: str = ""
    lease_expires_s: float = 0.0
    result: bytes = b""
    failure: Failed | None = None
    released: list[tuple[str, str]] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)
    frames: list[bytes] = field(default_factory=list)


class FakeStore:
    """The executions, and the faults that a test asks for.

    Attributes:
        away: every call fails as if the store could not be reached.
        lose_replies: so many coming writes are carried out, and their answers lost.
        away_after_loss: the store goes away with the lost answer.
        signals_at_hand: signals that have come before the next suspension.
    """

    def __init__(self, lease_ttl_s: float = 30.0) -> None:
        self.records: dict[ExecutionId, Record] = {}
        self.alive: bytes | None = None
        self.capabilities: str | None = None
        self.away = False
        self.lose_replies = 0
        self.away_after_loss = False
        self.signals_at_hand: tuple[ReceivedSignal, ...] = ()
        self.lease_ttl_s = lease_ttl_s
        self.calls: list[str] = []
        self.scans = FakeScans(self)
        self.claims = FakeClaims(self)
        self.leases = FakeLeases(self)
        self.outcomes = FakeOutcomes(self)
        self.attempts = FakeAttempts(self)
        self.sweeps = FakeSweeps(self)
        self.presence = FakePresence(self)

    def add(self, number: int, kind: str = "job", payload: bytes = b"") -> ExecutionId:
        """Create an execution."""
        execution_id = ExecutionId(f"{{fp:0}}:00000000-0000-0000-0000-{number:012}")
        self.records[execution_id] = Record(execution_id, kind, payload)
        return execution_id

    async def reach(self, what: str) -> None:
        """Every call passes here."""
        await trio.lowlevel.checkpoint()
        self.calls.append(what)
        if self.away:
            raise StoreUnavailableError("the test says that the store is away")

    def reply_is_lost(self) -> bool:
        """Tell whether the answer to this write is lost."""
        if self.lose_replies:
            self.lose_replies -= 1
            self.away = self.away_after_loss
            return True
        return False

    def held(self, lease: Lease) -> Record:
        """Return the execution of a lease that is still good."""
        record = self.records[lease.execution_id]
        if record.state != "active":
            raise LeaseLostError("fake", "execution_not_active")
        if record.lease_expires_s <= trio.current_time():
            record.state = "expired"
            raise LeaseLostError("fake", "lease_expired")
        if (record.lease_id, record.epoch) != (lease.lease_id, lease.epoch):
            raise LeaseLostError("fake", "stale_lease")
        return record


class FakeScans(Scans):
    def __init__(self, store: FakeStore) -> None:
        self._store = store

    async def eligible(self, places: Sequence[Place], page: int, skip: Container[ExecutionId]) -> list[Page]:
        await self._store.reach("eligible")
        pages = []
        for place in places:
            members = [
                one
                for one in self._store.records.values()
                if one.state == "waiting" and one.lane == place.lane and place.partition == 0
            ][place.offset : place.offset + page]
            shown = [one for one in members if one.id not in skip]
            pages.append(Page(len(members), len(members) - len(shown), tuple(map(candidate, shown))))
        return pages

    async def expired(self, partitions: Sequence[int], now_ms: int, offset: int, page: int) -> list[Candidate]:
        await self._store.reach("expired")
        expired = [one for one in self._store.records.values() if one.state == "expired"]
        return [candidate(one) for one in expired[offset : offset + page]]


def candidate(record: Record) -> Candidate:
    """Return a record as a candidate."""
    claim = ClaimKind.RESUMED if record.interrupted else ClaimKind.NEW
    if record.state == "expired":
        claim = ClaimKind.RECLAIM
    return Candidate(record.id, record.lane, claim, record.kind, max(record.attempts - 1, 0))


class FakeClaims(Claims):
    def __init__(self, store: FakeStore) -> None:
        self._store = store
        self._leases = 0

    async def claim(self, candidates: Sequence[Candidate]) -> list[Claim | StoreError]:
        try:
            await self._store.reach(f"claim {len(candidates)}")
        except StoreUnavailableError as error:
            return [error for _ in candidates]
        return [self._claim_one(one) for one in candidates]

    def _claim_one(self, wanted: Candidate) -> Claim | StoreError:
        record = self._store.records[wanted.execution_id]
        if record.state not in ("waiting", "expired"):
            return RefusedError("fake", "execution_not_leaseable")
        self._leases += 1
        record.state, record.lease_id = "active", f"lease-{self._leases}"
        record.lease_expires_s = trio.current_time() + self._store.lease_ttl_s
        record.epoch += 1
        record.attempts += 0 if record.interrupted else 1
        record.interrupted = False
        claim = self._claim_of(record)
        if self._store.reply_is_lost():
            return ClaimDoubtError(wanted, claim.lease, StoreUnavailableError("lost"))
        return claim

    def _claim_of(self, record: Record) -> Claim:
        lease = Lease(
            record.id,
            record.lane,
            LeaseId(record.lease_id),
            record.epoch,
            AttemptId(f"attempt-{record.attempts}"),
            record.attempts - 1,
            int(self._store.lease_ttl_s * 1000),
            trio.current_time(),
        )
        return Claim(lease, record.kind, "initial", record.payload, {}, b"")

    async def look_up(self, doubt: ClaimDoubtError) -> Claim | StoreError:
        try:
            await self._store.reach("look_up")
        except StoreUnavailableError:
            return doubt
        record = self._store.records[doubt.candidate.execution_id]
        if record.lease_id != doubt.lease.lease_id or record.state != "active":
            return RefusedError("fake", "not_carried_out")
        return self._claim_of(record)


class FakeLeases(Leases):
    def __init__(self, store: FakeStore) -> None:
        self._store = store

    async def renew(self, leases: Sequence[Lease], timeout_s: float) -> list[StoreError | None]:
        try:
            await self._store.reach(f"renew {len(leases)}")
        except StoreUnavailableError as error:
            return [error for _ in leases]
        results: list[StoreError | None] = []
        for lease in leases:
            try:
                record = self._store.held(lease)
                record.lease_expires_s = trio.current_time() + lease.ttl_ms / 1000
                results.append(None)
            except LeaseLostError as error:
                results.append(error)
        return results


class FakeOutcomes(Outcomes):
    def __init__(self, store: FakeStore) -> None:
        self._store = store

    async def deliver(self, lease: Lease, outcome: Outcome, retry_policy: bytes) -> tuple[ReceivedSignal, ...] | None:
        await self._store.reach("deliver")
        record = self._store.held(lease)
        match outcome:
            case Completed(result):
                record.state, record.result, reason = "completed", result, "completed"
            case Failed():
                record.state, record.failure, reason = "failed", outcome, "failed_terminal"
            case Deferred():
                record.state, record.interrupted, reason = "delayed", True, "worker_delay"
            case Suspended() if self._store.signals_at_hand:
                signals, self._store.signals_at_hand = self._store.signals_at_hand, ()
                return signals
            case Suspended():
                record.state, record.interrupted, reason = "suspended", True, "suspend"
            case WaitingForChildren():
                record.state, record.interrupted, reason = "blocked", True, "waiting_children"
            case CancelledByHandler():
                record.state, reason = "cancelled", "cancelled"
        record.released.append((lease.lease_id, reason))
        if self._store.reply_is_lost():
            raise OutcomeUnknownError("the test lost the answer")
        return None

    async def was_delivered(self, lease: Lease, outcome: Outcome) -> bool:
        await self._store.reach("was_delivered")
        (reason, *_) = sorted(RELEASED_AS[type(outcome)], reverse=True)
        return (lease.lease_id, reason) in self._store.records[lease.execution_id].released


class FakeAttempts(Attempts):
    def __init__(self, store: FakeStore) -> None:
        self._store = store

    async def progress(self, lease: Lease, progress: Progress) -> None:
        await self._store.reach("progress")
        self._store.held(lease).progress.append(progress)

    def frames(self, lease: Lease) -> FrameWriter:
        return FakeFrames(self._store, lease)

    async def answer(self, lease: Lease, request: ReportUsage | CreateWaitpoint) -> Answer:
        await self._store.reach("answer")
        if isinstance(request, ReportUsage):
            return UsageReported(request.task, request.request, "OK", "", 0, 0)
        return WaitpointCreated(request.task, request.request, "point", "key", "token")


class FakeFrames(FrameWriter):
    def __init__(self, store: FakeStore, lease: Lease) -> None:
        self._store = store
        self._of = lease

    async def write(self, frames: Sequence[Emit]) -> str:
        while self._store.away:  # noqa: ASYNC110 -- the clock is virtual
            await trio.sleep(0.1)
        await self._store.reach(f"append {len(frames)}")
        self._store.held(self._of).frames += [frame.payload for frame in frames]
        return ""


class FakeSweeps(Sweeps):
    def __init__(self, store: FakeStore) -> None:
        self._store = store

    async def now_ms(self) -> int:
        await self._store.reach("now_ms")
        return int(trio.current_time() * 1000)

    async def due_leases(self, partitions: Sequence[int], now_ms: int, offset: int, page: int) -> list[ExecutionId]:
        await self._store.reach("due_leases")
        due = [
            one.id
            for one in self._store.records.values()
            if one.state in ("active", "expired") and one.lease_expires_s * 1000 <= now_ms
        ]
        return due[offset : offset + page]

    async def due_delayed(
        self, lane: LaneId, partitions: Sequence[int], now_ms: int, offset: int, page: int
    ) -> list[ExecutionId]:
        await self._store.reach("due_delayed")
        due = [
            one.id for one in self._store.records.values() if one.state in ("delayed", "stuck") and one.lane == lane
        ]
        return due[offset : offset + page]

    async def promote_delayed(
        self, lane: LaneId, executions: Sequence[ExecutionId], now_ms: int
    ) -> list[str | StoreError]:
        await self._store.reach(f"promote_delayed {len(executions)}")
        results: list[str | StoreError] = []
        for one in executions:
            if self._store.records[one].state == "stuck":
                results.append(StoreScriptError("damaged"))
            else:
                self._store.records[one].state = "waiting"
                results.append("promoted")
        return results

    async def mark_expired(self, executions: Sequence[ExecutionId]) -> list[str | StoreError]:
        await self._store.reach("mark_expired")
        results: list[str | StoreError] = []
        for one in executions:
            if self._store.records[one].state == "expired":
                results.append("already_expired")
            else:
                self._store.records[one].state = "expired"
                results.append("marked_expired")
        return results


class FakePresence(Presence):
    def __init__(self, store: FakeStore) -> None:
        self._store = store

    async def take_alive(self, holder: bytes, ttl_ms: int) -> bytes | None:
        await self._store.reach("take_alive")
        if self._store.alive is None:
            self._store.alive = holder
            return None
        return self._store.alive

    async def replace_alive(self, dead_holder: bytes, holder: bytes, ttl_ms: int) -> bool:
        await self._store.reach("replace_alive")
        if (self._store.alive or b"") != dead_holder:
            return False
        self._store.alive = holder
        return True

    async def renew_alive(self, holder: bytes, ttl_ms: int) -> bool:
        await self._store.reach("renew_alive")
        return self._store.alive == holder

    async def release_alive(self, holder: bytes) -> bool:
        await self._store.reach("release_alive")
        if self._store.alive != holder:
            return False
        self._store.alive = None
        return True

    async def advertise(self, capabilities: str) -> None:
        await self._store.reach("advertise")
        self._store.capabilities = capabilities

    async def withdraw(self) -> None:
        await self._store.reach("withdraw")
        self._store.capabilities = None
