"""A system at work: a fresh server of its own, its workers, its submitter, and what all of them have taken so far."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import redis

from bench.peers.apps import marks
from bench.peers.environments import BenchError, python_of
from bench.peers.systems import APPS, System
from ffsuper.messages import LaneId
from ffsuper.sansio.partition import PartitionCounts, of_bytes
from ffsuper.store.keys import PartitionKeys
from tests.redis_server import running_server

# Between two looks; what is looked at is a file's size, so that the server is not disturbed.
LOOK_S = 0.005
# A system that starts nothing more for so long has failed.
SILENT_S = 60.0
LOG_LINES = 15
LANE = LaneId("default")
# ffsuper's children see only what is told here of the environment.
WORKER_TOML = """\
[worker]
handlers = ["ffsuper_handlers"]
python_path = ["{apps}"]

[children.environment]
BENCH_MARKS = "{marks}"
"""


@dataclass(frozen=True, slots=True)
class Spent:
    """What has been taken until a moment.

    Attributes:
        workers_s: processor time of all processes of the workers, those that have ended included.
        supervisors_s: of the processes that were started first, alone.
        commands: that the server has carried out, those inside scripts and functions included.
        reads: of the server's sockets; a pipeline may be one.
    """

    at_s: float
    started: int
    workers_s: float
    supervisors_s: float
    server_s: float
    commands: int
    reads: int

    def __sub__(self, earlier: Spent) -> Spent:
        return Spent(*(getattr(self, name) - getattr(earlier, name) for name in self.__slots__))


@dataclass(eq=False)
class Running:
    """One system on its server."""

    system: System
    folder: Path
    url: str
    store: redis.Redis
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def marks(self) -> Path:
        """The file that handlers append to."""
        return self.folder / "marks"

    def environment(self, number: int = 0) -> dict[str, str]:
        """Return the variables of its programs."""
        own = {name: text.format(number=number) for name, text in self.system.environment.items()}
        if self.system.is_ours:
            own |= {"FFSUPER_STORE_URL": self.url, "FFSUPER_LOG_LEVEL": "warning"}
            own["FFSUPER_WORKER_INSTANCE_ID"] = f"worker-{number}"
        bench = {"BENCH_URL": self.url, "BENCH_MARKS": str(self.marks), "PYTHONPATH": str(APPS)}
        return {name: text for name, text in os.environ.items() if not name.startswith("FFSUPER_")} | own | bench

    def start(self, count: int | None = None) -> None:
        """Start workers; as many as the system has unless told."""
        config = self.folder / "worker.toml"
        config.write_text(WORKER_TOML.format(apps=APPS, marks=self.marks))
        for _ in range(self.system.workers if count is None else count):
            argv = [part.format(config=config, url=self.url, apps=APPS) for part in self.system.argv]
            with (self.folder / "log").open("ab") as log:
                self.workers.append(
                    subprocess.Popen(
                        [python_of(self.system.package), *argv],
                        env=self.environment(len(self.workers) + 1),
                        cwd=self.folder,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )

    def submitter(self, *arguments: object) -> subprocess.Popen[str]:
        """Start the submitter."""
        argv = [python_of(self.system.package), str(APPS / "submitter.py"), self.system.app, *map(str, arguments)]
        return subprocess.Popen(
            argv,
            env=self.environment(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def submit(self, *arguments: object) -> str:
        """Run the submitter; return what it prints."""
        with self.submitter(*arguments) as process:
            said, complaint = process.communicate()
        if process.returncode:
            raise BenchError(f"its submitter failed:\n{self.said()}\n{complaint[-1000:]}")
        return said

    def warm_up(self) -> None:
        """Have one job run, so that everything is up."""
        started = self.started()
        self.submit("one", 0, 0.0)
        self.wait_started(started + 1)

    def started(self) -> int:
        """Return how many handlers have started."""
        return self.marks.stat().st_size // marks.MARK.size if self.marks.exists() else 0

    def starts(self) -> list[tuple[int, int, int]]:
        """Return all starts: number, process id, nanoseconds on the machine's monotonic clock."""
        return list(marks.read(self.marks.read_bytes())) if self.marks.exists() else []

    def wait_started(self, count: int) -> None:
        """Wait until so many handlers have started.

        Raises:
            BenchError: nothing happens any more.
        """
        seen, give_up_s = -1, 0.0
        while (started := self.started()) < count:
            if started != seen:
                seen, give_up_s = started, time.monotonic() + SILENT_S
            if time.monotonic() > give_up_s or any(worker.poll() is not None for worker in self.workers):
                raise BenchError(f"{started} of {count} have started, and no more:\n{self.said()}")
            time.sleep(LOOK_S)

    def wait_completed(self, count: int) -> None:
        """Wait until the store says so of so many of ffsuper's executions; of peers, the start has to do."""
        if not self.system.is_ours:
            return
        spread = int(self.system.environment.get("BENCH_PARTITIONS", "0"))
        partitions = range(spread) if spread else [of_bytes(LANE.encode(), PartitionCounts().flow)]
        terminal = [PartitionKeys.of_index(number).lane(LANE, "terminal") for number in partitions]

        def completed() -> bool:
            pipe = self.store.pipeline(transaction=False)
            for key in terminal:
                pipe.zcard(key)
            counted: list[int] = pipe.execute()
            return sum(counted) >= count

        soon(completed, "the last executions to complete")

    def spent(self) -> Spent:
        """Return what has been taken so far."""
        info: Any = self.store.info("everything")
        commands = sum(one["calls"] for name, one in info.items() if name.startswith("cmdstat_"))
        supervisors = [psutil.Process(worker.pid) for worker in self.workers]
        return Spent(
            time.monotonic(),
            self.started(),
            sum(cpu_s(process, with_dead=True) for one in supervisors for process in family(one)),
            sum(cpu_s(one) for one in supervisors),
            info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"],
            commands,
            info["total_reads_processed"],
        )

    def said(self) -> str:
        """Return the end of what the workers have written."""
        log = self.folder / "log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:]) if log.exists() else ""

    def end_workers(self) -> None:
        """Kill every process of the workers, each stopped before so that none is replaced."""
        for worker in self.workers:
            killed: set[psutil.Process] = set()
            while fresh := set(all_of(worker)) - killed:
                for process in fresh:
                    with suppress(psutil.NoSuchProcess):
                        process.send_signal(signal.SIGSTOP)
                killed |= fresh
            for process in killed:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            worker.wait()


