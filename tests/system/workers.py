"""Workers as their users run them: ``ffsuper --config worker.toml``, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

T = TypeVar("T")

LIMIT_S = 60.0
CHECKOUT = Path(__file__).parent.parent.parent

WORKER_TOML = """\
[worker]
id = "test"
instance_id = "{name}"
lanes = {lanes}
capabilities = {capabilities}
handlers = {handlers}
python_path = ["{checkout}"]

[store]
url = "{url}"
wait_replicas = {wait_replicas}

[lease]
ttl_ms = {ttl_ms}
margin_ms = {margin_ms}

[children]
count = {children}
tasks_per_process = {tasks_per_process}
recycle_after = {recycle_after}
hard_memory_mb = {hard_memory_mb}
grace_s = {grace_s}
timeout_s = {timeout_s}

[drain]
timeout_s = {drain_s}

[claim]
poll_interval_ms = 50
unknown_kind = "{unknown_kind}"
source = "{source}"
server_url = "{server_url}"

[status]
listen = "{status}"

[server]
listen = "{listen}"
stream_operations = {stream_operations}

[engine]
enabled = {engine}
dependency_interval_ms = {dependency_ms}
retention_interval_ms = {intervals_ms}
index_interval_ms = {intervals_ms}
flow_summary_interval_ms = {intervals_ms}

[log]
format = "json"
"""


@dataclass
class Worker:
    """One running worker."""

    process: subprocess.Popen[bytes]
    log_path: Path

    def events(self) -> list[dict[str, Any]]:
        """Return what it has logged, one event a line."""
        return events_in(self.log_path)

    def wait_for(self, event: str, **particulars: object) -> dict[str, Any]:
        """Wait until an event is in the log; return it."""

        def found() -> dict[str, Any] | None:
            for one in self.events():
                if one["event"] == event and particulars.items() <= one.items():
                    return one
            assert self.process.poll() is None, f"worker ended:\n{self.log_path.read_text()}"
            return None

        return eventually(found, f"event {event!r} in {self.log_path}")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait until it has ended; return its exit code."""
        return self.process.wait(LIMIT_S)

    def fork_server(self) -> psutil.Process | None:
        """Return its fork server, once that is there."""
        return fork_server_of(self.process.pid)

    def children(self) -> list[psutil.Process]:
        """Return its child processes that run handlers."""
        fork_server = self.fork_server()
        return [] if fork_server is None else fork_server.children()


def events_in(log: Path) -> list[dict[str, Any]]:
    """Return the events of a log in JSON; of the last line no more than its beginning may be there."""
    lines = log.read_text(errors="replace").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def fork_server_of(supervisor_pid: int) -> psutil.Process | None:
    """Return a supervisor's fork server, once that is there; Python starts other programs too when it begins."""
    for process in psutil.Process(supervisor_pid).children():
        with suppress(psutil.NoSuchProcess):
            if "ffsuper.child.forkserver" in process.cmdline():
                return process
    return None


@dataclass
class Workers:
    """Starts workers, and leaves none behind.

    Attributes:
        environment: variables of those that are started from now on, besides ours.
        program: what Python runs; the arguments follow.
    """

    folder: Path
    url: str
    settings: dict[str, object] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = ("-m", "ffsuper")
    started: list[Worker] = field(default_factory=list)

    def start(self, name: str = "worker-1", **settings: object) -> Worker:
        """Start a worker and wait until it is ready."""
        worker = self.launch(name, **settings)
        worker.wait_for("ready")
        return worker

    def launch(self, name: str = "worker-1", **settings: object) -> Worker:
        """Start a worker."""
        return self._run(name, [], settings)

    def start_engine(self, name: str = "engine-1", **settings: object) -> Worker:
        """Start an engine without handlers, and wait until it is ready."""
        engine = self.launch_engine(name, **settings)
        engine.wait_for("ready")
        return engine

    def launch_server(self, name: str, **settings: object) -> Worker:
        """Start a server."""
        return self._run(name, ["server"], settings)

    def launch_engine(self, name: str, **settings: object) -> Worker:
        """Start an engine."""
        return self._run(name, ["engine"], settings)

    def _run(self, name: str, subcommand: list[str], settings: dict[str, object]) -> Worker:
        defaults: dict[str, object] = {
            "lanes": '["default"]',
            "capabilities": "[]",
            "ttl_ms": 30_000,
            "margin_ms": 500,
            "handlers": "tests.system.handlers_for_tests",
            "children": 2,
            "tasks_per_process": 1,
            "recycle_after": 0,
            "hard_memory_mb": 0,
            "grace_s": 1.0,
            "timeout_s": 0.0,
            "drain_s": 30.0,
            "unknown_kind": "leave",
            "source": "direct",
            "server_url": "",
            "status": "auto",
            "listen": "127.0.0.1:9090",
            "stream_operations": 64,
            "engine": "true",
            "dependency_ms": 15_000,
            "intervals_ms": 60_000,
            "wait_replicas": 0,
        }
        values = defaults | self.settings | settings | {"name": name, "url": self.url, "checkout": CHECKOUT}
        values["handlers"] = json.dumps([values["handlers"]] if values["handlers"] else [])
        toml = self.folder / f"{name}.toml"
        toml.write_text(WORKER_TOML.format(**values))
        log_path = self.folder / f"{name}-{len(self.started)}.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *self.program, *subcommand, "--config", str(toml)],
                stderr=log,
                env=os.environ | {"PYTHONWARNINGS": "default"} | self.environment,
            )
        self.started.append(Worker(process, log_path))
        return self.started[-1]

    def end_all(self) -> None:
        """Kill what still runs."""
        for worker in self.started:
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait()


def eventually(condition: Callable[[], T | None], what: str) -> T:
    """Look until a condition holds; fail after a long while."""
    give_up_s = time.monotonic() + LIMIT_S
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < give_up_s, f"gave up waiting for {what}"
        time.sleep(0.005)
