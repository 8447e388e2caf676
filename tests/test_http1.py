"""Short answers on few connections: who calls badly, slowly or for too long is cut off, and harms nobody else."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h11
import pytest
import trio
import trio.testing

from ffsuper.http1 import ANSWER_S, CONNECTIONS, HEADERS_BYTES, REQUEST_S, UNUSED_S, Answer, Service, plain

GET = b"GET /here HTTP/1.1\r\nHost: worker\r\n\r\n"
LONG_S = 3600.0
Stream = trio.abc.HalfCloseableStream


async def answer(path: str) -> Answer:
    """Serve one path."""
    return Answer(200, b"found\n") if path == "/here" else plain(404)


class Caller:
    """The other side of a connection; ``service`` serves it."""

    def __init__(self, service: Service, nursery: trio.Nursery, *, has_buffer: bool = True) -> None:
        pair = trio.testing.memory_stream_pair() if has_buffer else trio.testing.lockstep_stream_pair()
        self.stream: Stream = pair[0]
        self._theirs: Stream = pair[1]
        self.ended = trio.Event()
        self._service = service
        nursery.start_soon(self._serve)

    async def _serve(self) -> None:
        await self._service.serve(self._theirs)
        await self._theirs.aclose()
        self.ended.set()

    async def ask(self, request: bytes = GET) -> tuple[int, dict[str, str], bytes]:
        """Send a request, and return what is answered."""
        await self.stream.send_all(request)
        return await self.hear(request.partition(b" ")[0])

    async def hear(self, method: bytes = b"GET") -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of the next answer."""
        reader = h11.Connection(h11.CLIENT)
        if method in (b"GET", b"HEAD", b"POST"):
            reader.send(h11.Request(method=method, target="/", headers=[("Host", "worker")]))
            reader.send(h11.EndOfMessage())
        status, headers, body = 0, dict[str, str](), b""
        while True:
            event = reader.next_event()
            match event:
                case h11.NEED_DATA:
                    reader.receive_data(bytes(await self.stream.receive_some()))
                case h11.Response():
                    status = event.status_code
                    headers = {name.decode(): value.decode() for name, value in event.headers}
                case h11.Data():
                    body += event.data
                case _:
                    return status, headers, body


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Service, trio.Nursery]]:
    with trio.fail_after(LONG_S):
        async with trio.open_nursery() as nursery:
            yield Service(answer), nursery
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def called(*, has_buffer: bool = True) -> AsyncIterator[Caller]:
    async with serving() as (service, nursery):
        yield Caller(service, nursery, has_buffer=has_buffer)


