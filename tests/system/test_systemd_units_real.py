"""The units as they are, under a real systemd: started, watched, reloaded and stopped by it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ffsuper.cli import Exit
from ffsuper.client import Client
from tests.redis_server import running_server
from tests.system.machine import LIBRARIES, Machine, NoMachineError, booted
from tests.system.workers import eventually

WORKER_TOML = f"""\
[worker]
handlers = ["tests.system.handlers_for_tests"]

[store]
url = "unix:///run/store/redis.sock"

[children]
count = 2
environment = {{ LD_LIBRARY_PATH = "{LIBRARIES}" }}
"""
SUBMIT_S = 60.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path


@pytest.fixture
def store_url(folder: Path) -> Iterator[str]:
    with running_server(folder / "store", "--unixsocketperm", "777") as url:
        yield url


@pytest.fixture
def client(store_url: str) -> Iterator[Client]:
    with Client(store_url) as client:
        yield client


@pytest.fixture
def machine(folder: Path, store_url: str) -> Iterator[Machine]:
    """Boot a machine on which ffsuper is installed."""
    try:
        with booted(folder, {"ffsuper/worker.toml": WORKER_TOML, "ffsuper/a.toml": WORKER_TOML}) as machine:
            yield machine
    except NoMachineError as error:
        pytest.skip(f"no systemd can be booted here: {error}")


def kept_folder(instance: str = "") -> str:
    """Return a job that says where its handler may write."""
    return f"/var/lib/ffsuper{instance}"


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
    children = machine.processes("ffsuper") - {machine.shown("ffsuper", "MainPID")}
    seen = [machine.run("cat", f"/proc/{pid}/environ").split("\0") for pid in children]
    assert len(seen) == 3  # with the fork server
    assert all("\nHOME=/var/lib/ffsuper\n" in f"\n{one}\n" for one in seen)
    assert not [one for one in seen for name in ("NOTIFY_", "WATCHDOG_", "CREDENTIALS_", "SYSTEMD_") if name in one]


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
    assert machine.shown("ffsuper", "ExecMainStatus") == str(int(Exit.OK))
    assert client.state(execution) == "completed"


def test_work_that_is_handed_back_is_no_failure(machine: Machine, client: Client) -> None:
    machine.write("/etc/ffsuper/worker.toml", f"{WORKER_TOML}\n[drain]\ntimeout_s = 0.5\n")
    machine.run("systemctl", "start", "ffsuper")
    execution = client.submit("work", {"folder": "/var/lib/ffsuper", "seconds": 3600})
    eventually(lambda: client.state(execution) == "active", "the execution to run")
    machine.run("systemctl", "stop", "ffsuper")
    assert machine.shown("ffsuper", "ExecMainStatus") == str(int(Exit.HANDED_BACK))
    assert machine.shown("ffsuper", "ActiveState") == "inactive"
    assert machine.processes("ffsuper") == set()


def test_a_worker_that_stands_still_is_killed_with_its_children_and_started_again(machine: Machine) -> None:
    machine.drop_in("ffsuper", "[Service]\nWatchdogSec=3\nTimeoutAbortSec=1\n")
    machine.run("systemctl", "start", "ffsuper")
    before = machine.processes("ffsuper")
    machine.run("kill", "-STOP", machine.shown("ffsuper", "MainPID"))
    machine.wait_until("ffsuper", "Result", "watchdog")
    machine.wait_until("ffsuper", "NRestarts", "1")
    machine.wait_until("ffsuper", "ActiveState", "active")
    assert machine.processes("ffsuper").isdisjoint(before)


def test_a_wrong_configuration_is_tried_once(machine: Machine) -> None:
    machine.write("/etc/ffsuper/worker.toml", WORKER_TOML.replace("handlers", "handler"))
    assert machine.attempt("systemctl", "start", "ffsuper").returncode != 0
    assert machine.shown("ffsuper", "ActiveState") == "failed"
    assert machine.shown("ffsuper", "ExecMainStatus") == str(int(Exit.CONFIG))
    assert machine.shown("ffsuper", "NRestarts") == "0"


def test_instances_run_beside_one_another_and_the_worker_with_passwords_of_their_own(
    machine: Machine, store: redis.Redis, client: Client
) -> None:
    """All three have the same file, and so would have the same instance id."""
    store.acl_setuser("default", enabled=True, passwords=["+shared"], commands=["+@all"], keys=["*"], channels=["*"])
    machine.write("/etc/credstore/ffsuper.store_password", "shared")
    machine.write("/etc/credstore/ffsuper@b.store_password", "own")
    units = ("ffsuper", "ffsuper@a", "ffsuper@b")
    machine.run("systemctl", "start", *units)
