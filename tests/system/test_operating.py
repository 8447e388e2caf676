"""Presence, health, drain, quiet and reload of real workers: what an operator relies upon."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from ffsuper.client import Client
from tests.system.test_worker import read
from tests.system.workers import Worker, Workers, eventually

LONG_S = 60.0
# An alive key lives twice as long as a lease, and is renewed four times in that.
SHORT = {"ttl_ms": 1000, "margin_ms": 200}


def begin(client: Client, folder: Path, number: str = "") -> str:
    """Submit an execution that runs until a file is there; return its id once it runs."""
    place = folder / f"work{number}"
    place.mkdir()
    execution = client.submit("wait-for-file", {"folder": str(place)})
    eventually(lambda: read(place / "started-0"), "the attempt")
    return execution


def finish(folder: Path, number: str = "") -> None:
    """Let it end."""
    (folder / f"work{number}" / "go").touch()


def alive(store: redis.Redis, name: str) -> bytes | None:
    found = store.get(f"ff:worker:{name}:alive")
    assert found is None or isinstance(found, bytes)
    return found


class Systemd:
    """The end of the notify socket that systemd has."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(LONG_S)
        self.messages: list[dict[str, str]] = []

    def wait_for(self, name: str, begins: str = "") -> dict[str, str]:
        """Wait for a message that has this variable with a value that begins so; return it."""
        while True:
            lines = self.socket.recv(4096).decode().splitlines()
            self.messages.append(dict(line.split("=", 1) for line in lines))
            value = self.messages[-1].get(name)
            if value is not None and value.startswith(begins):
                return self.messages[-1]

    def drain(self) -> list[dict[str, str]]:
        """Return what has arrived and was not looked at."""
        self.socket.setblocking(False)
        found = []
        try:
            while True:
                found.append(dict(line.split("=", 1) for line in self.socket.recv(4096).decode().splitlines()))
        except BlockingIOError:
            self.socket.settimeout(LONG_S)
        return found


@pytest.fixture
def systemd(tmp_path: Path, workers: Workers) -> Iterator[Systemd]:
    systemd = Systemd(tmp_path / "notify")
    workers.environment["NOTIFY_SOCKET"] = str(tmp_path / "notify")
    with systemd.socket:
        yield systemd


# --- presence ---------------------------------------------------------------------------------------------------


def test_a_second_process_is_told_who_holds_the_name_where_and_since_when(workers: Workers) -> None:
    first = workers.start("same")
    second = workers.launch("same")
    assert second.wait() == 81
    told = second.log_path.read_text()
    assert f"process {first.process.pid} on {socket.gethostname()}, since 20" in told
    assert first.process.poll() is None


def test_a_name_held_on_another_host_is_free_when_its_key_has_run_out(workers: Workers, store: redis.Redis) -> None:
    elsewhere = {"nonce": "n", "host": "elsewhere", "boot": "b", "pid": 1, "process_started": 0, "since": "yesterday"}
    store.set("ff:worker:same:alive", json.dumps(elsewhere), px=3_600_000)
    assert workers.launch("same").wait() == 81
    store.pexpire("ff:worker:same:alive", 1)
    eventually(lambda: alive(store, "same") is None, "the key's end")
    workers.start("same")


def test_a_stolen_key_fences_the_worker_which_lets_its_work_finish(
    workers: Workers, client: Client, store: redis.Redis, tmp_path: Path
) -> None:
    worker = workers.start("same", capabilities='["gpu"]', **SHORT)
    execution = begin(client, tmp_path)
    store.set("ff:worker:same:alive", "thief")
    worker.wait_for("fenced")
    later = client.submit("echo", b"")
    finish(tmp_path)
    assert worker.wait() == 80
    assert [client.state(execution), client.state(later)] == ["completed", "waiting"]
    assert "another process has taken this worker's instance id" in worker.log_path.read_text()
    # What is the thief's by now is left alone.
    assert [alive(store, "same"), store.get("ff:worker:same:caps")] == [b"thief", b"gpu"]


def test_a_worker_without_capabilities_leaves_nothing_behind_either(workers: Workers, store: redis.Redis) -> None:
    worker = workers.start("same")
    assert store.smembers("ffsuper:workers") == {b"same"}
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert [store.keys("*worker:*"), store.smembers("ffsuper:workers")] == [[], set()]


# --- health -----------------------------------------------------------------------------------------------------

