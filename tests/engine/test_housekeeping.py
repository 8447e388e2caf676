"""The slow sweeps on a real store."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import redis
import trio

from ffsuper.client import Client
from ffsuper.config import StoreConfig
from ffsuper.engine import completions, dependencies, index_reconciler, retention
from ffsuper.messages import ExecutionId, SweepReport
from ffsuper.store.announcements import COMPLETIONS, open_announcements
from ffsuper.store.connection import Connection, open_connection
from ffsuper.store.flows import Dispatcher
from ffsuper.store.housekeeping import Housekeeping
from ffsuper.store.keys import ExecutionKeys
from ffsuper.store.sweeps import PAGE, Sweeps
from tests.fakes import HOUR_S, LANE

PARTITIONS = range(256)
DAY_MS = 86_400_000
INTERVAL_S = 0.01
Run = Callable[..., Awaitable[None]]


@asynccontextmanager
async def reports_of(run: Run, *what: Any) -> AsyncIterator[Reports]:
    """Run an actor; yields what it reports."""
    send, receive = trio.open_memory_channel[SweepReport](10_000)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(run, *what, send))
            yield Reports(receive)
            nursery.cancel_scope.cancel()


class Reports:
    """What an actor has done so far."""

    def __init__(self, receive: trio.MemoryReceiveChannel[SweepReport]) -> None:
        self._receive = receive

    async def until(self, outcome: str, count: int = 1) -> None:
        """Wait until so many entries have had this outcome."""
        while count > 0:
            count -= (await self._receive.receive()).outcomes.get(outcome, 0)

    async def failure(self) -> SweepReport:
        while not (report := await self._receive.receive()).failed:
            pass
        return report


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


async def test_the_end_of_a_member_is_told_when_it_is_announced(
    connection: Connection, settings: StoreConfig, store: redis.Redis, client: Client
) -> None:
    flow = client.create_flow()
    tops = [flow.add("job") for _ in range(40)]
    below = [flow.add("job", after=[top]) for top in tops]
    async with (
        open_announcements(settings, COMPLETIONS) as announced,
        reports_of(completions.run, Dispatcher(connection), announced) as reports,
    ):
        while not store.publish(COMPLETIONS, b"\xff not a message"):  # noqa: ASYNC110 -- another thread's doing
            await trio.sleep(0.001)
        for message in (b"[]", b'{"execution_id": "nonsense", "flow_id": "x"}', b'{"flow_id": "x"}'):
            store.publish(COMPLETIONS, message)
        store.publish(COMPLETIONS, json.dumps({"execution_id": below[0], "flow_id": flow.id}))
        await reports.until("not_ended")
        for top in tops:
            client.cancel(top)
        await reports.until("skipped", 40)
    assert set(client.states(below)) == {"skipped"}


@pytest.mark.parametrize(
    "message",
    [
        b"\xff",
        b"[]",
        b"[" * 100_000,
        b'{"flow_id": "6ba7b810-9dad-11d1-80b4-00c04fd430c8"}',
        b'{"execution_id": "nonsense", "flow_id": "6ba7b810-9dad-11d1-80b4-00c04fd430c8"}',
        b'{"execution_id": "{fp:1}:6ba7b810-9dad-11d1-80b4-00c04fd430c8", "flow_id": 5}',
        b'{"execution_id": "{fp:1}:6ba7b810-9dad-11d1-80b4-00c04fd430c8", "flow_id": "\\ud800"}',
    ],
    ids=range(7),
)
async def test_what_is_no_announcement_is_counted_and_stops_nothing(
    connection: Connection, store: redis.Redis, client: Client, message: bytes
) -> None:
    flow = client.create_flow()
    top = flow.add("job")
    flow.add("job", after=[top])
    client.cancel(top)
    send, announced = trio.open_memory_channel[bytes](2)
    async with reports_of(completions.run, Dispatcher(connection), announced) as reports:
        await send.send(message)
        await reports.until("unreadable")
        await send.send(json.dumps({"execution_id": top, "flow_id": flow.id}).encode())
        await reports.until("skipped")


async def test_the_sweep_finds_what_was_never_announced(
    connection: Connection, store: redis.Redis, client: Client
) -> None:
    flow = client.create_flow()
    top, waits_for_ever = flow.add("job"), flow.add("job")
    hidden = [flow.add("job", after=[waits_for_ever]) for _ in range(2 * PAGE)]
    below = flow.add("job", after=[top])
    client.cancel(top)
    async with reports_of(dependencies.run, Sweeps(connection), PARTITIONS, [LANE], INTERVAL_S) as reports:
        await reports.until("skipped")
    assert client.state(below) == "skipped"
    assert set(client.states(hidden)) == {"waiting_children"}
