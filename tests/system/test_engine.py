"""Engines as processes of their own: one leads, another follows when it dies; the time they keep."""

from __future__ import annotations

import signal
import time
from functools import partial
from pathlib import Path

import pytest

from ffsuper.client import Client
from tests.system.test_worker import read
from tests.system.workers import LIMIT_S, Worker, Workers, eventually

LEADER_TTL_S = 3.0


def leader_and_standby(workers: Workers) -> tuple[Worker, Worker]:
    first = workers.start_engine("engine-1")
    first.wait_for("engine leads", term=1)
    second = workers.start_engine("engine-2")
    second.wait_for("engine stands by")
    return first, second


def test_a_standby_takes_over_within_seconds_when_the_leader_is_killed(workers: Workers, client: Client) -> None:
    first, second = leader_and_standby(workers)
    workers.start(engine="false")
    delayed = client.submit("echo", "late", delay=1.0)
    first.signal(signal.SIGKILL)
    first.wait()
    killed_s = time.monotonic()
    second.wait_for("engine leads", term=2)
    assert time.monotonic() - killed_s < LEADER_TTL_S + 2.0
    assert client.wait(delayed, LIMIT_S).state == "completed"


def test_a_leader_that_is_stopped_properly_is_followed_at_once(workers: Workers) -> None:
    first, second = leader_and_standby(workers)
    first.signal(signal.SIGTERM)
    assert first.wait() == 0
    stopped_s = time.monotonic()
    second.wait_for("engine leads", term=2)
    assert time.monotonic() - stopped_s < LEADER_TTL_S


def test_a_leader_that_slept_steps_down_when_it_wakes_up(workers: Workers, client: Client) -> None:
    first, second = leader_and_standby(workers)
    first.signal(signal.SIGSTOP)
    second.wait_for("engine leads", term=2)
    first.signal(signal.SIGCONT)
    first.wait_for("engine leads no more", term=1)
    first.wait_for("engine stands by")
    workers.start(engine="false")
    assert client.wait(client.submit("echo", "late", delay=0.3), LIMIT_S).state == "completed"
    assert [event["term"] for event in second.events() if event["event"] == "engine leads"] == [2]


def test_an_engine_needs_no_handlers_and_says_what_is_wrong_with_its_configuration(
    workers: Workers, tmp_path: Path
) -> None:
    engine = workers.start_engine("alone", handlers="")
    engine.signal(signal.SIGINT)
    assert engine.wait() == 0
    wrong = workers.launch_engine("wrong", ttl_ms=-1)
    assert wrong.wait() == 78
    assert "ttl_ms" in wrong.log_path.read_text()


def test_an_execution_is_promoted_within_a_moment_of_its_time(workers: Workers, client: Client) -> None:
    workers.start()
    execution = client.submit("echo", "late", delay=2.5)
    record = client.wait(execution, LIMIT_S).record
    late_ms = int(record["started_at"]) - int(record["created_at"]) - 2_500
    assert 0 <= late_ms < 1_000


@pytest.mark.parametrize("limit", [0, 2])
def test_an_execution_whose_workers_keep_dying_ends_when_it_was_reclaimed_as_often_as_it_may(
    workers: Workers, client: Client, tmp_path: Path, limit: int
) -> None:
    execution = client.submit("wait-for-file", {"folder": str(tmp_path)}, policy={"max_reclaim_count": limit})
    for number in range(limit + 1):
        worker = workers.start(f"worker-{number}", ttl_ms=1_000, margin_ms=300)
        eventually(partial(read, tmp_path / f"started-{number}"), f"attempt {number}")
        worker.signal(signal.SIGKILL)
        worker.wait()
    workers.start("last", ttl_ms=1_000, margin_ms=300)
    shown = client.wait(execution, LIMIT_S)
    assert (shown.state, shown.record["failure_reason"]) == ("failed", "max_reclaims_exceeded")
    assert len(shown.attempts) == limit + 1
