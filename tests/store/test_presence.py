"""What presence leaves in a real store."""

from __future__ import annotations

import pytest
import redis

from ffsuper.config import StoreConfig
from ffsuper.errors import StoreScriptError, StoreUnsuitableError
from ffsuper.sansio.partition import PartitionCounts
from ffsuper.store.connection import open_connection
from ffsuper.store.presence import Presence, parse_partition_counts
from ffsuper.store.store import prepare
from tests.fakes import LANE

INSTANCE = "instance-1"


@pytest.fixture
def server(settings: StoreConfig) -> redis.Redis:
    client = redis.Redis.from_url(settings.url)
    client.flushall()
    client.close()
    return client


async def test_capabilities_are_advertised_and_withdrawn_again(settings: StoreConfig, server: redis.Redis) -> None:
    async with open_connection(settings, "test") as connection:
        presence = Presence(connection, INSTANCE)
        await presence.advertise("cpu,gpu", [LANE])
        assert server.get(f"ff:worker:{INSTANCE}:caps") == b"cpu,gpu"
        assert server.smembers("ff:idx:workers") == {INSTANCE.encode()}
        await presence.withdraw()
        assert server.keys("ff:*") == []


async def test_a_reader_that_sees_a_worker_in_the_index_finds_its_capabilities(
    settings: StoreConfig, server: redis.Redis
) -> None:
    server.set("ff:idx:workers", "not a set")  # the index entry cannot be written
    async with open_connection(settings, "test") as connection:
        with pytest.raises(StoreScriptError):
            await Presence(connection, INSTANCE).advertise("cpu", [LANE])
    assert server.get(f"ff:worker:{INSTANCE}:caps") == b"cpu"


async def test_an_empty_list_takes_an_earlier_advertisement_back(settings: StoreConfig, server: redis.Redis) -> None:
    async with open_connection(settings, "test") as connection:
        presence = Presence(connection, INSTANCE)
        await presence.advertise("cpu", [LANE])
        await presence.advertise("", [LANE])
    assert server.keys("ff:*") == []


async def test_the_alive_key_runs_out_by_itself(settings: StoreConfig, server: redis.Redis) -> None:
    async with open_connection(settings, "test") as connection:
        await Presence(connection, INSTANCE).take_alive(b"me", 60_000)
    assert 0 < server.pttl(f"ff:worker:{INSTANCE}:alive") <= 60_000


def test_a_missing_partition_configuration_is_created_once(settings: StoreConfig, server: redis.Redis) -> None:
    assert prepare(settings, PartitionCounts(8, 4, 2)) == PartitionCounts(8, 4, 2)
    assert prepare(settings) == PartitionCounts(8, 4, 2)


def test_a_missing_field_has_its_default() -> None:
    assert parse_partition_counts([b"num_flow_partitions", b"7"]) == PartitionCounts(7, 32, 32)


@pytest.mark.parametrize("text", [b"0", b"-1", b"65536", b"1.5", b"", b"many", b"\xff"])
def test_a_count_that_is_none_is_refused_instead_of_guessed(text: bytes) -> None:
    with pytest.raises(StoreUnsuitableError, match="num_quota_partitions is"):
        parse_partition_counts([b"num_quota_partitions", text])
