"""What happens to handlers while they run: frames, usage, cancellation, timeouts, recycling, company."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path

from ffsuper.client import Client
from tests.system.workers import Workers, eventually

LONG_S = 30.0
RETRY_AT_ONCE = {"retry_policy": {"max_retries": 3, "backoff": {"type": "fixed", "delay_ms": 0}}}
# Far below the renewal interval of 10 s; `python -m bench.worker` has the figure.
TOLD_WITHIN_S = 2.0


def test_frames_are_followed_live_through_all_attempts(workers: Workers, client: Client) -> None:
    workers.start()
    execution = client.submit("stream", 200, policy=RETRY_AT_ONCE)
    frames = list(client.tail(execution))
    expected = [f"0.{number}" for number in range(100)] + [f"1.{number}" for number in range(200)]
    assert [frame.payload.decode() for frame in frames] == expected
    assert {frame.attempt_index for frame in frames} == {0, 1}
    assert [frame.payload for frame in client.tail(execution, live=False)] == [frame.payload for frame in frames]


def test_usage_is_reported_and_a_breach_is_told(workers: Workers, client: Client, store_url: str) -> None:
    workers.start()
    budget = str(uuid.uuid4())
    create_budget(client, budget, hard=12)
    execution = client.submit("spend", budget)
    assert client.wait(execution, LONG_S).state == "completed"
    assert json.loads(client.result(execution) or b"") == ["ok", "ok", "hard_breach"]


def create_budget(client: Client, budget: str, hard: int) -> None:
    """Create a budget as a FlowFabric server would."""
    from ffsuper.sansio.partition import of_bytes
    from ffsuper.store.keys import BudgetKeys
    from ffsuper.store.replies import fcall

    number = of_bytes(uuid.UUID(budget).bytes, client._counts.budget)
    keys, index = BudgetKeys(number, budget), f"ff:idx:{{b:{number}}}"
    args = (budget, "lane", "default", "strict", "fail", "warn", "0", "5", "1", "tokens", str(hard), "0")
    indexes = (f"{index}:budget_resets", f"{index}:budget_policies")
    client.run(
        fcall("ff_create_budget", (keys.definition, keys.limits, keys.usage, *indexes), args, lambda status: status)
    )


def test_a_cancelled_handler_is_told_long_before_its_next_renewal(
    workers: Workers, client: Client, tmp_path: Path
) -> None:
    workers.start(grace_s=5.0)
    execution = client.submit("until-cancelled", str(tmp_path))
    history = tmp_path / "history"
    eventually(lambda: history.exists() and "started" in history.read_text(), "the start")
    asked_s = time.time()
    assert client.cancel(execution).state == "cancelled"
    told: str = eventually(lambda: text if "cancelled" in (text := history.read_text()) else "", "the cancellation")
    assert float(told.rsplit(maxsplit=1)[-1]) - asked_s < TOLD_WITHIN_S
    # The child was not killed for it: the handler obeyed.
    assert client.wait(client.submit("echo", b"on"), LONG_S).state == "completed"


def test_no_progress_interrupts_though_the_lease_is_renewed(workers: Workers, client: Client) -> None:
    workers.start()
    execution = client.submit("no-progress")
    assert client.wait(execution, LONG_S).state == "completed"
    assert b"no progress" in (client.result(execution) or b"")


def test_a_child_is_recycled_after_some_executions(workers: Workers, client: Client) -> None:
    workers.start(children=1, recycle_after=3)
    executions = [client.submit("pid") for _ in range(8)]
    pids = [client.result(client.wait(one, LONG_S).id) for one in executions]
    assert len(set(pids)) >= 2


def test_a_child_that_grows_too_large_is_killed_and_only_its_attempt_fails(workers: Workers, client: Client) -> None:
    workers.start(hard_memory_mb=200)
    shown = client.wait(client.submit("grow"), LONG_S)
    assert (shown.state, shown.attempts[0]["failure_category"]) == ("failed", "memory")
    assert "over the limit of 200 MiB" in shown.record["failure_reason"]
    assert client.wait(client.submit("echo", b"on"), LONG_S).state == "completed"


def test_async_handlers_share_a_child_and_one_cancellation_leaves_the_others_alone(
    workers: Workers, client: Client
) -> None:
    workers.start(handlers="tests.system.async_handlers_for_tests", children=1, tasks_per_process=10)
    endless = client.submit("for-ever")
    eventually(lambda: client.show(endless).record.get("progress_pct"), "the start")
    begun_s = time.monotonic()
    together = [client.submit("together") for _ in range(9)]
    client.cancel(endless)
    pids = {client.result(client.wait(one, LONG_S).id) for one in together}
    assert len(pids) == 1
    assert time.monotonic() - begun_s < 9 * 0.2


def test_plain_handlers_are_refused_where_several_tasks_share_a_child(workers: Workers) -> None:
    worker = workers.launch(tasks_per_process=2)
    assert worker.wait() == 78
    assert "is not async" in worker.log_path.read_text()
