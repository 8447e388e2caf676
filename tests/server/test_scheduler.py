"""The scheduler on a real store."""

from __future__ import annotations

import math
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import redis
import trio
import trio.testing

from ffsuper.client import Client
from ffsuper.config import StoreConfig
from ffsuper.errors import StoreUnavailableError
from ffsuper.messages import ExecutionId
from ffsuper.sansio.partition import PartitionCounts, of_bytes
from ffsuper.sansio.turns import AGEING_MS
from ffsuper.server.scheduler import FRESH_S, Scheduler
from ffsuper.store.admission import Admission, Claimant
from ffsuper.store.connection import open_connection
from ffsuper.store.keys import BudgetKeys, ExecutionKeys, QuotaKeys
from ffsuper.store.submissions import Submission
from tests.fakes import LANE

COUNTS = PartitionCounts()
BUDGET, QUOTA = (str(uuid.UUID(int=number, version=4)) for number in (1, 2))
WORKER = Claimant(worker_id="pool", instance_id="pool-1", capabilities="", grant_ttl_ms=5_000)


@pytest.fixture
async def scheduler(settings: StoreConfig) -> AsyncIterator[Scheduler]:
    async with open_connection(settings, "scheduler") as connection:
        yield Scheduler(Admission(connection, COUNTS), COUNTS.flow)


class Submitted:
    """Executions of the lane, as a test wants them."""

    def __init__(self, client: Client, store: redis.Redis) -> None:
        self._client = client
        self._store = store

    def add(
        self, priority: int = 0, age_ms: int = 0, namespace: str = "default", partition: int = 86, **core: Any
    ) -> ExecutionId:
        wanted = ExecutionId(f"{{fp:{partition}}}:{uuid.uuid4()}")
        job = Submission(execution_id=wanted, lane=LANE, execution_kind="job", priority=priority, namespace=namespace)
        (execution,) = self._client.submit_many([job])
        at = ExecutionKeys.of(execution)
        created_at = int(self._client.show(execution).record["created_at"]) - age_ms
        fields: dict[Any, Any] = {"created_at": created_at, "last_transition_at": created_at, **core}
        self._store.hset(at.core, mapping=fields)
        self._store.zadd(at.partition.lane(LANE, "eligible"), {execution: created_at - priority * 10**12})
        return execution

    def blocked_for(self, execution: ExecutionId) -> str:
        return self._client.show(execution).record["blocking_reason"]


@pytest.fixture
def submitted(client: Client, store: redis.Redis) -> Submitted:
    return Submitted(client, store)


async def granted(scheduler: Scheduler, claimant: Claimant = WORKER) -> ExecutionId | None:
    (found,) = await scheduler.claim(LANE, [claimant])
    return None if found is None else found.execution_id


async def test_executions_are_granted_once_each_in_order(scheduler: Scheduler, submitted: Submitted) -> None:
    first, second, urgent = submitted.add(age_ms=20), submitted.add(age_ms=10), submitted.add(priority=5)
    assert [await granted(scheduler) for _ in range(4)] == [urgent, first, second, None]


async def test_a_grant_can_be_claimed_by_its_worker(
    scheduler: Scheduler, submitted: Submitted, store: redis.Redis
) -> None:
    execution = submitted.add()
    (found,) = await scheduler.claim(LANE, [WORKER])
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


async def test_a_namespace_with_many_older_executions_hides_no_other(
    scheduler: Scheduler, submitted: Submitted
) -> None:
    for number in range(8 * 30):
        submitted.add(namespace="big", age_ms=5_000 - number, partition=number % 8)
    small = {submitted.add(namespace="small", partition=number) for number in range(8)}
    found = {await granted(scheduler) for _ in range(20)}
    assert len(found & small) >= 6


async def test_what_is_granted_but_not_claimed_hides_nothing(scheduler: Scheduler, submitted: Submitted) -> None:
    waiting = {submitted.add(age_ms=5_000 - number, partition=number % 2) for number in range(200)}
    found = set[ExecutionId]()
    for _ in range(8):
        found |= {one.execution_id for one in await scheduler.claim(LANE, [WORKER] * 25) if one}
    assert found == waiting


async def test_work_on_many_partitions_is_found_by_all_that_ask(scheduler: Scheduler, submitted: Submitted) -> None:
    waiting = {submitted.add(partition=2 * number) for number in range(100)}
    first = await scheduler.claim(LANE, [WORKER] * 10)
    rest = await scheduler.claim(LANE, [WORKER] * 90)
    assert {one.execution_id for one in [*first, *rest] if one} == waiting


