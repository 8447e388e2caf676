"""What systemd hears of an engine and of a server, and what a reload does to them."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster import free_ports
from tests.system.workers import LIMIT_S, Worker, Workers

MESSAGE_BYTES = 4096
WATCHDOG_S = 0.3


@pytest.fixture
def systemd(tmp_path: Path, workers: Workers) -> Iterator[socket.socket]:
    """Provide the socket that those started from now on tell how they are."""
    path = str(tmp_path / "notify")
    workers.environment = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": str(int(WATCHDOG_S * 1_000_000))}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path)
        receiver.settimeout(LIMIT_S)
        yield receiver


def hear(systemd: socket.socket, condition: Callable[[str], bool]) -> str:
    """Return the next message of that kind."""
    give_up_s = time.monotonic() + LIMIT_S
    while not condition(message := systemd.recv(MESSAGE_BYTES).decode()):
        assert time.monotonic() < give_up_s, "systemd does not hear it"
    return message


def start_engine(workers: Workers) -> Worker:
    return workers.start_engine()


def start_server(workers: Workers) -> Worker:
    server = workers.launch_server("server", listen=f"127.0.0.1:{free_ports(1)[0]}")
    server.wait_for("ready")
    return server


@pytest.mark.parametrize(
    ("start", "up", "going"),
    [
        (start_engine, "STATUS=Engine leads", "STATUS=Engine stops"),
        (start_server, "STATUS=Listening at", "STATUS=Fin"),
    ],
)
def test_systemd_hears_when_it_is_up_that_it_lives_and_that_it_stops(
    workers: Workers, systemd: socket.socket, start: Callable[[Workers], Worker], up: str, going: str
) -> None:
    started = start(workers)
    assert hear(systemd, lambda message: not message.startswith("WATCHDOG")).startswith(f"READY=1\n{up}")
    for _ in range(3):
        hear(systemd, lambda message: message == "WATCHDOG=1")
    started.signal(signal.SIGTERM)
    assert started.wait() == 0
    assert hear(systemd, lambda message: message.startswith("STOPPING=1")).startswith(f"STOPPING=1\n{going}")


def test_the_status_of_a_server_tells_how_its_engine_stands(workers: Workers, systemd: socket.socket) -> None:
    start_server(workers)
    assert "Engine leads, term 1" in hear(systemd, lambda message: "Engine leads" in message)


def test_a_standby_is_ready_as_well(workers: Workers, systemd: socket.socket) -> None:
    start_engine(workers)
    hear(systemd, lambda message: message.startswith("READY"))
    workers.launch_engine("engine-2")  # signs of life fill the socket, so it is to be read all the time
    assert "the leader is engine-1" in hear(systemd, lambda message: message.startswith("READY"))


@pytest.mark.parametrize("start", [start_engine, start_server])
def test_a_reload_changes_nothing_and_ends_nothing(workers: Workers, start: Callable[[Workers], Worker]) -> None:
    started = start(workers)
    started.signal(signal.SIGHUP)
    started.wait_for("only a worker can reload: restart for changes of the configuration")
    started.signal(signal.SIGTERM)
    assert started.wait() == 0
