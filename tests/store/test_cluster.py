"""The ways to a cluster: a real one of six servers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import trio
from redis.crc import key_slot

from ffsuper.client import Client
from ffsuper.clock import boottime_s
from ffsuper.config import StoreConfig
from ffsuper.errors import OutcomeUnknownError, StoreAccessError, StoreError, StoreUnavailableError
from ffsuper.messages import Candidate, Claim, ClaimKind, LaneId, Pick
from ffsuper.sansio.partition import of_bytes
from ffsuper.sansio.scan import Place
from ffsuper.store import loading
from ffsuper.store.announcements import ELIGIBLE, LEASE_ENDS, open_announcements
from ffsuper.store.claims import Identity
from ffsuper.store.cluster import ClusterWire, address_of, key_of, seeds, slot_map
from ffsuper.store.connection import open_connection
from ffsuper.store.keys import ExecutionKeys
from ffsuper.store.looks import Looks, indexes
from ffsuper.store.replies import ElsewhereError
from ffsuper.store.scans import Waiting
from ffsuper.store.store import open_store, prepare
from tests.cluster import Cluster, running_cluster

KEYS = [f"{{fp:{number}}}:key" for number in range(64)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def settings(cluster: Cluster) -> StoreConfig:
    return StoreConfig(url=cluster.url)


@pytest.fixture
def wire(settings: StoreConfig) -> Iterator[ClusterWire]:
    wire = ClusterWire(settings, "test")
    yield wire
    wire.close()


def slot_of(key: str) -> int:
    return key_slot(key.encode())


def test_every_command_goes_to_the_server_with_its_key_and_the_replies_are_in_order(wire: ClusterWire) -> None:
    assert wire.exchange([("SET", key, number) for number, key in enumerate(KEYS)]) == [b"OK"] * len(KEYS)
    mixed: list[Any] = [("TIME",), *[("GET", key) for key in KEYS], ("HGET", KEYS[0], "x"), ("PING",)]
    replies = wire.exchange(mixed)
    assert replies[1:-2] == [str(number).encode() for number in range(len(KEYS))]
    assert isinstance(replies[-2], StoreError)
    assert replies[-1] == b"PONG"
    assert len({wire.routes.node_of(key) for key in KEYS}) == 3


def test_a_slot_that_has_moved_is_followed_and_remembered(cluster: Cluster, wire: ClusterWire) -> None:
    key = "{moved}"
    wire.exchange([("SET", key, "x")])
    source = cluster.master_of(slot_of(key))
    target = cluster.another_master(source)
    cluster.move_slot(slot_of(key), source, target)
    assert wire.exchange([("GET", key), ("TIME",)])[0] == b"x"
    wire.exchange([("TIME",)])
    assert wire.routes.node_of(key) == target.address


def test_a_slot_that_is_being_moved_is_asked_for_where_each_key_is(cluster: Cluster, wire: ClusterWire) -> None:
    old, new = "{moving}old", "{moving}new"
    wire.exchange([("SET", old, "x")])
    source = cluster.master_of(slot_of(old))
    target = cluster.another_master(source)
    target.ask("CLUSTER", "SETSLOT", slot_of(old), "IMPORTING", source.id)
    source.ask("CLUSTER", "SETSLOT", slot_of(old), "MIGRATING", target.id)
    replies = wire.exchange([("GET", old), ("SET", new, "y"), ("GET", new), ("EXISTS", old, new)])
    assert replies[:3] == [b"x", b"OK", b"y"]
    assert isinstance(replies[3], ElsewhereError), "keys of one call on both sides: nothing was done"
    cluster.move_slot(slot_of(old), source, target)
    assert wire.exchange([("EXISTS", old, new)]) == [2]


def test_libraries_are_loaded_on_every_server_that_takes_writes(cluster: Cluster, wire: ClusterWire) -> None:
    loading.prepare(wire, "auto")
    masters = [node for node in cluster.nodes if b"role:master" in role(node)]
    assert len(masters) == 3
    for node in masters:
        assert node.ask("FCALL", "ff_version", 0) == b"5"


def role(node: Any) -> bytes:
    with redis.Redis(port=node.port, protocol=2) as client:
        client.response_callbacks.clear()
        return bytes(client.execute_command("INFO", "replication"))


def test_a_client_submits_to_all_partitions_and_reads_back(settings: StoreConfig) -> None:
    with Client(settings) as client:
        executions = [client.submit("job", lane=f"lane-{number}") for number in range(40)]
        assert set(client.states(executions)) == {"waiting"}
        assert client.depth("lane-7")["eligible"] == 1
        flow = client.create_flow()
        assert client.state(flow.add("job", after=[flow.add("job")])) == "waiting_children"


async def test_one_look_asks_each_server_once_and_finds_all(cluster: Cluster, settings: StoreConfig) -> None:
    prepare(settings)
    wanted = indexes("test_index", range(256))
    async with open_connection(settings, "looks") as connection:
        looks = Looks(connection)
        assert await looks.present(wanted) == []
        with Client(settings) as client:
            for index in wanted[::3]:
                cluster.master_of(slot_of(index.key)).ask("ZADD", index.key, index.partition, "x")
            assert client.store_url == settings.url
        assert set(await looks.present(wanted)) == set(wanted[::3])
        due = await looks.due(dict.fromkeys(wanted, 1.0))
        found = {index: first.at_ms for index, first in due.first.items()}
        assert found == {index: float(index.partition) for index in wanted[::3] if index.partition >= 1}


async def test_work_on_every_server_is_found_in_one_scan_and_claimed(cluster: Cluster, settings: StoreConfig) -> None:
    prepare(settings)
    lanes = [LaneId(f"scanned-{number}") for number in range(12)]
    with Client(settings) as client:
        executions = [client.submit("job", lane=lane) for lane in lanes for _ in range(2)]
    async with open_store(settings, Identity("test", "test-1", "", 60_000), 32, boottime_s) as store:
        places = [Place(lane, of_bytes(lane.encode(), 256)) for lane in lanes]
        pages = await store.scans.eligible(places, 10, ())
        found = [candidate for page in pages for candidate in page.candidates]
        assert sorted(one.execution_id for one in found) == sorted(executions)
        assert len({cluster.master_of(slot_of(one)).port for one in executions}) == 3
        claims = await store.claims.claim(found)
        assert [one.lease.execution_id for one in claims if isinstance(one, Claim)] == [
            one.execution_id for one in found
        ]


async def test_work_on_every_server_is_found_in_one_look_and_picked(cluster: Cluster, settings: StoreConfig) -> None:
    prepare(settings)
    lanes = [LaneId(f"looked-at-{number}") for number in range(12)]
    with Client(settings) as client:
        executions = [client.submit("job", lane=lane) for lane in lanes for _ in range(2)]
    assert len({cluster.master_of(slot_of(one)).port for one in executions}) == 3
    async with open_store(settings, Identity("test", "test-1", "", 60_000), 32, boottime_s) as store:
        places = [Place(lane, partition) for lane in lanes for partition in range(256)]
        found = await store.scans.waiting(places, ["job"])
        assert [(one.place.lane, one.members, one.skipped) for one in found] == [(lane, 2, 0) for lane in lanes]
        assert {one.first for one in found} <= set(executions)
        picks = [Pick(one.place.lane, one.place.partition) for one in found for _ in range(3)]
        claims = await store.claims.claim(picks, ["job"])
        assert sorted(one.lease.execution_id for one in claims if isinstance(one, Claim)) == sorted(executions)
        assert await store.scans.waiting(places, ["job"]) == []


async def test_a_slot_that_has_moved_is_found_again_by_a_later_look(cluster: Cluster, settings: StoreConfig) -> None:
    prepare(settings)
    lane = LaneId("moved-lane")
    place = Place(lane, of_bytes(lane.encode(), 256))
    source = cluster.master_of(slot_of(f"{{fp:{place.partition}}}"))
    beside = [number for number in range(256) if cluster.master_of(slot_of(f"{{fp:{number}}}")).port == source.port]
    places = [*(Place(lane, number) for number in beside if number != place.partition), place]
    async with open_store(settings, Identity("test", "test-1", "", 60_000), 32, boottime_s) as store:
        assert await store.scans.waiting(places, ["job"]) == []
        with Client(settings) as client:
            execution = client.submit("job", lane=lane)
        cluster.move_slot(slot_of(execution), source, cluster.another_master(source))
        looks = [await store.scans.waiting(places, ["job"]) for _ in range(3)]
        assert (looks[0], looks[-1]) == ([], [Waiting(place, 1, 0, execution)])
        (claim,) = await store.claims.claim([Pick(lane, place.partition)])
        assert isinstance(claim, Claim)


async def test_nothing_is_claimed_while_its_slot_moves_and_all_of_it_afterwards(
    cluster: Cluster, settings: StoreConfig
) -> None:
    prepare(settings)
    lane = LaneId("moving-lane")
    with Client(settings) as client:
        first, *executions = [client.submit("job", lane=lane) for _ in range(4)]
    picks = [Pick(lane, of_bytes(lane.encode(), 256))] * 3
    slot = slot_of(first)
    source = cluster.master_of(slot)
    target = cluster.another_master(source)
    async with open_store(settings, Identity("test", "test-1", "", 60_000), 32, boottime_s) as store:
        await store.claims.claim([Candidate(first, lane, ClaimKind.NEW, "job")])
        partition = ExecutionKeys.of(first).partition
        for index in (partition.index("execution_deadline"), partition.lane(lane, "blocked:route")):
            source.ask("ZADD", index, 5, "x")  # with these, all indexes are there, and only new keys are not
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        refusals = await store.claims.claim(picks)
        assert all(isinstance(one, ElsewhereError) for one in refusals)
        with Client(settings) as client:
            assert set(client.states(executions)) == {"waiting"}
        cluster.move_slot(slot, source, target)
        claims = await store.claims.claim(picks)
        assert {one.lease.execution_id for one in claims if isinstance(one, Claim)} == set(executions)


async def test_a_lease_is_renewed_also_while_its_slot_moves(cluster: Cluster, settings: StoreConfig) -> None:
    prepare(settings)
    lane = LaneId("held-lane")
    with Client(settings) as client:
        executions = [client.submit("job", lane=lane) for _ in range(2)]
    slot = slot_of(executions[0])
    source = cluster.master_of(slot)
    target = cluster.another_master(source)
    async with open_store(settings, Identity("test", "test-1", "", 60_000), 32, boottime_s) as store:
        claims = await store.claims.claim([Candidate(one, lane, ClaimKind.NEW, "job") for one in executions])
        leases = [one.lease for one in claims if isinstance(one, Claim)]
        assert await store.leases.renew(leases) == [None, None]
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        assert await store.leases.renew(leases) == [None, None]
        cluster.move_slot(slot, source, target)
        assert await store.leases.renew(leases) == [None, None]


async def test_announcements_are_heard_from_every_server(cluster: Cluster, settings: StoreConfig) -> None:
    with trio.fail_after(20):
        async with open_announcements(settings, LEASE_ENDS) as heard:
            while not any(node.ask("PUBSUB", "NUMSUB", LEASE_ENDS)[1] for node in cluster.nodes):  # noqa: ASYNC110
                await trio.sleep(0.01)
            for node in cluster.nodes:
                node.ask("PUBLISH", LEASE_ENDS, str(node.port))
            assert {await heard.receive() for _ in cluster.nodes} == {b"%d" % node.port for node in cluster.nodes}


def test_every_server_tells_that_a_lane_has_something_to_do(cluster: Cluster, settings: StoreConfig) -> None:
    prepare(settings)
    with contextlib.ExitStack() as opened:
        heard = []
        for node in cluster.nodes:
            client = opened.enter_context(redis.Redis(port=node.port, protocol=2, socket_timeout=20))
            subscription = opened.enter_context(client.pubsub())
            subscription.subscribe(f"{ELIGIBLE}lane-42")
            heard.append(subscription.listen())
            assert next(heard[-1])["type"] == "subscribe"
        with Client(settings) as client:
            assert client.submit("job", lane="lane-42").startswith("{fp:253}:")
        assert [next(messages)["data"] for messages in heard] == [b"253"] * len(cluster.nodes)


def test_what_too_few_replicas_have_is_in_doubt(cluster: Cluster) -> None:
    enough = ClusterWire(StoreConfig(url=cluster.url, wait_replicas=1), "test")
    too_many = ClusterWire(StoreConfig(url=cluster.url, wait_replicas=2, timeout_s=1.0), "test")
    try:
        assert enough.exchange([("SET", key, "x") for key in KEYS]) == [b"OK"] * len(KEYS)
        assert all(isinstance(reply, OutcomeUnknownError) for reply in too_many.exchange([("SET", KEYS[0], "x")]))
    finally:
        enough.close()
        too_many.close()


def test_without_any_server_nothing_is_sent() -> None:
    with pytest.raises(StoreUnavailableError, match="cannot reach"):
        ClusterWire(StoreConfig(url="redis+cluster://127.0.0.1:1,127.0.0.1:2"), "test").exchange([("PING",)])


def test_a_server_without_a_cluster_says_so(tmp_path: Path, cluster: Cluster) -> None:
    from tests.redis_server import running_server
    from tests.store.test_urls import free_port

    port = free_port()
    with running_server(tmp_path, "--port", str(port)), pytest.raises(StoreError, match="cluster support disabled"):
        ClusterWire(StoreConfig(url=f"redis+cluster://127.0.0.1:{port}"), "test").exchange([("PING",)])


def test_ports_may_be_left_out_and_addresses_may_be_of_version_six() -> None:
    url = "redis+cluster://one,two:7000,[::1],[::1]:7001"
    assert seeds(StoreConfig(url=url)) == ["one:6379", "two:7000", "[::1]:6379", "[::1]:7001"]
    assert address_of([b"::1", 7000], "x:1") == "[::1]:7000"
    assert address_of([b"", 7000], "x:1") == "x:7000"


def test_a_cluster_with_slots_on_no_server_cannot_be_used() -> None:
    with pytest.raises(StoreUnavailableError, match="incomplete"):
        slot_map([[0, 100, [b"x", 1, b"id"]]], "x:1")


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("GET", "k"), b"k"),
        (("FCALL", "f", 2, "k", "l", "arg"), b"k"),
        (("FCALL", "f", 0, "arg"), None),
        (("XREAD", "COUNT", 5, "STREAMS", "k", "0"), b"k"),
        (("TIME",), None),
        (("FUNCTION", "LIST"), None),
    ],
)
def test_a_command_goes_by_its_first_key(command: Any, key: bytes | None) -> None:
    assert key_of(command) == key


def test_a_cluster_is_reached_by_tls(tmp_path: Path, certificates: Path) -> None:
    authority = str(certificates / "ca.crt")
    tls = [
        *("--tls-cert-file", str(certificates / "own.crt"), "--tls-key-file", str(certificates / "own.key")),
        *("--tls-ca-cert-file", authority, "--tls-auth-clients", "no"),
        *("--tls-cluster", "yes", "--tls-replication", "yes"),
    ]
    with running_cluster(tmp_path, tls, ssl=True, ssl_ca_certs=authority) as cluster:
        assert cluster.url.startswith("rediss+cluster://")
        with Client(StoreConfig(url=cluster.url, tls_ca_file=Path(authority))) as client:
            executions = [client.submit("job", lane=f"lane-{number}") for number in range(20)]
            assert set(client.states(executions)) == {"waiting"}
        with pytest.raises(StoreAccessError, match="certificate"):
            ClusterWire(StoreConfig(url=cluster.url), "test").exchange([("PING",)])
