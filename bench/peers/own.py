"""What is measured of ffsuper alone: round trips of its clients, memory, leases, recovery, and how it scales."""

from __future__ import annotations

import random
import statistics
import time
from dataclasses import replace

import psutil

from bench.children import proportional_set_mb
from bench.peers.measures import Figures, Size, in_shares, kill_latest
from bench.peers.running import Running, Snapshots, soon
from bench.peers.systems import System, ffsuper
from ffsuper.client import Client

PAUSE_S = 0.05
# A waiting client looks so often.
CLIENT_LOOK_S = 0.0005
WARM_UP_JOBS = 200
LEASES = 5_000
# Never over before it is killed.
LINGER_S = 3_600.0
NEW_LEASES_S = 3.0

ROUND_TRIPS = ffsuper("ffsuper-2-engine", 2, engine=True)
MEMORY = ffsuper("ffsuper-2", 2)
HOLDING = ffsuper(
    "ffsuper-leases",
    1,
    FFSUPER_WORKER_HANDLERS="ffsuper_sleepers",
    FFSUPER_CHILDREN_TASKS_PER_PROCESS=str(LEASES),
)
CHILD_DIES = ffsuper("ffsuper-child-killed", 2, FFSUPER_CHILDREN_MAX_RESTARTS="100000", engine=True)
SUPERVISOR_DIES = ffsuper(
    "ffsuper-supervisor-killed", 1, FFSUPER_LEASE_TTL_MS="5000", FFSUPER_LEASE_MARGIN_MS="500", engine=True
)
# Four children, and two in each of several supervisors, unless the name says otherwise.
SCALING = (
    *(
        ffsuper(f"ffsuper-children-{count}", count, per_s=1_000 if count == 1 else 2_500)
        for count in (1, 2, 4, 8, 16)
    ),
    *(ffsuper(f"ffsuper-supervisors-{count}", 2, workers=count) for count in (1, 2, 4)),
    *(ffsuper(f"ffsuper-partitions-{count}", 4, BENCH_PARTITIONS=str(count)) for count in (1, 16, 256)),
    *(ffsuper(f"ffsuper-payload-{kib}-KiB", 4, BENCH_PAYLOAD=str(kib << 10)) for kib in (0, 4)),
    ffsuper("ffsuper-payload-256-KiB", 4, per_s=500, BENCH_PAYLOAD=str(256 << 10)),
    ffsuper("ffsuper-append-only-off", 4),
    replace(ffsuper("ffsuper-append-only-on", 4), append_only=True),
)

SYSTEMS = (ROUND_TRIPS, MEMORY, HOLDING, CHILD_DIES, SUPERVISOR_DIES, *SCALING)


def results(system: System, size: Size, snapshots: Snapshots) -> Figures:
    """Measure from before the submission until a waiting client has the result."""
    with snapshots.running(system) as running, Client(running.url) as client:
        running.start()
        running.warm_up()
        return in_shares("result", [result_ms(client) for _ in range(size.paced)])


def result_ms(client: Client) -> float:
    """Submit one after a pause, and look for its result."""
    time.sleep(PAUSE_S * (0.5 + random.random()))
    asked_s = time.monotonic()
    execution = client.submit("no-op")
    while client.result(execution) is None:
        time.sleep(CLIENT_LOOK_S)
    return (time.monotonic() - asked_s) * 1000


def signals(system: System, size: Size, snapshots: Snapshots) -> Figures:
    """Measure from before a signal is sent until the handler that waits for it runs again."""
    with snapshots.running(system) as running, Client(running.url) as client:
        running.start()
        running.warm_up()
        return in_shares("resumed", [resumed_ms(running, client, number) for number in range(1, size.paced + 1)])


def resumed_ms(running: Running, client: Client, number: int) -> float:
    """Have one suspend, and wake it."""
    started = running.started()
    execution = client.submit("wait", number)
    soon(lambda: client.state(execution) == "suspended", "the suspension")
    time.sleep(PAUSE_S * (0.5 + random.random()))
    asked_ns = time.monotonic_ns()
    client.signal(execution, "go")
    running.wait_started(started + 1)
    return (running.starts()[-1][2] - asked_ns) / 1e6


def memory(system: System, snapshots: Snapshots) -> Figures:
    """Measure the processes of a worker that has worked: their shares of the memory that they map."""
    with snapshots.running(system, WARM_UP_JOBS) as running:
        running.start()
        running.wait_started(WARM_UP_JOBS)
        running.wait_completed(WARM_UP_JOBS)
        (supervisor,) = [psutil.Process(worker.pid) for worker in running.workers]
        (fork_server,) = supervisor.children()
        return {
            "supervisor PSS MB": proportional_set_mb(supervisor.pid),
            "child PSS MB": statistics.median(proportional_set_mb(child.pid) for child in fork_server.children()),
            "fork server PSS MB": proportional_set_mb(fork_server.pid),
        }


def leases(system: System, size: Size, snapshots: Snapshots) -> Figures:
    """Measure a supervisor that does nothing but renew."""
    with snapshots.running(system, LEASES) as running:
        running.start()
        running.wait_started(LEASES)
        time.sleep(NEW_LEASES_S)
        before = running.spent()
        time.sleep(size.renewing_s)
        spent = running.spent() - before
        return {
            "supervisor CPU %": spent.supervisors_s / spent.at_s * 100,
            "server CPU %": spent.server_s / spent.at_s * 100,
            "commands/s": spent.commands / spent.at_s,
        }


def child_killed(system: System, size: Size, snapshots: Snapshots) -> Figures:
    """Kill the child that runs a handler, again and again, and wait until another one runs it."""
    with snapshots.running(system) as running:
        running.start()
        running.warm_up()
        running.submit("one", 1, LINGER_S)
        running.wait_started(2)
        again_s = [one_death_s(running) for _ in range(size.kills)]
        return {"again after s": statistics.median(again_s), "most s": max(again_s)}


def supervisor_killed(system: System, snapshots: Snapshots) -> Figures:
    """Kill the supervisor of a handler, and wait until another one, which has been waiting, runs it."""
    with snapshots.running(system) as running:
        running.start()
        running.submit("one", 1, LINGER_S)
        running.wait_started(1)
        running.start(1)
        running.warm_up()  # by the second one, for the only child of the first is busy
        killed_ns = time.monotonic_ns()
        with running.workers.pop(0) as worker:
            worker.kill()
        running.wait_started(3)
        return {"again after s": (running.starts()[-1][2] - killed_ns) / 1e9}


def one_death_s(running: Running) -> float:
    """Kill what runs the handler; return how long it takes until that runs again."""
    started = running.started()
    killed_ns = kill_latest(running)
    running.wait_started(started + 1)
    return (running.starts()[-1][2] - killed_ns) / 1e9
