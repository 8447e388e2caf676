"""The slow sweeps on a real store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

from ffsuper.client import Client
from ffsuper.config import StoreConfig
from ffsuper.engine import index_reconciler, retention
from ffsuper.messages import ExecutionId
from ffsuper.store.connection import Connection, open_connection
from ffsuper.store.housekeeping import Housekeeping
from ffsuper.store.keys import ExecutionKeys
from ffsuper.store.sweeps import PAGE
from tests.engine.actors import reports_of
from tests.fakes import HOUR_S, LANE

PARTITIONS = range(256)
DAY_MS = 86_400_000
INTERVAL_S = 0.01


@pytest.fixture
async def connection(settings: StoreConfig) -> AsyncIterator[Connection]:
    async with open_connection(settings, "sweeps") as connection:
        yield connection


@pytest.fixture
def housekeeping(connection: Connection) -> Housekeeping:
    return Housekeeping(connection)


def ended(client: Client, store: redis.Redis, age_ms: int, policy: dict[str, Any] | None = None) -> ExecutionId:
    """Submit an execution and let it have ended so long ago."""
    execution = client.submit("job", policy=policy)
    client.cancel(execution)
    at = ExecutionKeys.of(execution)
    seconds, _ = store.time()
    ended_at = int(seconds) * 1000 - age_ms
    store.hset(at.core, "completed_at", ended_at)
    store.zadd(at.partition.lane(LANE, "terminal"), {execution: ended_at})
    return execution


def exists(store: redis.Redis, execution: ExecutionId) -> bool:
    return bool(store.exists(ExecutionKeys.of(execution).core))


async def test_executions_go_when_their_own_retention_is_over(
    housekeeping: Housekeeping, store: redis.Redis, client: Client
) -> None:
    short = {"stream_policy": {"retention_ttl_ms": 1_500}}
    long = {"stream_policy": {"retention_ttl_ms": 30 * DAY_MS}}
    old, young, soon = ended(client, store, DAY_MS), ended(client, store, 0), ended(client, store, 0, short)
    kept = [ended(client, store, 2 * DAY_MS, long) for _ in range(2 * PAGE)]
    async with reports_of(retention.run, housekeeping, PARTITIONS, [LANE], INTERVAL_S) as reports:
        await reports.until("trimmed")
        assert [exists(store, one) for one in (old, young, soon)] == [False, True, True]
        await reports.until("trimmed")
        assert [exists(store, one) for one in (old, young, soon)] == [False, True, False]
    assert all(exists(store, one) for one in kept)


async def test_one_that_takes_several_calls_is_deleted_in_the_same_sweep(
    housekeeping: Housekeeping, store: redis.Redis, client: Client
) -> None:
    execution = ended(client, store, DAY_MS)
    at = ExecutionKeys.of(execution)
    store.zadd(at.part("signals"), {f"signal-{number}": number for number in range(5_000)})
    async with reports_of(retention.run, housekeeping, PARTITIONS, [LANE], HOUR_S) as reports:
        await reports.until("trimmed")
    assert not store.exists(at.part("signals"))


async def test_of_a_flow_whose_members_are_gone_nothing_grows_with_its_edges(
    housekeeping: Housekeeping, store: redis.Redis, client: Client
) -> None:
    flow = client.create_flow()
    first = flow.add("job")
    members = [first, *(flow.add("job", after=[first]) for _ in range(3))]
    flow.cancel()
    for one in members:
        store.hset(ExecutionKeys.of(one).core, "completed_at", 1_000)
        store.zadd(ExecutionKeys.of(one).partition.lane(LANE, "terminal"), {one: 1_000})
    async with reports_of(retention.run, housekeeping, [int(flow.keys.tag[4:-1])], [LANE], INTERVAL_S) as reports:
        await reports.until("trimmed", len(members))
    left: set[Any] = {*store.keys("ff:flow:*")}
    assert left == {flow.keys.core.encode(), flow.keys.members.encode()}
    assert set(flow.show().members) == set(members)


async def test_a_damaged_index_of_ended_executions_is_reported(
    housekeeping: Housekeeping, store: redis.Redis, client: Client
) -> None:
    old = ended(client, store, DAY_MS)
    store.set("ff:idx:{fp:0}:lane:default:terminal", "x")
    async with reports_of(retention.run, housekeeping, PARTITIONS, [LANE], INTERVAL_S) as reports:
        await reports.until("trimmed")
    assert not exists(store, old)


async def test_executions_that_are_in_no_index_come_back(
    housekeeping: Housekeeping, store: redis.Redis, client: Client
) -> None:
    executions = [client.submit("job") for _ in range(300)]
    at = ExecutionKeys.of(executions[0])
    store.delete(at.partition.lane(LANE, "eligible"))
    store.set("ff:idx:{fp:0}:all_executions", "x")
    async with reports_of(index_reconciler.run, housekeeping, PARTITIONS, INTERVAL_S) as reports:
        assert (await reports.failure()).example == "ff:idx:{fp:0}:all_executions"
        await reports.until("restored:eligible", 300)
    assert store.zcard(at.partition.lane(LANE, "eligible")) == 300
