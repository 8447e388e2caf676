"""A store in memory, with the trio clock for its own; the contract suite holds it to what the real one does."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field

import trio

from ffsuper.channels import Candidates
from ffsuper.errors import (
    LeaseLostError,
    OutcomeUnknownError,
    RefusedError,
    StoreError,
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
    NotBegun,
    Outcome,
    Pick,
    Progress,
    ReceivedSignal,
    ReportUsage,
    Suspended,
    UsageReported,
    WaitingForChildren,
    WaitpointCreated,
)
from ffsuper.sansio.pulse import Pulses
from ffsuper.sansio.scan import Place
from ffsuper.store import scans, takeovers
from ffsuper.store.attempts import Attempts, FrameWriter
from ffsuper.store.claims import ClaimDoubtError, Claims
from ffsuper.store.leadership import Lead, Leadership
from ffsuper.store.leases import Leases
from ffsuper.store.looks import Due, First, Index, Looks
from ffsuper.store.outcomes import RELEASED_AS, Outcomes
from ffsuper.store.presence import Presence
from ffsuper.store.replies import Call, Part
from ffsuper.store.scans import PAGE, Scans, Waiting
from ffsuper.store.sweeps import Page, Sweeps
from ffsuper.store.takeovers import Expired, Takeovers, Taker

LANE = LaneId("default")


def pulses() -> Pulses:
    """Return what an actor's signs of life go to, for tests that do not look at them."""
    return Pulses(trio.current_time)


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
    due_s: float = 0.0
    epoch: int = 0
    lease_id: str = ""
    lease_expires_s: float = 0.0
    result: bytes = b""
    failure: Failed | None = None
    released: list[tuple[str, str]] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)
    crash_report: str = ""
    frames: list[bytes] = field(default_factory=list)


class FakeStore:
    """The executions, and the faults that a test asks for.

    Attributes:
        away: every call fails as if the store could not be reached.
        lose_replies: so many coming writes are carried out, and their answers lost.
        away_after_loss: the store goes away with the lost answer.
        damaged: indexes that a look finds to be something else.
        lanes: those that workers have served.
        signals_at_hand: signals that have come before the next suspension.
        picks: the store picks executions by itself.
        slow_s: how long each call takes.
    """

    def __init__(self, lease_ttl_s: float = 30.0) -> None:
        self.records: dict[ExecutionId, Record] = {}
        self.alive: bytes | None = None
        self.told: list[str] = []
        self.order = b""
        self.capabilities: str | None = None
        self.away = False
        self.picks = False
        self.slow_s = 0.0
        self.lose_replies = 0
        self.away_after_loss = False
        self.signals_at_hand: tuple[ReceivedSignal, ...] = ()
        self.lease_ttl_s = lease_ttl_s
        self.damaged: list[Index] = []
        self.lanes: list[LaneId] = []
        self.calls: list[str] = []
        self.scans = FakeScans(self)
        self.claims = FakeClaims(self)
        self.leases = FakeLeases(self)
        self.outcomes = FakeOutcomes(self)
        self.attempts = FakeAttempts(self)
        self.sweeps = FakeSweeps(self)
        self.takeovers = FakeTakeovers(self)
        self.leadership = FakeLeadership(self)
        self.presence = FakePresence(self)

    def add(self, number: int, kind: str = "job", payload: bytes = b"") -> ExecutionId:
        """Create an execution."""
        execution_id = ExecutionId(f"{{fp:0}}:00000000-0000-0000-0000-{number:012}")
        self.records[execution_id] = Record(execution_id, kind, payload)
        return execution_id

    def waiting(self, place: Place) -> list[Record]:
        """Return what waits at a place; all executions are in partition 0."""
        waiting = [one for one in self.records.values() if one.state == "waiting" and one.lane == place.lane]
        return waiting if place.partition == 0 else []

    async def reach(self, what: str) -> None:
        """Every call passes here."""
        await trio.lowlevel.checkpoint()
        if self.slow_s:
            await trio.sleep(self.slow_s)
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

    async def eligible(self, places: Sequence[Place], page: int, skip: Container[ExecutionId]) -> list[scans.Page]:
        await self._store.reach("eligible")
        pages = []
        for place in places:
            members = self._store.waiting(place)[place.offset : place.offset + page]
            shown = [one for one in members if one.id not in skip]
            pages.append(scans.Page(len(members), len(members) - len(shown), tuple(map(candidate, shown))))
        return pages

    async def waiting(self, places: Sequence[Place], kinds: Collection[str]) -> list[Waiting]:
        await self._store.reach("waiting")
        found = []
        for place in places:
            page = self._store.waiting(place)[place.offset : place.offset + PAGE]
            ours = [position for position, one in enumerate(page) if not kinds or one.kind in kinds]
            skipped = ours[0] if ours else len(page)
            if page:
                found.append(Waiting(place, len(page), skipped, page[skipped].id if ours else None))
        return found


