"""What every request meets first, without an application."""

from __future__ import annotations

import hmac
from typing import Any

import pytest
import trio
import trio.testing
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from ffsuper.server.guard import BODY_AT_END_S, BODY_S, MAX_BODY_BYTES, Arrivals, Body, Guard
from ffsuper.server.metrics import Metrics

TOKEN = "a-token"


async def answered(guard_token: str, *headers: tuple[bytes, bytes], path: str = "/v1/executions") -> int:
    """Return the status that a request gets from a guard with this token, before an application that takes all."""
    statuses = list[int]()

    async def take(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def note(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def receive() -> Message:
        return part(b"", more=False)

    scope = {"type": "http", "http_version": "1.1", "method": "GET", "path": path, "headers": list(headers)}
    await Guard(take, guard_token, Metrics(), trio.Event(), Arrivals())(scope, receive, note)
    (status,) = statuses
    return status


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (b"Bearer a-token", 200),
        (b"Bearer a-toke", 401),
        (b"Bearer a-tokem", 401),
        (b"Bearer a-token-", 401),
        (b"Bearer ", 401),
        (b"Bearer", 401),
        (b"", 401),
        (b"a-token", 401),
        (b"Basic a-token", 401),
        (b"Bearer \xff\x00", 401),
    ],
)
async def test_a_request_needs_the_very_token(given: bytes, status: int) -> None:
    assert await answered(TOKEN, (b"authorization", given)) == status


async def test_a_request_whose_length_is_told_in_two_ways_is_refused_first_of_all() -> None:
    told = ((b"content-length", b"4"), (b"transfer-encoding", b"chunked"))
    assert await answered(TOKEN, *told) == 400
    assert await answered("", *told) == 400
    assert [await answered("", one) for one in told] == [200, 200]


async def test_a_request_without_the_header_is_refused_but_for_health_and_where_there_is_no_token() -> None:
    assert await answered(TOKEN) == 401
    assert await answered(TOKEN, path="/healthz") == 200
    assert await answered("") == 200


async def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = list[tuple[bytes, bytes]]()

    def compare(given: bytes, expected: bytes) -> bool:
        compared.append((given, expected))
        return True

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert await answered(TOKEN, (b"authorization", b"Bearer wrong")) == 200  # nothing else has a say in it
    assert compared == [(b"Bearer wrong", b"Bearer a-token")]


def part(body: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def receiving(*messages: dict[str, Any], arrivals: Arrivals | None = None) -> Body:
    """Return a body of which these parts arrive, and nothing else."""
    left = list(messages)

    async def receive() -> dict[str, Any]:
        if not left:
            await trio.sleep_forever()
        return left.pop(0)

    return Body(receive, arrivals or Arrivals())


async def test_a_body_that_does_not_arrive_is_not_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    body = receiving(part(b"x", more=True))
    await body.receive()
    with pytest.raises(HTTPException) as caught:
        await body.receive()
    assert (caught.value.status_code, trio.current_time()) == (408, BODY_S)


async def test_a_body_that_has_arrived_sets_no_limit_to_what_follows(autojump_clock: trio.testing.MockClock) -> None:
    body = receiving(part(b"x" * MAX_BODY_BYTES, more=False))
    assert len((await body.receive())["body"]) == MAX_BODY_BYTES
    with trio.move_on_after(10 * BODY_S) as limit:
        await body.receive()
    assert limit.cancelled_caught


async def test_a_body_of_many_parts_is_counted_together() -> None:
    body = receiving(part(b"x" * MAX_BODY_BYTES, more=True), part(b"x", more=False))
    await body.receive()
    with pytest.raises(HTTPException) as caught:
        await body.receive()
    assert caught.value.status_code == 413


@pytest.mark.parametrize("is_late", [False, True])
async def test_at_the_servers_end_a_body_is_not_waited_for_as_long(
    autojump_clock: trio.testing.MockClock, is_late: bool
) -> None:
    arrivals, stopping = Arrivals(), trio.Event()

    async def wait() -> None:
        with pytest.raises(HTTPException):
            await receiving(arrivals=arrivals).receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(arrivals.hurry_after, stopping)
        if not is_late:
            nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        stopping.set()
        if is_late:
            nursery.start_soon(wait)
    assert trio.current_time() == BODY_AT_END_S
