"""What a worker writes into its log, and what never gets there."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from ffsuper.client import Client
from ffsuper.config import StoreConfig
from tests.redis_server import running_server
from tests.system.workers import Workers, eventually

LONG_S = 30.0
PASSWORD, PAYLOAD, SIGNAL = "hush-password", "hush-payload", "hush-signal"


def test_no_secret_of_a_whole_run_is_in_the_log_even_at_level_debug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FFSUPER_LOG_LEVEL", "debug")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))  # which is logged at that level
    monkeypatch.setenv("FFSUPER_STORE_PASSWORD", PASSWORD)
    with contextlib.ExitStack() as left, contextlib.ExitStack() as server:
        url = server.enter_context(running_server(tmp_path, "--requirepass", PASSWORD))
        workers = Workers(tmp_path, url)
        left.callback(workers.end_all)
        worker = workers.start()
        with Client(StoreConfig(url=url, password=PASSWORD)) as client:
            echoed = client.submit("echo", PAYLOAD.encode())
            assert client.wait(echoed, LONG_S).state == "completed"
            assert client.result(echoed) == PAYLOAD.encode()
            misfit = client.wait(client.submit("spend", [PAYLOAD]), LONG_S)
            assert PAYLOAD in misfit.record["failure_reason"]
            asking = client.submit("approval-beforehand", str(tmp_path))
            waitpoint, token = eventually(lambda: read_words(tmp_path / "token"), "the token")
            client.signal(asking, "go", SIGNAL.encode(), waitpoint_id=waitpoint, token=token)
            (tmp_path / "sent").touch()
            assert client.wait(asking, LONG_S).state == "completed"
        for completed in (echoed, asking):
            worker.wait_for("finished", execution=completed, outcome="completed")
        worker.wait_for("finished", execution=misfit.id, outcome="failed", category="payload")
        server.close()
        worker.wait_for("store away")
    log = worker.log_path.read_text()
    assert '"level": "debug"' in log
    for secret in (PASSWORD, PAYLOAD, SIGNAL, token):
        assert secret not in log


def read_words(path: Path) -> list[str]:
    words = path.read_text().split() if path.exists() else []
    return words if len(words) == 2 else []


def test_what_a_handler_prints_is_told_with_its_execution_and_attempt(workers: Workers, client: Client) -> None:
    worker = workers.start(handlers="tests.child.handlers_for_tests", children=1)
    executions = [client.submit("print", 3) for _ in range(5)]
    for execution in executions:
        assert client.wait(execution, LONG_S).state == "completed"
        finished = worker.wait_for("finished", execution=execution)
        told = [one for one in worker.events() if one["event"] == "output" and one.get("execution") == execution]
        assert sorted(one["line"] for one in told) == ["an error", "line 0", "line 1", "line 2"]
        assert {one["attempt"] for one in told} == {0} == {finished["attempt"]}


def test_a_flooding_handler_leaves_a_bounded_log_that_says_what_is_missing(workers: Workers, client: Client) -> None:
    worker = workers.start(handlers="tests.child.handlers_for_tests", children=1)
    execution = client.submit("print", 20_000)
    assert client.wait(execution, LONG_S).state == "completed"
    worker.wait_for("finished", execution=execution)
    worker.process.terminate()
    assert worker.wait() == 0
    written = sum(one["event"] == "output" for one in worker.events())
    suppressed = [one for one in worker.events() if one["event"] == "suppressed"]
    assert 500 <= written < 5_000
    assert written + sum(one["lines"] for one in suppressed) == 20_001
    assert {(one["of"], one["level"]) for one in suppressed} == {("output", "warning")}
