"""A real cluster on loopback: three masters, a replica each."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import redis

from tests.redis_server import server_program

LIMIT_S = 60.0
NODE_TIMEOUT_MS = 1_500
SLOTS = 16384
MASTERS = 3


@dataclass
class Node:
    """One server of the cluster."""

    port: int
    bus_port: int
    folder: Path
    tls: Sequence[str]
    process: subprocess.Popen[bytes]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def ask(self, *command: Any) -> Any:
        with redis.Redis(port=self.port, protocol=2, **self.options) as client:
            return client.execute_command(*command)

    @property
    def id(self) -> str:
        return str(self.ask("CLUSTER", "MYID").decode())

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def start_again(self) -> None:
        """Start it again, when another one has taken its place: its memory is lost."""
        self.process = start(self.folder, self.port, self.bus_port, self.tls)


@dataclass
class Cluster:
    """All of them, the masters first."""

    nodes: list[Node]
    scheme: str = "redis+cluster"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{','.join(node.address for node in self.nodes[:2])}"

    def master_of(self, slot: int) -> Node:
        """Return the server that has a slot now."""
        for node in self.nodes:
            with contextlib.suppress(redis.ConnectionError):
                for first, last, master, *_ in node.ask("CLUSTER", "SLOTS"):
                    if first <= slot <= last:
                        return next(one for one in self.nodes if one.port == master[1])
        raise AssertionError(f"nobody has slot {slot}")

    def another_master(self, than: Node) -> Node:
        """Return some other server with slots."""
        ports = {master[1] for _, _, master, *_ in than.ask("CLUSTER", "SLOTS")}
        return next(node for node in self.nodes if node.port in ports and node is not than)

    def move_slot(self, slot: int, source: Node, target: Node) -> None:
        """Move a slot and its keys, as a cluster's operator does."""
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 20):
            source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5_000, "KEYS", *keys)
        for node in (target, source):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", target.id)


@contextmanager
def running_cluster(folder: Path, tls: Sequence[str] = (), **client: Any) -> Iterator[Cluster]:
    """Run a cluster; yields it once it is complete and every master has its replica.

    Args:
        tls: options that make the servers speak TLS on their ports, and nothing else.
        client: options of the test's own connections.
    """
    nodes: list[Node] = []
    try:
        ports = free_ports(4 * MASTERS)
        for port, bus_port in zip(ports[::2], ports[1::2], strict=True):
            own = folder / str(port)
            nodes.append(Node(port, bus_port, own, tls, start(own, port, bus_port, tls), client))
        for node in nodes:
            wait_until(partial(answers, node), f"server on port {node.port}")
        for number, node in enumerate(nodes[:MASTERS]):
            first, last = number * SLOTS // MASTERS, (number + 1) * SLOTS // MASTERS - 1
            node.ask("CLUSTER", "ADDSLOTSRANGE", first, last)
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in nodes[1:]:
            node.ask("CLUSTER", "MEET", "127.0.0.1", nodes[0].port, nodes[0].bus_port)
        for node in nodes:
            wait_until(partial(knows_all, node), "all servers to know one another")
        for master, replica in zip(nodes[:MASTERS], nodes[MASTERS:], strict=True):
            replica.ask("CLUSTER", "REPLICATE", master.id)
        for node in nodes:
            wait_until(partial(is_complete, node), "a complete cluster")
        for master in nodes[:MASTERS]:
            wait_until(partial(has_replica, master), "replicas that follow")
        yield Cluster(nodes, "rediss+cluster" if tls else "redis+cluster")
    finally:
        for node in nodes:
            node.process.kill()
            node.process.wait()


def start(folder: Path, port: int, bus_port: int, tls: Sequence[str]) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    ports = ("--port", "0", "--tls-port", str(port), *tls) if tls else ("--port", str(port))
    return subprocess.Popen(
        [
            server_program(),
            *ports,
            *("--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)),
            *("--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS)),
            *("--cluster-port", str(bus_port), "--repl-ping-replica-period", "1"),
            *("--logfile", str(folder / "redis.log"), "--daemonize", "no"),
        ]
    )


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def answers(node: Node) -> bool:
    try:
        return bool(node.ask("PING"))
    except redis.ConnectionError:
        return False


def knows_all(node: Node) -> bool:
    return f"cluster_known_nodes:{2 * MASTERS}\r".encode() in bytes(node.ask("CLUSTER", "INFO"))


def is_complete(node: Node) -> bool:
    return b"cluster_state:ok" in bytes(node.ask("CLUSTER", "INFO"))


def has_replica(master: Node) -> bool:
    return b"state=online" in replication(master)


def replication(node: Node) -> bytes:
    """Return what a master says of its replicas."""
    with redis.Redis(port=node.port, protocol=2, **node.options) as client:
        client.response_callbacks.clear()
        return bytes(client.execute_command("INFO", "replication"))


def wait_until(condition: Callable[[], bool], what: str) -> None:
    give_up_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < give_up_s, f"gave up waiting for {what}"
        time.sleep(0.01)
