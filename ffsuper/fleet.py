"""A running fleet, for clients: its workers and what they are told, its lanes, and the store under it."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from ffsuper.clients import Execution
from ffsuper.errors import StoreAccessError, StoreScriptError, WorkerNotFoundError
from ffsuper.messages import ExecutionId, LaneId, Order
from ffsuper.store import fleet, keys, submissions
from ffsuper.store.announcements import ORDERS
from ffsuper.store.fleet import Engine, Load
from ffsuper.store.replies import Call
from ffsuper.store.workers import Worker, parse_worker, read_capabilities, read_told, split, write_order

if TYPE_CHECKING:
    from ffsuper.client import Client

# For how long workers may take to say how they are before what they said last has to do.
ANSWER_S = 0.3
POLL_S = 0.02
EVERYBODY = "*"
Place = tuple[LaneId, int]
# Of an index: this many of the highest are looked at one by one, and the lowest, where work waits longest.
PRIORITIES = 14
# What a worker says once it has obeyed; one that drains has ended when it has.
OBEYED = {Order.QUIET: ("quiet", "draining"), Order.RESUME: ("running",), Order.DRAIN: ()}
ENDED = "ended"
# As what workers claim, as far as they are able to.
CLAIMING = ("running", "stuck")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A lane: how many executions are in each of its indexes, and who takes from it.

    Attributes:
        blocked: by ``dependencies``, ``budget``, ``quota``, ``route`` and ``operator``.
        oldest_wait_ms: of the eligible ones: since the creation of the oldest; None when there is none.
        workers: ffsuper's that claim from it now.
    """

    name: LaneId
    eligible: int
    oldest_wait_ms: int | None
    delayed: int
    active: int
    suspended: int
    blocked: Mapping[str, int]
    terminal: int
    workers: Sequence[str]


