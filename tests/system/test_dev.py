"""``ffsuper dev`` as its user has it: handlers that change, that are broken, and processes that end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from ffsuper.child.orphans import is_running
from ffsuper.client import Client
from tests.redis_server import running_server
from tests.system.test_worker import read
from tests.system.workers import CHECKOUT, LIMIT_S, eventually

HANDLERS = """\
from ffsuper import Context, handler

@handler("greet")
def greet(ctx: Context, name: str) -> str:
    return "{greeting} " + name

@handler("wait")
def wait(ctx: Context, folder: str) -> str:
    import pathlib, time
    pathlib.Path(folder, "started").touch()
    while not pathlib.Path(folder, "go").exists():
        time.sleep(0.01)
    return "{greeting}"
"""


@dataclass
class Dev:
    """A running ``ffsuper dev``."""

    process: subprocess.Popen[bytes]
    log_path: Path
    folder: Path

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_for(self, text: str, times: int = 1) -> None:
        """Wait until a text is in the log, so often."""

        def found() -> bool:
            assert self.process.poll() is None, f"it ended:\n{self.log()}"
            return self.log().count(text) >= times

        eventually(found, f"{text!r} in {self.log_path}")

    def client(self) -> Client:
        found = re.search(r"--store (\S+)", self.log())
        assert found
        return Client(found[1])

    def processes(self) -> list[psutil.Process]:
        """Return it and all its descendants."""
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def write(self, greeting: str) -> None:
        (self.folder / "jobs.py").write_text(HANDLERS.format(greeting=greeting))


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Dev]:
    """Start it on a file with handlers, and wait until it is ready."""
    (tmp_path / "jobs.py").write_text(HANDLERS.format(greeting="hello"))
    started = start(tmp_path, "jobs.py")
    started.wait_for('"event": "ready"')
    yield started
    if started.process.poll() is None:
        started.process.terminate()
    started.process.wait(LIMIT_S)


def start(folder: Path, *arguments: str, **variables: str) -> Dev:
    log_path = folder / "dev.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ffsuper", "dev", *arguments],
            cwd=folder,
            stderr=log,
            env=os.environ | {"PYTHONPATH": str(CHECKOUT)} | variables,
        )
    return Dev(process, log_path, folder)


def test_a_changed_handler_is_taken_over_and_what_ran_goes_on_with_the_new_code(dev: Dev, tmp_path: Path) -> None:
    with dev.client() as client:
        first = client.submit("greet", "ann")
        assert client.wait(first, LIMIT_S).state == "completed"
        assert client.result(first) == b'"hello ann"'
        running = client.submit("wait", str(tmp_path))
        eventually((tmp_path / "started").exists, "the handler")
        dev.write("good morning")
        dev.wait_for('"event": "ready"', times=2)
        second = client.submit("greet", "ann")
        (tmp_path / "go").touch()
        assert client.wait(second, LIMIT_S).state == "completed"
        assert client.result(second) == b'"good morning ann"'
        assert client.wait(running, LIMIT_S).state == "completed"
        assert client.result(running) == b'"good morning"'
        assert len(client.show(running).attempts) == 1, "handing back costs no attempt"


def test_a_broken_file_is_told_with_its_place_and_mending_it_goes_on(dev: Dev) -> None:
    with dev.client() as client:
        (dev.folder / "jobs.py").write_text("def broken(:\n")
        dev.wait_for("it starts again when a file changes")
        assert "SyntaxError" in dev.log()
        assert "jobs.py, line 1" in dev.log()
        waiting = client.submit("greet", "ann")
        dev.write("hello again")
        assert client.wait(waiting, LIMIT_S).state == "completed"
        assert client.result(waiting) == b'"hello again ann"'


def test_the_store_that_a_variable_names_for_other_commands_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text(HANDLERS.format(greeting="hello"))
    with running_server(tmp_path) as url, Client(url) as elsewhere:
        execution = elsewhere.submit("unknown")
        started = start(tmp_path, "jobs.py", FFSUPER_STORE_URL=url)
        try:
            started.wait_for('"event": "ready"')
            assert "FFSUPER_STORE_URL is left aside" in started.log()
            with started.client() as client:
                assert client.wait(client.submit("greet", "ann"), LIMIT_S).state == "completed"
            assert elsewhere.state(execution) == "waiting"
        finally:
            started.process.terminate()
            started.process.wait(LIMIT_S)


def test_a_kind_without_a_handler_fails_instead_of_waiting_for_ever(dev: Dev) -> None:
    with dev.client() as client:
        assert client.wait(client.submit("unknown"), LIMIT_S).state == "failed"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything_in_order(dev: Dev, number: signal.Signals) -> None:
    processes = dev.processes()
    assert len(processes) > 4
    dev.process.send_signal(number)
    assert dev.process.wait(LIMIT_S) == 0
    assert not any(map(is_running, processes))


def test_when_it_is_killed_nothing_is_left_behind(dev: Dev) -> None:
    processes = dev.processes()
    dev.process.kill()
    dev.process.wait()
    eventually(lambda: not any(map(is_running, processes)), "all processes to end")


def test_data_are_there_again_at_the_next_start(dev: Dev) -> None:
    with dev.client() as client:
        execution = client.submit("greet", "ann", lane="nobody")
    dev.process.terminate()
    assert dev.process.wait(LIMIT_S) == 0
    again = start(dev.folder, "jobs.py")
    try:
        again.wait_for('"event": "ready"')
        with again.client() as client:
            assert client.state(execution) == "waiting"
    finally:
        again.process.terminate()
        again.process.wait(LIMIT_S)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["missing.py"], 78, "missing.py: is no Python file"),
        (["text.txt"], 78, "text.txt: is no Python file"),
        (["not-a-name.py"], 78, "cannot be imported by that name"),
        ([], 2, "needs either handlers"),
        (["jobs.py", "--config", "worker.toml"], 2, "needs either handlers"),
        (["--config", "missing.toml"], 78, "missing.toml: cannot be read"),
    ],
)
def test_what_it_cannot_run_is_told_at_once(tmp_path: Path, arguments: list[str], code: int, told: str) -> None:
    (tmp_path / "text.txt").touch()
    (tmp_path / "not-a-name.py").touch()
    tried = start(tmp_path, *arguments)
    assert tried.process.wait(LIMIT_S) == code
    assert told in tried.log()
    assert "Traceback" not in tried.log()


def test_a_module_that_is_not_there_is_told_and_waited_for(tmp_path: Path) -> None:
    started = start(tmp_path, "later")
    try:
        started.wait_for("it starts again when a file changes")
        assert "No module named 'later'" in started.log()
        (tmp_path / "later.py").write_text(HANDLERS.format(greeting="hello"))
        started.wait_for('"event": "ready"')
    finally:
        started.process.terminate()
        assert started.process.wait(LIMIT_S) == 0


def test_a_configuration_of_ones_own_is_used(tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text(HANDLERS.format(greeting="hello"))
    (tmp_path / "worker.toml").write_text(
        '[worker]\nhandlers = ["jobs"]\npython_path = ["."]\nlanes = ["mine"]\n[store]\nurl = "embedded"\n'
    )
    started = start(tmp_path, "--config", "worker.toml")
    try:
        started.wait_for('"lanes": "mine"')
        (tmp_path / "worker.toml").write_text((tmp_path / "worker.toml").read_text().replace("mine", "yours"))
        started.wait_for('"lanes": "yours"')
    finally:
        started.process.terminate()
        assert started.process.wait(LIMIT_S) == 0
    assert not read(tmp_path / "ffsuper-dev")
