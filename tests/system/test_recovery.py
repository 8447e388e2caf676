"""Workers and children that are killed lose nothing."""

from __future__ import annotations

import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import redis

from ffsuper.child.orphans import is_running
from ffsuper.client import Client
from ffsuper.messages import ExecutionId, LaneId
from ffsuper.store.keys import ExecutionKeys
from ffsuper.store.submissions import Submission
from tests.system.test_worker import RETRY_AT_ONCE, read
from tests.system.workers import LIMIT_S, Workers, eventually

COUNT = 2000


def test_a_killed_workers_execution_is_running_again_within_the_lease_and_a_second(
    workers: Workers, client: Client, tmp_path: Path
) -> None:
    ttl_s = 2.0
    first = workers.start("first", ttl_ms=int(ttl_s * 1000), engine="false")
    workers.start("second", ttl_ms=int(ttl_s * 1000), children=1)
    busy = client.submit("wait-for-file", {"folder": str(tmp_path)})
    eventually(lambda: read(tmp_path / "started-0"), "the first attempt")
    holder = client.show(busy).record["current_worker_instance_id"]
    victim = first if holder == "first" else workers.started[1]
    if holder == "second":
        workers.start("third", ttl_ms=int(ttl_s * 1000), children=1)
    victim.signal(signal.SIGKILL)
    victim.wait()
    killed_s = time.monotonic()
    eventually(lambda: read(tmp_path / "started-1"), "the second attempt")
    took_s = time.monotonic() - killed_s
    (tmp_path / "go").touch()
    shown = client.wait(busy, LIMIT_S)
    assert (shown.state, shown.attempts[1]["attempt_type"]) == ("completed", "reclaim")
    assert took_s <= ttl_s + 1.0, f"recovery took {took_s:.2f} s"


def test_a_killed_workers_execution_comes_before_all_that_has_not_begun(
    workers: Workers, client: Client, tmp_path: Path
) -> None:
    first = workers.start("first", ttl_ms=2000, children=1, engine="false")
    busy = client.submit("wait-for-file", {"folder": str(tmp_path)})
    eventually(lambda: read(tmp_path / "started-0"), "the first attempt")
    workers.start("second", ttl_ms=2000, children=1)
    backlog = [client.submit("work", {"folder": str(tmp_path), "seconds": 0.8}) for _ in range(40)]
    eventually(lambda: read(tmp_path / "history"), "some of the backlog")
    first.signal(signal.SIGKILL)
    eventually(lambda: read(tmp_path / "started-1"), "the second attempt")
    (tmp_path / "go").touch()
    assert client.wait(busy, LIMIT_S).state == "completed"
    assert client.states(backlog).count("completed") < 12


