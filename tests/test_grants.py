"""Asking a server over real connections; the answers are written out byte by byte."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from ffsuper.config import ClaimConfig, WorkerConfig
from ffsuper.errors import ConfigError, ServerAwayError, ServerError, ServerRefusedError
from ffsuper.grants import Grants, open_grants
from ffsuper.messages import Candidate, ClaimKind, ExecutionId, LaneId

LIMIT_S = 20.0
LANE = LaneId("bulk")
EXECUTION = ExecutionId("{fp:7}:0b1f3c52-9d6c-4a6e-8f0e-5b1d3d1f0a11")
GRANT = {
    "execution_id": EXECUTION,
    "partition_family": "execution",
    "partition_index": 7,
    "grant_key": f"ff:exec:{EXECUTION}:claim_grant",
    "expires_at_ms": 1_700_000_010_000,
}
NOTHING = b"HTTP/1.1 204 No Content\r\n\r\n"


def reply(status: int, content: object) -> bytes:
    """Write an answer with a body: bytes as they are, all else as JSON."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return b"HTTP/1.1 %d Whatever\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


@dataclass
class Server:
    """Answers every request alike.

    Attributes:
        answer: sent as it is; None to close the connection instead.
        heard: head and body of each request.
    """

    answer: bytes | None
    port: int = 0
    connections: int = 0
    heard: list[tuple[bytes, dict[str, Any]]] = field(default_factory=list)

    async def serve(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        async with stream:
            received = b""
            try:
                while part := await stream.receive_some():
                    received += part
                    head, _, body = received.partition(b"\r\n\r\n")
                    lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
                    if lengths and len(body) == int(lengths[0].partition(b":")[2]):
                        self.heard.append((head, json.loads(body)))
                        if self.answer is None:
                            return
                        received = b""
                        await stream.send_all(self.answer)
            except trio.BrokenResourceError:
                return  # the client does not trust us, or has had enough


@asynccontextmanager
async def serving(answer: bytes | None, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(answer)
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            server.port = listener.socket.getsockname()[1]
            encrypted = listener if tls is None else trio.SSLListener(listener, tls)
            nursery.start_soon(trio.serve_listeners, server.serve, [encrypted])
            yield server
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def asking(server: Server, worker_id: str = "images", **settings: Any) -> AsyncIterator[Grants]:
    defaults: dict[str, Any] = {"source": "server", "server_url": f"http://127.0.0.1:{server.port}/"}
    worker = WorkerConfig(id=worker_id, instance_id="images@1", capabilities=("a", "b"))
    async with open_grants(ClaimConfig(**defaults | settings), worker) as grants:
        yield grants


async def answer_to(answer: bytes | None, **settings: Any) -> Candidate | None:
    """Ask a server that answers so."""
    async with serving(answer) as server, asking(server, **settings) as grants:
        try:
            return await grants.ask(LANE)
        except ServerError as error:
            caught = error
    raise caught


# --- what is asked ------------------------------------------------------------------------------------------------


async def test_the_request_is_the_protocols() -> None:
    async with serving(NOTHING) as server, asking(server, grant_ttl_ms=777, token="hush") as grants:
        await grants.ask(LANE)
        ((head, body),) = server.heard
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /v1/workers/images/claim HTTP/1.1"
    assert "Authorization: Bearer hush" in lines
    assert "Content-Type: application/json" in lines
    assert body == {
        "lane_id": "bulk",
        "worker_instance_id": "images@1",
        "capabilities": ["a", "b"],
        "grant_ttl_ms": 777,
    }


async def test_without_a_token_there_is_no_header() -> None:
    async with serving(NOTHING) as server, asking(server) as grants:
        await grants.ask(LANE)
        assert b"authorization" not in server.heard[0][0].lower()


@pytest.mark.parametrize(
    ("worker_id", "encoded"),
    [("a/b?c#d", "a%2Fb%3Fc%23d"), ("..", "%2E%2E"), ("é%", "%C3%A9%25"), ("{a}+b", "%7Ba%7D%2Bb")],
)
async def test_the_worker_is_one_segment_of_the_path(worker_id: str, encoded: str) -> None:
    async with serving(NOTHING) as server, asking(server, worker_id) as grants:
        await grants.ask(LANE)
        assert server.heard[0][0].startswith(f"POST /v1/workers/{encoded}/claim ".encode())


async def test_one_connection_serves_many_requests() -> None:
    async with serving(reply(200, GRANT)) as server, asking(server) as grants:
        for _ in range(3):
            await grants.ask(LANE)
        assert (len(server.heard), server.connections) == (3, 1)


# --- what is answered ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"partition_family": "flow"},
        {"partition_index": None},
        {"partition": {"family": "execution", "index": 7}},
        {"grant_key": None, "expires_at_ms": None, "more": []},
    ],
    ids=str,
)
async def test_a_grant_is_a_candidate_that_needs_no_other(changes: dict[str, Any]) -> None:
    expected = Candidate(EXECUTION, LANE, ClaimKind.NEW, execution_kind="", is_granted=True)
    assert await answer_to(reply(200, GRANT | changes)) == expected


async def test_a_grant_may_leave_the_partition_to_the_id() -> None:
    candidate = await answer_to(reply(200, {"execution_id": EXECUTION}))
    assert candidate is not None
    assert candidate.execution_id == EXECUTION


