"""What is measured of every system: throughput, latency, what it takes at rest, and whether a lost job runs again.

A measure yields a row of figures for each system: an empty one where it failed, after saying why.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import psutil

from bench.children import proportional_set_mb
from bench.peers.environments import BenchError
from bench.peers.running import Running, Snapshots, family
from bench.peers.systems import System

Figures = Mapping[str, float]

# Before this share of the executions has started, workers are still starting up.
WARM_UP = 0.1
RATE_PER_S = 20.0
SETTLE_S = 3.0
LINGERING = 1
# Long enough to be killed in; shorter than any peer's own limit.
LINGER_S = 5.0
RECOVERED_LOOK_S = 0.002


@dataclass(frozen=True, slots=True)
class Size:
    """How long everything takes.

    Attributes:
        run_s: about this long does a run of a full store last.
        paced: submissions whose latency is measured.
        idle_s: how long a worker at rest is watched.
        recovery_s: so long is waited for the job of a dead process.
        kills: deaths of a child of ffsuper, one after the other.
        renewing_s: how long held leases are watched; a renewal comes every 10 s.
    """

    run_s: float = 5.0
    paced: int = 200
    idle_s: float = 20.0
    recovery_s: float = 120.0
    kills: int = 50
    renewing_s: float = 30.0


QUICK = Size(run_s=0.8, paced=20, idle_s=5.0, recovery_s=10.0, kills=10, renewing_s=10.0)


def of_each(systems: Sequence[System], measure: Callable[[System], Figures]) -> Iterator[tuple[str, Figures]]:
    """Measure one system after the other."""
    for system in systems:
        found: Figures = {}
        with reported(system.name):
            found = measure(system)
        yield system.name, found


class reported:  # noqa: N801  reads as a verb where it is used
    """Tells of a failure, and goes on."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if isinstance(error, BenchError | psutil.NoSuchProcess):
            print(f"  {self._name}: NOT MEASURED: {error}", file=sys.stderr)
            return True
        return False


def throughput(system: System, size: Size, snapshots: Snapshots) -> Figures:
    """Measure how fast a full store is worked off, and what each job costs."""
    count = max(50, int(system.per_s * size.run_s))
    with snapshots.running(system, count) as running:
        running.start()
        running.wait_started(int(count * WARM_UP))
        before = running.spent()
        running.wait_started(count)
        running.wait_completed(count)
        spent = running.spent() - before
        ours = {"supervisor us": spent.supervisors_s / spent.started * 1e6} if system.is_ours else {}
        return {
            "jobs/s": spent.started / spent.at_s,
            "workers us": spent.workers_s / spent.started * 1e6,
            "server us": spent.server_s / spent.started * 1e6,
            "commands": spent.commands / spent.started,
            "reads": spent.reads / spent.started,
            **ours,
        }


def latency(system: System, size: Size, snapshots: Snapshots) -> Figures:
    """Measure from before the submission until the handler runs, at an idle worker."""
    with snapshots.running(system) as running:
        running.start()
        submitted_ns = json.loads(running.submit("pace", size.paced, RATE_PER_S))
        running.wait_started(1 + size.paced)
        started_ns = {str(number): at_ns for number, _, at_ns in running.starts()}
        late_ms = [(started_ns[number] - at_ns) / 1e6 for number, at_ns in submitted_ns.items()]
        return in_shares("start", late_ms)


def in_shares(name: str, late_ms: Sequence[float]) -> Figures:
    """Return the median and what only one of a hundred exceeds; of few values that is the greatest."""
    ordered = sorted(late_ms)
    high = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return {f"{name} p50 ms": statistics.median(ordered), f"{name} p99 ms": high}


def idle(systems: Sequence[System], size: Size, snapshots: Snapshots) -> Iterator[tuple[str, Figures]]:
    """Measure all systems at once, each on its own server and with nothing to do."""
    with ExitStack() as opened:
        all_running = all_up(opened, systems, snapshots)
        yield from unmeasured(systems, all_running)
        time.sleep(SETTLE_S)
        before = [running.spent() for running in all_running]
        time.sleep(size.idle_s)
        after = [running.spent() for running in all_running]
        for running, earlier, later in zip(all_running, before, after, strict=True):
            spent = later - earlier
            processes = [process for worker in running.workers for process in family(psutil.Process(worker.pid))]
            # One of the commands, and of the reads, was our own question.
            yield (
                running.system.name,
                {
                    "commands/s": (spent.commands - 1) / spent.at_s,
                    "reads/s": (spent.reads - 1) / spent.at_s,
                    "workers CPU %": spent.workers_s / spent.at_s * 100,
                    "processes": len(processes),
                    "all PSS MB": sum(proportional_set_mb(process.pid) for process in processes),
                },
            )


def all_up(opened: ExitStack, systems: Sequence[System], snapshots: Snapshots) -> list[Running]:
    """Start systems, and have each run one job; they run as long as ``opened`` is."""
    found = []
    for system in systems:
        with reported(system.name):
            running = opened.enter_context(snapshots.running(system))
            running.start()
            running.warm_up()
            found.append(running)
    return found


def unmeasured(systems: Sequence[System], measured: Iterable[Running]) -> Iterator[tuple[str, Figures]]:
    """Yield empty rows for those that failed."""
    names = {running.system.name for running in measured}
    yield from ((system.name, {}) for system in systems if system.name not in names)


def recovery(systems: Sequence[System], size: Size, snapshots: Snapshots) -> Iterator[tuple[str, Figures]]:
    """Kill the process that runs a job, and wait until the job runs again; all systems at once, for most take long.

    Infinite when it did not within the limit.
    """
    with ExitStack() as opened:
        all_running = all_up(opened, systems, snapshots)
        yield from unmeasured(systems, all_running)
        waiting = {one: at_ns for one in all_running if (at_ns := kill_handler(one)) is not None}
        yield from unmeasured([one.system for one in all_running], waiting)
        give_up_s = time.monotonic() + size.recovery_s
        while waiting and time.monotonic() < give_up_s:
            for running, at_ns in list(waiting.items()):
                again_ns = [ns for number, _, ns in running.starts() if number == LINGERING and ns > at_ns]
                if again_ns:
                    del waiting[running]
                    yield running.system.name, {"again after s": (again_ns[0] - at_ns) / 1e9}
            time.sleep(RECOVERED_LOOK_S)
        yield from ((running.system.name, {"again after s": float("inf")}) for running in waiting)


def kill_handler(running: Running) -> int | None:
    """Submit a job, kill the process that runs it, and return when."""
    with reported(running.system.name):
        seen = running.started()
        running.submit("one", LINGERING, LINGER_S)
        running.wait_started(seen + 1)
        return kill_latest(running)
    return None


def kill_latest(running: Running) -> int:
    """Kill the process that the latest handler runs in; return the time."""
    pid = running.starts()[-1][1]
    at_ns = time.monotonic_ns()
    os.kill(pid, signal.SIGKILL)
    return at_ns