STUCK = """
import sys, trio
from ffsuper.actors import {actor}
async def never(*args, **named):
    await trio.sleep_forever()
{actor}.{function} = never
from ffsuper.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("actor", "function"), [("claimer", "claim_for"), ("deliverer", "try_all"), ("scanner", "jittered")]
)
def test_a_worker_with_an_actor_that_is_stuck_stops_saying_that_it_is_alive(
    workers: Workers, client: Client, store: redis.Redis, tmp_path: Path, systemd: Systemd, actor: str, function: str
) -> None:
    script = tmp_path / "stuck.py"
    script.write_text(STUCK.format(actor=actor, function=function))
    if function == "jittered":  # a plain function: one that blocks the whole program
        script.write_text(script.read_text().replace("async def", "def").replace("await trio.sleep_forever", "hang"))
        script.write_text("import time\ndef hang():\n    time.sleep(3600)\n" + script.read_text())
    workers.program = (str(script),)
    workers.environment |= {
        "FFSUPER_STATUS_STUCK_AFTER_S": "1",
        "WATCHDOG_USEC": "200000",
        "PYTHONPATH": str(Path.cwd()),
    }
    worker = workers.start("same", **SHORT) if function != "jittered" else workers.launch("same", **SHORT)
    systemd.wait_for("WATCHDOG")
    client.submit("echo", b"")
    eventually(lambda: alive(store, "same") is None, "the end of the alive key")
    if function != "jittered":
        worker.wait_for("actor stuck", actor=actor)
        systemd.wait_for("STATUS", f"Stuck: {actor}")
    systemd.drain()
    time.sleep(0.5)
    assert not [message for message in systemd.drain() if "WATCHDOG" in message]


# --- drain ------------------------------------------------------------------------------------------------------


def test_the_second_signal_shortens_the_drain_and_the_third_ends_it(
    workers: Workers, client: Client, tmp_path: Path, systemd: Systemd
) -> None:
    worker = workers.start(drain_s=3600.0)
    execution = begin(client, tmp_path)
    worker.signal(signal.SIGTERM)
    assert systemd.wait_for("STOPPING")["STATUS"].startswith("Draining: 1 still running")
    assert float(systemd.wait_for("EXTEND_TIMEOUT_USEC")["EXTEND_TIMEOUT_USEC"]) > 1_000_000
    worker.signal(signal.SIGTERM)
    worker.wait_for("draining", timeout_s=5.0)
    assert client.state(execution) == "active"
    worker.signal(signal.SIGTERM)
    worker.wait_for("stopping at once")
    assert worker.wait() == 79
    assert client.show(execution).record["retry_count"] == "0"


def test_what_is_handed_back_at_the_deadline_runs_elsewhere_at_once_and_spends_no_retry(
    workers: Workers, client: Client, tmp_path: Path
) -> None:
    first = workers.start("first", drain_s=1.0)
    execution = begin(client, tmp_path)
    children = first.children()
    second = workers.start("second")
    began_s = time.monotonic()
    first.signal(signal.SIGTERM)
    second.wait_for("claimed", execution=execution)
    took_s = time.monotonic() - began_s
    assert 1.0 <= took_s < 5.0  # the first worker's lease would have lasted half a minute
    assert not any(child.is_running() for child in children)
    assert first.wait() == 79
    finish(tmp_path)
    shown = client.wait(execution, LONG_S)
    assert (shown.state, shown.record["retry_count"], len(shown.attempts)) == ("completed", "0", 1)


def test_an_outcome_waits_for_a_store_that_is_away_during_the_drain(
    workers: Workers, client: Client, store: redis.Redis, tmp_path: Path
) -> None:
    worker = workers.start(drain_s=3600.0)
    execution = begin(client, tmp_path)
    server = psutil.Process(int(store.info("server")["process_id"]))
    worker.signal(signal.SIGTERM)
    worker.wait_for("draining")
    server.suspend()
    try:
        finish(tmp_path)
        worker.wait_for("store away")
    finally:
        server.resume()
    assert worker.wait() == 0
    assert client.state(execution) == "completed"


def test_a_drain_ends_at_its_deadline_though_the_store_is_away(
    workers: Workers, client: Client, store: redis.Redis, tmp_path: Path
) -> None:
    worker = workers.start(drain_s=2.0)
    begin(client, tmp_path)
    children = worker.children()
    server = psutil.Process(int(store.info("server")["process_id"]))
    server.suspend()
    try:
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 79
        assert not any(child.is_running() for child in children)
    finally:
        server.resume()


def test_a_drain_without_any_time_is_a_clean_one_when_nothing_runs(workers: Workers) -> None:
    worker = workers.start(drain_s=0.0)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


# --- faults -----------------------------------------------------------------------------------------------------


def test_a_worker_whose_fork_server_is_killed_ends_at_once_and_leaves_no_execution_behind(
    workers: Workers, client: Client, tmp_path: Path
) -> None:
    worker = workers.start(children=1)
    execution = begin(client, tmp_path)
    (fork_server,) = psutil.Process(worker.process.pid).children()
    fork_server.kill()
    assert worker.wait() == 82
    assert client.state(execution) == "failed"  # its child is dead, which the worker had time to say


@pytest.mark.parametrize("key", ["ffsuper:worker:same:order", "ffsuper:worker:same:status", "ffsuper:workers"])
def test_a_key_that_holds_something_else_costs_only_what_it_is_for(
    workers: Workers, client: Client, store: redis.Redis, tmp_path: Path, key: str
) -> None:
    worker = workers.start("same", **SHORT)
    execution = begin(client, tmp_path)
    store.delete(key)
    store.hset(key, "of", "another type")
    worker.signal(signal.SIGTSTP)
    if "status" not in key:  # SET replaces whatever is there
        worker.wait_for("key of another type in the store")
    finish(tmp_path)
    assert client.wait(execution, LONG_S).state == "completed"
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert alive(store, "same") is None


def test_an_alive_key_that_holds_something_else_fences_the_worker(
    workers: Workers, client: Client, store: redis.Redis, tmp_path: Path
) -> None:
    worker = workers.start("same", **SHORT)
    execution = begin(client, tmp_path)
    store.delete("ff:worker:same:alive")
    store.hset("ff:worker:same:alive", "of", "another type")
    worker.wait_for("fenced")
    finish(tmp_path)
    assert worker.wait() == 80
    assert client.state(execution) == "completed"


# --- quiet ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTSTP, signal.SIGUSR1])
def test_a_quiet_worker_claims_nothing_lets_its_work_go_on_and_can_resume(
    workers: Workers, client: Client, tmp_path: Path, number: signal.Signals
) -> None:
    worker = workers.start()
    execution = begin(client, tmp_path)
    worker.signal(number)
    worker.wait_for("quiet", running=1)
    later = client.submit("echo", b"later")
    finish(tmp_path)
    assert client.wait(execution, LONG_S).state == "completed"
    assert client.state(later) == "waiting"
    worker.signal(signal.SIGUSR2)
    assert client.wait(later, LONG_S).state == "completed"
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


def test_a_quiet_worker_drains_at_once(workers: Workers) -> None:
    worker = workers.start()
    worker.signal(signal.SIGTSTP)
    worker.wait_for("quiet")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


# --- reload -----------------------------------------------------------------------------------------------------


def change(worker: Worker, old: str, new: str) -> None:
    """Change the worker's configuration, and tell it."""
    (toml,) = worker.log_path.parent.glob("*.toml")
    text = toml.read_text()
    assert old in text
    toml.write_text(text.replace(old, new))
    worker.signal(signal.SIGHUP)


