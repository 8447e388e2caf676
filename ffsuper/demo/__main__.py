"""Runs the main job: a worker on the embedded store, an execution for every file, a table of the totals."""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from ffsuper.client import Client
from ffsuper.config import StoreConfig
from ffsuper.demo.handlers import count
from ffsuper.errors import StoreUnavailableError
from ffsuper.messages import FINAL_STATES, ExecutionId, LaneId
from ffsuper.store.submissions import Submission

LANE = "stdlib"
START_S = 60.0
STOP_S = 60.0
LOOK_EVERY_S = 0.2
FIND_BUSY_S = 1.0
BAR_WIDTH = 40

WORKER_TOML = """\
[worker]
id = "demo"
lanes = ["stdlib"]
handlers = ["ffsuper.demo.handlers"]

[store]
url = "embedded"
data_dir = "store"

[lease]
ttl_ms = 10000
margin_ms = 1000
"""

# A killed child costs its execution one attempt; the next one may start at once.
POLICY = {"retry_policy": {"max_retries": 3, "backoff": {"type": "fixed", "delay_ms": 0}}}


def main() -> int:
    """Run the job; return 0 when every file was surveyed and the totals are exact."""
    options = argparse.ArgumentParser(prog="python -m ffsuper.demo", description=__doc__)
    options.add_argument("--kill-a-child", action="store_true", help="kill one child midway, and check the totals")
    kill_a_child = options.parse_args().kill_a_child
    files = standard_library()
    with tempfile.TemporaryDirectory(prefix="ffsuper-demo-") as folder:
        worker_toml = Path(folder) / "worker.toml"
        worker_toml.write_text(WORKER_TOML)
        print(f"starting: ffsuper --config {worker_toml}")
        with running_worker(worker_toml) as worker, connected(worker, Path(folder)) as client:
            return survey(client, worker, files, kill_a_child=kill_a_child)


def standard_library() -> list[Path]:
    """Return the files of the standard library: without installed packages, tests, and what is made not to parse."""
    root = Path(sysconfig.get_path("stdlib"))
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__"}
    return sorted(path for path in root.rglob("*.py") if not left_out & set(path.relative_to(root).parts))


@contextmanager
def running_worker(worker_toml: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``ffsuper --config``, as a user would; drain it at the end."""
    log = worker_toml.with_name("worker.log")
    with log.open("wb") as stderr:
        worker = subprocess.Popen([sys.executable, "-m", "ffsuper", "--config", str(worker_toml)], stderr=stderr)
    try:
        yield worker
        worker.terminate()
        print(f"worker drained, exit code {worker.wait(STOP_S)}")
    finally:
        if worker.poll() != 0:
            worker.kill()
            worker.wait()
            print(log.read_text(errors="replace"), file=sys.stderr)


@contextmanager
def connected(worker: subprocess.Popen[bytes], folder: Path) -> Iterator[Client]:
    """Provide a client, once the worker's store answers."""
    settings = StoreConfig(url="embedded", data_dir=folder / "store")
    give_up_s = time.monotonic() + START_S
    while True:
        try:
            client = Client(settings)
            break
        except StoreUnavailableError as error:
            if worker.poll() is not None or time.monotonic() > give_up_s:
                raise SystemExit(f"the worker did not start: {error}") from None
            time.sleep(0.02)
    if client.store_url.startswith("redis://"):
        print(
            "store: in memory, written in Python (no redis-server or valkey-server found): slow, for a first try only"
        )
    else:
        print(f"store: private server at {client.store_url}")
    with client:
        yield client


def survey(client: Client, worker: subprocess.Popen[bytes], files: Sequence[Path], *, kill_a_child: bool) -> int:
    """Submit a file each, watch, and print what came out."""
    started_s = time.monotonic()
    executions = client.submit_many(
        [
            Submission(
                execution_id=client.new_id(LANE),
                lane=LaneId(LANE),
                execution_kind="survey",
                payload=json.dumps(str(path)).encode(),
                policy=POLICY,
            )
            for path in files
        ]
    )
    print(f"submitted {len(executions)} executions in {time.monotonic() - started_s:.2f} s")
    killed = None
    for done in progress(client, worker, executions):
        if kill_a_child and killed is None and done * 2 >= len(executions):
            killed = kill_one_child(worker.pid)
            print(f"\nkilled child {killed} with SIGKILL")
    took_s = time.monotonic() - started_s
    return report(client, executions, files, took_s, killed)


def progress(client: Client, worker: subprocess.Popen[bytes], executions: Sequence[ExecutionId]) -> Iterator[int]:
    """Show how far it is; yield how many have ended, until all have."""
    left, told = list(executions), -1
    while left:
        if worker.poll() is not None:
            raise SystemExit(f"the worker ended early, exit code {worker.returncode}")
        states = client.states(left)
        left = [one for one, state in zip(left, states, strict=True) if state not in FINAL_STATES]
        done = len(executions) - len(left)
        tenths = done * 10 // len(executions)
        if sys.stdout.isatty():
            filled = BAR_WIDTH * done // len(executions)
            print(f"\r[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {done}/{len(executions)}", end="", flush=True)
        elif tenths > told:
            print(f"{done}/{len(executions)} done", flush=True)
        told = tenths
        yield done
        if left:
            time.sleep(LOOK_EVERY_S)
    if sys.stdout.isatty():
        print()


def kill_one_child(worker_pid: int) -> int:
    """Kill one of the worker's child processes, a busy one if one is found soon; return its process id."""
    servers = [one for one in psutil.Process(worker_pid).children() if "ffsuper.child.forkserver" in one.cmdline()]
    children = [child for server in servers for child in server.children()]
    if not children:
        raise SystemExit("the worker has no child processes")
    give_up_s = time.monotonic() + FIND_BUSY_S
    busy = None
    while busy is None and time.monotonic() < give_up_s:
        busy = next((child for child in children if child.status() == psutil.STATUS_RUNNING), None)
    victim = busy or random.choice(children)
    victim.send_signal(signal.SIGKILL)
    return int(victim.pid)


def report(
    client: Client,
    executions: Sequence[ExecutionId],
    files: Sequence[Path],
    took_s: float,
    killed: int | None,
) -> int:
    """Print the totals; count again without ffsuper when a child was killed. Return the exit code."""
    found = [json.loads(result) for result in client.results(executions) if result]
    totals = {name: sum(one[name] for one in found) for name in ("functions", "classes", "lines")}
    rows = {
        "files surveyed": f"{len(found)} of {len(files)}",
        **{name: f"{total:,}" for name, total in totals.items()},
        "rate": f"{len(found) / took_s:,.0f} executions/s",
        "child processes that took part": str(len({one["pid"] for one in found})),
    }
    exact = len(found) == len(files)
    if killed is not None:
        again = count_again(files)
        exact = exact and again == totals
        attempts = [len(client.show(one).attempts) for one in executions]
        rows["attempts"] = (
            f"{sum(attempts)} ({sum(number > 1 for number in attempts)} executions needed a second one)"
        )
        rows["totals counted again without ffsuper"] = "the same" if again == totals else f"DIFFERENT: {again}"
    width = max(map(len, rows))
    print("\n".join(f"  {name:{width}}  {value}" for name, value in rows.items()))
    return 0 if exact else 1


def count_again(files: Sequence[Path]) -> dict[str, int]:
    """Return the totals, counted in this process."""
    with warnings.catch_warnings(action="ignore"):
        counted = [count(path) for path in files]
    return {name: sum(one[name] for one in counted) for name in ("functions", "classes", "lines")}


if __name__ == "__main__":
    sys.exit(main())
