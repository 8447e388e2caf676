"""Real workers, as an operator sees them and tells them what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis

from ffsuper.cli import Exit
from ffsuper.client import Client
from ffsuper.messages import Order
from ffsuper.store import keys
from tests.system.workers import LIMIT_S, Workers, eventually

# Longer than the tests ever wait: a worker that is asked answers at once.
ANSWER_S = 30.0
FEW_PARTITIONS: dict[Any, Any] = {"num_flow_partitions": 8, "num_budget_partitions": 4, "num_quota_partitions": 4}


@pytest.fixture(autouse=True)
def few_partitions(store: redis.Redis) -> None:
    store.hset(keys.PARTITION_CONFIG, mapping=FEW_PARTITIONS)


def ffsuper(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program as an operator does."""
    command = [sys.executable, "-m", "ffsuper", *arguments, "--store", url]
    environ = os.environ | {"NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False, env=environ)


def wait_in_folder(client: Client, folder: Path) -> str:
    """Submit an execution that runs until its folder has a file ``go``."""
    folder.mkdir()
    return client.submit("wait-for-file", {"folder": str(folder)})


def wait_started(folder: Path) -> int:
    """Wait until it runs; return the child's process id."""
    started = folder / "started-0"
    return int(eventually(lambda: started.read_text() if started.exists() else "", "the start"))


def test_what_a_worker_runs_and_has_done_is_seen_while_it_works(
    workers: Workers, client: Client, store_url: str, tmp_path: Path
) -> None:
    worker = workers.start(children=2)
    for done in (client.submit("echo", b""), client.submit("fail-for-good"), client.submit("fail-once")):
        client.wait(done, LIMIT_S)
    execution = wait_in_folder(client, tmp_path / "one")
    child = wait_started(tmp_path / "one")
    finished = {"default": {"completed": 1, "failed": 2}}
    eventually(lambda: client.fleet.workers(answer_s=ANSWER_S)[0].finished == finished, "all to be counted")
    (found,) = client.fleet.workers(answer_s=ANSWER_S)
    assert (found.instance_id, found.state, found.pid, found.slots) == ("worker-1", "running", worker.process.pid, 2)
    assert (found.is_fresh, found.lanes, "echo" in found.kinds, found.claimed) == (True, ("default",), True, 4)
    assert found.memory_bytes > 1_000_000
    seen: dict[str, Any] = json.loads(ffsuper(store_url, "top", "--json", "--interval", "0.1").stdout)
    (running,) = seen["running"]
    assert (running["execution"], running["kind"], running["worker"]) == (execution, "wait-for-file", "worker-1")
    assert running["child"] == child
    assert 0 < running["lease_left_ms"] <= 30_000
    assert running["memory_bytes"] > 1_000_000
    (lane,) = seen["lanes"]
    assert (lane["name"], lane["active"], lane["terminal"], lane["workers"]) == ("default", 1, 3, ["worker-1"])
    (tmp_path / "one" / "go").touch()
    assert client.wait(execution, LIMIT_S).state == "completed"


def test_a_worker_that_is_told_to_be_quiet_claims_nothing_until_it_is_told_to_resume(
    workers: Workers, client: Client, store_url: str, tmp_path: Path
) -> None:
    workers.start("worker-1", children=2)
    running = wait_in_folder(client, tmp_path / "one")
    wait_started(tmp_path / "one")
    told = ffsuper(store_url, "quiet", "worker-1", "--wait", str(LIMIT_S))
    assert (told.returncode, told.stdout.splitlines()[-1]) == (Exit.OK, "worker-1 is quiet")
    left = client.submit("echo", b"")
    (tmp_path / "one" / "go").touch()
    assert client.wait(running, LIMIT_S).state == "completed"
    workers.start("worker-2", children=1)
    for execution in (left, client.submit("echo", b"")):
        client.wait(execution, LIMIT_S)
    first, second = client.fleet.workers(answer_s=ANSWER_S)
    assert (first.state, first.claimed, second.state, second.claimed) == ("quiet", 1, "running", 2)
    assert client.fleet.lanes()[0].workers == ["worker-2"]
    client.fleet.wait_obeyed(client.fleet.tell("worker-2", Order.QUIET), Order.QUIET, LIMIT_S)
    later = client.submit("echo", b"")
    resumed = ffsuper(store_url, "resume", "worker-1", "--wait", str(LIMIT_S))
    assert (resumed.returncode, resumed.stdout.splitlines()[-1]) == (Exit.OK, "worker-1 claims again")
    client.wait(later, LIMIT_S)
    assert client.fleet.workers(answer_s=ANSWER_S)[0].claimed == 2


def test_a_worker_that_is_told_to_drain_finishes_its_work_and_ends(
    workers: Workers, client: Client, store_url: str, tmp_path: Path
) -> None:
    worker = workers.start()
    running = wait_in_folder(client, tmp_path / "one")
    wait_started(tmp_path / "one")
    early = ffsuper(store_url, "drain", "worker-1", "--wait", "0")
    assert early.returncode == Exit.ENDED_OTHERWISE
    worker.wait_for("draining")
    assert [one.state for one in client.fleet.workers(answer_s=ANSWER_S)] == ["draining"]
    (tmp_path / "one" / "go").touch()
    told = ffsuper(store_url, "drain", "worker-1", "--wait", str(LIMIT_S))
    assert told.returncode in (Exit.OK, Exit.NOT_FOUND)  # it may have ended before it could be told
    assert worker.wait() == Exit.OK
    assert client.state(running) == "completed"
    assert client.fleet.workers() == []


def test_a_killed_worker_is_listed_as_dead_and_takes_no_orders(
    workers: Workers, client: Client, store_url: str
) -> None:
    worker = workers.start(ttl_ms=1_000, margin_ms=100)
    worker.process.kill()
    worker.process.wait()
    eventually(lambda: [one.state for one in client.fleet.workers(answer_s=0)] == ["dead"], "its death to be seen")
    told = ffsuper(store_url, "quiet", "worker-1")
    assert (told.returncode, "there is none at all" in told.stderr) == (Exit.NOT_FOUND, True)


def test_the_engine_that_leads_is_named(workers: Workers, store_url: str) -> None:
    engine = workers.start_engine("engine-1")
    engine.wait_for("engine leads")
    shown = ffsuper(store_url, "top", "--once", "--interval", "0.1").stdout
    assert f"engine   engine-1, process {engine.process.pid} leads, term 1" in shown
