"""The unblock sweep on a real store: it is about what many keys of different kinds say together."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import redis
import trio

from ffsuper.client import Client
from ffsuper.config import StoreConfig
from ffsuper.engine import unblock
from ffsuper.messages import ExecutionId, SweepReport
from ffsuper.sansio.partition import PartitionCounts, of_bytes
from ffsuper.store import keys
from ffsuper.store.blocked import PAGE, Blocked
from ffsuper.store.connection import open_connection
from ffsuper.store.keys import BudgetKeys, ExecutionKeys, QuotaKeys
from tests.fakes import LANE, pulses

COUNTS = PartitionCounts()
BUDGET, OTHER_BUDGET, QUOTA = (str(uuid.UUID(int=number, version=4)) for number in (1, 2, 3))
FIELDS = {
    "route": ("waiting_for_capable_worker", "required_capabilities"),
    "budget": ("waiting_for_budget", "budget_ids"),
    "quota": ("waiting_for_quota", "quota_policy_id"),
}


class Waiting:
    """Executions that are blocked."""

    def __init__(self, client: Client, store: redis.Redis) -> None:
        self._client = client
        self._store = store

    def add(self, why: str, cause: str) -> ExecutionId:
        execution = self._client.submit("job")
        at = ExecutionKeys.of(execution)
        reason, field = FIELDS[why]
        self._store.hset(
            at.core,
            mapping={field: cause, "eligibility_state": f"blocked_by_{why}", "blocking_reason": reason},
        )
        self._store.zrem(at.partition.lane(LANE, "eligible"), execution)
        self._store.zadd(at.partition.lane(LANE, f"blocked:{why}"), {execution: 1})
        return execution

    def is_blocked(self, execution: ExecutionId) -> bool:
        return self._client.show(execution).record["eligibility_state"].startswith("blocked")


@pytest.fixture
def waiting(client: Client, store: redis.Redis) -> Waiting:
    return Waiting(client, store)


@asynccontextmanager
async def reports_of_a_sweep(settings: StoreConfig) -> AsyncIterator[trio.MemoryReceiveChannel[SweepReport]]:
    """Run the sweep; yields what it reports."""
    send, receive = trio.open_memory_channel[SweepReport](1_000)
    with trio.fail_after(30):
        async with open_connection(settings, "sweeps") as connection, trio.open_nursery() as nursery:
            blocked = Blocked(connection, COUNTS)
            nursery.start_soon(unblock.run, blocked, range(COUNTS.flow), [LANE], 0.01, send, pulses())
            yield receive
            nursery.cancel_scope.cancel()


async def let_go(settings: StoreConfig, count: int) -> None:
    """Sweep until so many were let go."""
    async with reports_of_a_sweep(settings) as reports:
        while count > 0:
            count -= (await reports.receive()).outcomes.get("unblocked", 0)
    assert count == 0


async def swept_twice(settings: StoreConfig, store: redis.Redis) -> None:
    """Sweep at least twice."""
    async with reports_of_a_sweep(settings):
        calls = looks(store)
        while looks(store) < calls + 3:  # noqa: ASYNC110 -- the store is another process
            await trio.sleep(0.01)


def looks(store: redis.Redis) -> int:
    return int(store.info("commandstats").get("cmdstat_fcall", {"calls": 0})["calls"])


def advertise(store: redis.Redis, worker: str, capabilities: str, *, alive: bool = True, own: bool = True) -> None:
    store.set(keys.worker_capabilities(worker), capabilities)
    store.sadd(keys.WORKERS, worker)
    if own:
        store.sadd(keys.OWN_WORKERS, worker)
    if alive:
        store.set(keys.worker_alive(worker), "x")


async def test_a_live_worker_with_all_capabilities_lets_its_executions_go(
    settings: StoreConfig, store: redis.Redis, waiting: Waiting
) -> None:
    both, one = waiting.add("route", "cuda,gpu"), waiting.add("route", "tpu")
    advertise(store, "a", "cuda,gpu,x")
    await let_go(settings, 1)
    assert (waiting.is_blocked(both), waiting.is_blocked(one)) == (False, True)


@pytest.mark.parametrize("who", ["dead", "split"])
async def test_dead_workers_and_workers_with_a_part_each_do_not(
    settings: StoreConfig, store: redis.Redis, waiting: Waiting, who: str
) -> None:
    execution = waiting.add("route", "cuda,gpu")
    if who == "dead":
        advertise(store, "a", "cuda,gpu", alive=False)
    else:
        advertise(store, "a", "cuda")
        advertise(store, "b", "gpu")
    await swept_twice(settings, store)
    assert waiting.is_blocked(execution)


async def test_a_worker_of_another_maker_counts_without_an_alive_key(
    settings: StoreConfig, store: redis.Redis, waiting: Waiting
) -> None:
    execution = waiting.add("route", "gpu")
    advertise(store, "rust", "gpu", alive=False, own=False)
    await let_go(settings, 1)
    assert not waiting.is_blocked(execution)


async def test_thousands_that_nobody_can_run_hide_none_that_somebody_can(
    settings: StoreConfig, store: redis.Redis, waiting: Waiting
) -> None:
    for _ in range(3 * PAGE):
        waiting.add("route", "exotic")
    late = waiting.add("route", "gpu")
    advertise(store, "a", "gpu")
    await let_go(settings, 1)
    assert not waiting.is_blocked(late)


async def test_a_budget_lets_go_when_no_hard_limit_of_any_is_reached(
    settings: StoreConfig, store: redis.Redis, waiting: Waiting
) -> None:
    executions = [waiting.add("budget", ids) for ids in (BUDGET, f"{BUDGET}, {OTHER_BUDGET}", "no uuid")]
    for budget_id, used in ((BUDGET, 9), (OTHER_BUDGET, 10)):
        at = BudgetKeys(of_bytes(uuid.UUID(budget_id).bytes, COUNTS.budget), budget_id)
        store.hset(at.limits, mapping={"hard:tokens": 10, "soft:tokens": 1, "hard:other": 0})
        store.hset(at.usage, mapping={"tokens": used, "other": 5})
    await let_go(settings, 2)
    assert [waiting.is_blocked(one) for one in executions] == [False, True, False]


async def test_a_budget_that_cannot_be_read_keeps_its_executions(
    settings: StoreConfig, store: redis.Redis, waiting: Waiting
) -> None:
    execution = waiting.add("budget", BUDGET)
    store.set(BudgetKeys(of_bytes(uuid.UUID(BUDGET).bytes, COUNTS.budget), BUDGET).limits, "no hash")
    await swept_twice(settings, store)
    assert waiting.is_blocked(execution)


async def test_a_quota_lets_go_as_many_as_it_has_room_for(
    settings: StoreConfig, store: redis.Redis, waiting: Waiting
) -> None:
    executions = [waiting.add("quota", QUOTA) for _ in range(5)]
    at = QuotaKeys(of_bytes(uuid.UUID(QUOTA).bytes, COUNTS.quota), QUOTA)
    store.hset(at.definition, mapping={"active_concurrency_cap": 3})
    store.set(at.concurrency, 1)
    async with reports_of_a_sweep(settings) as reports:
        assert (await reports.receive()).outcomes == {"unblocked": 2}
    assert sum(map(waiting.is_blocked, executions)) <= 3


async def test_a_damaged_index_is_reported_and_hides_no_other(
    settings: StoreConfig, store: redis.Redis, waiting: Waiting
) -> None:
    waiting.add("route", "gpu")
    advertise(store, "a", "gpu")
    store.set("ff:idx:{fp:0}:lane:default:blocked:route", "x")
    async with reports_of_a_sweep(settings) as reports:
        seen = [await reports.receive(), await reports.receive(), await reports.receive()]
    assert {"unblocked": 1} in [report.outcomes for report in seen]
    assert any("blocked:route" in report.example for report in seen)