async def test_the_lowest_of_many_priorities_is_not_forgotten(scheduler: Scheduler, submitted: Submitted) -> None:
    for priority in range(10, 40):
        for _ in range(3):
            submitted.add(priority=priority)
    old = submitted.add(priority=0, age_ms=1_000 * AGEING_MS)
    assert await granted(scheduler) == old


@pytest.mark.parametrize("priority", ["inf", "nan", "1e400", "x", ""])
async def test_a_damaged_record_ends_nothing(
    scheduler: Scheduler, submitted: Submitted, store: redis.Redis, priority: str
) -> None:
    damaged = submitted.add(age_ms=10)
    store.hset(ExecutionKeys.of(damaged).core, "priority", priority)
    plain = submitted.add()
    store.zadd("ff:idx:{fp:9}:lane:default:eligible", {"nonsense": math.inf, "more": -math.inf})
    assert {await granted(scheduler) for _ in range(2)} == {damaged, plain}


async def test_a_place_that_is_admitted_again_just_now_is_not_given_back(
    scheduler: Scheduler, submitted: Submitted, store: redis.Redis, settings: StoreConfig
) -> None:
    at = limit(store, active_concurrency_cap=1)
    execution = submitted.add(quota_policy_id=QUOTA)
    assert await granted(scheduler) == execution
    store.delete(ExecutionKeys.of(execution).part("claim_grant"))  # it has lapsed

    class Late(Admission):
        async def _read(self, calls: Any) -> Any:
            found = await super()._read(calls)
            if calls and calls[0].command[0] == "EXISTS":  # its state was read; now somebody is granted it
                assert await granted(scheduler) == execution
            return found

    async with open_connection(settings, "late") as connection:
        assert await Late(connection, COUNTS).give_back([at]) == 0
    assert (store.get(at.concurrency), store.smembers(at.admitted_set)) == (b"1", {execution.encode()})


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


def limit(store: redis.Redis, active_concurrency_cap: int) -> QuotaKeys:
    """Store a quota policy."""
    at = QuotaKeys(of_bytes(uuid.UUID(QUOTA).bytes, COUNTS.quota), QUOTA)
    policy: dict[Any, Any] = {"requests_per_window_seconds": 60, "active_concurrency_cap": active_concurrency_cap}
    store.hset(at.definition, mapping=policy)
    return at


def end(store: redis.Redis, execution: ExecutionId, phase: str = "terminal") -> None:
    """Let an execution that was granted be claimed and come to this."""
    at = ExecutionKeys.of(execution)
    store.delete(at.part("claim_grant"))
    store.hset(at.core, "lifecycle_phase", phase)
    store.zrem(at.partition.lane(LANE, "eligible"), execution)


async def test_limits_that_a_policy_names_are_those_of_the_execution(
    scheduler: Scheduler, client: Client, store: redis.Redis
) -> None:
    at = BudgetKeys(of_bytes(uuid.UUID(BUDGET).bytes, COUNTS.budget), BUDGET)
    store.hset(at.limits, "hard:tokens", 10)
    store.hset(at.usage, "tokens", 10)
    limit(store, active_concurrency_cap=1)
    spender = client.submit("job", policy={"budget_ids": [BUDGET]})
    limited = {client.submit("job", policy={"quota_policy_id": QUOTA}) for _ in range(2)}
    found, nothing = await granted(scheduler), await granted(scheduler)
    assert found is not None
    assert nothing is None
    (second,) = limited - {found}
    assert client.show(spender).record["blocking_detail"] == f"budget {BUDGET} is used up"
    assert client.show(second).record["blocking_detail"] == f"quota {QUOTA}: concurrency cap 1"


async def test_much_that_is_blocked_hides_nothing(
    scheduler: Scheduler, submitted: Submitted, store: redis.Redis
) -> None:
    at = BudgetKeys(of_bytes(uuid.UUID(BUDGET).bytes, COUNTS.budget), BUDGET)
    store.hset(at.limits, "hard:tokens", 10)
    store.hset(at.usage, "tokens", 10)
    limit(store, active_concurrency_cap=1)
    for number in range(30):
        submitted.add(age_ms=5_000 - number, budget_ids=BUDGET)
    limited = [submitted.add(age_ms=4_000 - number, quota_policy_id=QUOTA) for number in range(30)]
    plain = submitted.add()
    assert [await granted(scheduler) for _ in range(3)] == [limited[0], plain, None]
    assert all(submitted.blocked_for(one) == "waiting_for_quota" for one in limited[1:])