class Fleet:
    """All workers and lanes of a store; made by ``Client.fleet``."""

    def __init__(self, client: Client, partitions: int) -> None:
        self._client = client
        self._partitions = partitions

    def workers(self, *, answer_s: float = ANSWER_S) -> list[Worker]:
        """Return all workers by name, each as it is now if it says so in time.

        Args:
            answer_s: for how long they are waited for; 0 to take what they said last.
        """
        own, advertised = self._client.run_all([fleet.read_names(keys.OWN_WORKERS), fleet.read_names(keys.WORKERS)])
        known = {one.instance_id: one for one in self._read(sorted({*own, *advertised}), own)}
        asked = [one.instance_id for one in known.values() if one.lives]
        if not answer_s or not asked:
            return list(known.values())
        with contextlib.suppress(StoreAccessError):  # who may only look sees what they said last
            self._client.run(fleet.announce(ORDERS, EVERYBODY))
        give_up_s = time.monotonic() + answer_s
        while asked and time.monotonic() < give_up_s:
            time.sleep(POLL_S)
            for now in self._read(asked, own):
                before = known[now.instance_id]
                is_fresh = (now.nonce, now.written_ms) != (before.nonce, before.written_ms)
                if is_fresh or not now.lives:
                    known[now.instance_id] = replace(now, is_fresh=is_fresh and now.lives)
                    asked.remove(now.instance_id)
        return list(known.values())

    def _read(self, instance_ids: Sequence[str], own: Collection[str]) -> list[Worker]:
        """Return workers as they were when they last said so."""
        reads: list[Call[Any]] = []
        for one in instance_ids:
            reads += [read_told(keys.worker_alive(one)), read_told(keys.worker_status(one))]
            reads.append(read_capabilities(one))
        told = iter(self._client.run_all(reads))
        return [
            parse_worker(one, *parts, is_own=one in own)
            for one, *parts in zip(instance_ids, *[told] * 3, strict=True)
        ]

    def tell(self, instance_id: str, order: Order) -> Worker:
        """Tell a worker to quiet, to resume or to drain; return which one was told.

        Raises:
            WorkerNotFoundError: there is no live worker of this name.
            ValueError: it is no worker of ffsuper, or drains and is told to resume.
        """
        worker = self._live_worker(instance_id)
        refuse_resume(worker, order)
        now_ms = int(time.time() * 1000)
        self._client.run(write_order(instance_id, worker.nonce, order.value, operator(), now_ms))
        # Not together: the servers of a cluster would not keep the order.
        self._client.run(fleet.announce(ORDERS, instance_id))
        return worker

    def wait_obeyed(self, told: Worker, order: Order, timeout_s: float) -> str:
        """Wait until a worker that was told so is quiet, or claims again, or has ended.

        Returns:
            its state then: ``quiet``, ``draining``, ``running`` or ``ended``.

        Raises:
            TimeoutError: not in time.
            WorkerNotFoundError: it has ended, though not told to.
            ValueError: it drains and is told to resume.
        """
        give_up_s = time.monotonic() + timeout_s
        while True:
            (now,) = self._read([told.instance_id], [told.instance_id])
            if not now.lives or now.nonce != told.nonce:
                if order is Order.DRAIN:
                    return ENDED
                raise WorkerNotFoundError(f"{told.instance_id} has ended meanwhile")
            if now.state in OBEYED[order]:
                return now.state
            refuse_resume(now, order)
            if time.monotonic() > give_up_s:
                raise TimeoutError(f"{told.instance_id} is still {now.state} after {timeout_s:g} s")
            time.sleep(POLL_S)

    def _live_worker(self, instance_id: str) -> Worker:
        workers = self.workers(answer_s=0)
        for worker in workers:
            if worker.instance_id == instance_id and worker.lives:
                return worker
            if worker.instance_id == instance_id and worker.state == "reference":
                raise ValueError(f"{instance_id} is no worker of ffsuper: it takes no orders through the store")
        live = [one.instance_id for one in workers if one.lives]
        raise WorkerNotFoundError(f"no live worker is called {instance_id}{nearest(instance_id, live)}")

    def missing_for(self, execution: Execution) -> str:
        """Return what no worker that claims has, and an execution needs; empty where one has all, or may have."""
        workers = self.workers(answer_s=0)
        if any(one.state == "silent" for one in workers):
            return ""
        required = set(split(execution.record.get("required_capabilities", "")))
        serve = [one for one in workers if one.state in CLAIMING and execution.lane in one.lanes]
        handle = [one for one in serve if execution.kind in one.kinds]
        if not serve:
            return f"serves lane {execution.lane}"
        if not handle:
            return f"has a handler for kind {execution.kind}"
        if not any(required.issubset(one.capabilities) for one in handle):
            return f"has capabilities {','.join(sorted(required))}"
        return ""

    def lanes(self, names: Iterable[str] = (), workers: Iterable[Worker] | None = None) -> list[Lane]:
        """Return lanes by name.

        Args:
            names: which; all that workers have ever served when empty.
            workers: as just read; what they said last when None.
        """
        known = self.workers(answer_s=0) if workers is None else list(workers)
        if chosen := [submissions.valid_lane(name, "lanes") for name in names]:
            lanes = sorted({*chosen})
        else:
            served = {LaneId(lane) for worker in known for lane in worker.lanes}
            entered = self._client.run(fleet.read_names(keys.LANES))
            lanes = sorted(served.union(map(LaneId, entered)))
        counts = {lane: self._count(lane) for lane in lanes}
        places = [(lane, place) for lane in lanes for place, count in enumerate(counts[lane]["eligible"]) if count]
        waits = self._oldest_waits_ms(places)
        found = []
        for lane in lanes:
            sums = {index: sum(of_partitions) for index, of_partitions in counts[lane].items()}
            names_of = [one.instance_id for one in known if lane in one.lanes and one.state in ("running", "stuck")]
            blocked = {why: sums.pop(f"blocked:{why}") for why in submissions.BLOCKED}
            found.append(Lane(name=lane, **sums, blocked=blocked, oldest_wait_ms=waits.get(lane), workers=names_of))
        return found

    def _count(self, lane: LaneId) -> dict[str, list[int]]:
        """Count the members of a lane's indexes on each partition."""
        pairs = [(index, place) for index in submissions.LANE_INDEXES for place in range(self._partitions)]
        counted = iter(self._client.run_all([submissions.count_index(lane, place, index) for index, place in pairs]))
        return {index: [next(counted) for _ in range(self._partitions)] for index in submissions.LANE_INDEXES}

    def _oldest_waits_ms(self, places: Sequence[Place]) -> dict[LaneId, int]:
        """Return how long the oldest entry of each lane has waited.

        An index is sorted by priority first, so the oldest of all is the first of one of its priorities.

        Args:
            places: lanes and partitions where something is eligible.
        """
        now_ms = self._client.run(fleet.read_time_ms())
        waits: dict[LaneId, int] = {}

        def first_above(bounds: Mapping[Place, float]) -> dict[Place, float]:
            """Look at the first entries above bounds; return up to which score their priorities go."""
            seen = {}
            scores = self._client.run_all([fleet.read_first(*place, bound) for place, bound in bounds.items()])
            for place, score in zip(bounds, scores, strict=True):
                if score is not None:
                    waits[place[0]] = max(waits.get(place[0], 0), fleet.age_ms(score, now_ms))
                    seen[place] = fleet.highest_score(score, now_ms)
            return seen

        lasts = self._client.run_all([fleet.read_last(*place) for place in places])
        lowest = {
            place: fleet.highest_score(score, now_ms) - fleet.PRIORITY_STEP
            for place, score in zip(places, lasts, strict=True)
            if score is not None
        }
        first_above(lowest)
        bounds = dict.fromkeys(lowest, float("-inf"))
        for _ in range(PRIORITIES):
            bounds = {place: seen for place, seen in first_above(bounds).items() if seen <= lowest[place]}
            if not bounds:
                break
        return waits

    def lease_ends_ms(self, executions: Sequence[ExecutionId]) -> list[float | None]:
        """Return when the leases of executions end, on the store's clock; None where there is none."""
        return self._client.run_all([fleet.read_lease_end(one) for one in executions])

    def time_ms(self) -> int:
        """Return the store's clock."""
        return self._client.run(fleet.read_time_ms())

    def engine(self) -> Engine | None:
        """Return the engine that led last; None when none ever has."""
        return self._client.run(fleet.read_engine())

    def load(self) -> Load | None:
        """Return how busy the store is, all servers of a cluster together; None when it does not tell."""
        try:
            loads = self._client.ask_servers(fleet.read_load())
        except (StoreAccessError, StoreScriptError):
            return None
        return Load(
            sum(one.operations_per_s for one in loads),
            sum(one.memory_bytes for one in loads),
            sum(one.most_memory_bytes for one in loads),
        )


def refuse_resume(worker: Worker, order: Order) -> None:
    """Refuse to tell a worker to resume that will not."""
    if order is Order.RESUME and worker.state == "draining":
        raise ValueError(f"{worker.instance_id} is draining: it will end, and cannot be told to resume")


def nearest(name: str, live: Sequence[str]) -> str:
    """Return the end of a sentence about a worker that is not there: which one may be meant, and which there are."""
    if not live:
        return ": there is none at all"
    alike = [one for one in live if one.startswith(f"{name}@")] or get_close_matches(name, live, n=1)
    meant = f"; did you mean {alike[0]}?" if alike else ""
    return f"{meant or ':'} {'There' if meant else 'there'} {'are' if len(live) > 1 else 'is'} {', '.join(live)}"


def operator() -> str:
    """Return who gives orders here."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # without a name in the user database
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
