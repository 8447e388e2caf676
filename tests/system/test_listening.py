"""Who may reach the ports: this machine alone, unless somebody has said otherwise."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import psutil
import pytest

from ffsuper.config_rules import is_loopback
from tests.system.test_dev import HANDLERS
from tests.system.test_dev import start as start_dev
from tests.system.test_server import free_port
from tests.system.workers import LIMIT_S, Worker, Workers

TOKEN = "a-token"


def listening(pid: int) -> list[tuple[str, int]]:
    """Return where a process and its descendants take connections over the network."""
    own = psutil.Process(pid)
    return [
        (one.laddr.ip, one.laddr.port)
        for process in (own, *own.children(recursive=True))
        for one in process.net_connections("inet")
        if one.status == psutil.CONN_LISTEN or one.type.name == "SOCK_DGRAM"
    ]


def warnings(worker: Worker) -> list[str]:
    return [event["event"].partition(":")[0] for event in worker.events() if event["level"] == "warning"]


def test_a_worker_listens_for_this_machine_alone(workers: Workers) -> None:
    ((address, _),) = listening(workers.start().process.pid)
    assert ipaddress.ip_address(address).is_loopback


def test_a_worker_listens_elsewhere_when_it_is_told_to(workers: Workers) -> None:
    port = free_port()
    worker = workers.start(status=f"0.0.0.0:{port}")
    assert listening(worker.process.pid) == [("0.0.0.0", port)]


def test_an_engine_and_a_worker_without_status_listen_nowhere(workers: Workers) -> None:
    assert listening(workers.start_engine().process.pid) == []
    assert listening(workers.start(status="").process.pid) == []


def test_ffsuper_dev_listens_for_this_machine_alone(tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text(HANDLERS.format(greeting="hello"))
    dev = start_dev(tmp_path, "jobs.py")
    try:
        dev.wait_for('"event": "ready"')
        found = listening(dev.process.pid)
    finally:
        dev.process.terminate()
        dev.process.wait(LIMIT_S)
    assert found
    assert all(ipaddress.ip_address(address).is_loopback for address, _ in found)


@pytest.mark.parametrize(
    ("host", "token", "told"),
    [
        ("127.0.0.1", TOKEN, []),
        ("127.0.0.1", "", ["no token"]),
        ("0.0.0.0", TOKEN, ["no TLS"]),
        ("0.0.0.0", "", ["no token", "no TLS"]),
    ],
)
def test_a_server_listens_where_it_is_told_to_and_warns_of_who_may_reach_it(
    workers: Workers, tmp_path: Path, host: str, token: str, told: list[str]
) -> None:
    if token:
        (tmp_path / "token").write_text(token)
        workers.environment["FFSUPER_SERVER_TOKEN_FILE"] = str(tmp_path / "token")
    listen = f"{host}:{free_port()}"
    server = workers.launch_server("server", listen=listen, engine="false")
    server.wait_for("ready")
    assert [f"{address}:{port}" for address, port in listening(server.process.pid)] == [listen]
    assert is_loopback(listen) is (host == "127.0.0.1")
    assert warnings(server) == told
