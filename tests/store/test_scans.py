"""Looking for work in several places at once."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from ffsuper.config import StoreConfig
from ffsuper.errors import LibraryMissingError, StoreError, StoreScriptError, StoreUnavailableError
from ffsuper.messages import ClaimKind, ExecutionId, LaneId
from ffsuper.sansio.scan import Place
from ffsuper.store.connection import open_connection
from ffsuper.store.keys import ExecutionKeys, PartitionKeys
from ffsuper.store.scans import PAGE, Page, Scans, Waiting
from ffsuper.store.store import prepare
from tests.store.two_servers import TwoServers

ONE, TWO = LaneId("one"), LaneId("two")


@dataclass
class Subject:
    """What scans, and a client of its server."""

    scans: Scans
    redis: redis.Redis

    def put(self, place: Place, *names: str, **core: str) -> list[ExecutionId]:
        """Make executions eligible at a place, first the first, named in hexadecimal; return their ids."""
        made = [ExecutionId(f"{{fp:{place.partition}}}:{name:0>32}") for name in names]
        for number, execution in enumerate(made):
            state = {"lifecycle_phase": "runnable", "ownership_state": "unowned", "eligibility_state": "eligible_now"}
            kind = {"execution_kind": "job", "attempt_state": "pending_first_attempt"}
            record: Any = {**state, **kind, **core}
            self.redis.hset(ExecutionKeys.of(execution).core, mapping=record)
            self.redis.zadd(index(place), {execution: number})
        return made


@pytest.fixture
async def subject(server_url: str) -> AsyncIterator[Subject]:
    settings = StoreConfig(url=server_url)
    prepare(settings)
    async with open_connection(settings, "test") as connection:
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


async def test_places_where_something_waits_are_told_in_the_order_of_the_question(subject: Subject) -> None:
    both = [Place(lane, partition) for partition in (9, 3, 200) for lane in (TWO, ONE)]
    first, _ = subject.put(both[3], "a", "b")
    last = subject.put(both[4], "c", execution_kind="other")[0]
    subject.put(both[1], "d", execution_kind="none")
    found = await subject.scans.waiting(both, {"job", "other"})
    assert found == [
        Waiting(both[1], 1, 1, None),
        Waiting(both[3], 2, 0, first),
        Waiting(both[4], 1, 0, last),
    ]
    assert [one.first is not None for one in await subject.scans.waiting(both, ())] == [True] * 3


async def test_a_look_at_a_place_begins_behind_its_offset_and_sees_a_page(subject: Subject) -> None:
    executions = subject.put(Place(ONE, 1), *(f"{number:02}" for number in range(PAGE + 2)))
    (found,) = await subject.scans.waiting([Place(ONE, 1)], ["job"])
    assert found == Waiting(Place(ONE, 1), PAGE, 0, executions[0])
    behind = Place(ONE, 1, PAGE + 1)
    assert await subject.scans.waiting([behind], ["job"]) == [Waiting(behind, 1, 0, executions[-1])]
    assert await subject.scans.waiting([behind], ["other"]) == [Waiting(behind, 1, 1, None)]
    assert await subject.scans.waiting([Place(ONE, 1, PAGE + 2)], ["job"]) == []
    others = [Place(TWO, 1), Place(ONE, 1), behind, Place(ONE, 2, 3)]
    assert [one.first for one in await subject.scans.waiting(others, ["job"])] == [executions[0], executions[-1]]


async def test_one_question_at_one_server_whatever_the_number_of_places(subject: Subject) -> None:
    places = [Place(lane, partition) for lane in (ONE, TWO) for partition in range(256)]
    execution = subject.put(places[300], "a")[0]
    assert await subject.scans.waiting([], ["job"]) == []
    before: Any = subject.redis.info("commandstats")
    assert await subject.scans.waiting(places, ["job"]) == [Waiting(places[300], 1, 0, execution)]
    after: Any = subject.redis.info("commandstats")
    asked = {name: after[name]["calls"] - before.get(name, {"calls": 0})["calls"] for name in after}
    assert asked["cmdstat_fcall"] == 1
    assert asked["cmdstat_exists"] < 25


async def test_a_damaged_index_is_passed_over_by_a_look_and_told(
    subject: Subject, caplog: pytest.LogCaptureFixture
) -> None:
    damaged, good = Place(ONE, 1), Place(ONE, 2)
    subject.redis.set(index(damaged), "damaged")
    execution = subject.put(good, "a")[0]
    with caplog.at_level(logging.WARNING):
        found = await subject.scans.waiting([damaged, good], ["job"])
    assert found == [Waiting(good, 1, 0, execution)]
    (record,) = caplog.records
    assert (record.message, vars(record)["key"]) == ("damaged key skipped", index(damaged))
    assert "WRONGTYPE" in str(vars(record)["error"])


async def test_a_look_without_our_library_says_so(server_url: str, subject: Subject) -> None:
    settings = StoreConfig(url=server_url, library="never")
    subject.redis.function_delete("ffsuper")
    async with open_connection(settings, "test") as connection:
        with pytest.raises(LibraryMissingError):
            await Scans(connection).waiting([Place(ONE, 1)], ["job"])


def two_servers(away: Mapping[str, StoreError]) -> TwoServers:
    """Return servers at each of whose places something waits."""
    return TwoServers(lambda *_: [1, b"OK", 0, b"waiting", 1, 1, b""], away)


async def test_a_server_that_is_down_hides_nothing_of_the_others() -> None:
    places, down = [Place(ONE, number) for number in (1, 2, 3)], StoreUnavailableError("down")
    servers = two_servers({"odd": down})
    assert await Scans(servers).waiting(places, ["job"]) == [Waiting(places[1], 1, 1, None)]
    head = (PAGE, 1, "job", 1, ONE, 0)
    assert [command[4:] for command in servers.asked] == [(*head, 1, 1, 1, 1, 1, 3), (*head, 1, 1, 2)]
    for away in ({"odd": down, "even": down}, {"odd": StoreScriptError("defect")}):
        with pytest.raises(StoreError):
            await Scans(two_servers(away)).waiting(places, ["job"])
