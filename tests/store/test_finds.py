"""What a scanner finds in a real store, with and without our functions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import redis

from ffsuper.client import Client
from ffsuper.clock import boottime_s
from ffsuper.config import StoreConfig
from ffsuper.messages import Candidate, Claim, ExecutionId, Pick
from ffsuper.sansio.partition import partition_of
from ffsuper.sansio.scan import Place
from ffsuper.store.claims import Identity
from ffsuper.store.finds import FEW, MANY, SHARE, Finds
from ffsuper.store.scans import PAGE
from ffsuper.store.store import Store, announces_eligible, open_store, prepare
from tests.fakes import LANE

IDENTITY = Identity("test", "test-1", "", 60_000)


@pytest.fixture
def fresh(settings: StoreConfig) -> StoreConfig:
    with redis.Redis.from_url(settings.url) as server:
        server.flushall()
        server.function_flush()
    prepare(settings)
    return settings


@asynccontextmanager
async def finding(settings: StoreConfig, *kinds: str) -> AsyncIterator[tuple[Finds, Store]]:
    async with open_store(settings, IDENTITY, 32, boottime_s) as store:
        yield Finds(store.scans, store.claims, kinds), store


def submitted(settings: StoreConfig, count: int, kind: str = "job") -> list[ExecutionId]:
    with Client(settings) as client:
        return [client.submit(kind) for _ in range(count)]


def place_of(execution: ExecutionId) -> Place:
    return Place(LANE, partition_of(execution))


async def test_picks_are_found_and_claimed_and_nothing_is_left_then(fresh: StoreConfig) -> None:
    executions = submitted(fresh, 3)
    place = place_of(executions[0])
    async with finding(fresh, "job") as (finds, store):
        assert finds.places_a_look == MANY
        (found,) = await finds.at([place, Place(LANE, (place.partition + 1) % 256)], ())
        assert (found.place, found.members, found.ours) == (place, 3, 3)
        assert set(found.first_seen) < set(executions)
        claims = await store.claims.claim(found.chosen, ["job"])
        assert sorted(one.lease.execution_id for one in claims if isinstance(one, Claim)) == sorted(executions)
        assert await finds.at([place], ()) == []


async def test_what_is_unseen_is_claimed_too(fresh: StoreConfig) -> None:
    (execution,) = submitted(fresh, 1)
    async with finding(fresh) as (finds, store):
        (found,) = finds.unseen([place_of(execution)])
        assert len(found.chosen) == SHARE
        claims = await store.claims.claim(found.chosen)
        assert [one.lease.execution_id for one in claims if isinstance(one, Claim)] == [execution]


async def test_one_that_was_offered_is_left_unless_there_are_many(fresh: StoreConfig) -> None:
    executions = submitted(fresh, 2)
    place = place_of(executions[0])
    async with finding(fresh) as (finds, _):
        (found,) = await finds.at([place], ())
        (again,) = await finds.at([place], found.first_seen)
        assert (again.ours, again.chosen) == (2, ())
        submitted(fresh, PAGE - 2)
        (found,) = await finds.at([place], found.first_seen)
        assert found.chosen == (Pick(LANE, place.partition),) * PAGE


async def test_others_work_counts_as_members_only(fresh: StoreConfig) -> None:
    (execution, *_) = submitted(fresh, 2, "foreign")
    async with finding(fresh, "job") as (finds, _):
        (found,) = await finds.at([place_of(execution)], ())
        assert (found.members, found.ours, found.chosen) == (2, 0, ())


async def test_a_store_that_lacks_our_functions_for_good_is_read_by_names(fresh: StoreConfig) -> None:
    (ours, other) = *submitted(fresh, 1), *submitted(fresh, 1, "foreign")
    with redis.Redis.from_url(fresh.url) as server:
        server.function_delete("ffsuper")
    async with finding(replace(fresh, library="never"), "job") as (finds, _):
        for _ in range(2):
            (found,) = await finds.at([place_of(ours)], ())
            assert [one.execution_id for one in found.chosen if isinstance(one, Candidate)] == [ours]
            assert (found.members, found.ours) == (2, 1)
        assert finds.unseen([place_of(other)]) == []
        assert finds.places_a_look == FEW


async def test_where_the_functions_come_back_they_are_used(fresh: StoreConfig) -> None:
    (execution,) = submitted(fresh, 1)
    async with finding(fresh) as (finds, _):
        with redis.Redis.from_url(fresh.url) as server:
            server.function_delete("ffsuper")
        (found,) = await finds.at([place_of(execution)], ())
        assert [one.execution_id for one in found.chosen if isinstance(one, Candidate)] == [execution]
        (found,) = await finds.at([place_of(execution)], ())
        assert found.chosen == (Pick(LANE, place_of(execution).partition),)


def test_ours_announce_and_foreign_functions_are_taken_not_to(fresh: StoreConfig, tmp_path: object) -> None:
    assert announces_eligible(fresh)
    with redis.Redis.from_url(fresh.url) as server:
        code = server.function_list("flowfabric", withcode=True)[0][7]
        text = code.decode() if isinstance(code, bytes) else code
        foreign = "\n".join(line for line in text.splitlines() if not line.startswith("-- ffsuper "))
        server.function_load(foreign, replace=True)
    assert not announces_eligible(fresh)
    assert not announces_eligible(StoreConfig(url=f"unix://{tmp_path}/none.sock"))
