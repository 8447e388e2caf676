"""What every request meets first, without an application."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from starlette.exceptions import HTTPException

from ffsuper.server.guard import BODY_AT_END_S, BODY_S, MAX_BODY_BYTES, Arrivals, Body


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
