"""``ffsuper top``: what it shows, and that it leaves the terminal as it was."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import redis

from ffsuper.cli import Exit
from ffsuper.client import Client
from ffsuper.commands import screen
from ffsuper.commands.overview import Look, Rate, Run, rates_between
from ffsuper.commands.top import lines_of
from ffsuper.fleet import Lane
from ffsuper.messages import LaneId
from ffsuper.store import keys
from ffsuper.store.fleet import Engine
from ffsuper.store.keys import ExecutionKeys
from ffsuper.store.workers import Running, Worker, parse_worker
from tests.commands.calling import EXECUTION, LIMIT_S, NOW_MS, RUNNING, columns, run
from tests.fake_workers import FakeWorker, listening
from tests.redis_server import running_server


def worker_of(name: str, **told: Any) -> Worker:
    """Return a worker that says this of itself."""
    said = {"nonce": name, "state": "running", "written_ms": NOW_MS}
    return replace(parse_worker(name, {"nonce": name}, said | told, (), is_own=True), is_fresh=True)


def test_rates_come_from_what_workers_counted_by_their_own_clocks() -> None:
    before = [
        worker_of("a", finished={"bulk": {"completed": 10, "failed": 1}}, running=[RUNNING]),
        worker_of("deaf", finished={"bulk": {"completed": 1}}),
        worker_of("ended", finished={"bulk": {"completed": 1}}),
    ]
    now = [
        worker_of(
            "a",
            written_ms=NOW_MS + 2_000,
            finished={"bulk": {"completed": 14, "failed": 2, "retried": 3}, "new": {"completed": 2}},
            running=[RUNNING, RUNNING, RUNNING],
        ),
        worker_of("deaf", finished={"bulk": {"completed": 1}}),
        worker_of("began", finished={"bulk": {"completed": 500}}),
    ]
    assert rates_between(before, now) == {
        "bulk": Rate(started=5.0, finished=4.0, failed=2.0),
        "new": Rate(started=1.0, finished=1.0),
    }


def look_at(*, lanes: int, workers: int, runs: int) -> Look:
    """Return a look at so much of everything."""
    some = [
        Lane(
            name=LaneId(f"lane-{number:02}"),
            **dict.fromkeys(("eligible", "delayed", "active", "suspended", "terminal"), number),
            blocked={},
            oldest_wait_ms=None,
            workers=[],
        )
        for number in range(lanes)
    ]
    one = Running(execution=EXECUTION, kind="job", lane="bulk", attempt=0, since_ms=0, child=8, memory_bytes=0)
    known = [worker_of(f"w-{number:02}", slots=2) for number in range(workers)]
    if known:
        known[-1] = replace(known[-1], state="stuck", running=(one,) * runs)
    ran = [Run(one, "w", number, -5 if number else None) for number in range(runs)]
    return Look("redis://box:6379/0", NOW_MS, Engine("w-1, process 7", 3, NOW_MS + 1), None, some, known, ran)


@pytest.mark.parametrize("width", [1, 20, 200])
def test_what_is_shown_fits_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    for height in range(1, 60):
        lines = lines_of(look_at(lanes=20, workers=20, runs=20), {}, (width, height), "The store is away")
        assert len(lines) <= height
        assert max(map(len, lines)) <= width


def test_where_not_all_fits_the_urgent_is_shown_and_the_rest_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    told = "\n".join(lines_of(look_at(lanes=20, workers=20, runs=20), {}, (200, 40)))
    for part in ("lane-19", "w-19", "stuck", "more lanes", "more workers", "more executions", "20 of 40 slots busy"):
        assert part in told
    assert "lane-00" not in told


def test_where_all_fits_nothing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    lines = lines_of(look_at(lanes=2, workers=2, runs=10), {"lane-01": Rate(1.5, 1.0, 0.5)}, (200, 30))
    assert not [line for line in lines if "more" in line]
    assert [line.startswith(EXECUTION) for line in lines].count(True) == 10
    (busy,) = [columns(line) for line in lines if line.startswith("lane-01")]
    assert busy[:8] == ["lane-01", "1", "-", "-", "1", "1.5", "1.0", "0.5"]


def test_why_something_is_wrong_is_seen_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    now = look_at(lanes=1, workers=1, runs=0)
    lanes = [replace(lane, blocked={"route": 7}) for lane in now.lanes]
    workers = [replace(worker, instance_id="thumbnails@web1", detail="stuck: claimer") for worker in now.workers]
    told = "\n".join(lines_of(replace(now, lanes=lanes, workers=workers), {}, (80, 24)))
    assert "route 7" in told
    assert "stuck: claimer" in told


def test_it_is_said_when_no_engine_leads_and_when_the_store_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    led = look_at(lanes=0, workers=0, runs=0)
    assert any("w-1, process 7 leads, term 3" in line for line in lines_of(led, {}))
    for engine in (None, replace(led.engine, until_ms=NOW_MS - 1) if led.engine else None):
        assert any("none leads" in line for line in lines_of(replace(led, engine=engine), {}))
    assert lines_of(None, {}, (80, 24), "The store is away") == ["The store is away"]


def test_top_prints_once_where_there_is_no_terminal(
    url: str, store: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    with Client(url) as client:
        execution = client.submit("thumbnail", lane="bulk")
        lease_ends_ms = client.fleet.time_ms() + 25_000
    store.zadd(ExecutionKeys.of(execution).partition.index("lease_expiry"), {execution: lease_ends_ms})
    store.hset(keys.LEADER, mapping={"holder": "w-1, process 7, 0f", "term": "3", "expires_at": "9" * 14})
    told = {"lanes": ["bulk"], "slots": 2, "running": [{**RUNNING, "execution": execution}]}
    with listening(FakeWorker("w-1", store, told)):
        code, out, _ = run(capsys, "top", "--interval", "0.1")
        shown = json.loads(run(capsys, "top", "--interval", "0.1", "--json")[1])
    assert (code, "leads, term 3" in out, "\x1b" in out) == (Exit.OK, True, False)
    (line,) = [columns(line) for line in out.splitlines() if line.startswith(execution)]
    assert line[3:] == ["thumbnail", "w-1", "bulk", "2", "8", "-"]
    assert line[2] in ("24s", "25s")
    (running,) = shown["running"]
    assert (running["worker"], running["kind"], 0 < running["lease_left_ms"] <= 25_000) == ("w-1", "thumbnail", True)
    assert (shown["engine"]["leads"], shown["engine"]["term"], shown["store"]["url"]) == (True, 3, url)
    assert (shown["lanes"][0]["per_second"]["failed"], shown["workers"][0]["is_fresh"]) == (0.0, True)


@dataclass
class Terminal:
    """A terminal, and ``ffsuper top`` on it."""

    process: subprocess.Popen[bytes]
    keyboard: int
    tty: int
    shown: bytes = b""

    def wait_shown(self, text: str, times: int = 1) -> None:
        """Wait until something was written so often."""
        give_up_s = time.monotonic() + LIMIT_S
        while self.shown.count(text.encode()) < times:
            ready, _, _ = select.select([self.keyboard], [], [], max(0.0, give_up_s - time.monotonic()))
            assert ready, f"gave up waiting for {text!r} in {self.shown!r}"
            self.shown += os.read(self.keyboard, 65_536)

    def press(self, key: bytes) -> None:
        os.write(self.keyboard, key)


@contextmanager
def top(url: str) -> Iterator[Terminal]:
    """Run it, drawing as often as it can."""
    keyboard, tty = pty.openpty()
    arguments = [sys.executable, "-m", "ffsuper", "top", "--interval", "0.1", "--store", url]
    environ = os.environ | {"TERM": "xterm"}
    # In a group of its own, whose parent can continue it: otherwise SIGTSTP may do nothing.
    process = subprocess.Popen(arguments, stdin=tty, stdout=tty, stderr=tty, env=environ, process_group=0)
    try:
        yield Terminal(process, keyboard, tty)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(tty)
        os.close(keyboard)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (lambda terminal: terminal.press(b"q"), Exit.OK),
        (lambda terminal: terminal.process.send_signal(signal.SIGINT), Exit.INTERRUPTED),
        (lambda terminal: terminal.process.send_signal(signal.SIGTERM), Exit.INTERRUPTED),
    ],
    ids=["q", "SIGINT", "SIGTERM"],
)
def test_the_terminal_is_given_back_as_it_was(
    end: Callable[[Terminal], None], code: Exit, url: str, store: redis.Redis
) -> None:
    with top(url) as terminal:
        before = termios.tcgetattr(terminal.tty)
        terminal.wait_shown("slots busy", times=3)
        assert termios.tcgetattr(terminal.tty) != before
        end(terminal)
        terminal.wait_shown(screen.LEAVE)
        assert terminal.process.wait(LIMIT_S) == code
        assert termios.tcgetattr(terminal.tty) == before
    assert (terminal.shown.count(screen.ENTER.encode()), b"Traceback" in terminal.shown) == (1, False)


def test_a_suspended_top_gives_the_terminal_back_and_takes_it_again(url: str, store: redis.Redis) -> None:
    with top(url) as terminal:
        terminal.wait_shown("slots busy")
        terminal.process.send_signal(signal.SIGTSTP)
        terminal.wait_shown(screen.LEAVE)
        os.waitid(os.P_PID, terminal.process.pid, os.WSTOPPED)
        terminal.process.send_signal(signal.SIGCONT)
        terminal.wait_shown(screen.ENTER, times=2)
        terminal.press(b"q")
        assert terminal.process.wait(LIMIT_S) == Exit.OK


def test_another_size_of_the_terminal_is_taken_at_once(url: str, store: redis.Redis) -> None:
    for number in range(30):
        store.sadd(keys.LANES, f"lane-{number:02}")
    with top(url) as terminal:
        termios.tcsetwinsize(terminal.tty, (24, 80))
        terminal.process.send_signal(signal.SIGWINCH)
        terminal.wait_shown("more lanes")
        assert b"lane-29" not in terminal.shown
        termios.tcsetwinsize(terminal.tty, (200, 80))
        terminal.process.send_signal(signal.SIGWINCH)
        terminal.wait_shown("lane-29")
        terminal.press(b"q")
        assert terminal.process.wait(LIMIT_S) == Exit.OK


def test_top_outlives_the_store(tmp_path: Path) -> None:
    with contextlib.ExitStack() as running:
        with running_server(tmp_path) as url:
            terminal = running.enter_context(top(url))
            terminal.wait_shown("operations/s")
        terminal.wait_shown("The store is away, trying again")
        with running_server(tmp_path):
            # The head of the screen is the store's line again.
            terminal.wait_shown(f"{screen.HOME}store", times=terminal.shown.count(f"{screen.HOME}store".encode()) + 1)
            terminal.press(b"q")
            assert terminal.process.wait(LIMIT_S) == Exit.OK


def test_a_store_that_is_not_there_from_the_start_is_an_error(tmp_path: Path) -> None:
    with top(f"unix://{tmp_path}/none.sock") as terminal:
        assert terminal.process.wait(LIMIT_S) == Exit.STORE_UNAVAILABLE
        terminal.wait_shown("ffsuper: cannot reach the store")
    assert screen.ENTER.encode() not in terminal.shown
