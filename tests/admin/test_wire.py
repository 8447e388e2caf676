"""Requests to a server: what its errors mean, and what is repeated while it is away."""

from __future__ import annotations

import gzip
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from ffsuper.admin.client import AdminClient
from ffsuper.admin.wire import Ask, NoSuchRouteError, ServerWire, of_json
from ffsuper.errors import (
    ConfigError,
    ExecutionNotFoundError,
    InvalidRequestError,
    LeaseLostError,
    OutcomeUnknownError,
    RefusedError,
    StoreAccessError,
    StoreError,
    StoreScriptError,
    StoreUnavailableError,
    StoreUnsuitableError,
)
from tests.admin.transports import Answering

URL = "http://server:9090"
READ: Ask[Any] = Ask(verb="show", path="/v1/executions/x", read=of_json(lambda told: told), subject="x")
ONCE: Ask[Any] = Ask(verb="replay", method="POST", path="/v1/x", read=of_json(lambda told: told), is_repeatable=False)
WRITE: Ask[Any] = Ask(
    verb="cancel", method="POST", path="/v1/x", read=of_json(lambda told: told["Done"]), subject="x"
)

Answer = httpx.Response | Exception


class Answers:
    """Answers requests in turn, the last answer for ever."""

    def __init__(self, *answers: Answer) -> None:
        self.left = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.left[0] if len(self.left) == 1 else self.left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def wire(answers: Callable[[httpx.Request], httpx.Response], patience_s: float = 0.0, token: str = "") -> ServerWire:
    return ServerWire(URL, token, patience_s, transport=Answering(answers))


def error(status: int, text: str, **more: Any) -> httpx.Response:
    return httpx.Response(status, json={"error": text, **more})


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (error(404, "execution not found: x"), ExecutionNotFoundError, r"show: execution_not_found \(x\)"),
        (error(404, "ff_x failed: execution_not_found"), ExecutionNotFoundError, "ff_x: execution_not_found"),
        (error(400, "ff_x failed: execution_not_active"), LeaseLostError, "ff_x: execution_not_active"),
        (error(400, "ff_x failed: invalid_capabilities"), InvalidRequestError, "ff_x: invalid_capabilities"),
        (error(400, "ff_x failed: invalid_token"), RefusedError, "ff_x: invalid_token"),
        (
            error(422, "invalid JSON: lane_id: too long"),
            InvalidRequestError,
            "show: invalid_input .*lane_id: too long",
        ),
        (httpx.Response(400, text="bad query"), InvalidRequestError, "bad query"),
        (error(413, "invalid JSON: Content Too Large"), InvalidRequestError, "Content Too Large"),
        (error(401, "missing header"), StoreAccessError, f"{URL} refuses access: the token is missing or wrong"),
        (error(429, "too many", retryable=True), StoreUnavailableError, "too many"),
        (error(500, "valkey: away", kind="io_error", retryable=True), StoreUnavailableError, "valkey: away"),
        (httpx.Response(503, text="<html>"), StoreUnavailableError, f"{URL} cannot serve now: 503 <html>"),
        (error(500, "valkey: broken", retryable=False), StoreScriptError, "valkey: broken"),
        (httpx.Response(500), StoreScriptError, "show: .* 500"),
        (httpx.Response(404), NoSuchRouteError, "show: the server at .* does not offer this"),
        (httpx.Response(405), NoSuchRouteError, "does not offer this"),
        (httpx.Response(302, headers={"Location": "/"}), StoreUnsuitableError, "answers 302"),
        (httpx.Response(200, text="<html>"), StoreUnsuitableError, "what the protocol does not have"),
        (httpx.ConnectError("refused"), StoreUnavailableError, f"cannot reach the server at {URL}: refused"),
        (httpx.ReadTimeout(""), StoreUnavailableError, f"no answer from the server at {URL}: ReadTimeout"),
    ],
)
def test_every_answer_has_its_error(answer: Answer, kind: type[StoreError], text: str) -> None:
    with pytest.raises(kind, match=text) as raised:
        wire(Answers(answer)).call(READ)
    assert type(raised.value) is kind


def test_a_text_of_the_servers_is_shown_on_one_bounded_line() -> None:
    with pytest.raises(InvalidRequestError) as raised:
        wire(Answers(error(400, "a\nb" + "x" * 10_000))).call(READ)
    assert "a b" in str(raised.value)
    assert len(str(raised.value)) < 300


AWAY: list[Answer] = [
    httpx.ConnectError("refused"),
    httpx.ReadError("reset"),
    error(429, "too many", retryable=True),
    error(500, "valkey: away", kind="io_error", retryable=True),
    httpx.Response(502),
]


@pytest.mark.parametrize("away", AWAY, ids=str)
@pytest.mark.parametrize("ask", [READ, WRITE], ids=["read", "write"])
def test_what_may_be_repeated_is_until_the_server_is_back(away: Answer, ask: Ask[Any]) -> None:
    answers = Answers(away, away, httpx.Response(200, json={"Done": 1}))
    assert wire(answers, patience_s=10.0).call(ask) in (1, {"Done": 1})
    assert len(answers.requests) == 3


