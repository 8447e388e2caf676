"""On a cluster-mode server: every key that a function touches, passed or built, is in one slot."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from ffsuper.store import libraries
from tests.lua.executions import call_claim_resumed, call_reclaim, claim, claimed, create, grant, grant_reclaim
from tests.lua.holders import cancel, complete, delay, expire, fail, mark, promote, renew, revoke
from tests.lua.suspensions import put
from tests.lua.world import World
from tests.redis_server import running_server

RETRY = '{"max_retries":1,"backoff":{"type":"fixed","delay_ms":0}}'
LATER_MS = 4102444800000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Run one node that holds all slots."""
    folder: Path = tmp_path_factory.mktemp("cluster")
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        port, bus_port = one.getsockname()[1], other.getsockname()[1]
    options = ("--port", str(port), "--cluster-enabled", "yes", "--cluster-port", str(bus_port))
    with running_server(folder, *options) as url, redis.Redis.from_url(url, protocol=2) as client:
        world = World(client)
        world.command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        give_up_s = time.monotonic() + 20
        while b"cluster_state:ok" not in world.command("CLUSTER", "INFO"):
            assert time.monotonic() < give_up_s
        for name in (libraries.FLOWFABRIC, libraries.FFSUPER):
            client.function_load(libraries.assemble(name))
        yield world


def test_keys_of_other_slots_are_refused_by_this_server(cluster: World) -> None:
    assert "same slot" in str(cluster.try_call("ff_update_progress", ["{fp:1}", "{fp:2}"], []))


def test_an_execution_lives_from_creation_to_completion(cluster: World) -> None:
    lease = claim(cluster, create(cluster))
    assert renew(cluster, lease)[:2] == [1, "OK"]
    assert complete(cluster, lease, result="done") == [1, "OK", "completed"]


def test_a_retry_is_scheduled_promoted_and_claimed(cluster: World) -> None:
    lease = claim(cluster, create(cluster))
    assert fail(cluster, lease, RETRY)[2] == "retry_scheduled"
    assert promote(cluster, lease.keys, lease.execution_id, LATER_MS) == [1, "OK", "promoted"]
    assert claim(cluster, lease.keys).kind == "retry"


def test_a_delayed_attempt_is_resumed(cluster: World) -> None:
    lease = claim(cluster, create(cluster))
    assert delay(cluster, lease, delay_until=1)[:2] == [1, "OK"]
    promote(cluster, lease.keys, lease.execution_id, LATER_MS)
    grant(cluster, lease.keys)
    assert claimed(lease.keys, call_claim_resumed(cluster, lease.keys)).kind == "resumed"


@pytest.mark.parametrize("how", ["expired", "revoked"])
def test_a_lost_lease_is_reclaimed(cluster: World, how: str) -> None:
    lease = claim(cluster, create(cluster))
    if how == "expired":
        put(cluster, lease.keys.core, lease_expires_at=1)
        assert mark(cluster, lease.keys, lease.execution_id) == [1, "OK", "marked_expired"]
    else:
        assert revoke(cluster, lease.keys, lease.execution_id)[2] == "revoked"
    grant_reclaim(cluster, lease.keys)
    assert claimed(lease.keys, call_reclaim(cluster, lease.keys)).kind == "reclaim"


@pytest.mark.parametrize("is_running", [False, True])
def test_executions_are_cancelled_and_expire(cluster: World, is_running: bool) -> None:
    to_cancel, to_expire = create(cluster), create(cluster)
    if is_running:
        claim(cluster, to_cancel)
        claim(cluster, to_expire)
    assert cancel(cluster, to_cancel)[:3] == [1, "OK", "cancelled"]
    assert expire(cluster, to_expire, to_expire.id, "execution_deadline")[:3] == [1, "OK", "expired"]
