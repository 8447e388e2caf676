"""Workers with ``[claim] source = "server"``: what they run comes from a server's grants."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ffsuper.client import Client
from tests.fake_server import FakeServer, running_fake_server
from tests.system.workers import Worker, Workers, eventually

LONG_S = 30.0
TOKEN = "hush-hush"


@pytest.fixture
def server(workers: Workers, client: Client, store_url: str) -> Iterator[FakeServer]:
    with running_fake_server(store_url, TOKEN) as server:
        yield server


@pytest.fixture
def environment(server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the workers that are started from now on ask the server."""
    point_at(server.url, tmp_path, monkeypatch)


def point_at(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, token: str = TOKEN) -> None:
    (folder / "token").write_text(f"{token}\n")
    monkeypatch.setenv("FFSUPER_CLAIM_SOURCE", "server")
    monkeypatch.setenv("FFSUPER_CLAIM_SERVER_URL", url)
    monkeypatch.setenv("FFSUPER_CLAIM_TOKEN_FILE", str(folder / "token"))


def drain(worker: Worker) -> None:
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0, worker.log_path.read_text()


def started(folder: Path, attempt: int = 0) -> None:
    """Wait until wait-for-file runs."""
    eventually((folder / f"started-{attempt}").exists, f"attempt {attempt} to start")


@pytest.mark.usefixtures("environment")
def test_executions_of_all_lanes_are_run_and_the_token_is_not_logged(
    workers: Workers, client: Client, server: FakeServer
) -> None:
    worker = workers.start(lanes='["default", "other"]', capabilities='["gpu"]')
    executions = [client.submit("echo", f"{number}".encode(), lane="other") for number in range(6)]
    executions += [client.submit("echo", f"{number}".encode()) for number in range(6)]
    for number, execution in enumerate(executions):
        assert client.wait(execution, LONG_S).state == "completed"
        assert client.result(execution) == f"{number % 6}".encode()
    assert sorted(server.grants) == sorted(executions)
    drain(worker)
    log = worker.log_path.read_text()
    assert TOKEN not in log
    assert [event["event"] for event in worker.events() if event["level"] in ("warning", "error")] == []
    assert not any(word in log for word in ("httpx", "httpcore", "Async generator"))


@pytest.mark.usefixtures("environment")
def test_a_suspended_execution_comes_back_through_the_server(
    workers: Workers, client: Client, server: FakeServer
) -> None:
    workers.start()
    execution = client.submit("approval", {"signals": ["approved"]})
    eventually(lambda: client.state(execution) == "suspended", "it to be suspended")
    client.signal(execution, "approved", {"by": "ann"})
    assert client.wait(execution, LONG_S).state == "completed"
    assert json.loads(client.result(execution) or b"") == [["approved", '{"by": "ann"}']]
    assert server.grants == [execution, execution]


@pytest.mark.usefixtures("environment")
def test_a_saturated_worker_leaves_work_to_others(
    workers: Workers, client: Client, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers.start(children=1)
    first = client.submit("wait-for-file", {"folder": str(tmp_path)})
    started(tmp_path)
    asked = len(server.asked)
    second = client.submit("echo", b"left")
    monkeypatch.setenv("FFSUPER_CLAIM_SOURCE", "direct")
    other = workers.start("worker-2", children=1)
    # A grant that nobody uses would keep the other worker away for ten seconds.
    other.wait_for("claimed", execution=second)
    assert client.wait(second, LONG_S).state == "completed"
    assert (server.grants, len(server.asked)) == ([first], asked)
    drain(other)
    (tmp_path / "go").touch()
    assert client.wait(first, LONG_S).state == "completed"
    third = client.submit("echo", b"next")
    assert client.wait(third, LONG_S).state == "completed"
    assert server.grants == [first, third]


def test_a_restarted_server_is_asked_again(
    workers: Workers, client: Client, store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_fake_server(store_url, TOKEN) as server:
        point_at(server.url, tmp_path, monkeypatch)
        worker = workers.start()
        running = client.submit("wait-for-file", {"folder": str(tmp_path)})
        started(tmp_path)
        port = server.server_address[1]
    worker.wait_for("server away")
    (tmp_path / "go").touch()
    assert client.wait(running, LONG_S).state == "completed"
    waiting = client.submit("echo", b"later")
    with running_fake_server(store_url, TOKEN, port) as server:
        assert client.wait(waiting, LONG_S).state == "completed"
        worker.wait_for("server back")
        assert server.grants == [waiting]
        drain(worker)
    assert [event["event"] for event in worker.events()].count("server away") == 1


def test_a_wrong_token_is_told_and_the_worker_goes_on(
    workers: Workers, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at(server.url, tmp_path, monkeypatch, token="another-secret")
    worker = workers.start()
    told = worker.wait_for("server refuses")
    assert (told["level"], told["error"]) == ("error", "401 missing or invalid Authorization header")
    drain(worker)
    assert "another-secret" not in worker.log_path.read_text()


@pytest.mark.usefixtures("environment")
def test_what_is_granted_of_an_unknown_kind_fails(workers: Workers, client: Client) -> None:
    workers.start(unknown_kind="leave")
    shown = client.wait(client.submit("nobody-has-this"), LONG_S)
    assert (shown.state, shown.attempts[0]["failure_category"]) == ("failed", "unknown_kind")


@pytest.mark.usefixtures("environment")
def test_what_a_killed_worker_left_is_reclaimed_without_the_server(
    workers: Workers, client: Client, server: FakeServer, tmp_path: Path
) -> None:
    first = workers.start("worker-1", ttl_ms=1500, margin_ms=200)
    execution = client.submit("wait-for-file", {"folder": str(tmp_path)})
    started(tmp_path)
    first.process.kill()
    first.wait()
    workers.start("worker-2", ttl_ms=1500, margin_ms=200)
    started(tmp_path, attempt=1)
    (tmp_path / "go").touch()
    assert client.wait(execution, LONG_S).state == "completed"
    assert json.loads(client.result(execution) or b"") == "reclaim"
    assert server.grants == [execution]
