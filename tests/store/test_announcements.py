"""Announcements, of leases that were taken away for instance."""

from __future__ import annotations

import pytest
import redis
import trio

from ffsuper.client import Client
from ffsuper.clock import boottime_s
from ffsuper.config import StoreConfig
from ffsuper.messages import Candidate, Claim, ClaimKind
from ffsuper.store import announcements
from ffsuper.store.announcements import LEASE_ENDS, open_announcements
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
