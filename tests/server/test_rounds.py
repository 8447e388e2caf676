"""Claims that wait for work to come, on a real store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
import redis
import trio
import trio.testing

from ffsuper.client import Client
from ffsuper.config import StoreConfig
from ffsuper.messages import ExecutionId, LaneId
from ffsuper.server.rounds import MOST_AT_ONCE, Rounds
from ffsuper.server.scheduler import Granted
from ffsuper.store.admission import Claimant
from tests.fakes import LANE
from tests.server.serving import serving

LONG_MS = 30_000
WORKER = Claimant(worker_id="pool", instance_id="pool-1", capabilities="", grant_ttl_ms=5_000)


@pytest.fixture
async def http(settings: StoreConfig, client: Client) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(settings) as sender:
        yield sender


async def claim(http: httpx.AsyncClient, wait_ms: int, *capabilities: str) -> httpx.Response:
    wanted = {
        "lane_id": "default",
        "worker_instance_id": "pool-1",
        "capabilities": capabilities,
        "grant_ttl_ms": 5_000,
    }
    return await http.post("/v1/workers/pool/claim", json={**wanted, "wait_ms": wait_ms})


async def test_workers_that_wait_are_granted_what_comes(http: httpx.AsyncClient, client: Client) -> None:
    granted = list[str]()

    async def wait() -> None:
        granted.append((await claim(http, LONG_MS)).json()["execution_id"])

    with trio.fail_after(LONG_MS / 2000):
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert not granted
            submitted = await trio.to_thread.run_sync(lambda: [client.submit("job") for _ in range(4)])
    assert sorted(granted) == sorted(submitted)


async def test_waiting_ends_with_its_time(http: httpx.AsyncClient) -> None:
    assert [(await claim(http, wait_ms)).status_code for wait_ms in (0, 1, 150)] == [204, 204, 204]


async def test_waiting_ends_when_the_server_stops_and_no_connection_is_used_again(
    settings: StoreConfig, client: Client
) -> None:
    stopping, answers = trio.Event(), list[httpx.Response]()
    async with serving(settings, stopping=stopping) as http:

        async def wait() -> None:
            answers.append(await claim(http, LONG_MS))

        assert "connection" not in (await claim(http, 0)).headers
        with trio.fail_after(LONG_MS / 2000):
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked(0.02)
                stopping.set()
    assert [(answer.status_code, answer.headers["connection"]) for answer in answers] == [(204, "close")] * 4


async def test_as_many_as_ask_at_once_are_granted_something_each(http: httpx.AsyncClient, client: Client) -> None:
    submitted = [client.submit("job") for _ in range(100)]
    answers = list[httpx.Response]()

    async def ask() -> None:
        answers.append(await claim(http, 0))

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(ask)
    assert sorted(answer.json()["execution_id"] for answer in answers) == sorted(submitted)


class Slow:
    """A scheduler that has so many executions, and takes its time.

    Attributes:
        rounds: how many asked in each.
        began: set when a round is under way; it ends at ``go_on``.
    """

    def __init__(self, waiting: int) -> None:
        self.waiting = waiting
        self.rounds: list[int] = []
        self.began, self.go_on = trio.Event(), trio.Event()

    def is_empty(self, _: LaneId) -> bool:
        return False

    async def claim(self, _: LaneId, claimants: Sequence[Claimant]) -> list[Granted | None]:
        self.rounds.append(len(claimants))
        found = min(self.waiting, len(claimants))
        self.waiting -= found
        self.began.set()
        await self.go_on.wait()
        return [Granted(ExecutionId("e"), 1)] * found + [None] * (len(claimants) - found)


async def test_a_claim_that_comes_during_a_round_is_answered_by_the_next(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    slow = Slow(0)
    rounds: Any = Rounds(slow, nursery, trio.Event())  # type: ignore[arg-type]
    nursery.start_soon(rounds.claim, LANE, WORKER, 60.0)
    await slow.began.wait()
    answers = list[Granted | None]()

    async def come_late() -> None:
        slow.waiting = 1
        answers.append(await rounds.claim(LANE, WORKER))

    nursery.start_soon(come_late)
    await trio.testing.wait_all_tasks_blocked()
    slow.go_on.set()
    await trio.sleep(1)
    # The first in line is served first, and the second knows after the same round that there is no more.
    assert slow.rounds[:2] == [1, 2]
    assert answers == [None]
    nursery.cancel_scope.cancel()


async def test_who_is_behind_a_full_round_does_not_wait_for_the_next_look(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    slow = Slow(100)
    slow.go_on.set()
    rounds: Any = Rounds(slow, nursery, trio.Event())  # type: ignore[arg-type]
    async with trio.open_nursery() as asking:
        for _ in range(100):
            asking.start_soon(rounds.claim, LANE, WORKER, 60.0)
    assert (slow.rounds, trio.current_time()) == ([64, 36], 0.0)


async def test_those_behind_a_full_round_are_told_that_there_is_nothing(http: httpx.AsyncClient) -> None:
    with trio.fail_after(LONG_MS / 2000):
        async with trio.open_nursery() as nursery:
            for _ in range(MOST_AT_ONCE + 10):
                nursery.start_soon(claim, http, LONG_MS)
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert (await claim(http, 0)).status_code == 204
            nursery.cancel_scope.cancel()


async def test_a_store_that_is_away_is_told_to_all_that_wait() -> None:
    async with serving(StoreConfig(url="redis://127.0.0.1:1", timeout_s=1.0)) as http:
        for wait_ms in (0, LONG_MS):
            assert (await claim(http, wait_ms)).json()["retryable"] is True


async def test_many_that_wait_cost_the_store_no_more_than_one(
    http: httpx.AsyncClient, client: Client, store: redis.Redis
) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(64):
            nursery.start_soon(claim, http, 2_000)
        await trio.testing.wait_all_tasks_blocked(0.02)
        before = store.info("commandstats")["cmdstat_fcall"]["calls"]
    # The store's own count: 20 looks in 2 s, not 64 times as many.
    assert store.info("commandstats")["cmdstat_fcall"]["calls"] - before < 64


async def test_a_time_that_is_none_is_refused(http: httpx.AsyncClient) -> None:
    for wait_ms in (-1, 30_001):
        answer = await claim(http, wait_ms)
        assert (answer.status_code, answer.json()["error"]) == (
            400,
            f"wait_ms: must be from 0 to 30000, got {wait_ms}",
        )
