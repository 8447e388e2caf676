"""What a worker writes into its log, and what never gets there."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
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
    (tmp_path / "password").write_text(PASSWORD)
    monkeypatch.setenv("FFSUPER_STORE_PASSWORD_FILE", str(tmp_path / "password"))
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


@pytest.mark.parametrize("subcommand", [(), ("engine",), ("server",)], ids=["worker", "engine", "server"])
@pytest.mark.parametrize(
    ("toml", "code", "told"),
    [
        ("nonsense = 1", 78, "nonsense"),
        ('[worker]\nhandlers = ["no_such_module"]\n[store]\nurl = "redis://127.0.0.1:1"', 69, "Connection refused"),
    ],
    ids=["config", "store"],
)
def test_a_service_that_cannot_start_tells_the_journal_why_in_one_line_with_a_priority(
    tmp_path: Path, subcommand: tuple[str, ...], toml: str, code: int, told: str
) -> None:
    line = journal_of(tmp_path, subcommand, toml, code)
    assert line.startswith("<3>")
    ended = json.loads(line.removeprefix("<3>"))
    assert (ended["event"], ended["level"], ended["exit_code"]) == ("ended", "error", code)
    assert told in ended["error"]
    assert code != 69 or ended["then"].startswith("[store] url is redis://127.0.0.1:1")


def test_handlers_that_do_not_import_are_told_in_one_line_of_the_journal(tmp_path: Path, store_url: str) -> None:
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    toml = f'[worker]\nhandlers = ["broken"]\npython_path = ["{tmp_path}"]\n[store]\nurl = "{store_url}"'
    ended = json.loads(journal_of(tmp_path, (), toml, 78).removeprefix("<3>"))
    assert "No module named 'no_such_module'" in ended["error"]
    assert 'broken.py", line 1' in ended["error"]


def journal_of(tmp_path: Path, subcommand: tuple[str, ...], toml: str, code: int) -> str:
    """Run a service whose stderr is the journal, and which ends with a code; return the one line that it has said."""
    (tmp_path / "worker.toml").write_text(toml)
    path = tmp_path / "journal"
    with path.open("wb") as journal:
        status = os.fstat(journal.fileno())
        process = subprocess.run(
            [sys.executable, "-m", "ffsuper", *subcommand, "--config", str(tmp_path / "worker.toml")],
            stderr=journal,
            env=os.environ | {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"},
            timeout=LONG_S,
            check=False,
        )
    assert process.returncode == code
    (line,) = path.read_text().splitlines()
    return line