def named(offered: Candidates) -> list[Candidate]:
    """Return what was offered by name."""
    return [one for one in offered.found if isinstance(one, Candidate)]


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

    @property
    def picks(self) -> bool:
        return self._store.picks

    async def claim(
        self, chosen: Sequence[Candidate | Pick], kinds: Collection[str] = ()
    ) -> list[Claim | StoreError]:
        try:
            await self._store.reach(f"claim {len(chosen)}")
        except StoreUnavailableError as error:
            return [error for _ in chosen]
        return [self._claim_picked(one, kinds) if isinstance(one, Pick) else self._claim_one(one) for one in chosen]

    def _claim_picked(self, pick: Pick, kinds: Collection[str]) -> Claim | StoreError:
        waiting = self._store.waiting(Place(pick.lane, pick.partition))
        for one in waiting[pick.offset :]:
            if not kinds or one.kind in kinds:
                return self._claim_one(candidate(one))
        return RefusedError("ffsuper_claim_first", "nothing_left")

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
        assert isinstance(doubt.candidate, Candidate)
        record = self._store.records[doubt.candidate.execution_id]
        if record.lease_id != doubt.lease.lease_id or record.state != "active":
            return RefusedError("fake", "not_carried_out")
        return self._claim_of(record)


class FakeLeases(Leases):
    def __init__(self, store: FakeStore) -> None:
        self._store = store

    async def renew(self, leases: Sequence[Lease]) -> list[StoreError | None]:
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
            case Deferred(until_ms):
                record.state, record.interrupted = "delayed" if until_ms > 0 else "waiting", True
                reason = "worker_delay"
            case Suspended() if self._store.signals_at_hand:
                signals, self._store.signals_at_hand = self._store.signals_at_hand, ()
                return signals
            case Suspended():
                record.state, record.interrupted, reason = "suspended", True, "suspend"
            case NotBegun():
                record.state, record.interrupted, reason = "waiting", True, "worker_delay"
            case WaitingForChildren():
                record.state, record.interrupted, reason = "blocked", True, "waiting_children"
            case CancelledByHandler():
                record.state, reason = "cancelled", "cancelled"
        record.released.append((lease.lease_id, reason))
        if self._store.reply_is_lost():
            raise OutcomeUnknownError("the test lost the answer")
        return None

    async def deliver_all(self, ended: Sequence[tuple[Claim, Outcome]]) -> list[StoreError | None]:
        failures: list[StoreError | None] = []
        for claim, outcome in ended:
            try:
                await self.deliver(claim.lease, outcome, claim.retry_policy)
                failures.append(None)
            except StoreError as error:
                failures.append(error)
        return failures

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

    async def report_crash(self, lease: Lease, report: str) -> None:
        await self._store.reach("report_crash")
        self._store.held(lease).crash_report = report

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


class FakeLooks(Looks):
    """Records are the only index there is, on partition 0."""

    def __init__(self, store: FakeStore) -> None:
        self._store = store

    def entries(self, index: Index, bound_ms: float) -> list[tuple[float, Record]]:
        """Return what an index holds from a score on, lowest first."""
        if index.partition != 0:
            return []
        states = {"delayed": ("delayed", "stuck"), "lease_expiry": ("active", "expired")}[index.name]
        found = [
            ((one.due_s if index.lane else one.lease_expires_s) * 1000, one)
            for one in self._store.records.values()
            if one.state in states and index.lane in ("", one.lane)
        ]
        return sorted((pair for pair in found if pair[0] >= bound_ms), key=lambda pair: (pair[0], pair[1].id))

    async def due(self, bounds: Mapping[Index, float]) -> Due:
        await self._store.reach("due")
        firsts = {index: self.entries(index, bound_ms) for index, bound_ms in bounds.items()}
        found = {index: First(entries[0][0], now_ms()) for index, entries in firsts.items() if entries}
        return Due(found, self._store.damaged)


