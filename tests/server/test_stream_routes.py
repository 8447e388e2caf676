"""Output of executions over HTTP, on a real store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import quote

import httpx
import pytest
import redis
import trio
import trio.testing

from ffsuper.client import Client
from ffsuper.config import ServerConfig, StoreConfig
from tests.lua import frames
from tests.lua.world import World
from tests.server.serving import serving

PATH = f"/v1/executions/{quote(frames.EXECUTION, safe='')}/attempts/0/stream"
LONG_MS = 30_000


@pytest.fixture
async def http(settings: StoreConfig, client: Client) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(settings) as sender:
        yield sender


@pytest.fixture
def world(store: redis.Redis, client: Client) -> World:
    world = World(store)
    frames.running(world)
    return world


def put(world: World, *payloads: str) -> list[str]:
    """Append frames; return their ids."""
    return [frames.append(world, {frames.PAYLOAD: payload})[2] for payload in payloads]


def close(world: World) -> None:
    world.redis.hset(frames.META, mapping={"closed_at": "1700000000000", "closed_reason": "attempt_success"})


async def test_frames_are_read_in_order_with_their_fields_sorted(http: httpx.AsyncClient, world: World) -> None:
    first, second, third = put(world, "one", "two", "three")
    answer = (await http.get(PATH)).json()
    assert [frame["id"] for frame in answer["frames"]] == [first, second, third]
    fields = {"encoding": "utf8", "frame_type": "delta", "payload": "one", "source": "worker", "ts": "1700"}
    assert list(answer["frames"][0]["fields"].items()) == list(fields.items())
    assert answer["count"] == 3
    assert answer.keys() == {"frames", "count"}
    answer = (await http.get(PATH, params={"from": second, "to": "+", "limit": 1})).json()
    assert [frame["fields"]["payload"] for frame in answer["frames"]] == ["two"]


async def test_a_stream_that_is_closed_says_why(http: httpx.AsyncClient, world: World) -> None:
    (first,) = put(world, "one")
    close(world)
    told = {"closed_at": 1700000000000, "closed_reason": "attempt_success"}
    assert told.items() <= (await http.get(PATH)).json().items()
    answer = (await http.get(f"{PATH}/tail", params={"after": first, "block_ms": LONG_MS})).json()
    assert answer == {"frames": [], "count": 0, **told}


async def test_a_stream_without_frames_is_open_and_empty(http: httpx.AsyncClient, world: World) -> None:
    for rest in ("", "/tail"):
        assert (await http.get(PATH + rest)).json() == {"frames": [], "count": 0}


async def test_tails_wait_side_by_side_for_what_comes(http: httpx.AsyncClient, world: World) -> None:
    (last,) = put(world, "one")
    answers = list[httpx.Response]()

    async def follow() -> None:
        answers.append(await http.get(f"{PATH}/tail", params={"after": last, "block_ms": LONG_MS}))

    with trio.fail_after(LONG_MS / 2000):
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(follow)
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert not answers
            put(world, "two")
    assert [[frame["fields"]["payload"] for frame in answer.json()["frames"]] for answer in answers] == [["two"]] * 8


async def test_a_tail_ends_when_the_stream_is_closed(http: httpx.AsyncClient, world: World) -> None:
    (last,) = put(world, "one")
    with trio.fail_after(LONG_MS / 2000):
        async with trio.open_nursery() as nursery:

            async def follow() -> None:
                answer = await http.get(f"{PATH}/tail", params={"after": last, "block_ms": LONG_MS})
                assert answer.json()["closed_reason"] == "attempt_success"

            nursery.start_soon(follow)
            await trio.testing.wait_all_tasks_blocked(0.02)
            close(world)


async def test_a_tail_ends_when_its_time_is_over_or_the_server_stops(
    settings: StoreConfig, client: Client, world: World
) -> None:
    stopping = trio.Event()
    async with serving(settings, stopping=stopping) as http:
        answer = await http.get(f"{PATH}/tail", params={"block_ms": 150})
        assert answer.json() == {"frames": [], "count": 0}
        with trio.fail_after(LONG_MS / 2000):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: http.get(f"{PATH}/tail", params={"block_ms": LONG_MS}))
                await trio.testing.wait_all_tasks_blocked(0.02)
                stopping.set()


async def test_more_reads_than_are_served_at_a_time_are_turned_away(
    settings: StoreConfig, client: Client, world: World
) -> None:
    stopping = trio.Event()
    async with (
        serving(settings, ServerConfig(stream_operations=1), stopping) as http,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(lambda: http.get(f"{PATH}/tail", params={"block_ms": LONG_MS}))
        await trio.testing.wait_all_tasks_blocked(0.02)
        told = "too many concurrent stream_ops calls (server max: 1); retry with backoff"
        for rest in ("", "/tail"):
            answer = await http.get(PATH + rest)
            assert (answer.status_code, answer.json()) == (429, {"error": told, "retryable": True})
        stopping.set()


@pytest.mark.parametrize(
    ("rest", "name", "value"),
    [
        ("", "from", "x"),
        ("", "to", "1-"),
        ("", "to", "1-99999999999999999999"),
        ("", "limit", "0"),
        ("", "limit", "1001"),
        ("/tail", "after", "-"),
        ("/tail", "after", "+"),
        ("/tail", "block_ms", "30001"),
        ("/tail", "limit", "1001"),
        ("/tail", "limit", "many"),
    ],
)
async def test_a_query_that_makes_no_sense_is_told_what_is_wrong(
    http: httpx.AsyncClient, rest: str, name: str, value: str
) -> None:
    answer = await http.get(PATH + rest, params={name: value})
    assert answer.status_code == 400
    assert name in answer.json()["error"]
    assert (await http.get(PATH.replace("/0/", "/x/") + rest)).status_code == 400
