"""Workers on a real cluster of six servers, some of which die, and whose slots move."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.crc import key_slot

from ffsuper.admin.client import AdminClient
from ffsuper.client import Client
from ffsuper.config import StoreConfig
from ffsuper.messages import ExecutionId, LaneId
from ffsuper.store.keys import ExecutionKeys
from ffsuper.store.submissions import Submission
from tests.cluster import Cluster, running_cluster
from tests.system.test_recovery import overlaps
from tests.system.test_server import free_port, start_server
from tests.system.test_suspension import suspended
from tests.system.test_worker import RETRY_AT_ONCE, read
from tests.system.workers import LIMIT_S, Workers, eventually

# Their partitions are on all three masters.
LANES = [f"lane-{number}" for number in range(6)]
COUNT = 600


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with Client(StoreConfig(url=cluster.url, wait_replicas=1), patience_s=LIMIT_S) as client:
        yield client


@pytest.fixture
def workers(tmp_path: Path, cluster: Cluster) -> Iterator[Workers]:
    workers = Workers(tmp_path, cluster.url, settings={"lanes": str(LANES).replace("'", '"'), "wait_replicas": 1})
    yield workers
    workers.end_all()


def slot_of(execution: ExecutionId) -> int:
    return key_slot(ExecutionKeys.of(execution).core.encode())


def submit(client: Client, folder: Path) -> list[ExecutionId]:
    """Submit work to all lanes in turn."""
    return client.submit_many(
        [
            Submission(
                execution_id=client.new_id(lane),
                lane=LaneId(lane),
                execution_kind="work",
                payload=f'{{"folder": "{folder}", "seconds": 0.002}}'.encode(),
                policy=RETRY_AT_ONCE,
            )
            for lane in (LANES[number % len(LANES)] for number in range(COUNT))
        ]
    )


def done(client: Client, executions: list[ExecutionId]) -> int:
    return Counter(client.states(executions))["completed"]


def test_a_worker_does_all_that_it_does_elsewhere(workers: Workers, client: Client, tmp_path: Path) -> None:
    first = workers.start("first", ttl_ms=2_000)
    lane = LANES[0]
    assert client.wait(client.submit("echo", b"x", lane=lane), LIMIT_S).state == "completed"
    assert client.wait(client.submit("echo", b"x", lane=LANES[1], delay=0.5), LIMIT_S).state == "completed"
    waiting = suspended(client, ["approved"], lane=lane)
    assert client.signal(waiting, "approved").effect == "resume_condition_satisfied"
    assert client.wait(waiting, LIMIT_S).state == "completed"
    flow = client.create_flow()
    top = flow.add("no-op", lane=lane)
    flow.add("no-op", after=[top], lane=LANES[1])
    assert flow.wait(LIMIT_S).state == "completed"
    busy = client.submit("wait-for-file", {"folder": str(tmp_path)}, lane=lane)
    eventually(lambda: read(tmp_path / "started-0"), "the first attempt")
    workers.start("second", ttl_ms=2_000)
    first.signal(signal.SIGKILL)
    first.wait()
    killed_s = time.monotonic()
    eventually(lambda: read(tmp_path / "started-1"), "the second attempt")
    assert time.monotonic() - killed_s < 3.0
    (tmp_path / "go").touch()
    assert client.wait(busy, LIMIT_S).state == "completed"
    workers.started[-1].signal(signal.SIGTERM)
    assert workers.started[-1].wait() == 0


def test_a_master_that_is_killed_under_load_loses_nothing(
    workers: Workers, client: Client, cluster: Cluster, tmp_path: Path
) -> None:
    workers.start("first", ttl_ms=10_000)
    workers.start("second", ttl_ms=10_000)
    executions = submit(client, tmp_path)
    eventually(lambda: done(client, executions) >= COUNT // 4, "a quarter of the work")
    victim = cluster.master_of(slot_of(executions[0]))
    victim.kill()
    eventually(lambda: cluster.master_of(slot_of(executions[0])) is not victim, "a replica to take over")
    victim.start_again()  # without a replica nothing counts as written
    eventually(lambda: done(client, executions) == COUNT, "all of the work")
    assert overlaps(tmp_path / "history") == []


def test_slots_that_are_moved_under_load_lose_nothing(
    workers: Workers, client: Client, cluster: Cluster, tmp_path: Path
) -> None:
    workers.start("first", ttl_ms=10_000)
    workers.start("second", ttl_ms=10_000)
    executions = submit(client, tmp_path)
    eventually(lambda: done(client, executions) >= COUNT // 8, "an eighth of the work")
    for slot in sorted({slot_of(one) for one in executions}):
        source = cluster.master_of(slot)
        cluster.move_slot(slot, source, cluster.another_master(source))
    assert done(client, executions) < COUNT, "the move was to be under load"
    eventually(lambda: done(client, executions) == COUNT, "all of the work")
    assert overlaps(tmp_path / "history") == []


def test_a_server_admits_what_is_on_all_masters(workers: Workers, client: Client) -> None:
    port = free_port()
    start_server(workers, port)
    url = f"http://127.0.0.1:{port}"
    workers.start(engine="false", source="server", server_url=url)
    with AdminClient(url, patience_s=LIMIT_S) as admin:
        budget = admin.create_budget({"tokens": 10})
        policy = {"budget_ids": [budget], "quota_policy_id": admin.create_quota(max_concurrent=1)}
        executions = [admin.submit("no-op", lane=lane, policy=policy) for lane in LANES for _ in range(2)]
        for execution in executions:
            assert admin.wait(execution, LIMIT_S).state == "completed"
        admin.report_usage(budget, {"tokens": 10})
        spender = admin.submit("no-op", lane=LANES[0], policy=policy)
        eventually(lambda: admin.show(spender).record["blocking_reason"] == "waiting_for_budget", "the budget")
        admin.reset_budget(budget)
        assert admin.wait(spender, LIMIT_S).state == "completed"
        assert admin.rotate_secret("k2", "ab" * 32).is_complete
        waiting = admin.submit("approval", {"signals": ["go"]}, lane=LANES[1])
        eventually(lambda: admin.state(waiting) == "suspended", "the suspension")
        assert admin.signal(waiting, "go").effect == "resume_condition_satisfied"
        assert admin.wait(waiting, LIMIT_S).state == "completed"