@dataclass(frozen=True, slots=True)
class Snapshots:
    """Stores with submitted no-ops, kept as files, so that every round begins with the same ones at once."""

    folder: Path

    def of(self, system: System, count: int) -> Path:
        """Return the file; make it when there is none yet. No no-ops are a store that is merely ready."""
        variables = {name: text for name, text in system.environment.items() if name.startswith("BENCH_")}
        told = json.dumps([system.package, variables, count], sort_keys=True)
        kept = self.folder / f"{hashlib.sha256(told.encode()).hexdigest()}.rdb"
        if not kept.exists():
            with serving(system, None) as running:
                running.submit("fill", count)
                running.store.save()
                shutil.move(running.folder / "dump.rdb", kept)
        return kept

    @contextmanager
    def running(self, system: System, count: int = 0) -> Iterator[Running]:
        """Provide a system without workers, on a server with so many no-ops."""
        with serving(system, self.of(system, count)) as running:
            yield running


@contextmanager
def serving(system: System, snapshot: Path | None) -> Iterator[Running]:
    """Provide a system without workers on a fresh server."""
    with ExitStack() as opened:
        folder = Path(
            opened.enter_context(tempfile.TemporaryDirectory(prefix="ffsuper-bench-", ignore_cleanup_errors=True))
        )
        if snapshot is not None:
            shutil.copy(snapshot, folder / "dump.rdb")
        port = str(free_port())
        opened.enter_context(running_server(folder, "--port", port, "--bind", "127.0.0.1", "--loglevel", "warning"))
        url = f"redis://127.0.0.1:{port}/0"
        store = opened.enter_context(redis.Redis.from_url(url, protocol=2))
        soon(lambda: is_loaded(store), "the server to load its file")
        if system.append_only and snapshot is not None:
            store.config_set("appendonly", "yes")
            soon(lambda: not rewrites(store), "the server to begin its append-only file")
        running = Running(system, folder, url, store)
        opened.callback(running.end_workers)
        yield running


def free_port() -> int:
    """Return a port of the loopback that is free at the moment."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def is_loaded(store: redis.Redis) -> bool:
    """Tell whether the server has read its file."""
    info: Any = store.info("persistence")
    return not info["loading"]


def rewrites(store: redis.Redis) -> bool:
    """Tell whether the server is still writing its append-only file from what it has."""
    info: Any = store.info("persistence")
    return bool(info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"])


def family(process: psutil.Process) -> list[psutil.Process]:
    """Return a process and all that it has started."""
    return [process, *process.children(recursive=True)]


def all_of(worker: subprocess.Popen[bytes]) -> Iterator[psutil.Process]:
    """Yield a worker's processes, orphans of those that were killed too: they are in its session still."""
    with suppress(psutil.NoSuchProcess):
        yield from family(psutil.Process(worker.pid))
    for process in psutil.process_iter():
        with suppress(ProcessLookupError):
            if os.getsid(process.pid) == worker.pid:
                yield process


def cpu_s(process: psutil.Process, *, with_dead: bool = False) -> float:
    """Return the processor time that a process has taken; with that of its dead children if wanted."""
    try:
        used = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    own = float(used.user + used.system)
    return own + float(used.children_user + used.children_system) if with_dead else own


def soon(condition: Callable[[], bool], what: str, within_s: float = SILENT_S) -> None:
    """Wait for a condition.

    Raises:
        BenchError: it takes too long.
    """
    give_up_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > give_up_s:
            raise BenchError(f"gave up waiting for {what}")
        time.sleep(LOOK_S)
