"""The fleet of a store as clients see it: real stores, workers that only talk."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from ffsuper.client import Client
from ffsuper.config import StoreConfig
from ffsuper.errors import InvalidRequestError, WorkerNotFoundError
from ffsuper.fleet import PRIORITIES, Fleet
from ffsuper.messages import LaneId, Order
from ffsuper.store import keys
from ffsuper.store.fleet import PRIORITY_STEP
from ffsuper.store.keys import PartitionKeys
from tests.cluster import running_cluster
from tests.fake_workers import FakeWorker, listening
from tests.redis_server import running_server

BULK, DEFAULT = LaneId("bulk"), LaneId("default")
LONG_S = 30.0


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def store(url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(url) as store:
        store.flushall()
        yield store


@pytest.fixture
def client(url: str, store: redis.Redis) -> Iterator[Client]:
    with Client(url) as client:
        yield client


@pytest.fixture
def fleet(client: Client) -> Fleet:
    return client.fleet


def test_there_is_nobody_in_a_new_store(fleet: Fleet) -> None:
    assert (fleet.workers(), fleet.lanes(), fleet.engine()) == ([], [], None)


def test_workers_are_asked_how_they_are_and_who_does_not_answer_is_shown_as_it_was(
    fleet: Fleet, store: redis.Redis
) -> None:
    deaf = FakeWorker("deaf", store, {"slots": 3})
    deaf.begin()
    deaf.say()
    with listening(FakeWorker("well", store, {"slots": 4})):
        found = fleet.workers()
    assert [(one.instance_id, one.slots, one.is_fresh) for one in found] == [("deaf", 3, False), ("well", 4, True)]


def test_nobody_waits_longer_than_until_all_have_answered(fleet: Fleet, store: redis.Redis) -> None:
    with listening(FakeWorker("a", store), FakeWorker("b", store)):
        began_s = time.monotonic()
        found = fleet.workers(answer_s=LONG_S)
    assert [one.is_fresh for one in found] == [True, True]
    assert time.monotonic() - began_s < LONG_S / 2


def test_what_workers_said_last_is_there_without_asking_them(fleet: Fleet, store: redis.Redis) -> None:
    with listening(FakeWorker("well", store)):
        (found,) = fleet.workers(answer_s=0)
    assert (found.written_ms, found.is_fresh) == (1_001_000, False)


def test_dead_workers_and_those_of_the_reference_are_listed_too(fleet: Fleet, store: redis.Redis) -> None:
    store.sadd(keys.OWN_WORKERS, "killed")
    store.sadd(keys.WORKERS, "killed", "foreign", "gone")
    store.set(keys.worker_alive("foreign"), "1")
    store.set(keys.worker_capabilities("foreign"), "cpu,gpu")
    found = {one.instance_id: (one.state, one.capabilities) for one in fleet.workers()}
    assert found == {"killed": ("dead", ()), "foreign": ("reference", ("cpu", "gpu")), "gone": ("reference", ())}


def test_who_may_not_announce_anything_sees_what_workers_said_last(
    url: str, fleet: Fleet, store: redis.Redis
) -> None:
    store.acl_setuser("watcher", enabled=True, nopass=True, keys=["*"], commands=["+@all"], channels=[])
    with (
        listening(FakeWorker("well", store)),
        Client(StoreConfig(url=url, username="watcher", password="any")) as client,
    ):
        (found,) = client.fleet.workers()
    store.acl_deluser("watcher")
    assert (found.state, found.is_fresh) == ("running", False)


@pytest.mark.parametrize(("order", "state"), [(Order.QUIET, "quiet"), (Order.RESUME, "running")])
def test_a_worker_that_is_told_something_does_it_and_says_so(
    order: Order, state: str, fleet: Fleet, store: redis.Redis
) -> None:
    worker, other = FakeWorker("w-1", store), FakeWorker("w-2", store)
    with listening(worker, other):
        told = fleet.tell("w-1", order)
        fleet.wait_obeyed(told, order, LONG_S)
        assert fleet.workers()[0].state == state
    assert (told.pid, worker.obeyed[0], other.obeyed) == (7, order.value, [])


def test_draining_is_over_when_the_worker_is_gone(fleet: Fleet, store: redis.Redis) -> None:
    with listening(FakeWorker("w-1", store)):
        fleet.wait_obeyed(fleet.tell("w-1", Order.DRAIN), Order.DRAIN, LONG_S)
        assert fleet.workers() == []


def test_draining_is_over_when_another_process_has_the_name(fleet: Fleet, store: redis.Redis) -> None:
    deaf = FakeWorker("w-1", store)
    deaf.begin()
    deaf.say()
    told = fleet.tell("w-1", Order.DRAIN)
    store.set(keys.worker_alive("w-1"), '{"nonce": "of the next one"}')
    fleet.wait_obeyed(told, Order.DRAIN, LONG_S)


def test_waiting_for_a_worker_that_does_not_obey_ends_in_time(fleet: Fleet, store: redis.Redis) -> None:
    deaf = FakeWorker("w-1", store)
    deaf.begin()
    deaf.say()
    told = fleet.tell("w-1", Order.QUIET)
    with pytest.raises(TimeoutError, match=r"w-1 is still running after 0\.05 s"):
        fleet.wait_obeyed(told, Order.QUIET, 0.05)
    deaf.end()
    with pytest.raises(WorkerNotFoundError, match="w-1 has ended meanwhile"):
        fleet.wait_obeyed(told, Order.QUIET, LONG_S)


def test_only_live_workers_of_ours_can_be_told_anything(fleet: Fleet, store: redis.Redis) -> None:
    with pytest.raises(WorkerNotFoundError, match="no live worker is called w-1: there is none at all"):
        fleet.tell("w-1", Order.QUIET)
    store.sadd(keys.OWN_WORKERS, "killed")
    store.sadd(keys.WORKERS, "foreign")
    with listening(FakeWorker("w-1", store), FakeWorker("w-2", store)):
        with pytest.raises(WorkerNotFoundError, match="no live worker is called killed: there are w-1, w-2"):
            fleet.tell("killed", Order.QUIET)
        with pytest.raises(ValueError, match="foreign is no worker of ffsuper"):
            fleet.tell("foreign", Order.QUIET)
    assert not store.exists(keys.worker_order("killed"), keys.worker_order("foreign"))


def test_a_worker_that_drains_is_quiet_too_and_never_resumes(fleet: Fleet, store: redis.Redis) -> None:
    worker = FakeWorker("w-1", store, {"state": "draining"})
    worker.begin()
    worker.say()
    assert fleet.wait_obeyed(fleet.tell("w-1", Order.QUIET), Order.QUIET, LONG_S) == "draining"
    with pytest.raises(ValueError, match="w-1 is draining"):
        fleet.tell("w-1", Order.RESUME)
    worker.told["state"] = "quiet"
    worker.say()
    told = fleet.tell("w-1", Order.RESUME)
    worker.told["state"] = "draining"
    worker.say()
    with pytest.raises(ValueError, match="w-1 is draining"):
        fleet.wait_obeyed(told, Order.RESUME, LONG_S)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("thumbs", "; did you mean thumbs@web1.example.org? There are reports@web2, thumbs@web1.example.org"),
        ("report@web2", "; did you mean reports@web2? There are reports@web2, thumbs@web1.example.org"),
        ("zzz", ": there are reports@web2, thumbs@web1.example.org"),
    ],
)
def test_who_names_no_worker_is_told_which_may_be_meant(
    name: str, told: str, fleet: Fleet, store: redis.Redis
) -> None:
    for one in ("thumbs@web1.example.org", "reports@web2"):
        FakeWorker(one, store).begin()
    with pytest.raises(WorkerNotFoundError) as wrong:
        fleet.tell(name, Order.QUIET)
    assert str(wrong.value) == f"no live worker is called {name}{told}"


@pytest.mark.parametrize(
    ("says", "missing"),
    [
        ({"lanes": [DEFAULT]}, "serves lane bulk"),
        ({"state": "quiet"}, "serves lane bulk"),
        ({"kinds": ["other"]}, "has a handler for kind job"),
        ({"capabilities": ["cpu"]}, "has capabilities cpu,gpu"),
        ({}, ""),
    ],
)
def test_what_an_execution_needs_and_no_worker_has_is_found(
    says: dict[str, object], missing: str, client: Client, store: redis.Redis
) -> None:
    policy = {"routing_requirements": {"required_capabilities": ["gpu", "cpu"]}}
    execution = client.show(client.submit("job", lane=BULK, policy=policy))
    assert client.fleet.missing_for(execution) == "serves lane bulk"
    worker = FakeWorker("w-1", store, {"lanes": [BULK], "kinds": ["job"], "capabilities": ["cpu", "gpu"]} | says)
    worker.begin()
    worker.say()
    assert client.fleet.missing_for(execution) == missing
    FakeWorker("older", store).begin()
    assert client.fleet.missing_for(execution) == ""


def test_a_lane_tells_where_its_executions_are_and_who_takes_them(
    client: Client, fleet: Fleet, store: redis.Redis
) -> None:
    for number in range(5):
        client.submit("job", lane=BULK, delay=3600 if number else None)
    client.cancel(client.submit("job", lane=BULK))
    store.zadd(PartitionKeys.of_index(9).lane(BULK, "blocked:quota"), {"one": 1, "two": 2})
    quiet = FakeWorker("w-2", store, {"lanes": [BULK], "state": "quiet"})
    with listening(FakeWorker("w-1", store, {"lanes": [BULK, DEFAULT]}), quiet):
        bulk, default = fleet.lanes()
    assert (bulk.name, bulk.eligible, bulk.delayed, bulk.terminal, bulk.workers) == (BULK, 1, 4, 1, ["w-1"])
    assert {why: count for why, count in bulk.blocked.items() if count} == {"quota": 2}
    assert bulk.oldest_wait_ms is not None
    assert (default.name, default.eligible, default.oldest_wait_ms, default.workers) == (DEFAULT, 0, None, ["w-1"])


def test_lanes_that_nobody_serves_now_or_ever_did_can_be_looked_at(
    client: Client, fleet: Fleet, store: redis.Redis
) -> None:
    store.sadd(keys.LANES, "served once")
    client.submit("job", lane="new")
    assert [lane.name for lane in fleet.lanes()] == ["served once"]
    (lane,) = fleet.lanes(["new"])
    assert (lane.name, lane.eligible, lane.workers) == ("new", 1, [])
    with pytest.raises(InvalidRequestError, match="1 to 64 printable ASCII"):
        fleet.lanes(["tab\t"])


@pytest.mark.parametrize("priorities", [1, 2, 3, PRIORITIES + 5])
@pytest.mark.parametrize("oldest_at", ["highest", "lowest"])
def test_the_longest_wait_is_found_among_all_priorities(
    priorities: int, oldest_at: str, fleet: Fleet, store: redis.Redis
) -> None:
    now_ms = fleet.time_ms()
    oldest = priorities - 1 if oldest_at == "highest" else 0
    waits_ms = [7_200_000 if priority == oldest else 1_000 for priority in range(priorities)]
    scores = {f"{priority}": now_ms - wait - priority * PRIORITY_STEP for priority, wait in enumerate(waits_ms)}
    store.zadd(PartitionKeys.of_index(200).lane(BULK, "eligible"), scores)
    store.zadd(PartitionKeys.of_index(3).lane(BULK, "eligible"), {"young": now_ms - 5})
    (lane,) = fleet.lanes([BULK])
    assert lane.oldest_wait_ms is not None
    assert 7_200_000 <= lane.oldest_wait_ms < 7_260_000


def test_a_store_tells_its_load_unless_it_is_not_allowed_to(url: str, fleet: Fleet, store: redis.Redis) -> None:
    load = fleet.load()
    assert load is not None
    assert load.memory_bytes > 0
    store.acl_setuser("watcher", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-info"], channels=["*"])
    with Client(StoreConfig(url=url, username="watcher", password="any")) as client:
        assert client.fleet.load() is None
        assert client.fleet.workers() == []
    store.acl_deluser("watcher")


def test_the_fleet_of_a_cluster_is_seen_and_told_like_any_other(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster, Client(cluster.url) as client:
        fleet = client.fleet
        for _ in range(10):
            client.submit("job", lane=BULK)
        first = cluster.nodes[0]
        with redis.RedisCluster(host="127.0.0.1", port=first.port) as store:
            worker = FakeWorker("w-1", store, {"lanes": [BULK]})
            with listening(worker):
                (found,) = fleet.workers(answer_s=LONG_S)
                (lane,) = fleet.lanes()
                fleet.wait_obeyed(fleet.tell("w-1", Order.QUIET), Order.QUIET, LONG_S)
        assert (found.instance_id, found.is_fresh, worker.obeyed[0]) == ("w-1", True, "quiet")
        assert (lane.eligible, lane.oldest_wait_ms is not None) == (10, True)
        load = fleet.load()
        assert load is not None
        assert load.memory_bytes > 0
