"""What probes and Prometheus hear from real workers."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import cast

import psutil
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from ffsuper.client import Client
from ffsuper.store import keys
from tests.cluster import free_ports
from tests.system.workers import LIMIT_S, Workers, eventually

SLOW_HANDLERS = """
import time
from pathlib import Path
from ffsuper import handler

while not Path({go!r}).exists():
    time.sleep(0.01)

@handler("echo")
def echo(context, payload):
    return payload
"""


def address_of(store: redis.Redis, name: str = "worker-1") -> str:
    """Return what a worker tells of where it can be asked."""
    told = cast("bytes", store.get(keys.worker_status(name)))
    return str(json.loads(told)["status_address"])


def get(address: str, path: str) -> tuple[int, str]:
    """Ask a worker; return status and text."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=LIMIT_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def metrics(address: str) -> dict[tuple[str, ...], float]:
    """Return all values by name and the values of the labels, in the order of their names."""
    status, text = get(address, "/metrics")
    assert status == 200
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def wait_for(condition: Callable[[dict[tuple[str, ...], float]], bool], address: str) -> dict[tuple[str, ...], float]:
    """Scrape until a condition holds; return the values."""

    def look() -> dict[tuple[str, ...], float] | None:
        values = metrics(address)
        return values if condition(values) else None

    return eventually(look, "metrics")


def begin(client: Client, folder: Path) -> str:
    """Submit an execution that runs until a file is there; return its id once it runs."""
    execution = client.submit("wait-for-file", {"folder": str(folder)})
    eventually((folder / "started-0").exists, "the attempt")
    return execution


def test_a_worker_that_works_is_ready_and_shows_what_it_does(
    workers: Workers, client: Client, store: redis.Redis, tmp_path: Path
) -> None:
    workers.start()
    address = address_of(store)
    assert [get(address, path) for path in ("/livez", "/readyz")] == [(200, "ok\n"), (200, "ok\n")]
    execution = begin(client, tmp_path)
    values = metrics(address)
    assert values["ffsuper_running_attempts",] == 1
    assert 0 <= values["ffsuper_oldest_attempt_seconds",] < LIMIT_S
    assert values["ffsuper_attempts_begun_total", "wait-for-file", "default"] == 1
    assert values["ffsuper_slots",] == 2
    assert values["ffsuper_worker_state", "running"] == values["ffsuper_store_reachable",] == 1
    (tmp_path / "go").touch()
    client.wait(execution, LIMIT_S)
    finished = ("ffsuper_attempts_finished_total", "wait-for-file", "default", "completed")
    values = wait_for(lambda values: values[finished] == 1, address)
    assert values["ffsuper_attempt_seconds_count", "wait-for-file", "default"] == 1
    assert values["ffsuper_running_attempts",] == 0
    values = wait_for(lambda values: values["ffsuper_engine_leader",] == 1, address)
    values = wait_for(lambda values: values["ffsuper_children",] == 2, address)
    assert values["ffsuper_children_resident_bytes",] > values["ffsuper_largest_child_resident_bytes",] > 1e6


def test_a_child_that_dies_is_counted_by_what_killed_it(workers: Workers, client: Client, store: redis.Redis) -> None:
    workers.start()
    assert client.wait(client.submit("segfault"), LIMIT_S).state == "failed"
    died = ("ffsuper_child_deaths_total", "SIGSEGV")
    values = wait_for(lambda values: values[died] == 1, address_of(store))
    assert values["ffsuper_attempts_finished_total", "segfault", "default", "failed"] == 1


def test_while_the_store_is_away_a_worker_lives_but_is_not_ready(workers: Workers, store: redis.Redis) -> None:
    workers.start()
    address = address_of(store)
    server = int(store.info()["process_id"])
    os.kill(server, signal.SIGSTOP)
    try:
        eventually(lambda: get(address, "/readyz") == (503, "store away\n"), "not being ready")
        assert get(address, "/livez") == (200, "ok\n")
        assert metrics(address)["ffsuper_store_reachable",] == 0
    finally:
        os.kill(server, signal.SIGCONT)
    eventually(lambda: get(address, "/readyz") == (200, "ok\n"), "being ready again")
    assert metrics(address)["ffsuper_store_reachable",] == 1


def test_a_worker_that_is_quiet_or_drains_says_so(
    workers: Workers, client: Client, store: redis.Redis, tmp_path: Path
) -> None:
    # A port that no other worker takes when this one has ended.
    worker = workers.start(status=f"127.0.0.1:{free_ports(1)[0]}")
    address = address_of(store)
    begin(client, tmp_path)
    worker.signal(signal.SIGUSR1)
    eventually(lambda: get(address, "/readyz") == (503, "quiet\n"), "quiet")
    worker.signal(signal.SIGUSR2)
    eventually(lambda: get(address, "/readyz") == (200, "ok\n"), "going on")
    worker.signal(signal.SIGTERM)
    eventually(lambda: get(address, "/readyz") == (503, "draining\n"), "the drain")
    assert get(address, "/livez") == (200, "ok\n")
    (tmp_path / "go").touch()
    assert worker.wait() == 0
    with pytest.raises(urllib.error.URLError, match="refused"):
        get(address, "/livez")


def test_a_worker_that_starts_lives_and_is_not_ready_yet(workers: Workers, tmp_path: Path) -> None:
    (tmp_path / "slow_handlers.py").write_text(SLOW_HANDLERS.format(go=str(tmp_path / "go")))
    workers.environment["PYTHONPATH"] = str(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    worker = workers.launch(status=address, handlers="slow_handlers")
    eventually(lambda: listens(address), "an answer")
    assert get(address, "/livez") == (200, "ok\n")
    assert get(address, "/readyz") == (503, "starting\n")
    (tmp_path / "go").touch()
    worker.wait_for("ready")
    assert get(address, "/readyz") == (200, "ok\n")


def listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port))).close()
    except ConnectionRefusedError:
        return False
    return True


def test_an_address_that_is_taken_ends_the_worker_which_names_it(workers: Workers) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        worker = workers.launch(status=address)
        assert worker.wait() == 78
    (ended,) = [one for one in worker.events() if address in str(one)]
    assert (ended["event"], ended["level"], ended["exit_code"]) == ("ended", "error", 78)
    assert ended["error"].startswith(f"[status] listen: {address}: Address already in use: name another one")
    assert "Traceback" not in worker.log_path.read_text()


def test_two_workers_of_one_host_both_answer_by_default(workers: Workers, store: redis.Redis) -> None:
    names = ("first", "second")
    for name in names:
        workers.start(name)
    addresses = [address_of(store, name) for name in names]
    told = [key[1] for address in addresses for key in metrics(address) if key[0] == "ffsuper_worker_info"]
    assert told == list(names)
    assert len(set(addresses)) == 2


def test_nothing_listens_where_nothing_is_wanted(workers: Workers, store: redis.Redis) -> None:
    worker = workers.start(status="")
    assert address_of(store) == ""
    connections = psutil.Process(worker.process.pid).net_connections("inet")
    assert [one for one in connections if one.status == psutil.CONN_LISTEN] == []
