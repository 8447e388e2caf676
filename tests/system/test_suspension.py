"""Executions that give their lease back and go on later: signals, timeouts, children."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from ffsuper.client import Client
from ffsuper.errors import RefusedError
from tests.system.test_worker import RETRY_AT_ONCE
from tests.system.workers import Workers, eventually

LONG_S = 30.0


def suspended(client: Client, signals: list[str], lane: str = "default", **more: Any) -> str:
    """Submit an execution that waits for signals, and wait until it does."""
    execution = client.submit("approval", {"signals": signals, "more": more}, lane=lane)
    eventually(lambda: client.state(execution) == "suspended", f"{execution} to be suspended")
    return execution


def result(client: Client, execution: str) -> Any:
    assert client.wait(execution, LONG_S).state == "completed"
    return json.loads(client.result(execution) or b"null")


def test_a_signal_brings_the_handler_back_with_what_it_said(workers: Workers, client: Client) -> None:
    workers.start()
    execution = suspended(client, ["approved"])
    assert client.signal(execution, "other").effect == "no_op"
    assert client.signal(execution, "approved", {"by": "ann"}).effect == "resume_condition_satisfied"
    assert result(client, execution) == [["approved", '{"by": "ann"}']]
    with pytest.raises(RefusedError, match="execution_not_suspended"):
        client.signal(execution, "approved")


def test_what_was_answered_is_not_asked_again_when_the_attempt_is_replaced(
    workers: Workers, client: Client, tmp_path: Path
) -> None:
    first = workers.start("first", ttl_ms=1000, margin_ms=300)
    execution = client.submit("approval-then-trouble", {"folder": str(tmp_path)}, policy=RETRY_AT_ONCE)
    eventually(lambda: client.state(execution) == "suspended", "the suspension")
    client.signal(execution, "go", b"approved")
    eventually((tmp_path / "started-2").exists, "the third attempt")
    workers.start("second", ttl_ms=1000, margin_ms=300)
    first.signal(signal.SIGKILL)
    eventually((tmp_path / "started-3").exists, "the fourth attempt")
    (tmp_path / "go").touch()
    assert result(client, execution) == [3, "reclaim", "approved"]
    client.replay(execution)
    eventually(lambda: client.state(execution) == "suspended", "a replay to ask anew")


def test_all_signals_are_waited_for_or_any(workers: Workers, client: Client) -> None:
    workers.start()
    both = suspended(client, ["a", "b"])
    either = suspended(client, ["a", "b"], match="any")
    assert client.signal(both, "b", b"first").effect == "appended_to_waitpoint"
    assert client.signal(both, "a", b"second").effect == "resume_condition_satisfied"
    assert client.signal(either, "b", b"only").effect == "resume_condition_satisfied"
    assert result(client, both) == [["a", "second"], ["b", "first"]]
    assert result(client, either) == [["b", "only"]]


def test_a_signal_under_one_idempotency_key_is_taken_once(workers: Workers, client: Client) -> None:
    workers.start()
    execution = suspended(client, ["a", "a"])
    first = client.signal(execution, "a", idempotency_key="once")
    again = client.signal(execution, "a", idempotency_key="once")
    assert (first.effect, again.effect, again.signal_id) == ("appended_to_waitpoint", "duplicate", first.signal_id)


def test_a_wrong_token_is_refused_and_no_token_is_shown(workers: Workers, client: Client) -> None:
    worker = workers.start()
    execution = suspended(client, ["a"])
    point = client.waitpoint(execution)
    assert point is not None
    with pytest.raises(RefusedError, match="invalid_token"):
        client.signal(execution, "a", token=f"k1:{'0' * 40}")
    assert point.token not in repr(point)
    assert client.signal(execution, "a", token=point.token).effect == "resume_condition_satisfied"
    client.wait(execution, LONG_S)
    assert point.token not in worker.log_path.read_text()


def test_a_signal_that_came_before_the_suspension_keeps_the_attempt_running(
    workers: Workers, client: Client, tmp_path: Path
) -> None:
    workers.start()
    execution = client.submit("approval-beforehand", str(tmp_path))
    handed_out = tmp_path / "token"
    told: str = eventually(lambda: handed_out.read_text() if handed_out.exists() else "", "the token")
    waitpoint_id, token = told.split()
    delivery = client.signal(execution, "go", b"early", waitpoint_id=waitpoint_id, token=token)
    assert delivery.effect == "buffered_for_pending_waitpoint"
    (tmp_path / "sent").touch()
    assert result(client, execution) == [0, "early"]
    history = [one["event"] for one in client.history(execution)]
    assert history == ["acquired", "released"]  # one lease, from the first call to the result


def test_an_execution_that_waits_for_children_can_be_cancelled(workers: Workers, client: Client) -> None:
    workers.start(engine="false")  # an engine finds at once that it waits for nobody
    execution = client.submit("wait-for-children")
    eventually(lambda: client.state(execution) == "waiting_children", "it to wait")
    assert client.cancel(execution).state == "cancelled"


def test_a_handler_cancels_its_own_execution(workers: Workers, client: Client) -> None:
    workers.start()
    shown = client.wait(client.submit("cancel-itself"), LONG_S)
    assert (shown.state, shown.record["cancellation_reason"]) == ("cancelled", "not needed")
