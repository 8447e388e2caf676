"""What is too large to go between supervisor and child: it costs its execution one attempt, and nothing else."""

from __future__ import annotations

from typing import Any

from ffsuper.client import Client
from ffsuper.sansio.frame import HEADER_LIMIT_BYTES
from tests.system.workers import Workers

LIMIT_S = 40.0
ALMOST = 9 * HEADER_LIMIT_BYTES // 10
RETRIES: dict[str, Any] = {"retry_policy": {"max_retries": 5, "backoff": {"type": "fixed", "delay_ms": 1}}}


def test_an_execution_too_large_for_a_handler_fails_for_good_beside_others_that_complete(
    workers: Workers, client: Client
) -> None:
    worker = workers.start()
    submitted = [
        client.submit("echo", b"on", tags={"tag": "x" * size}, policy=RETRIES)
        for size in (5, HEADER_LIMIT_BYTES, ALMOST)
    ]
    shown = [client.wait(one, LIMIT_S) for one in submitted]
    assert [one.state for one in shown] == ["completed", "failed", "completed"]
    (attempt,) = shown[1].attempts
    assert attempt["failure_category"] == "too_large"
    assert "payload, tags and signals are too large for a handler" in shown[1].record["failure_reason"]
    told = worker.wait_for("finished", execution=submitted[1])
    assert f"over the limit of {HEADER_LIMIT_BYTES}" in told["reason"]
    assert client.wait(client.submit("echo", b"on"), LIMIT_S).state == "completed"


def test_an_answer_too_large_for_a_handler_is_an_error_for_it_and_nothing_else(
    workers: Workers, client: Client
) -> None:
    workers.start()
    # What is no budget's id is cited, and that takes more room than the id itself.
    shown = client.wait(client.submit("spend", '"' + "'" * ALMOST), LIMIT_S)
    assert (shown.state, shown.attempts[0]["failure_category"]) == ("failed", "exception")
    assert "the answer is too large" in shown.record["failure_reason"]
    assert client.wait(client.submit("echo", b"on"), LIMIT_S).state == "completed"