async def test_there_may_be_nothing_to_do() -> None:
    assert await answer_to(NOTHING) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b"\xff\xfe",
        b"[" * 60_000,
        b"1" * 6_000,
        [],
        None,
        "text",
        {},
        GRANT | {"execution_id": 7},
        GRANT | {"execution_id": None},
        GRANT | {"execution_id": "0b1f3c52-9d6c-4a6e-8f0e-5b1d3d1f0a11"},
        GRANT | {"execution_id": "{fp:70000}:0b1f3c52-9d6c-4a6e-8f0e-5b1d3d1f0a11"},
        GRANT | {"partition_family": "budget"},
        GRANT | {"partition_family": ["execution"]},
        GRANT | {"partition_index": 8},
        GRANT | {"partition_index": "7"},
        GRANT | {"partition_index": {}},
    ],
    ids=lambda content: str(content)[:40],
)
async def test_a_grant_that_makes_no_sense_is_an_error(content: object) -> None:
    with pytest.raises(ServerRefusedError, match="malformed_response"):
        await answer_to(reply(200, content))


@pytest.mark.parametrize(
    ("status", "content", "told"),
    [
        (429, {"error": "too many", "retryable": True}, "429 too many"),
        (500, {"error": "valkey: gone", "kind": "io_error", "retryable": True}, "500 valkey: gone"),
        (429, {"error": "no member"}, "429 no member"),
        (502, b"<html>bad gateway</html>", "502 <html>bad gateway</html>"),
        (503, b"", "503"),
        (504, {"retryable": "yes"}, '504 {"retryable": "yes"}'),
    ],
)
async def test_what_may_be_asked_again_is_told_from_the_rest(status: int, content: object, told: str) -> None:
    with pytest.raises(ServerAwayError) as caught:
        await answer_to(reply(status, content))
    assert str(caught.value) == told


@pytest.mark.parametrize(
    ("status", "content", "told"),
    [
        (400, {"error": "bad lane"}, "400 bad lane"),
        (401, {"error": "missing or invalid Authorization header"}, "401 missing or invalid Authorization header"),
        (403, b"no\r\n\x1b[31m", "403 no   [31m"),
        (404, b"", "404"),
        (302, b"", "302"),
        (201, GRANT | {"error": "?"}, "201 ?"),
        (500, {"error": "script: x", "retryable": False}, "500 script: x"),
        (503, {"error": "for good", "retryable": False}, "503 for good"),
        (500, b"x" * 999, f"500 {'x' * 200}"),
    ],
)
async def test_refusals_are_told_as_such_on_one_bounded_line(status: int, content: object, told: str) -> None:
    with pytest.raises(ServerRefusedError) as caught:
        await answer_to(reply(status, content))
    assert str(caught.value) == told


@pytest.mark.parametrize("announced", [b"Content-Length: 99999999", b"Transfer-Encoding: chunked"])
async def test_an_endless_answer_is_cut_off(announced: bytes) -> None:
    part = b"x" * 70_000
    body = b"%x\r\n%b\r\n" % (len(part), part) if b"chunked" in announced else part
    with pytest.raises(ServerRefusedError, match="more than 65536 bytes"):
        await answer_to(b"HTTP/1.1 200 OK\r\n" + announced + b"\r\n\r\n" + body)


# --- no answer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [None, b"ready\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"])
async def test_what_is_no_http_means_that_the_server_is_away(answer: bytes | None) -> None:
    with pytest.raises(ServerAwayError, match="RemoteProtocolError"):
        await answer_to(answer)


@pytest.mark.parametrize(
    ("wait_s", "timeout_s", "told"), [(20.0, 130.0, 20_000), (20.0, 10.0, 5_000), (0.0, 130.0, None)]
)
async def test_the_server_is_told_how_long_it_may_wait(wait_s: float, timeout_s: float, told: int | None) -> None:
    async with serving(NOTHING) as server, asking(server, server_timeout_s=timeout_s) as grants:
        await grants.ask(LANE, wait_s)
        ((_, body),) = server.heard
    assert body.get("wait_ms") == told


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345"])
async def test_a_server_that_hangs_is_waited_for_in_vain_only_so_long(answer: bytes) -> None:
    with pytest.raises(ServerAwayError, match=r"no answer within 0\.2 s"):
        await answer_to(answer, server_timeout_s=0.2)


async def test_a_server_that_does_not_run_is_away() -> None:
    async with serving(NOTHING) as server:
        pass
    async with asking(server) as grants:
        with pytest.raises(ServerAwayError, match="ConnectError"):
            await grants.ask(LANE)


async def test_after_an_error_the_next_request_works() -> None:
    async with serving(None) as server, asking(server) as grants:
        with pytest.raises(ServerAwayError):
            await grants.ask(LANE)
        server.answer = NOTHING
        assert await grants.ask(LANE) is None


# --- TLS and what is needed ---------------------------------------------------------------------------------------


async def test_only_a_server_whose_authority_is_trusted_hears_the_token(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    async with serving(NOTHING, tls) as server:
        url = f"https://127.0.0.1:{server.port}"
        async with asking(server, server_url=url, token="hush") as grants:
            with pytest.raises(ServerAwayError, match="CERTIFICATE_VERIFY_FAILED"):
                await grants.ask(LANE)
        assert server.heard == []
        async with asking(server, server_url=url, token="hush", ca_file=tmp_path / "ca.pem") as grants:
            assert await grants.ask(LANE) is None
        assert b"Authorization: Bearer hush" in server.heard[0][0]


async def test_a_file_without_certificates_is_a_mistake_in_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("rubbish")
    with pytest.raises(ConfigError, match=r"\[claim\] ca_file: .*ca.pem holds no certificates"):
        async with asking(Server(None), server_url="https://x", ca_file=tmp_path / "ca.pem"):
            pass


async def test_a_missing_httpx_is_told_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(ConfigError, match=r'pip install "ffsuper\[http\]"'):
        async with asking(Server(None), server_url="http://x"):
            pass


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert await answer_to(NOTHING) is None


def test_a_worker_that_looks_into_the_store_itself_does_not_load_httpx() -> None:
    program = "import sys, ffsuper.supervisor; sys.exit('httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