def now_ms() -> int:
    """Return the store's clock."""
    return int(trio.current_time() * 1000)


class FakeSweeps(FakeLooks, Sweeps):
    async def lanes(self) -> list[LaneId]:
        await self._store.reach("lanes")
        return list(self._store.lanes)

    async def move(self, calls: Sequence[Call[Page]]) -> list[Page | StoreError]:
        await self._store.reach(f"move {len(calls)}")
        return [self._moved(*call.command) for call in calls]

    def _moved(self, _: Part, function: Part, count: Part, *rest: Part) -> Page | StoreError:
        since, offset, page = rest[int(count) : int(count) + 3]
        index = Index("lease_expiry", 0)
        if function == "ffsuper_promote_delayed":
            index = Index("delayed", 0, LaneId(str(rest[0]).split(":lane:")[1].removesuffix(":delayed")))
        assert rest[0] == index.key
        due = [one for at_ms, one in self.entries(index, float(since)) if at_ms <= now_ms()]
        seen = due[int(offset) : int(offset) + int(page)]
        stuck = [one for one in seen if one.state == "stuck"]
        for one in seen:
            one.state = {"delayed": "waiting", "active": "expired"}.get(one.state, one.state)
        still_due = len(stuck) if index.lane else len(seen)
        example, why = (stuck[-1].id, "damaged") if stuck else ("", "")
        return Page(now_ms(), len(seen), still_due, len(stuck), example, why, {"moved": len(seen) - len(stuck)})


class FakeTakeovers(FakeLooks, Takeovers):
    async def expired(self, places: Sequence[tuple[Index, float, int]], taker: Taker) -> list[Expired | StoreError]:
        await self._store.reach(f"expired {len(places)}")
        return [self._expired(*place, taker) for place in places]

    def _expired(self, index: Index, since: float, offset: int, taker: Taker) -> Expired:
        due = [one for at_ms, one in self.entries(index, since) if at_ms <= now_ms()]
        seen = due[offset : offset + takeovers.PAGE]
        for one in seen:
            one.state = "expired"
        ours = [one for one in seen if one.lane in taker.lanes and one.kind in taker.kinds]
        return Expired(len(seen), len(seen), 0, [candidate(one) for one in ours])

    async def end_leases(self, instance_id: str, partitions: Sequence[int]) -> int:
        raise NotImplementedError


class FakeLeadership(Leadership):
    """The lead of one store, on the trio clock."""

    def __init__(self, store: FakeStore) -> None:
        self._store = store
        self.holder = ""
        self.term = 0
        self.expires_s = 0.0

    async def lead(self, holder: str, ttl_ms: int) -> Lead:
        await self._store.reach("lead")
        remaining_s = self.expires_s - trio.current_time()
        if remaining_s > 0 and self.holder != holder:
            return Lead(self.holder, 0, int(remaining_s * 1000))
        self.term += remaining_s <= 0 or self.holder != holder
        self.holder, self.expires_s = holder, trio.current_time() + ttl_ms / 1000
        return Lead("", self.term, 0)

    async def stop(self, holder: str) -> None:
        await self._store.reach("stop")
        if self.holder == holder:
            self.expires_s = 0.0


class FakePresence(Presence):
    def __init__(self, store: FakeStore) -> None:
        self.instance_id = "worker-1"
        self._store = store

    async def take_alive(self, holder: bytes, ttl_ms: int) -> bytes | None:
        await self._store.reach("take_alive")
        if self._store.alive is None:
            self._store.alive = holder
            return None
        return self._store.alive

    async def holder(self) -> bytes:
        await self._store.reach("holder")
        return self._store.alive or b""

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

    async def advertise(self, capabilities: str, lanes: Sequence[LaneId]) -> None:
        await self._store.reach("advertise")
        self._store.lanes = list(lanes)
        self._store.capabilities = capabilities

    async def tell(self, status: str, ttl_ms: int) -> None:
        await self._store.reach("tell")
        self._store.told.append(status)

    async def order(self) -> bytes:
        await self._store.reach("order")
        return self._store.order

    async def answers(self) -> bool:
        await trio.lowlevel.checkpoint()
        self._store.calls.append("answers")
        return not self._store.away

    async def withdraw(self) -> None:
        await self._store.reach("withdraw")
        self._store.capabilities = None