def test_a_reload_takes_over_handlers_lanes_capabilities_and_counts_and_drops_nothing(
    workers: Workers, client: Client, store: redis.Redis, tmp_path: Path, systemd: Systemd
) -> None:
    (tmp_path / "changing.py").write_text(CHANGING.format(version=1))
    workers.environment["PYTHONPATH"] = str(tmp_path)
    worker = workers.start("same", handlers="changing", children=2)
    systemd.wait_for("READY")
    running = client.submit("hold", {"folder": str(tmp_path)})
    child = int(eventually(lambda: read(tmp_path / "held"), "the attempt"))
    assert client.result(client.wait(client.submit("version"), LONG_S).id) == b"1"
    (tmp_path / "changing.py").write_text(CHANGING.format(version=2))
    text = (tmp_path / "same.toml").read_text()
    (tmp_path / "same.toml").write_text(
        text.replace('["default"]', '["default", "more"]').replace("count = 2", "count = 3")
    )
    change(worker, "capabilities = []", 'capabilities = ["gpu"]')
    assert "MONOTONIC_USEC" in systemd.wait_for("RELOADING")
    assert worker.wait_for("reloaded", lanes="default,more")["slots"] == 3
    systemd.wait_for("READY")
    needs_gpu = {"routing_requirements": {"required_capabilities": ["gpu"]}}
    for lane in ("default", "more"):
        execution = client.submit("version", lane=lane, policy=needs_gpu)
        assert client.result(client.wait(execution, LONG_S).id) == b"2"
    assert store.get("ff:worker:same:caps") == b"gpu"
    assert client.state(running) == "active"
    (tmp_path / "release").touch()
    shown = client.wait(running, LONG_S)
    assert (client.result(running), len(shown.attempts)) == (b"1", 1)
    # The child with the old handlers is gone, and a third one with the new ones has taken its seat.
    eventually(lambda: not psutil.pid_exists(child), "the end of the old child")
    eventually(lambda: len(all_children(worker)) == 3 or None, "three children")