def test_what_must_not_be_carried_out_twice_is_repeated_only_where_it_certainly_was_not() -> None:
    answers = Answers(
        httpx.ConnectError("refused"), error(429, "too many", retryable=True), httpx.Response(200, json={"Done": 1})
    )
    assert wire(answers, patience_s=10.0).call(ONCE) == {"Done": 1}
    for away in (httpx.ReadError("reset"), error(500, "valkey: away", retryable=True), httpx.Response(504)):
        answers = Answers(away)
        with pytest.raises(OutcomeUnknownError):
            wire(answers, patience_s=10.0).call(ONCE)
        assert len(answers.requests) == 1


def test_a_write_whose_answer_stays_away_is_told_apart_from_one_that_was_never_sent() -> None:
    with pytest.raises(OutcomeUnknownError, match="no answer"):
        wire(Answers(httpx.ReadError("reset"))).call(WRITE)
    with pytest.raises(StoreUnavailableError, match="cannot reach"):
        wire(Answers(httpx.ConnectError("refused"))).call(WRITE)


def test_refusals_are_never_repeated() -> None:
    answers = Answers(error(400, "ff_x failed: invalid_token"))
    with pytest.raises(RefusedError):
        wire(answers, patience_s=10.0).call(WRITE)
    assert len(answers.requests) == 1


def test_the_token_goes_with_every_request_and_into_no_error() -> None:
    answers = Answers(error(401, "missing header"))
    with pytest.raises(StoreAccessError) as raised:
        wire(answers, token="secret").call(READ)
    assert answers.requests[0].headers["Authorization"] == "Bearer secret"
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "more", "told"),
    [
        ("redis://localhost", {}, "server: must begin with http:// or https://"),
        ("http://", {}, "names no host"),
        ("http://me:pw@host", {}, "must not contain a user name or a password"),
        ("http://host", {"token": "two words"}, "the token must be printable ASCII"),
        ("http://host", {"ca_file": Path("ca.pem")}, "certificates needs a URL that begins with https://"),
        ("https://host", {"ca_file": Path(__file__)}, "server: .*test_wire.py holds no certificates"),
        ("https://host", {"ca_file": Path("none.pem")}, "server: none.pem holds no certificates: .*No such file"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_right_are_told_at_once(url: str, more: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as raised:
        AdminClient(url, **more)
    assert "pw" not in str(raised.value).replace("password", "")
    assert "two words" not in str(raised.value)


def test_a_missing_httpx_is_told_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(ConfigError, match=r"pip install 'ffsuper\[http\]'"):
        AdminClient()


class States(BaseHTTPRequestHandler):
    """Says that every execution is waiting, and keeps the tokens that it hears."""

    heard: list[str | None]

    def do_GET(self) -> None:
        self.heard.append(self.headers["Authorization"])
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'"waiting"')

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- its name there
        pass


class Quiet(HTTPServer):
    """Makes nothing of a client that does not trust it."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@contextmanager
def encrypted(authority: trustme.CA, heard: list[str | None]) -> Iterator[str]:
    """Run a server that speaks TLS; provide its URL."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    with Quiet(("127.0.0.1", 0), type("Handler", (States,), {"heard": heard})) as server:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_only_a_server_whose_authority_is_trusted_hears_the_token(tmp_path: Path) -> None:
    authority, execution, heard = trustme.CA(), "{fp:1}:00000000-0000-0000-0000-000000000000", list[str | None]()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with encrypted(authority, heard) as url:
        with (
            AdminClient(url, token="hush", patience_s=0.0) as client,
            pytest.raises(StoreUnavailableError, match=f"cannot reach the server at {url}: .*VERIFY_FAILED"),
        ):
            client.state(execution)
        assert heard == []
        with AdminClient(url, token="hush", ca_file=tmp_path / "ca.pem") as client:
            assert client.state(execution) == "waiting"
    assert heard == ["Bearer hush"]


# --- answers that are too long --------------------------------------------------------------------------------------


class Endless(httpx.SyncByteStream):
    """A body without end."""

    def __init__(self) -> None:
        self.parts = 0
        self.is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        while True:
            self.parts += 1
            yield b"[" * 1_000

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("status", [200, 503])
def test_of_an_answer_no_more_is_read_than_the_limit(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ffsuper.admin.wire.ANSWER_LIMIT_BYTES", 10_000)
    body = Endless()
    with pytest.raises(StoreUnsuitableError, match=r"show: the server at .* answers more than 10000 bytes"):
        wire(lambda _: httpx.Response(status, stream=body)).call(READ)
    assert (body.parts, body.is_closed) == (11, True)


def test_an_answer_of_just_the_limit_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ffsuper.admin.wire.ANSWER_LIMIT_BYTES", 10)
    assert wire(lambda _: httpx.Response(200, content=b"[1,2,3,45]")).call(READ) == [1, 2, 3, 45]


def test_a_packed_answer_is_not_asked_for_and_not_unpacked() -> None:
    packed = httpx.ByteStream(gzip.compress(b"7"))
    answers = Answers(httpx.Response(200, stream=packed, headers={"Content-Encoding": "gzip"}))
    with pytest.raises(StoreUnsuitableError, match="answers what the protocol does not have"):
        wire(answers).call(READ)
    (request,) = answers.requests
    assert request.headers["Accept-Encoding"] == "identity"
