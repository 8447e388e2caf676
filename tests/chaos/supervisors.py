"""Supervisors as systemd runs them: started again when they die."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.chaos.clocks import Clock
from tests.system.workers import CHECKOUT, events_in, fork_server_of

TTL_MS = 3_000
MARGIN_MS = 900
CHILDREN = 3
END_S = 30.0
TOML = """\
[worker]
id = "chaos"
instance_id = "{name}"
lanes = ["default"]
handlers = ["tests.chaos.handlers_for_chaos"]
python_path = ["{checkout}"]

[store]
url = "redis://127.0.0.1:{port}/0"
timeout_s = 1.0

[lease]
ttl_ms = {ttl_ms}
margin_ms = {margin_ms}

[children]
count = {children}
grace_s = 1.0
recycle_after = 6
max_restarts = 1000

[drain]
timeout_s = 1.0

[engine]
enabled = true
dependency_interval_ms = 2000
index_interval_ms = 5000

[log]
format = "json"
"""


@dataclass(frozen=True)
class Exit:
    """A process that has ended.

    Attributes:
        was_ready: it had begun to work.
        was_wanted: we have ended it.
    """

    supervisor: str
    code: int
    was_ready: bool
    was_wanted: bool
    log: Path


@dataclass
class Supervisor:
    """One supervisor, through all its lives.

    Attributes:
        is_to_run: whether it is started again when it has ended.
        exits: how each life ended.
        descriptors: how many each life had open when it was ready.
        has_room_for_logs: whether what it logs can be written.
        may_end: something was done to it that it ends after.
    """

    name: str
    folder: Path
    port: int
    clock: Clock
    is_to_run: bool = True
    has_room_for_logs: bool = True
    exits: list[Exit] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    may_end: bool = False
    process: subprocess.Popen[bytes] | None = None
    lives: int = 0

    @property
    def log(self) -> Path:
        """What this life has logged."""
        return self.folder / f"{self.name}-{self.lives}.log"

    def start(self) -> None:
        """Begin another life."""
        toml = self.folder / f"{self.name}.toml"
        values = {"name": self.name, "port": self.port, "checkout": CHECKOUT, "children": CHILDREN}
        toml.write_text(TOML.format(**values, ttl_ms=TTL_MS, margin_ms=MARGIN_MS))
        self.lives += 1
        self.may_end = False
        with Path(self.log if self.has_room_for_logs else "/dev/full").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ffsuper", "--config", str(toml)],
                stderr=log,
                cwd=CHECKOUT,
                env=os.environ | self.clock.environment,
            )

    def events(self) -> list[dict[str, Any]]:
        """Return what this life has logged."""
        return events_in(self.log) if self.log.exists() else []

    def is_ready(self) -> bool:
        """Tell whether this life has begun to work."""
        return any(event["event"] == "ready" for event in self.events())

    def note_exit(self) -> None:
        """Begin another life if this one has ended."""
        if self.process is None or self.process.poll() is None:
            return
        self.exits.append(Exit(self.name, self.process.returncode, self.is_ready(), self.may_end, self.log))
        self.process = None

    def send(self, number: signal.Signals) -> None:
        """Send the supervisor a signal; one that ends it is wanted."""
        if self.process is not None:
            self.may_end |= number in (signal.SIGKILL, signal.SIGTERM)
            self.process.send_signal(number)

    def fork_server(self) -> psutil.Process | None:
        """Return its fork server."""
        with contextlib.suppress(psutil.NoSuchProcess):
            if self.process is not None:
                return fork_server_of(self.process.pid)
        return None

    def children(self) -> list[psutil.Process]:
        """Return the processes that run handlers, oldest first."""
        fork_server = self.fork_server()
        with contextlib.suppress(psutil.NoSuchProcess):
            if fork_server is not None:
                return sorted(fork_server.children(), key=lambda one: one.pid)
        return []

    def open_descriptors(self) -> int:
        """Return how many descriptors it has open; 0 when it does not run."""
        with contextlib.suppress(psutil.Error):
            if self.process is not None:
                return psutil.Process(self.process.pid).num_fds()
        return 0

    def drain(self) -> int | None:
        """Have it end in order; return its exit code, or None when it does not end."""
        if self.process is None:
            return None
        process = self.process
        self.send(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(END_S)
        return None


def left_behind(folder: Path) -> list[str]:
    """Return the command lines of processes that still run for the configurations in a folder."""
    names = [path.stem for path in folder.glob("*.toml")]
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or ())
        mine = str(folder) in line or any(f"{name}/" in line for name in names)
        if mine and "tests.chaos" not in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(line)
    return found
