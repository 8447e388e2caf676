"""Announcements, of leases that were taken away for instance."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
import trio

from ffsuper.client import Client
from ffsuper.clock import boottime_s
from ffsuper.config import StoreConfig
from ffsuper.messages import Candidate, Claim, ClaimKind, LaneId
from ffsuper.sansio.partition import partition_of
from ffsuper.store import announcements
from ffsuper.store.announcements import LEASE_ENDS, open_announcements, open_wake_ups
from ffsuper.store.claims import Identity
from ffsuper.store.store import open_store, prepare
from tests.fakes import LANE


async def listening(server: redis.Redis) -> None:
    """Wait until somebody listens."""
    while True:
        if server.pubsub_numsub(LEASE_ENDS)[0][1]:
            return
        await trio.sleep(0.001)


async def test_the_end_of_a_held_lease_is_heard_and_of_no_other(server_url: str) -> None:
    settings = StoreConfig(url=server_url)
    with redis.Redis.from_url(server_url) as server, trio.fail_after(20):
        server.flushall()
        prepare(settings)
        identity = Identity("test", "test-1", "", 60_000)
        async with (
            open_store(settings, identity, 32, boottime_s) as store,
            open_announcements(settings, LEASE_ENDS) as ends,
        ):
            await listening(server)
            with Client(settings) as client:
                waiting, held = client.submit("job"), client.submit("job")
                (claim,) = await store.claims.claim([Candidate(held, LANE, ClaimKind.NEW, "job")])
                assert isinstance(claim, Claim)
                client.cancel(waiting)
                client.cancel(held)
            assert await ends.receive() == held.encode()


async def test_it_listens_again_after_the_connection_was_lost(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcements, "RECONNECT_S", 0.01)
    with redis.Redis.from_url(server_url) as server, trio.fail_after(20):
        async with open_announcements(StoreConfig(url=server_url), LEASE_ENDS) as ends:
            await listening(server)
            server.client_kill_filter(_type="pubsub")
            await listening(server)
            server.publish(LEASE_ENDS, "{fp:1}:x")
            assert await ends.receive() == b"{fp:1}:x"


async def test_where_there_is_something_to_do_is_heard_of_the_lanes_that_are_listened_to(server_url: str) -> None:
    settings, other = StoreConfig(url=server_url), LaneId("other:lane")
    with redis.Redis.from_url(server_url) as server, trio.fail_after(20):
        server.flushall()
        prepare(settings)
        async with open_wake_ups(settings, [LANE, other]) as woken:
            assert await woken.receive() is None, "listening begins"
            with Client(settings) as client:
                client.submit("job", lane="third")
                for lane in (other, LANE):
                    execution = client.submit("job", lane=lane)
                    assert await woken.receive() == (lane, partition_of(execution))


async def test_when_listening_begins_anew_that_is_told(server_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcements, "RECONNECT_S", 0.01)
    with redis.Redis.from_url(server_url) as server, trio.fail_after(20):
        async with open_wake_ups(StoreConfig(url=server_url), [LANE]) as woken:
            assert await woken.receive() is None
            server.client_kill_filter(_type="pubsub")
            assert await woken.receive() is None


async def test_a_server_that_says_nothing_is_asked_whether_it_is_there_and_given_up_if_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcements, "RECONNECT_S", 0.01)
    monkeypatch.setattr(announcements, "SILENT_S", 0.1)
    path, pings = tmp_path / "server.sock", 0
    listening_to = trio.socket.socket(trio.socket.AF_UNIX)
    await listening_to.bind(str(path))
    listening_to.listen()

    async def serve(client: trio.SocketStream) -> None:
        """Answer to everything but the second PING of each connection."""
        nonlocal pings
        asked = 0
        async for data in client:
            if b"SUBSCRIBE" in data:
                await client.send_all(b"*3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n")
            elif b"PING" in data:
                pings += 1
                asked += 1
                if asked == 1:
                    await client.send_all(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n")
            else:
                await client.send_all(b"+OK\r\n" * data.count(b"*"))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(listening_to)])
            async with open_wake_ups(StoreConfig(url=f"unix://{path}"), [LANE]) as woken:
                for _ in range(2):
                    assert await woken.receive() is None
            nursery.cancel_scope.cancel()
    assert pings >= 2
