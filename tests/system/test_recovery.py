"""Workers and children that are killed lose nothing."""

from __future__ import annotations

import signal
import time
from collections import Counter
from pathlib import Path

from ffsuper.client import Client
from ffsuper.messages import LaneId
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
