"""The scheduler on a real store."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

from ffsuper.client import Client
from ffsuper.config import StoreConfig
from ffsuper.errors import StoreUnavailableError
from ffsuper.messages import ExecutionId
from ffsuper.sansio.partition import PartitionCounts, of_bytes
from ffsuper.server.scheduler import AGEING_MS, Scheduler
from ffsuper.store.admission import Admission, Claimant
from ffsuper.store.connection import open_connection
from ffsuper.store.keys import BudgetKeys, ExecutionKeys, QuotaKeys
from tests.fakes import LANE

COUNTS = PartitionCounts()
BUDGET, QUOTA = (str(uuid.UUID(int=number, version=4)) for number in (1, 2))
WORKER = Claimant(worker_id="pool", instance_id="pool-1", capabilities="", grant_ttl_ms=5_000)


@pytest.fixture
async def scheduler(settings: StoreConfig) -> AsyncIterator[Scheduler]:
    async with open_connection(settings, "scheduler") as connection:
        yield Scheduler(Admission(connection, COUNTS))


class Submitted:
    """Executions of the lane, as a test wants them."""

    def __init__(self, client: Client, store: redis.Redis) -> None:
        self._client = client
        self._store = store

    def add(self, priority: int = 0, age_ms: int = 0, namespace: str = "default", **core: Any) -> ExecutionId:
        execution = self._client.submit("job", priority=priority, namespace=namespace)
        at = ExecutionKeys.of(execution)
        created_at = int(self._client.show(execution).record["created_at"]) - age_ms
        fields: dict[Any, Any] = {"created_at": created_at, **core}
        self._store.hset(at.core, mapping=fields)
        self._store.zadd(at.partition.lane(LANE, "eligible"), {execution: created_at - priority * 10**12})
        return execution

    def blocked_for(self, execution: ExecutionId) -> str:
        return self._client.show(execution).record["blocking_reason"]


@pytest.fixture
def submitted(client: Client, store: redis.Redis) -> Submitted:
    return Submitted(client, store)


async def granted(scheduler: Scheduler, claimant: Claimant = WORKER) -> ExecutionId | None:
    found = await scheduler.claim(LANE, claimant)
    return None if found is None else found.execution_id


async def test_executions_are_granted_once_each_in_order(scheduler: Scheduler, submitted: Submitted) -> None:
    first, second, urgent = submitted.add(age_ms=20), submitted.add(age_ms=10), submitted.add(priority=5)
    assert [await granted(scheduler) for _ in range(4)] == [urgent, first, second, None]


async def test_a_grant_can_be_claimed_by_its_worker(
    scheduler: Scheduler, submitted: Submitted, store: redis.Redis
) -> None:
    execution = submitted.add()
    found = await scheduler.claim(LANE, WORKER)
    assert found is not None
    written = store.hgetall(ExecutionKeys.of(execution).part("claim_grant"))
    assert (written[b"worker_id"], written[b"lane_id"]) == (b"pool", b"default")
    assert abs(float(written[b"grant_expires_at"]) - found.expires_at_ms) < 500


async def test_waiting_is_worth_priority_so_that_nothing_starves(scheduler: Scheduler, submitted: Submitted) -> None:
    old = submitted.add(priority=0, age_ms=6 * AGEING_MS)
    for _ in range(20):
        submitted.add(priority=5)
    assert await granted(scheduler) == old


async def test_namespaces_take_turns(scheduler: Scheduler, submitted: Submitted) -> None:
    many = [submitted.add(namespace="busy", age_ms=5_000 - number) for number in range(6)]
    few = [submitted.add(namespace="quiet", age_ms=10) for _ in range(2)]
    found = [await granted(scheduler) for _ in range(4)]
    assert set(found) == {*many[:2], *few}


async def test_what_the_worker_cannot_run_is_blocked_and_hides_nothing(
    scheduler: Scheduler, submitted: Submitted
) -> None:
    demanding = submitted.add(age_ms=10, required_capabilities="gpu")
    plain = submitted.add()
    assert await granted(scheduler) == plain
    assert submitted.blocked_for(demanding) == "waiting_for_capable_worker"


async def test_a_budget_that_is_used_up_blocks_its_executions(
    scheduler: Scheduler, submitted: Submitted, store: redis.Redis
) -> None:
    at = BudgetKeys(of_bytes(uuid.UUID(BUDGET).bytes, COUNTS.budget), BUDGET)
    store.hset(at.limits, "hard:tokens", 10)
    store.hset(at.usage, "tokens", 10)
    spender, plain = submitted.add(age_ms=10, budget_ids=BUDGET), submitted.add()
    assert await granted(scheduler) == plain
    assert submitted.blocked_for(spender) == "waiting_for_budget"


async def test_a_quota_admits_as_many_as_it_has_room_for_and_blocks_the_next(
    scheduler: Scheduler, submitted: Submitted, store: redis.Redis
) -> None:
    at = QuotaKeys(of_bytes(uuid.UUID(QUOTA).bytes, COUNTS.quota), QUOTA)
    store.hset(at.definition, mapping={"active_concurrency_cap": 2, "requests_per_window_seconds": 60})
    limited = [submitted.add(age_ms=100 - number, quota_policy_id=QUOTA) for number in range(3)]
    plain = submitted.add()
    assert [await granted(scheduler) for _ in range(4)] == [*limited[:2], plain, None]
    assert submitted.blocked_for(limited[2]) == "waiting_for_quota"
    assert store.smembers(at.admitted_set) == {one.encode() for one in limited[:2]}


async def test_an_admission_is_given_back_when_somebody_else_was_quicker(
    scheduler: Scheduler, submitted: Submitted, store: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = QuotaKeys(of_bytes(uuid.UUID(QUOTA).bytes, COUNTS.quota), QUOTA)
    store.hset(at.definition, mapping={"active_concurrency_cap": 2, "requests_per_window_seconds": 60})
    execution = submitted.add(quota_policy_id=QUOTA)
    admit = Admission.admit

    async def admit_late(self: Admission, *what: Any) -> str:
        told = await admit(self, *what)
        store.hset(ExecutionKeys.of(execution).part("claim_grant"), "worker_id", "another")
        return told

    monkeypatch.setattr(Admission, "admit", admit_late)
    assert await granted(scheduler) is None
    assert store.smembers(at.admitted_set) == set()
    assert store.get(at.concurrency) == b"0"


async def test_an_empty_lane_costs_one_look(scheduler: Scheduler, store: redis.Redis) -> None:
    await scheduler.claim(LANE, WORKER)
    before: Any = store.info("commandstats")
    assert await scheduler.claim(LANE, WORKER) is None
    after: Any = store.info("commandstats")
    assert after["cmdstat_fcall"]["calls"] - before["cmdstat_fcall"]["calls"] == 1


async def test_a_damaged_lane_hides_no_other_partition(
    scheduler: Scheduler, submitted: Submitted, store: redis.Redis
) -> None:
    store.set("ff:idx:{fp:0}:lane:default:eligible", "x")
    execution = submitted.add()
    assert await granted(scheduler) == execution


async def test_a_store_that_is_away_is_told() -> None:
    async with open_connection(StoreConfig(url="redis://127.0.0.1:1"), "scheduler") as connection:
        with pytest.raises(StoreUnavailableError):
            await Scheduler(Admission(connection, COUNTS)).claim(LANE, WORKER)
