"""Looking for work in several places at once."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from ffsuper.config import StoreConfig
from ffsuper.messages import ClaimKind, ExecutionId, LaneId
from ffsuper.sansio.scan import Place
from ffsuper.store.connection import open_connection
from ffsuper.store.keys import ExecutionKeys, PartitionKeys
from ffsuper.store.scans import Page, Scans

ONE, TWO = LaneId("one"), LaneId("two")


@dataclass
class Subject:
    """What scans, and a client of its server."""

    scans: Scans
    redis: redis.Redis

    def put(self, place: Place, *names: str, **core: str) -> list[ExecutionId]:
        """Make executions eligible at a place, first the first; return their ids."""
        made = [ExecutionId(f"{{fp:{place.partition}}}:{name}") for name in names]
        for number, execution in enumerate(made):
            record: Any = {"execution_kind": "job", "attempt_state": "pending_first_attempt", **core}
            self.redis.hset(ExecutionKeys.of(execution).core, mapping=record)
            self.redis.zadd(index(place), {execution: number})
        return made


@pytest.fixture
async def subject(server_url: str) -> AsyncIterator[Subject]:
    async with open_connection(StoreConfig(url=server_url), "test") as connection:
        with redis.Redis.from_url(server_url) as server:
            server.flushall()
            yield Subject(Scans(connection), server)


def index(place: Place) -> str:
    return PartitionKeys.of_index(place.partition).lane(place.lane, "eligible")


def ids(page: Page) -> list[ExecutionId]:
    return [candidate.execution_id for candidate in page.candidates]


async def test_each_place_shows_its_own_page(subject: Subject) -> None:
    places = [Place(ONE, 1), Place(ONE, 2), Place(TWO, 1, offset=1), Place(TWO, 2)]
    first = subject.put(places[0], "a", "b", "c")
    last = subject.put(places[2], "d", "e", attempt_state="attempt_interrupted", current_attempt_index="3")
    pages = await subject.scans.eligible(places, 2, {first[0]})
    assert [ids(page) for page in pages] == [first[1:2], [], last[1:], []]
    assert [(page.members, page.skipped) for page in pages] == [(2, 1), (0, 0), (1, 0), (0, 0)]
    (candidate,) = pages[2].candidates
    assert (candidate.claim, candidate.attempt_index, candidate.lane) == (ClaimKind.RESUMED, 3, TWO)


async def test_a_damaged_index_hides_no_other_and_is_told(subject: Subject, caplog: pytest.LogCaptureFixture) -> None:
    damaged, good = Place(ONE, 1), Place(ONE, 2)
    subject.redis.set(index(damaged), "damaged")
    execution = subject.put(good, "a")
    with caplog.at_level(logging.WARNING):
        pages = await subject.scans.eligible([damaged, good], 2, ())
    assert [ids(page) for page in pages] == [[], execution]
    (record,) = caplog.records
    assert (record.message, vars(record)["key"]) == ("damaged key skipped", index(damaged))


async def test_what_is_no_execution_counts_as_a_member_so_that_the_next_page_is_looked_at(subject: Subject) -> None:
    place = Place(ONE, 1)
    subject.put(place, "a")
    subject.redis.zadd(index(place), {b"nonsense": -1, b"\xff": -2})
    (page,) = await subject.scans.eligible([place], 2, ())
    assert page == Page(2, 0, ())