def all_children(worker: Worker) -> list[psutil.Process]:
    """Return the children of all fork servers of a worker."""
    found = []
    for server in psutil.Process(worker.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            found += server.children()
    return found


CHANGING = """
import os, pathlib, time
from ffsuper import handler

@handler("version")
def version(ctx):
    return {version}

@handler("hold")
def hold(ctx, job):
    folder = pathlib.Path(job["folder"])
    (folder / "held.new").write_text(str(os.getpid()))
    (folder / "held.new").rename(folder / "held")
    while not (folder / "release").exists():
        time.sleep(0.01)
    return {version}
"""


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("count = 2", "count = -1", "[children] count"),
        ("tests.system.handlers_for_tests", "tests.system.no_such_module", "no_such_module"),
        ("tasks_per_process = 1", "tasks_per_process = 4", "is not async"),
    ],
    ids=["file", "handlers", "plain handlers, many at once"],
)
def test_a_wrong_configuration_is_refused_and_the_old_one_goes_on(
    workers: Workers, client: Client, systemd: Systemd, old: str, new: str, told: str
) -> None:
    worker = workers.start()
    systemd.wait_for("READY")
    change(worker, old, new)
    refused = worker.wait_for("configuration refused; going on with the one before")
    assert told in refused["error"]
    assert told in systemd.wait_for("READY")["STATUS"]
    assert client.wait(client.submit("echo", b"x"), LONG_S).state == "completed"
    change(worker, new, old)
    worker.wait_for("reloaded")
    assert "refused" not in systemd.wait_for("READY")["STATUS"]


def test_a_wrong_configuration_is_refused_by_a_quiet_worker_too(workers: Workers, client: Client) -> None:
    worker = workers.start()
    worker.signal(signal.SIGTSTP)
    worker.wait_for("quiet")
    change(worker, "tests.system.handlers_for_tests", "tests.system.no_such_module")
    worker.wait_for("configuration refused; going on with the one before")
    worker.signal(signal.SIGUSR2)
    assert client.wait(client.submit("echo", b"x"), LONG_S).state == "completed"


HANGING = """
import pathlib, time
from ffsuper import handler

while pathlib.Path({hang!r}).exists():
    time.sleep(0.01)

@handler("echo")
def echo(ctx, payload: bytes) -> bytes:
    return payload

@handler("stay")
def stay(ctx) -> None:
    ctx.progress(1, "begun")
    time.sleep(3600)
"""


@pytest.fixture
def hang(tmp_path: Path, workers: Workers) -> Path:
    """Return a file while which is there the module ``hanging`` does not come to the end of its import."""
    (tmp_path / "hanging.py").write_text(HANGING.format(hang=str(tmp_path / "hang")))
    workers.environment |= {"PYTHONPATH": str(tmp_path), "FFSUPER_CHILDREN_BOOT_TIMEOUT_S": "1"}
    return tmp_path / "hang"


def test_handlers_that_hang_when_imported_are_refused_and_other_orders_are_obeyed(
    workers: Workers, client: Client, hang: Path
) -> None:
    worker = workers.start(handlers="hanging")
    hang.touch()
    worker.signal(signal.SIGHUP)
    refused = worker.wait_for("configuration refused; going on with the one before")
    assert "boot_timeout_s" in refused["error"]
    assert client.wait(client.submit("echo", b"x"), LONG_S).state == "completed"
    worker.signal(signal.SIGTSTP)
    worker.wait_for("quiet")


def test_no_child_is_made_for_a_worker_that_drains(workers: Workers, client: Client, hang: Path) -> None:
    workers.environment |= {"FFSUPER_CHILDREN_PRELOAD": "false", "FFSUPER_CHILDREN_BOOT_TIMEOUT_S": "3600"}
    worker = workers.start(handlers="hanging", children=1, drain_s=3600.0)
    execution = client.submit("stay")
    eventually(lambda: client.show(execution).record.get("progress_message") == "begun", "the handler")
    hang.touch()
    (child,) = worker.children()
    child.kill()
    assert client.wait(execution, LONG_S).state == "failed"
    eventually(lambda: [one for one in worker.children() if one.pid != child.pid], "the child that hangs")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


def test_what_needs_a_restart_is_told(workers: Workers, client: Client) -> None:
    worker = workers.start()
    change(worker, "ttl_ms = 30000", "ttl_ms = 40000")
    assert worker.wait_for("reloaded")["restart_needed_for"] == "[lease]"
    assert client.wait(client.submit("echo", b"x"), LONG_S).state == "completed"


def test_a_worker_that_is_told_to_end_while_it_reloads_ends(workers: Workers) -> None:
    worker = workers.start()
    worker.signal(signal.SIGHUP)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


def test_a_worker_that_is_told_to_end_before_it_is_ready_leaves_nothing_behind(
    workers: Workers, store: redis.Redis
) -> None:
    worker = workers.launch("same")
    eventually(worker.fork_server, "the fork server")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert store.keys("*worker:*") == []