async def test_what_a_quota_does_not_admit_is_not_granted_either(
    scheduler: Scheduler, submitted: Submitted, store: redis.Redis
) -> None:
    limit(store, active_concurrency_cap=1)
    for _ in range(2):
        submitted.add(quota_policy_id=QUOTA)
    assert (await granted(scheduler), await granted(scheduler)) != (None, None)
    assert len(store.keys("ff:exec:*:claim_grant")) == 1


@pytest.mark.parametrize("phase", ["terminal", "suspended", "runnable"])
async def test_a_place_in_a_quota_is_given_back_when_its_execution_does_not_run(
    scheduler: Scheduler, submitted: Submitted, store: redis.Redis, phase: str, mock_clock: trio.testing.MockClock
) -> None:
    at = limit(store, active_concurrency_cap=1)
    first, second = submitted.add(age_ms=10, quota_policy_id=QUOTA), submitted.add(quota_policy_id=QUOTA)
    assert [await granted(scheduler) for _ in range(2)] == [first, None]
    end(store, first, "active")
    mock_clock.jump(2 * FRESH_S)
    assert await granted(scheduler) is None
    end(store, first, phase)
    mock_clock.jump(2 * FRESH_S)
    assert await granted(scheduler) == second
    assert store.smembers(at.admitted_set) == {second.encode()}
    assert store.get(at.concurrency) == b"1"


async def test_a_place_in_a_quota_is_given_back_when_a_grant_lapses(
    scheduler: Scheduler, submitted: Submitted, store: redis.Redis, mock_clock: trio.testing.MockClock
) -> None:
    at = limit(store, active_concurrency_cap=1)
    first, second = submitted.add(age_ms=10, quota_policy_id=QUOTA), submitted.add(quota_policy_id=QUOTA)
    assert [await granted(scheduler) for _ in range(2)] == [first, None]
    store.delete(ExecutionKeys.of(first).part("claim_grant"))
    mock_clock.jump(2 * FRESH_S)
    assert {await granted(scheduler), await granted(scheduler)} == {first, None}
    assert submitted.blocked_for(second) == "waiting_for_quota"
    assert (store.smembers(at.admitted_set), store.get(at.concurrency)) == ({first.encode()}, b"1")


async def test_an_execution_that_starts_again_counts_once(
    scheduler: Scheduler, submitted: Submitted, store: redis.Redis
) -> None:
    at = limit(store, active_concurrency_cap=2)
    execution = submitted.add(quota_policy_id=QUOTA)
    for _ in range(2):
        assert await granted(scheduler) == execution
        store.delete(ExecutionKeys.of(execution).part("claim_grant"), at.admitted(execution))
    assert store.get(at.concurrency) == b"1"


async def test_many_workers_are_served_together_each_with_another_execution(
    scheduler: Scheduler, submitted: Submitted, store: redis.Redis
) -> None:
    waiting = [submitted.add(age_ms=100 - number) for number in range(20)]
    workers = [replace(WORKER, worker_id=f"pool-{number}") for number in range(16)]
    await granted(scheduler)
    before: Any = store.info("commandstats")
    found = await scheduler.claim(LANE, workers)
    after: Any = store.info("commandstats")
    assert [one and one.execution_id for one in found] == waiting[1:17]
    for worker, execution in zip(workers, waiting[1:17], strict=True):
        grant = store.hgetall(ExecutionKeys.of(execution).part("claim_grant"))
        assert grant[b"worker_id"] == worker.worker_id.encode()
    # One call to find them, and one each.
    assert after["cmdstat_fcall"]["calls"] - before["cmdstat_fcall"]["calls"] <= 1 + 16
    left = [one and one.execution_id for one in await scheduler.claim(LANE, workers)]
    assert left == [*waiting[17:], *[None] * 13]


async def test_a_worker_that_comes_too_late_gets_the_next_execution(
    scheduler: Scheduler, submitted: Submitted, store: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = submitted.add(age_ms=10), submitted.add()
    pick = Admission.pick

    async def pick_early(self: Admission, *what: Any) -> Any:
        picked = await pick(self, *what)
        store.hset(ExecutionKeys.of(first).part("claim_grant"), "worker_id", "another")
        return picked

    monkeypatch.setattr(Admission, "pick", pick_early)
    found = await scheduler.claim(LANE, [WORKER, WORKER])
    assert [one and one.execution_id for one in found] == [None, second]
    assert await granted(scheduler) is None


async def test_an_empty_lane_costs_one_look(scheduler: Scheduler, store: redis.Redis) -> None:
    await granted(scheduler)
    before: Any = store.info("commandstats")
    assert await granted(scheduler) is None
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
            await Scheduler(Admission(connection, COUNTS), COUNTS.flow).claim(LANE, [WORKER])