async def test_a_path_is_answered_whatever_stands_behind_its_question_mark(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with called() as caller:
        status, headers, body = await caller.ask(GET.replace(b"/here", b"/here?verbose=1"))
        assert (status, body, headers["content-length"], headers["cache-control"]) == (
            200,
            b"found\n",
            "6",
            "no-store",
        )
        assert (await caller.ask(GET.replace(b"/here", b"/there")))[0] == 404


async def test_head_is_answered_as_get_but_without_a_body(autojump_clock: trio.testing.MockClock) -> None:
    async with called() as caller:
        status, headers, body = await caller.ask(GET.replace(b"GET", b"HEAD"))
        assert (status, headers["content-length"], body) == (200, "6", b"")
        assert (await caller.ask())[2] == b"found\n"


async def test_other_methods_are_refused_and_their_body_is_not_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with called() as caller:
        status, headers, _ = await caller.ask(b"POST /here HTTP/1.1\r\nHost: worker\r\nContent-Length: 99\r\n\r\n")
        assert (status, headers["allow"], headers["connection"]) == (405, "GET, HEAD", "close")
        await caller.ended.wait()
        assert trio.current_time() < REQUEST_S


async def test_a_connection_is_kept_for_the_next_request_but_not_for_ever(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with called() as caller:
        for _ in range(3):
            assert (await caller.ask())[0] == 200
            await trio.sleep(UNUSED_S - 1)
        asked_s = trio.current_time()
        assert (await caller.ask())[0] == 200
        await caller.ended.wait()
        assert trio.current_time() - asked_s == pytest.approx(UNUSED_S)


async def test_requests_that_come_together_are_answered_one_after_the_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with called() as caller:
        await caller.stream.send_all(GET + GET.replace(b"/here", b"/there") + GET[:10])
        assert await caller.stream.receive_some() != b""
        await caller.stream.send_all(GET[10:].replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        rest = b"".join([bytes(data) async for data in caller.stream])
        assert (rest.count(b"HTTP/1.1 404"), rest.count(b"HTTP/1.1 200")) == (1, 1)


@pytest.mark.parametrize("request_", [GET.replace(b"1.1", b"1.0"), GET[:-2] + b"Connection: close\r\n\r\n"])
async def test_who_wants_no_more_is_let_go_at_once(request_: bytes, autojump_clock: trio.testing.MockClock) -> None:
    async with called() as caller:
        assert (await caller.ask(request_))[0] == 200
        await caller.ended.wait()
        assert trio.current_time() < 1


@pytest.mark.parametrize(
    ("garbage", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100) + b"\r\n\r\n", 400),  # a TLS client
        (b"*1\r\n$4\r\nPING\r\n\r\n", 400),
        (b"GET /here HTTP/1.1\r\n\r\n", 400),
        (b"GET /here HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET /h\xc3\xa4r HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /here HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: zip\r\n\r\n", 501),
        (b"GET /here HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n", 400),
        (b"GET /here HTTP/1.1\r\nX: " + b"x" * HEADERS_BYTES, 431),
    ],
    ids=["tls", "redis", "no host", "two lengths", "not ascii", "coding", "chunk", "headers"],
)
async def test_garbage_is_told_what_it_is_and_ends_its_connection(
    garbage: bytes, status: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with called() as caller:
        told, headers, _ = await caller.ask(garbage)
        assert (told, headers["connection"]) == (status, "close")
        await caller.ended.wait()
        assert trio.current_time() < 1


async def test_random_bytes_do_no_harm(autojump_clock: trio.testing.MockClock) -> None:
    async with serving() as (service, nursery):
        callers = [Caller(service, nursery) for _ in range(CONNECTIONS)]
        for caller in callers:
            await caller.stream.send_all(os.urandom(1000))
            await caller.stream.send_eof()
            await caller.ended.wait()
        assert (await Caller(service, nursery).ask())[0] == 200


@pytest.mark.parametrize("begun", [b"", GET[:10]])
async def test_who_does_not_come_to_the_end_of_its_request_is_cut_off(
    begun: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    async with called() as caller:
        if begun:
            await caller.stream.send_all(begun)
        await caller.ended.wait()
        assert trio.current_time() == pytest.approx(REQUEST_S)


async def test_a_request_that_trickles_in_on_a_kept_connection_has_no_more_time_than_a_first_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with called() as caller:
        await caller.ask()
        began_s = trio.current_time()
        with contextlib.suppress(trio.BrokenResourceError):
            for byte in GET:
                await caller.stream.send_all(bytes([byte]))
                await trio.sleep(1)
        assert trio.current_time() - began_s <= REQUEST_S + 1


async def test_who_takes_nothing_of_its_answer_is_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    async with called(has_buffer=False) as caller:
        await caller.stream.send_all(GET)
        await caller.ended.wait()
        assert trio.current_time() == pytest.approx(ANSWER_S)


async def test_who_has_gone_is_no_error(autojump_clock: trio.testing.MockClock) -> None:
    async with called() as caller:
        await caller.stream.send_all(GET)
        await caller.stream.aclose()
        await caller.ended.wait()
        assert trio.current_time() < 1


async def test_when_all_places_are_taken_the_one_that_has_been_idle_for_longest_gives_its_own_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving() as (service, nursery):
        callers = [Caller(service, nursery) for _ in range(CONNECTIONS)]
        for caller in callers:
            await caller.ask()
            await trio.sleep(0.1)
        await callers[0].ask()
        assert (await Caller(service, nursery).ask())[0] == 200
        await trio.testing.wait_all_tasks_blocked()
        assert [number for number, caller in enumerate(callers) if caller.ended.is_set()] == [1]


async def test_silent_callers_keep_nobody_out(autojump_clock: trio.testing.MockClock) -> None:
    async with serving() as (service, nursery):
        for _ in range(10 * CONNECTIONS):
            Caller(service, nursery)
        await trio.testing.wait_all_tasks_blocked()
        assert (await Caller(service, nursery).ask())[0] == 200
        assert trio.current_time() < 1


async def test_no_more_are_served_at_once_than_there_are_places(autojump_clock: trio.testing.MockClock) -> None:
    async with serving() as (service, nursery):
        busy = [Caller(service, nursery, has_buffer=False) for _ in range(CONNECTIONS)]
        for caller in busy:
            await caller.stream.send_all(GET)
        late = Caller(service, nursery)
        await late.ended.wait()
        assert trio.current_time() < 1
        for caller in busy:
            await caller.ended.wait()
        assert (await Caller(service, nursery).ask())[0] == 200
