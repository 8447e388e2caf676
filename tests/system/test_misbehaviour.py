"""Handlers that do what none should: it costs them one attempt, and nobody else anything."""

from __future__ import annotations

import signal

import psutil
import pytest

from ffsuper.client import Client
from tests.system.workers import Worker, Workers, eventually

LONG_S = 40.0
HANDLERS = "tests.child.handlers_for_tests"


def start(workers: Workers, timeout_s: float = 0.0, children: int = 2) -> Worker:
    return workers.start(handlers=HANDLERS, children=children, grace_s=0.3, timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("kind", "payload", "category", "told"),
    [
        ("garbage", "not an object", "crash", "speaking nonsense"),
        ("garbage", "oversized", "crash", "speaking nonsense"),
        ("garbage", "truncated", "crash", "speaking nonsense"),
        ("garbage", "unknown", "crash", "speaking nonsense"),
        ("close-all", None, "crash", "closed its connection"),
        ("die", "exit", "crash", "exited with code 0"),
        ("die", "segfault", "crash", "SIGSEGV"),
        ("grandchild", None, "crash", "exited with code 0"),
        ("no-text", None, "exception", "no file"),
        ("unstorable", None, "result", "cannot be stored"),
    ],
)
def test_it_fails_its_attempt_and_its_neighbour_runs_on(
    workers: Workers, client: Client, kind: str, payload: str | None, category: str, told: str
) -> None:
    start(workers)
    neighbour = client.submit("sleep", 2.0)
    eventually(lambda: client.show(neighbour).record.get("progress_message") == "asleep", "the neighbour")
    shown = client.wait(client.submit(kind, b"" if payload is None else payload), LONG_S)
    assert (shown.state, shown.attempts[0]["failure_category"]) == ("failed", category)
    assert told in shown.record["failure_reason"]
    assert client.wait(client.submit("echo", b"on"), LONG_S).state == "completed"
    slept = client.wait(neighbour, LONG_S)
    assert (slept.state, len(slept.attempts)) == ("completed", 1)


@pytest.mark.parametrize("kind", ["block-signals", "hold-gil"])
def test_one_that_cannot_be_interrupted_is_killed(workers: Workers, client: Client, kind: str) -> None:
    start(workers, timeout_s=0.5)
    execution = client.submit(kind)
    shown = client.wait(execution, LONG_S)
    assert (shown.state, shown.attempts[0]["failure_category"]) == ("failed", "timeout")
    assert client.wait(client.submit("echo", b"on"), LONG_S).state == "completed"


def test_a_stopped_child_is_killed_when_its_time_is_over(workers: Workers, client: Client) -> None:
    worker = start(workers, timeout_s=1.0, children=1)
    execution = client.submit("sleep", 3600.0)
    eventually(lambda: client.show(execution).record.get("progress_message"), "the start")
    for child in worker.children():
        child.send_signal(signal.SIGSTOP)
    assert client.wait(execution, LONG_S).attempts[0]["failure_category"] == "timeout"
    assert client.wait(client.submit("echo", b"on"), LONG_S).state == "completed"


def test_a_gigabyte_of_output_is_neither_kept_nor_in_the_way(workers: Workers, client: Client) -> None:
    worker = start(workers)
    supervisor = psutil.Process(worker.process.pid)
    before = supervisor.memory_info().rss
    assert client.wait(client.submit("flood", 1024), LONG_S * 3).state == "completed"
    assert supervisor.memory_info().rss - before < 200 << 20
