"""Whatever a caller of the health endpoints sends, it is answered in HTTP or not at all, and harms nobody else."""

from __future__ import annotations

import re
from functools import partial

import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

from ffsuper.actors.health import Desk
from ffsuper.http1 import CONNECTIONS, HEADERS_BYTES, Service
from ffsuper.messages import Offer
from ffsuper.sansio.ledger import Ledger
from ffsuper.sansio.pulse import Pulses
from ffsuper.standing import Standing, State
from tests.fakes import LANE, FakeStore
from tests.fuzz.examples import fuzz
from tests.fuzz.values import damaged

METHODS = st.sampled_from(
    (b"GET", b"GET", b"GET", b"HEAD", b"POST", b"PUT", b"CONNECT", b"OPTIONS", b"PRI", b"get", b"G\xff", b"")
)
TARGETS = st.sampled_from(
    (
        *(
            b"/",
            b"/livez",
            b"/readyz",
            b"/metrics",
            b"/livez?x",
            b"*",
            b"http://worker/livez",
            b"//",
            b"/%00",
            b"/\xff",
            b"",
        ),
        *(b"/../livez", b"/livez#x", b"worker:80", b"?", b"/ x", b"/" + b"x" * HEADERS_BYTES),
    )
)
VERSIONS = st.sampled_from(
    (b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/9", b"")
)
FIELDS = st.sampled_from(
    (
        *(
            b"Host: worker",
            b"Host: worker",
            b"Host: a\r\nHost: b",
            b"Connection: close",
            b"Connection: keep-alive, Upgrade",
        ),
        *(b"Upgrade: websocket", b"Upgrade: h2c\r\nHTTP2-Settings: x", b"Expect: 100-continue", b"Expect: x"),
        *(
            b"Content-Length: 0",
            b"Content-Length: 5",
            b"Content-Length: -1",
            b"Content-Length: 1\r\nContent-Length: 2",
        ),
        *(
            b"Content-Length: " + b"9" * 30,
            b"Transfer-Encoding: chunked",
            b"Transfer-Encoding: gzip",
            b"X: \xff",
            b"X:",
        ),
        *(
            b"Content-Length: 5\r\nTransfer-Encoding: chunked",
            b" folded",
            b"\tfolded",
            b": x",
            b"X : y",
            b"X: a\0b",
            b"nothing",
        ),
    )
)
BODIES = st.sampled_from(
    (b"", b"", b"12345", b"5\r\n12345\r\n0\r\n\r\n", b"5\r\nx", b"ffffffffffffffff\r\n", b"\r\n\r\n", b"\0" * 99)
)
REQUESTS = st.builds(
    lambda method, target, version, fields, body: (
        b"%b %b %b\r\n%b\r\n\r\n%b" % (method, target, version, fields, body)
    ),
    *(METHODS, TARGETS, VERSIONS, st.lists(FIELDS, max_size=4).map(b"\r\n".join), BODIES),
)
STREAMS = st.lists(REQUESTS, min_size=1, max_size=4).map(b"".join)
CUTS = st.lists(st.integers(1, 300), max_size=5)
STATUS_LINE = re.compile(rb"HTTP/1\.1 [0-9]{3} [ -~]+\r\n")
PROBE = b"GET /livez HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n"


def desk() -> Desk:
    """Return what answers, of a worker that runs."""
    standing = Standing(Pulses(trio.current_time), Ledger(), 30.0, Offer((LANE,), "", ("job",), 4), State.RUNNING)
    return Desk(standing, FakeStore().presence)


async def said(service: Service, sent: bytes, cuts: list[int], *, ends: bool) -> bytes:
    """Say something on a connection of its own, and return all that is answered until it is closed."""
    ours, theirs = trio.testing.memory_stream_pair()
    heard = bytearray()

    async def serve() -> None:
        await service.serve(theirs)
        await theirs.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        try:
            for cut in [*cuts, len(sent)]:
                await ours.send_all(sent[:cut])
                sent = sent[cut:]
            if ends:
                await ours.send_eof()
        except trio.BrokenResourceError:
            pass  # it has heard enough
        while part := await ours.receive_some():
            heard += part
    return bytes(heard)


@fuzz(250)
@given(sent=STREAMS | STREAMS.flatmap(damaged) | st.binary(max_size=80), cuts=CUTS, ends=st.booleans())
@example(sent=b"CONNECT worker:80 HTTP/1.1\r\nHost: worker\r\n\r\n\0\0", cuts=[], ends=False)
@example(sent=b"GET / HTTP/1.1\r\nHost: worker\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", cuts=[], ends=True)
@example(sent=b"HEAD / HTTP/1.1\r\nHost: worker\r\n\r\n" + b"\xff", cuts=[], ends=True)
@example(
    sent=b"GET / HTTP/1.1\r\nHost: worker\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n", cuts=[], ends=False
)
@example(sent=b"GET /%b HTTP/1.1\r\n\r\n" % (b"x" * HEADERS_BYTES), cuts=[100] * 20, ends=False)
def test_whatever_is_said_is_answered_in_http_or_not_at_all(sent: bytes, cuts: list[int], ends: bool) -> None:
    async def talk() -> None:
        service = Service(desk().answer)
        heard = await said(service, sent, cuts, ends=ends)
        assert not heard or STATUS_LINE.match(heard)
        assert (await said(service, PROBE, [], ends=False)).startswith(b"HTTP/1.1 200 OK\r\n")
        assert service._connections == 0
        assert not service._waits

    trio.run(talk, clock=trio.testing.MockClock(autojump_threshold=0))


@fuzz(10)
@given(all_sent=st.lists(STREAMS | st.binary(max_size=20), min_size=CONNECTIONS, max_size=CONNECTIONS + 8))
def test_however_many_talk_nonsense_a_probe_is_answered(all_sent: list[bytes]) -> None:
    async def talk() -> None:
        service = Service(desk().answer)
        async with trio.open_nursery() as nursery:
            for sent in all_sent:
                nursery.start_soon(partial(said, service, sent, [], ends=False))
            await trio.testing.wait_all_tasks_blocked()
            assert (await said(service, PROBE, [], ends=False)).startswith(b"HTTP/1.1 200 OK\r\n")

    trio.run(talk, clock=trio.testing.MockClock(autojump_threshold=0))
