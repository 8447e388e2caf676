"""The actors for flows on a real store."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import redis
import trio

from ffsuper.client import Client
from ffsuper.config import StoreConfig
from ffsuper.engine import completions, dependencies, flow_summary
from ffsuper.flows import Flow
from ffsuper.messages import ExecutionId
from ffsuper.store.announcements import COMPLETIONS, LISTENING, open_announcements
from ffsuper.store.connection import open_connection
from ffsuper.store.dependencies import PAGE, Dependencies
from tests.engine.actors import reports_of
from tests.fakes import LANE

PARTITIONS = range(256)
INTERVAL_S = 0.01
FOREVER_S = 3_600.0
SOME_UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"


@pytest.fixture
async def store_side(settings: StoreConfig) -> AsyncIterator[Dependencies]:
    async with open_connection(settings, "sweeps") as connection:
        yield Dependencies(connection)


def announcement(execution_id: ExecutionId, flow: Flow) -> bytes:
    return json.dumps({"execution_id": execution_id, "flow_id": flow.id}).encode()


async def test_the_end_of_a_member_is_told_when_it_is_announced(
    store_side: Dependencies, settings: StoreConfig, store: redis.Redis, client: Client
) -> None:
    flow = client.create_flow()
    tops = [flow.add("job") for _ in range(40)]
    below = [flow.add("job", after=[top]) for top in tops]
    ask, asked = trio.open_memory_channel[None](1)
    async with (
        open_announcements(settings, COMPLETIONS, tells_beginning=True) as announced,
        reports_of(completions.run, store_side, announced, ask) as reports,
    ):
        await asked.receive()  # it listens
        store.publish(COMPLETIONS, announcement(below[0], flow))
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
        json.dumps({"flow_id": SOME_UUID}).encode(),
        json.dumps({"execution_id": "nonsense", "flow_id": SOME_UUID}).encode(),
        json.dumps({"execution_id": 5, "flow_id": SOME_UUID}).encode(),
        json.dumps({"execution_id": "{fp:1}:" + 32 * chr(0xD800)}).encode(),
    ],
    ids=range(7),
)
async def test_what_is_no_announcement_is_counted_and_stops_nothing(
    store_side: Dependencies, client: Client, message: bytes
) -> None:
    flow = client.create_flow()
    top = flow.add("job")
    flow.add("job", after=[top])
    client.cancel(top)
    send, announced = trio.open_memory_channel[bytes](2)
    ask, _ = trio.open_memory_channel[None](1)
    async with reports_of(completions.run, store_side, announced, ask) as reports:
        await send.send(message)
        await reports.until("unreadable")
        await send.send(announcement(top, flow))
        await reports.until("skipped")


async def test_the_sweep_finds_what_was_never_announced(store_side: Dependencies, client: Client) -> None:
    flow = client.create_flow()
    top, waits_for_ever = flow.add("job"), flow.add("job")
    hidden = [flow.add("job", after=[waits_for_ever]) for _ in range(3 * PAGE)]
    below = flow.add("job", after=[top])
    last = flow.add("job", after=[below])
    client.cancel(top)
    _, asked = trio.open_memory_channel[None](1)
    what = (store_side, PARTITIONS, [LANE], asked, INTERVAL_S)
    async with reports_of(dependencies.run, *what) as reports:
        await reports.until("skipped", 2)
    assert client.states([below, last]) == ["skipped", "skipped"]
    assert set(client.states(hidden)) == {"waiting_children"}


async def test_when_listening_begins_a_sweep_is_due_at_once(store_side: Dependencies, client: Client) -> None:
    flow = client.create_flow()
    top = flow.add("job")
    flow.add("job", after=[top])
    send, announced = trio.open_memory_channel[bytes](1)
    ask, asked = trio.open_memory_channel[None](1)
    what = (store_side, PARTITIONS, [LANE], asked, FOREVER_S)
    async with (
        reports_of(completions.run, store_side, announced, ask),
        reports_of(dependencies.run, *what) as reports,
    ):
        await reports.any()  # of the first sweep
        client.cancel(top)  # nobody listens
        await send.send(LISTENING)
        await reports.until("skipped")


async def test_a_damaged_index_is_told_and_hides_no_other(
    store_side: Dependencies, store: redis.Redis, client: Client
) -> None:
    flow = client.create_flow()
    top = flow.add("job")
    below = flow.add("job", after=[top])
    client.cancel(top)
    number = (int(flow.keys.tag[4:-1]) + 1) % 256
    for name in ("lane:default:blocked:dependencies", "flow_index"):
        store.set(f"ff:idx:{{fp:{number}}}:{name}", "x")
    _, asked = trio.open_memory_channel[None](1)
    async with reports_of(dependencies.run, store_side, PARTITIONS, [LANE], asked, INTERVAL_S) as reports:
        assert "WRONGTYPE" in (await reports.failure()).why
        await reports.failure()  # of the next sweep
    async with reports_of(flow_summary.run, store_side, PARTITIONS, INTERVAL_S) as reports:
        assert (await reports.failure()).example == f"ff:idx:{{fp:{number}}}:flow_index"
        await reports.failure()
    assert client.state(below) == "skipped"
    assert store.hget(flow.keys.summary, "public_flow_state") == b"failed"


async def test_large_and_damaged_flows_are_summarized_with_the_others(
    store_side: Dependencies, store: redis.Redis, client: Client
) -> None:
    small, large, damaged = (client.create_flow() for _ in range(3))
    client.cancel(small.add("job"))
    store.sadd(large.keys.members, *(f"{large.keys.tag}:{number}" for number in range(5 * PAGE)))
    store.set(damaged.keys.members, "x")
    async with reports_of(flow_summary.run, store_side, PARTITIONS, INTERVAL_S) as reports:
        await reports.until("over", 2)
        assert (await reports.failure()).example == damaged.keys.core
    assert store.hget(small.keys.summary, "public_flow_state") == b"failed"
    assert store.hget(large.keys.summary, "total_members") == b"%d" % (5 * PAGE)
