"""Workers that ended without a word are forgotten, and no others."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis
import trio

from ffsuper.client import Client
from ffsuper.config import StoreConfig
from ffsuper.engine import dead_workers
from ffsuper.messages import LaneId
from ffsuper.store import keys
from ffsuper.store.connection import Connection, open_connection
from ffsuper.store.housekeeping import Housekeeping
from ffsuper.store.presence import Presence
from tests.engine.actors import reports_of

INTERVAL_S = 0.01
TTL_MS = 60_000


@pytest.fixture
async def connection(settings: StoreConfig, store: redis.Redis, client: Client) -> AsyncIterator[Connection]:
    async with open_connection(settings, "sweeps") as connection:
        yield connection


async def begin(connection: Connection, name: str, *, capabilities: str = "gpu") -> Presence:
    """Do what a worker does when it begins."""
    presence = Presence(connection, name)
    assert await presence.take_alive(b"holder", TTL_MS) is None
    await presence.advertise(capabilities, [LaneId("default")])
    await presence.tell("{}", TTL_MS)
    return presence


def kill(store: redis.Redis, name: str) -> None:
    """Let a worker have ended without a word, and its keys have run out."""
    store.delete(keys.worker_alive(name), keys.worker_status(name))


async def test_what_a_dead_worker_has_advertised_goes_and_all_else_stays(
    connection: Connection, store: redis.Redis, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_workers, "SHOWN_S", 0.0)
    for name in ("live", "stuck", "dead"):
        await begin(connection, name)
    await begin(connection, "bare", capabilities="")
    store.delete(keys.worker_alive("stuck"))
    kill(store, "dead")
    kill(store, "bare")
    # Another maker's, and what is no name.
    store.sadd(keys.WORKERS, "reference")
    store.set(keys.worker_capabilities("reference"), "gpu")
    store.sadd(keys.OWN_WORKERS, b"\xff")
    async with reports_of(dead_workers.run, Housekeeping(connection), INTERVAL_S) as reports:
        await reports.until("forgotten", 2)
    assert store.smembers(keys.OWN_WORKERS) == {b"live", b"stuck", b"\xff"}
    assert store.smembers(keys.WORKERS) == {b"live", b"stuck", b"reference"}
    kept = [bool(store.exists(keys.worker_capabilities(one))) for one in ("live", "stuck", "reference", "dead")]
    assert kept == [True, True, True, False]
    shown = await trio.to_thread.run_sync(lambda: client.fleet.workers(answer_s=0))
    assert {"dead", "bare"}.isdisjoint(one.instance_id for one in shown)


async def test_a_worker_is_forgotten_once_it_has_been_dead_for_so_long_without_a_break(
    connection: Connection, store: redis.Redis
) -> None:
    housekeeping = Housekeeping(connection)
    await begin(connection, "dead")
    kill(store, "dead")
    await begin(connection, "back")
    kill(store, "back")
    send, receive = trio.open_memory_channel[object](9)
    async with send, receive:

        class Beating:
            def beat(self) -> None: ...

        async def sweep(since_s: dict[str, float]) -> dict[str, float]:
            return await dead_workers.forget(housekeeping, since_s, send, Beating())  # type: ignore[arg-type]

        now_s = trio.current_time()
        since_s = await sweep({})
        assert set(since_s) == {"dead", "back"}
        long_ago_s = now_s - dead_workers.SHOWN_S
        await begin(connection, "back")
        assert await sweep({"dead": long_ago_s, "back": long_ago_s}) == {}
        assert store.smembers(keys.OWN_WORKERS) == {b"back"}
        kill(store, "back")
        since_s = await sweep({})
        assert await sweep(since_s) == since_s
        assert store.smembers(keys.OWN_WORKERS) == {b"back"}


async def test_one_that_begins_again_meanwhile_is_not_forgotten(connection: Connection, store: redis.Redis) -> None:
    await begin(connection, "back")
    assert await Housekeeping(connection).forget_worker("back") is False
    assert store.sismember(keys.OWN_WORKERS, "back")


async def test_a_list_of_workers_that_is_none_is_reported(connection: Connection, store: redis.Redis) -> None:
    store.set(keys.OWN_WORKERS, "damaged")
    async with reports_of(dead_workers.run, Housekeeping(connection), INTERVAL_S) as reports:
        report = await reports.failure()
    assert (report.sweep, report.example) == ("dead_workers", keys.OWN_WORKERS)
