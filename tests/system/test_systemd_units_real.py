"""The units as they are, under a real systemd: started, watched, reloaded and stopped by it."""

from __future__ import annotations

import json
import re
import socket
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from ffsuper.cli import Exit
from ffsuper.client import Client
from tests.redis_server import running_server
from tests.system.machine import LIBRARIES, PYTHON, Machine, NoMachineError, booted
from tests.system.workers import CHECKOUT, LIMIT_S, eventually

WORKER_TOML = f"""\
[worker]
handlers = ["tests.system.handlers_for_tests"]

[store]
url = "unix:///run/store/redis.sock"

[children]
count = 2
environment = {{ LD_LIBRARY_PATH = "{LIBRARIES}" }}
"""

FILES = {
    "worker.toml": WORKER_TOML,
    "a.toml": WORKER_TOML,
    "b.toml": WORKER_TOML.replace("[store]", '[store]\nusername = "b"'),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path


@pytest.fixture
def store_url(folder: Path) -> Iterator[str]:
    with running_server(folder / "store", "--unixsocketperm", "777") as url:
        yield url


@pytest.fixture
def machine(folder: Path, store_url: str) -> Iterator[Machine]:
    """Boot a machine on which ffsuper is installed."""
    try:
        with booted(folder, {f"ffsuper/{name}": text for name, text in FILES.items()}) as machine:
            yield machine
    except NoMachineError as error:
        pytest.skip(f"no systemd can be booted here: {error}")


def test_the_worker_is_active_when_it_can_work_and_says_how_it_stands(machine: Machine, client: Client) -> None:
    machine.drop_in("ffsuper", "[Service]\nWatchdogSec=3\n")  # which has the status told every second
    machine.run("systemctl", "start", "ffsuper")
    assert machine.shown("ffsuper", "ActiveState") == "active"
    assert machine.shown("ffsuper", "StatusText") == "Running 0 of 2, 0 finished"
    execution = client.submit("echo", b"under systemd")
    machine.wait_until("ffsuper", "StatusText", "Running 0 of 2, 1 finished")
    assert client.result(execution) == b"under systemd"
    assert machine.shown("ffsuper", "NRestarts") == "0"


def test_children_see_nothing_of_what_systemd_gives_to_the_worker(machine: Machine) -> None:
    machine.run("systemctl", "start", "ffsuper")
    eventually(lambda: len(machine.processes("ffsuper")) == 4, "worker, fork server and two children")
    children = machine.processes("ffsuper") - {machine.shown("ffsuper", "MainPID")}
    for variables in (machine.run("cat", f"/proc/{pid}/environ").split("\0") for pid in children):
        names = {variable.partition("=")[0] for variable in variables} - {""}
        assert names == {"HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH"}
        assert "HOME=/var/lib/ffsuper" in variables


def test_a_reload_takes_the_new_configuration_without_a_restart(machine: Machine) -> None:
    machine.run("systemctl", "start", "ffsuper")
    before = machine.shown("ffsuper", "MainPID")
    machine.write("/etc/ffsuper/worker.toml", WORKER_TOML.replace("count = 2", "count = 3"))
    machine.run("systemctl", "reload", "ffsuper")
    machine.wait_until("ffsuper", "StatusText", "Running 0 of 3, 0 finished")
    machine.wait_until("ffsuper", "ActiveState", "active")
    assert machine.shown("ffsuper", "MainPID") == before


def test_a_drain_is_told_and_gets_more_time_than_the_unit_gives(machine: Machine, client: Client) -> None:
    machine.drop_in("ffsuper", "[Service]\nTimeoutStopSec=4\nWatchdogSec=6\n")
    machine.run("systemctl", "start", "ffsuper")
    execution = client.submit("work", {"folder": "/var/lib/ffsuper", "seconds": 5})
    eventually(lambda: client.state(execution) == "active", "the execution to run")
    machine.run("systemctl", "stop", "--no-block", "ffsuper")
    machine.wait_until("ffsuper", "StatusText", "Draining: 1 still running, .*")
    assert machine.wait_until("ffsuper", "ActiveState", "inactive|failed") == "inactive"
    assert machine.endings("ffsuper") == [f"success, exited {Exit.OK}"]
    assert client.state(execution) == "completed"


def test_work_that_is_handed_back_is_no_failure(machine: Machine, client: Client) -> None:
    machine.write("/etc/ffsuper/worker.toml", f"{WORKER_TOML}\n[drain]\ntimeout_s = 0.5\n")
    machine.run("systemctl", "start", "ffsuper")
    execution = client.submit("work", {"folder": "/var/lib/ffsuper", "seconds": 3600})
    eventually(lambda: client.state(execution) == "active", "the execution to run")
    machine.run("systemctl", "stop", "ffsuper")
    assert machine.shown("ffsuper", "ActiveState") == "inactive"
    assert machine.endings("ffsuper") == [f"success, exited {Exit.HANDED_BACK}"]
    assert machine.processes("ffsuper") == set()


def test_a_worker_that_stands_still_is_killed_with_its_children_and_started_again(machine: Machine) -> None:
    machine.drop_in("ffsuper", "[Service]\nWatchdogSec=3\nTimeoutAbortSec=1\n")
    machine.run("systemctl", "start", "ffsuper")
    before = machine.processes("ffsuper")
    machine.run("kill", "-STOP", machine.shown("ffsuper", "MainPID"))
    machine.wait_until("ffsuper", "NRestarts", "1")
    machine.wait_until("ffsuper", "ActiveState", "active")
    assert machine.endings("ffsuper") == ["watchdog, killed ABRT"]
    assert machine.processes("ffsuper").isdisjoint(before)


def test_the_server_is_active_when_it_listens_and_stops_in_order(machine: Machine) -> None:
    machine.run("systemctl", "start", "ffsuper-server")
    assert machine.shown("ffsuper-server", "StatusText") == "Listening at 127.0.0.1:9090"
    health = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9090/healthz').status)"
    assert machine.run("env", f"LD_LIBRARY_PATH={LIBRARIES}", str(PYTHON), "-c", health) == "200"
    machine.run("systemctl", "stop", "ffsuper-server")
    assert machine.endings("ffsuper-server") == [f"success, exited {Exit.OK}"]


def test_a_wrong_configuration_is_tried_once(machine: Machine) -> None:
    machine.write("/etc/ffsuper/worker.toml", WORKER_TOML.replace("handlers", "handler"))
    assert machine.attempt("systemctl", "start", "ffsuper").returncode != 0
    assert machine.shown("ffsuper", "ActiveState") == "failed"
    assert machine.endings("ffsuper") == [f"exit-code, exited {Exit.CONFIG}"]


def test_instances_run_beside_one_another_and_beside_the_single_worker(machine: Machine, store: redis.Redis) -> None:
    """Two have the same file, so that nothing but the units keeps them apart; one has its own password."""
    store.acl_setuser("b", enabled=True, passwords=["+own"], categories=["+@all"], keys=["*"], channels=["*"])
    store.acl_setuser("default", enabled=True, passwords=["+shared"])
    machine.write("/etc/credstore/ffsuper.store_password", "shared")
    machine.write("/etc/credstore/ffsuper@b.store_password", "own")
    units = ("ffsuper", "ffsuper@a", "ffsuper@b")
    for unit in units:
        machine.run("systemctl", "start", unit)
    assert len({machine.run("stat", "-c%u", f"/proc/{machine.shown(unit, 'MainPID')}") for unit in units}) == 3
    assert {machine.run("realpath", f"/var/lib/{unit}") for unit in units} == {
        f"/var/lib/private/{unit}" for unit in units
    }
    host = socket.gethostname()
    assert set(store.keys("ff:worker:*:alive")) == {
        f"ff:worker:{instance}@{host}:alive".encode() for instance in ("ffsuper", "a", "b")
    }


def test_a_child_cannot_kill_its_worker(machine: Machine, client: Client) -> None:
    machine.write("/etc/ffsuper/worker.toml", WORKER_TOML.replace("handlers_for_tests", "prying_handlers_for_tests"))
    machine.run("systemctl", "start", "ffsuper")
    main = machine.shown("ffsuper", "MainPID")
    execution = client.submit("kill", int(main))
    assert client.wait(execution, LIMIT_S).state == "completed"
    assert client.result(execution) == b'"PermissionError"'
    assert machine.shown("ffsuper", "MainPID") == main


def test_children_are_another_users_with_the_drop_in_of_the_documentation(machine: Machine, client: Client) -> None:
    operations = (CHECKOUT / "docs" / "operations.md").read_text(encoding="utf-8")
    (drop_in,) = re.findall(
        r"^(    \[Service\]\n    AmbientCapabilities=.*?)\n\n", operations, re.MULTILINE | re.DOTALL
    )
    machine.drop_in("ffsuper", textwrap.dedent(drop_in) + "\n")
    toml = WORKER_TOML.replace("[children]", '[children]\nuser = "handlers"').replace(
        "handlers_for", "prying_handlers_for"
    )
    machine.write("/etc/ffsuper/worker.toml", toml)
    machine.run(
        "sh", "-c", "echo handlers:x:900:900::/opt:/bin/false >> /etc/passwd; echo handlers:x:900: >> /etc/group"
    )
    machine.run("systemctl", "start", "ffsuper")
    main = machine.shown("ffsuper", "MainPID")
    assert machine.run("stat", "-c%u", f"/proc/{main}/task").strip() != "900"
    execution = client.submit("own-status")
    assert client.wait(execution, LIMIT_S).state == "completed"
    for found in json.loads(client.result(execution) or b"").values():
        assert found["Uid"].split() == ["900"] * 4
        assert [int(found[f"Cap{which}"], 16) for which in ("Prm", "Eff", "Amb", "Bnd")][:3] == [0, 0, 0]
    machine.run("systemctl", "stop", "ffsuper")
    assert machine.endings("ffsuper") == [f"success, exited {Exit.OK}"]
