"""A whole worker on a private server: how many no-ops it runs, what they cost it, how soon a cancellation is heard.

    python -m bench.worker [--executions N] [--rounds N]

Every round takes each number of children in turn, so that a noisy machine disturbs them alike.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from ffsuper.client import Client
from ffsuper.messages import LaneId
from ffsuper.store.submissions import Submission
from tests.redis_server import running_server
from tests.system.workers import Worker, Workers, eventually

CHILDREN = (1, 2, 4, 8)
CANCELLATIONS = 20


@contextmanager
def running() -> Iterator[tuple[Client, Workers]]:
    """Provide a fresh server with a client, and what starts workers on it."""
    with tempfile.TemporaryDirectory() as name, running_server(Path(name)) as url, Client(url) as client:
        workers = Workers(Path(name), url)
        try:
            yield client, workers
        finally:
            workers.end_all()


def supervisor_cpu_s(worker: Worker) -> float:
    """Return the processor time that the supervisor has taken so far."""
    used = psutil.Process(worker.process.pid).cpu_times()
    return float(used.user + used.system)


def throughput(children: int, executions: int) -> tuple[float, float]:
    """Return no-op executions per second, and the supervisor's µs for each."""
    with running() as (client, workers):
        worker = workers.start(children=children, engine="false")
        idle_s = supervisor_cpu_s(worker)
        wanted = [
            Submission(execution_id=client.new_id("default"), lane=LaneId("default"), execution_kind="no-op")
            for _ in range(executions)
        ]
        began_s = time.monotonic()
        ids = client.submit_many(wanted)
        eventually(lambda: all(state == "completed" for state in client.states(ids)), "all no-ops")
        took_s = time.monotonic() - began_s
        return executions / took_s, (supervisor_cpu_s(worker) - idle_s) / executions * 1e6


def cancellation_ms() -> list[float]:
    """Return how long after a cancellation was asked for its handler was told, many times."""
    found = []
    with running() as (client, workers), tempfile.TemporaryDirectory() as name:
        workers.start(children=1)
        for number in range(CANCELLATIONS):
            folder = Path(name) / str(number)
            folder.mkdir()
            execution = client.submit("until-cancelled", str(folder))
            history = folder / "history"
            eventually(history.exists, "the start")
            asked_s = time.time()
            client.cancel(execution)
            found.append((told_s(history) - asked_s) * 1000)
    return found


def told_s(history: Path) -> float:
    """Wait until a handler has written when it was told of its cancellation."""
    eventually(lambda: "cancelled" in history.read_text(), "the cancellation")
    return float(history.read_text().rsplit(maxsplit=1)[-1])


def row(name: str, values: Sequence[float]) -> str:
    """Return one line: median, lowest, highest."""
    return f"{name:32}{statistics.median(values):10.0f}{min(values):10.0f}{max(values):10.0f}"


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executions", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rounds = [[throughput(children, options.executions) for children in CHILDREN] for _ in range(options.rounds)]
    print(f"{'':32}{'median':>10}{'lowest':>10}{'highest':>10}")
    for position, children in enumerate(CHILDREN):
        print(row(f"no-ops/s, {children} children", [one[position][0] for one in rounds]))
        print(row("  supervisor CPU, us each", [one[position][1] for one in rounds]))
    print(row("cancel to handler, ms", cancellation_ms()))


if __name__ == "__main__":
    main()
