"""The store under test: a server with an append-only file and its replica, and what is done to them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import redis

from ffsuper.clock import boottime_s
from tests.chaos.clocks import Clock
from tests.cluster import free_ports
from tests.redis_server import server_program

START_S = 30.0
LOOK_S = 0.05
# A killed process loses nothing with it. With "everysec" it may, for writes are held back while the disk is busy.
# What a machine that crashes may lose is cut off from the file.
DURABILITY = ("--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0", "--save", "")
FOREVER = "while true do end"


@dataclass
class Server:
    """One server process; it can be started again on its data."""

    folder: Path
    clock: Clock
    port: int = field(default_factory=lambda: free_ports(1)[0])
    process: subprocess.Popen[bytes] | None = None
    # When, how long the append-only file was.
    sizes: deque[tuple[float, Path, int]] = field(default_factory=lambda: deque(maxlen=int(3 / LOOK_S)))

    def start(self, *options: str) -> None:
        """Start it, and wait until it answers with its data."""
        self.folder.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [
                server_program(),
                *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--daemonize", "no"),
                *("--logfile", str(self.folder / "server.log"), "--busy-reply-threshold", "100", *DURABILITY),
                *("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1", *options),
            ],
            env=os.environ | self.clock.environment,
        )
        self.wait_until_loaded()

    def wait_until_loaded(self) -> None:
        """Wait until it answers with its data."""
        give_up_s = time.monotonic() + START_S
        while True:
            with contextlib.suppress(redis.ConnectionError, redis.TimeoutError), self.connection() as connection:
                connection.ping()
                return
            assert time.monotonic() < give_up_s, f"the store does not start: {self.folder / 'server.log'}"
            time.sleep(0.02)

    def connection(self, timeout_s: float = 10.0) -> redis.Redis:
        """Return a connection that nothing is in the way of."""
        return redis.Redis(port=self.port, socket_timeout=timeout_s)

    def append_only_file(self) -> Path | None:
        """Return the file that is being written."""
        found = list((self.folder / "appendonlydir").glob("*.incr.aof"))
        return max(found, key=lambda path: path.stat().st_mtime, default=None)

    def note_size(self) -> None:
        """Remember how much has been written by now."""
        file = self.append_only_file()
        if file is not None:
            self.sizes.append((boottime_s(), file, file.stat().st_size))

    def kill(self) -> None:
        """Kill it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def forget_last_second(self) -> float:
        """Cut off what was written within the last second, as a crash of the machine may; it must be dead.

        Returns:
            when the last was written that is still there, on the clock of ``note_size``.
        """
        last_s, file, _ = self.sizes[-1]
        at_s, _, size = next(one for one in self.sizes if one[1] == file and one[0] >= last_s - 1.0)
        os.truncate(file, size)
        return at_s


class Store:
    """The server that all use, and its replica. One thing at a time is done to it.

    Attributes:
        primary: who takes writes. ``replica``: who would, after a failover.
    """

    def __init__(self, folder: Path) -> None:
        self.clock = Clock(folder, "store")
        self.primary, self.replica = (Server(folder / name, self.clock) for name in ("store-1", "store-2"))
        self.primary.start()
        self.replica.start("--replicaof", "127.0.0.1", str(self.primary.port))
        self.wait_for_replica()

    def wait_for_replica(self) -> None:
        """Wait until the replica has everything."""
        give_up_s = time.monotonic() + START_S
        with self.replica.connection() as connection:
            while connection.info("replication")["master_link_status"] != "up":
                assert time.monotonic() < give_up_s, "the replica does not come"
                time.sleep(0.02)

    def hang(self) -> None:
        """Run a script that never ends; returns when it has been killed."""
        killed = contextlib.suppress(redis.ResponseError, redis.ConnectionError)
        with killed, redis.Redis(port=self.primary.port, socket_timeout=None) as connection:
            connection.eval(FOREVER, 0)

    def kill_script(self) -> None:
        """End such a script."""
        ended_already = contextlib.suppress(redis.ResponseError)
        with ended_already, self.primary.connection() as connection:
            connection.script_kill()

    def limit_memory(self, limit: str) -> None:
        """Refuse writes above so much memory; ``0`` refuses none."""
        with self.primary.connection() as connection:
            connection.config_set("maxmemory", limit)

    def lose_libraries(self) -> None:
        """Drop all functions."""
        with self.primary.connection() as connection:
            connection.function_flush("SYNC")

    def fail_over(self) -> None:
        """Have the replica take writes, with all that it has; the other one refuses them from then on."""
        self.wait_for_replica()
        with self.primary.connection() as connection, self.replica.connection() as successor:
            connection.execute_command("FAILOVER", "TO", "127.0.0.1", self.replica.port, "TIMEOUT", 5000)
            give_up_s = time.monotonic() + START_S
            while successor.info("replication")["role"] != "master":
                assert time.monotonic() < give_up_s, "no failover"
                time.sleep(0.01)
        self.primary, self.replica = self.replica, self.primary

    def end(self) -> None:
        """Kill both."""
        for server in (self.primary, self.replica):
            server.kill()
