"""Answers of servers that are none, or that something on the way has spoilt."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import httpcore
import httpx
from hypothesis import strategies as st

from tests.fuzz.values import JSON, TEXTS, damaged

STATUSES = st.sampled_from((200, 204, 201, 100, 101, 103, 199, 206, 301, 302, 304, 307, 308, 400, 401, 403, 404, 405))
STATUSES |= st.sampled_from((409, 413, 418, 422, 429, 500, 501, 502, 503, 504, 599, 999)) | st.integers(100, 999)
LINES = st.sampled_from(
    (
        b"HTTP/1.1 %d Whatever",
        b"HTTP/1.0 %d OK",
        b"HTTP/1.1 %d",
        b"HTTP/1.1 %d \xff\xfe",
        b"HTTP/2 %d",
        b"ICY %d OK",
        b"%d",
    )
)
VALUES = st.sampled_from(
    (
        *(
            b"",
            b"0",
            b"5",
            b"-1",
            b"1, 1",
            b"1, 2",
            b"+5",
            b"9" * 30,
            b"\xb2",
            b"chunked",
            b"gzip",
            b"gzip, chunked",
            b"br",
        ),
        *(
            b"identity",
            b"deflate",
            b"close",
            b"keep-alive",
            b"upgrade",
            b"/",
            b"//",
            b"http://",
            b"http://[",
            b"http://a:x/",
        ),
        *(
            b"http://256.1.1.1/",
            b"javascript:1",
            b"http://\xff/",
            b"?",
            b"#",
            b"http://u:p@x/",
            b"https://a..b/",
            b"\xff\xfe",
        ),
        *(b"a=b", b"a=b; Expires=Thu, 99 Foo 9999 99:99:99 GMT; Max-Age=x", b"=; Domain=.; Path=\xff", b"a" * 9_000),
        *(
            b"text/html; charset=\xff",
            b"application/json; charset=utf-7",
            b"application/json",
            b"x; charset=nonsense",
        ),
    )
)
NAMES = st.sampled_from(
    (
        *(b"Content-Length", b"Transfer-Encoding", b"Content-Encoding", b"Location", b"Set-Cookie", b"Content-Type"),
        *(b"Connection", b"Upgrade", b"Retry-After", b"X", b"", b"a b", b"\xff"),
    )
)
HEADERS = st.lists(st.tuples(NAMES, VALUES | st.binary(max_size=6)), max_size=4)


@st.composite
def answers(draw: st.DrawFn, bodies: st.SearchStrategy[bytes]) -> list[bytes]:
    """Make what comes back over a connection, in pieces."""
    body = draw(bodies)
    headers = draw(HEADERS)
    match draw(st.sampled_from(("length", "length", "length", "chunks", "as it is"))):
        case "length":
            headers.append((b"Content-Length", b"%d" % len(body)))
        case "chunks":
            headers.append((b"Transfer-Encoding", b"chunked"))
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    lines = [draw(LINES) % draw(STATUSES), *(b"%b: %b" % header for header in headers)]
    data = b"\r\n".join(lines) + b"\r\n\r\n" + body
    if draw(st.sampled_from((False, False, True))):
        data = draw(damaged(data))
    cut = draw(st.integers(0, len(data)))
    return [data[:cut], data[cut:]] if draw(st.booleans()) else [data[:cut]] if draw(st.booleans()) else [data]


def bodies(likely: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """Return what makes bodies: mostly JSON of a likely form, or what was made of it on the way."""
    told = (likely | JSON).map(lambda value: json.dumps(value).encode())
    packed = told.map(gzip.compress) | told.map(zlib.compress)
    whole = st.sampled_from((b"", b"[" * 20_000, b"1" * 6_000, b"<html>", b"\xff\xfe", b"null", b"NaN", b'"\\ud800"'))
    return (
        told
        | told
        | told
        | whole
        | packed
        | TEXTS.map(lambda text: text.encode(errors="replace"))
        | told.flatmap(damaged)
    )


def answering(parts: list[bytes]) -> httpx.HTTPTransport:
    """Return a transport on whose connections these bytes come back, and then the end."""
    transport = httpx.HTTPTransport(verify=False)
    transport._pool = httpcore.ConnectionPool(network_backend=httpcore.MockBackend(parts))
    return transport


def answering_async(parts: list[bytes]) -> httpx.AsyncHTTPTransport:
    """Return likewise for trio."""
    transport = httpx.AsyncHTTPTransport(verify=False)
    transport._pool = httpcore.AsyncConnectionPool(network_backend=httpcore.AsyncMockBackend(parts))
    return transport
