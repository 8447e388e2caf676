"""The sweep over quotas that nobody waits for, on a real store."""

from __future__ import annotations

import uuid

import redis

from ffsuper.client import Client
from ffsuper.config import StoreConfig
from ffsuper.engine import quota_places
from ffsuper.messages import ExecutionId
from ffsuper.sansio.partition import PartitionCounts
from ffsuper.store.blocked import Blocked
from ffsuper.store.budgets import create_quota, quota_keys
from ffsuper.store.connection import open_connection
from ffsuper.store.keys import ExecutionKeys
from tests.engine.actors import reports_of

COUNTS = PartitionCounts()
QUOTAS = range(COUNTS.quota)
INTERVAL_S = 0.01


def put(store: redis.Redis, execution: ExecutionId, phase: str) -> ExecutionId:
    store.hset(ExecutionKeys.of(execution).core, "lifecycle_phase", phase)
    return execution


async def test_only_who_runs_or_may_be_claimed_keeps_its_place(
    settings: StoreConfig, client: Client, store: redis.Redis
) -> None:
    at = quota_keys(str(uuid.uuid4()), COUNTS.quota)
    client.run(create_quota(at, 60, 5, 0))
    ended = put(store, client.submit("job"), "terminal")
    runs = put(store, client.submit("job"), "active")
    granted = client.submit("job")
    store.hset(ExecutionKeys.of(granted).part("claim_grant"), "worker_id", "w")
    gone = client.new_id("default")
    store.sadd(at.admitted_set, ended, runs, granted, gone, "nonsense")
    async with open_connection(settings, "test") as connection:
        blocked = Blocked(connection, COUNTS)
        async with reports_of(quota_places.run, blocked, QUOTAS, INTERVAL_S) as reports:
            await reports.until("given_back", 3)
    assert store.smembers(at.admitted_set) == {runs.encode(), granted.encode()}


async def test_damage_hides_no_other_quota(settings: StoreConfig, client: Client, store: redis.Redis) -> None:
    damaged, at = (quota_keys(str(uuid.UUID(int=number)), COUNTS.quota) for number in (1, 2))
    for one in (damaged, at):
        client.run(create_quota(one, 60, 5, 0))
    store.sadd(damaged.index("quota_policies"), "nonsense")
    store.set(damaged.admitted_set, "x")
    store.sadd(at.admitted_set, client.new_id("default"))
    async with open_connection(settings, "test") as connection:
        blocked = Blocked(connection, COUNTS)
        async with reports_of(quota_places.run, blocked, QUOTAS, INTERVAL_S) as reports:
            await reports.until("given_back")
    assert not store.exists(at.admitted_set)
