"""All of a fleet at one moment, and how much it does between two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ffsuper.client import Client
from ffsuper.fleet import Lane
from ffsuper.store.fleet import Engine, Load
from ffsuper.store.workers import Running, Worker


@dataclass(frozen=True, slots=True)
class Rate:
    """Attempts a second.

    Attributes:
        finished: with whatever outcome.
        failed: of these, also those that are tried again.
    """

    started: float = 0.0
    finished: float = 0.0
    failed: float = 0.0


@dataclass(frozen=True, slots=True)
class Run:
    """An execution that runs, and who runs it.

    Attributes:
        age_ms: by the worker's clock.
        lease_left_ms: by the store's clock; None when it has no lease any more.
    """

    running: Running
    worker: str
    age_ms: int
    lease_left_ms: int | None


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at everything has found.

    Attributes:
        now_ms: the store's clock.
        runs: the oldest first.
    """

    url: str
    now_ms: int
    engine: Engine | None
    load: Load | None
    lanes: Sequence[Lane]
    workers: Sequence[Worker]
    runs: Sequence[Run]


def look(client: Client, most_runs: int | None = None) -> Look:
    """Look at everything.

    Args:
        most_runs: so many executions that run; None for all.
    """
    fleet = client.fleet
    workers = fleet.workers()
    oldest = oldest_first(workers)[:most_runs]
    ends_ms = fleet.lease_ends_ms([running.execution for _, _, running in oldest])
    now_ms = fleet.time_ms()
    runs = [
        Run(running, name, age_ms, None if end_ms is None else int(end_ms) - now_ms)
        for (age_ms, name, running), end_ms in zip(oldest, ends_ms, strict=True)
    ]
    lanes = fleet.lanes(workers=workers)
    return Look(client.store_url, now_ms, fleet.engine(), fleet.load(), lanes, workers, runs)


def oldest_first(workers: Sequence[Worker]) -> list[tuple[int, str, Running]]:
    """Return what all workers run, as ``(age in ms, worker, execution)``."""
    found = [
        (max(0, worker.written_ms - running.since_ms), worker.instance_id, running)
        for worker in workers
        for running in worker.running
    ]
    return sorted(found, key=lambda one: -one[0])


def rates_between(before: Sequence[Worker], now: Sequence[Worker]) -> dict[str, Rate]:
    """Return how many attempts of each lane began and ended a second, by what workers counted between two looks.

    Of workers that have said nothing new, or are others by now, nothing is known.
    """
    sums: dict[str, Rate] = {}
    known = {worker.nonce: worker for worker in before if worker.nonce}
    for worker in now:
        earlier = known.get(worker.nonce)
        if earlier is None or worker.written_ms <= earlier.written_ms:
            continue
        seconds = (worker.written_ms - earlier.written_ms) / 1000
        first, last = counts_of(earlier), counts_of(worker)
        for lane in {*first, *last}:
            more = (b - a for a, b in zip(first.get(lane, (0, 0, 0)), last.get(lane, (0, 0, 0)), strict=True))
            started, finished, failed = (max(0, count) / seconds for count in more)
            so_far = sums.get(lane, Rate())
            sums[lane] = Rate(so_far.started + started, so_far.finished + finished, so_far.failed + failed)
    return sums


def counts_of(worker: Worker) -> dict[str, tuple[int, int, int]]:
    """Return how many attempts of each lane a worker has begun, ended, and seen fail."""
    running = Counter(one.lane for one in worker.running)
    counts = {}
    for lane in {*running, *worker.finished}:
        outcomes = worker.finished.get(lane, {})
        ended = sum(outcomes.values())
        counts[lane] = (ended + running[lane], ended, outcomes.get("failed", 0) + outcomes.get("retried", 0))
    return counts


def as_json(now: Look, rates: Mapping[str, Rate]) -> dict[str, Any]:
    """Return a look for programs."""
    return {
        "now_ms": now.now_ms,
        "store": {"url": now.url, **({} if now.load is None else asdict(now.load))},
        "engine": None if now.engine is None else {**asdict(now.engine), "leads": now.engine.until_ms > now.now_ms},
        "lanes": [{**asdict(lane), "per_second": asdict(rates.get(lane.name, Rate()))} for lane in now.lanes],
        "workers": [asdict(worker) for worker in now.workers],
        "running": [
            {**asdict(one.running), "worker": one.worker, "age_ms": one.age_ms, "lease_left_ms": one.lease_left_ms}
            for one in now.runs
        ],
    }
