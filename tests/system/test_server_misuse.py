"""``ffsuper server`` and clients that are slow, rude, or many."""

from __future__ import annotations

import resource
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import httpx
import psutil
import pytest

from ffsuper.client import Client
from tests.system.test_server import free_port, reached
from tests.system.workers import LIMIT_S, Worker, Workers, eventually

TAIL = "/v1/executions/%7Bfp%3A7%7D%3A550e8400-e29b-41d4-a716-446655440000/attempts/0/stream/tail"
CLAIM = "/v1/workers/pool/claim"
IDLE = 1_000
WEBSOCKET = b"""GET /v1/partitions HTTP/1.1\r
Host: x\r
Upgrade: websocket\r
Connection: Upgrade\r
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r
Sec-WebSocket-Version: 13\r
\r
"""


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(LIMIT_S)
        yield connection


def request(method: str, target: str, body: bytes = b"", length: int | None = None) -> bytes:
    head = f"{method} {target} HTTP/1.1\r\nHost: server\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body


def started(workers: Workers, **settings: object) -> tuple[Worker, int]:
    port = free_port()
    server = workers.launch_server("server", listen=f"127.0.0.1:{port}", **settings)
    eventually(lambda: reached(port), "the server")
    return server, port


def said(server: Worker) -> str:
    return server.log_path.read_text()


def test_a_tail_whose_reader_has_gone_gives_its_place_back(workers: Workers) -> None:
    server, port = started(workers, stream_operations=1)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT_S) as http:
        with connected(port) as connection:
            connection.sendall(request("GET", f"{TAIL}?block_ms=30000"))
            eventually(lambda: http.get(TAIL).status_code == 429, "the tail to begin")
        eventually(lambda: http.get(TAIL).status_code == 200, "the place to be free")
    assert "Traceback" not in said(server)


def test_a_body_that_nobody_has_asked_for_ends_nothing(workers: Workers) -> None:
    server, port = started(workers)
    with connected(port) as connection:
        head = f"GET {TAIL}?block_ms=20000 HTTP/1.1\r\nHost: server\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode())
        for _ in range(50):
            connection.sendall(b"%x\r\n%b\r\n" % (65_536, bytes(65_536)))
        connection.settimeout(0.5)
        with suppress(TimeoutError, ConnectionError):
            connection.recv(100)
    assert reached(port)
    assert "Traceback" not in said(server)


def test_what_comes_is_not_granted_to_a_worker_that_has_gone(workers: Workers, client: Client) -> None:
    server, port = started(workers)
    claim = b'{"lane_id":"default","worker_instance_id":"w","grant_ttl_ms":60000,"wait_ms":30000}'
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT_S) as http:
        for _ in range(3):
            with connected(port) as connection:
                connection.sendall(request("POST", CLAIM, claim))
                eventually(lambda: waiting(http) == 1, "the worker to wait")
            eventually(lambda: waiting(http) == 0, "the worker to be missed")
        submitted = client.submit("job")
        granted = http.post(CLAIM, content=claim, headers={"content-type": "application/json"})
        assert granted.json()["execution_id"] == submitted
    assert "Traceback" not in said(server)


def waiting(http: httpx.Client) -> int:
    lines = http.get("/metrics").text.splitlines()
    (found,) = [line for line in lines if line.startswith("ffsuper_waiting_claims ")]
    return int(float(found.split()[1]))


def test_many_connections_that_ask_for_nothing_keep_nobody_out(workers: Workers) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    server, port = started(workers)
    process = psutil.Process(server.process.pid)
    before = process.num_fds()
    with ExitStack() as opened:
        for _ in range(IDLE):
            opened.enter_context(connected(port))
        assert reached(port)
        assert process.num_fds() >= before + IDLE - 10
    eventually(lambda: process.num_fds() < before + 10, "the connections to be closed")
    assert "Traceback" not in said(server)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/executions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/executions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /v1/executions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        WEBSOCKET,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64,
    ],
    ids=["tls", "version", "nul", "negative", "two-lengths", "chunk", "header", "websocket", "http2"],
)
def test_what_is_no_request_is_turned_away_without_a_traceback(workers: Workers, garbage: bytes) -> None:
    server, port = started(workers)
    with connected(port) as connection:
        connection.sendall(garbage)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    assert not answer.startswith(b"HTTP/1.1 5")
    assert reached(port)
    assert "Traceback" not in said(server)


def test_sigterm_ends_a_server_that_workers_wait_at_and_readers_tail(workers: Workers) -> None:
    server, port = started(workers)
    claim = b'{"lane_id":"default","worker_instance_id":"w","grant_ttl_ms":60000,"wait_ms":30000}'
    with connected(port) as waits, connected(port) as tails, connected(port) as idle, connected(port) as slow:
        waits.sendall(request("POST", CLAIM, claim))
        tails.sendall(request("GET", f"{TAIL}?block_ms=30000"))
        slow.sendall(request("POST", CLAIM, claim[:10], len(claim)))
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
            eventually(lambda: waiting(http) == 1, "the worker to wait")
        began_s = time.monotonic()
        server.signal(signal.SIGTERM)
        assert waits.recv(100).startswith(b"HTTP/1.1 204")
        assert tails.recv(100).startswith(b"HTTP/1.1 200")
        assert idle.recv(100) == b""
        assert server.wait() == 0
        assert time.monotonic() - began_s < LIMIT_S
    assert "Traceback" not in said(server)