def test_two_thousand_executions_survive_a_killed_worker_and_a_killed_child(
    workers: Workers, client: Client, tmp_path: Path
) -> None:
    first = workers.start("first", ttl_ms=3000)
    second = workers.start("second", ttl_ms=3000)
    executions = client.submit_many(
        [
            Submission(
                execution_id=client.new_id("default"),
                lane=LaneId("default"),
                execution_kind="work",
                payload=f'{{"folder": "{tmp_path}", "seconds": 0.001}}'.encode(),
                policy=RETRY_AT_ONCE,
            )
            for _ in range(COUNT)
        ]
    )
    eventually(lambda: client.depth("default")["terminal"] >= COUNT // 4, "a quarter of the work")
    first.signal(signal.SIGKILL)
    first.wait()
    second.children()[0].kill()
    eventually(lambda: client.depth("default")["terminal"] == COUNT, "all of the work")

    assert Counter(client.states(executions)) == {"completed": COUNT}
    completions = [
        sum(attempt["attempt_state"] == "ended_success" for attempt in client.show(one).attempts)
        for one in executions
    ]
    assert set(completions) == {1}, "an execution was not completed exactly once in the store's eyes"
    assert overlaps(tmp_path / "history") == []
    second.signal(signal.SIGTERM)
    assert second.wait() == 0


def test_a_stopped_supervisors_child_is_dead_before_its_execution_runs_elsewhere_and_no_retry_is_spent(
    workers: Workers, client: Client, tmp_path: Path
) -> None:
    first = workers.start("first", ttl_ms=2000, margin_ms=500, children=1)
    execution = client.submit("wait-for-file", {"folder": str(tmp_path)})
    eventually(lambda: read(tmp_path / "started-0"), "the first attempt")
    (child,) = first.children()
    workers.start("second", ttl_ms=2000, margin_ms=500, children=1)
    first.signal(signal.SIGSTOP)
    alive_when_it_began_again = eventually(lambda: read(tmp_path / "started-1") and [is_running(child)], "another")
    assert alive_when_it_began_again == [False]
    first.signal(signal.SIGCONT)
    first.wait_for("lease ended", execution=execution, code="overdue")
    (tmp_path / "go").touch()
    shown = client.wait(execution, LIMIT_S)
    assert (shown.state, shown.attempts[1]["attempt_type"]) == ("completed", "reclaim")
    assert shown.record["retry_count"] == "0"
    # It works on: with the other one stopped it is the only one that can.
    workers.started[1].signal(signal.SIGKILL)
    assert client.wait(client.submit("no-op"), LIMIT_S).state == "completed"


def overlaps(history: Path) -> list[str]:
    """Return executions of which two attempts ran at the same time, by what the handlers wrote down themselves."""
    running: dict[str, tuple[str, float]] = {}
    found = []
    for line in history.read_text().splitlines():
        what, execution, attempt, _, when = line.split()
        if what == "start":
            running[execution] = (attempt, float(when))
        elif running[execution][0] != attempt:
            found.append(line)
    return found


def test_a_worker_that_is_started_again_takes_its_own_work_back_at_once(
    workers: Workers, client: Client, tmp_path: Path
) -> None:
    first = workers.start("same", ttl_ms=30_000)
    execution = client.submit("wait-for-file", {"folder": str(tmp_path)})
    eventually(lambda: read(tmp_path / "started-0"), "the first attempt")
    children = first.children()
    first.signal(signal.SIGKILL)
    first.wait()
    killed_s = time.monotonic()
    again = workers.start("same", ttl_ms=30_000)
    eventually(lambda: read(tmp_path / "started-1"), "the second attempt")
    assert time.monotonic() - killed_s < 10.0, "it has waited for the lease to run out"
    assert not any(map(is_running, children))
    again.wait_for("leases of a dead process ended", leases=1)
    (tmp_path / "go").touch()
    shown = client.wait(execution, LIMIT_S)
    assert (shown.state, shown.attempts[1]["attempt_type"]) == ("completed", "reclaim")


def test_ten_thousand_executions_that_nobody_here_can_take_over_hide_none_that_can_be(
    workers: Workers, client: Client, store: redis.Redis, tmp_path: Path
) -> None:
    ttl_s = 2.0
    victim = workers.start("victim", ttl_ms=int(ttl_s * 1000), children=1, engine="false")
    busy = client.submit("wait-for-file", {"folder": str(tmp_path)})
    eventually(lambda: read(tmp_path / "started-0"), "the first attempt")
    abandon(store, busy, 10_000)
    workers.start("heir", ttl_ms=int(ttl_s * 1000), children=1)
    victim.signal(signal.SIGKILL)
    victim.wait()
    killed_s = time.monotonic()
    eventually(lambda: read(tmp_path / "started-1"), "the second attempt")
    took_s = time.monotonic() - killed_s
    (tmp_path / "go").touch()
    assert client.wait(busy, LIMIT_S).state == "completed"
    assert took_s <= ttl_s + 1.0, f"recovery took {took_s:.2f} s"


def abandon(store: redis.Redis, beside: str, count: int) -> None:
    """Copy a running execution many times, as one of a kind that no worker knows, with a lease that ran out."""
    keys = ExecutionKeys.of(ExecutionId(beside))
    record: dict[Any, Any] = store.hgetall(keys.core)
    pipeline = store.pipeline(transaction=False)
    for number in range(count):
        copy = ExecutionKeys.of(ExecutionId(f"{keys.tag}:00000000-0000-0000-0000-{number:012}"))
        changes: dict[Any, Any] = {"execution_id": copy.id, "execution_kind": "foreign", "lease_expires_at": "1"}
        pipeline.hset(copy.core, mapping={**record, **changes})
        pipeline.zadd(keys.partition.index("lease_expiry"), {copy.id: number})
    pipeline.execute()
