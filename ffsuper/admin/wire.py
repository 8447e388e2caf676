"""Requests to a server, repeated while it is away, and what its errors mean.

httpx is imported only when somebody opens such a connection: who talks to the store does without it.
"""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote

from ffsuper.clients import AWAY, patiently
from ffsuper.config_rules import http_url_mistakes, token_mistakes
from ffsuper.errors import (
    ConfigError,
    InvalidRequestError,
    OutcomeUnknownError,
    RefusedError,
    StoreAccessError,
    StoreError,
    StoreScriptError,
    StoreUnavailableError,
    StoreUnsuitableError,
)
from ffsuper.grants import (
    CONNECT_TIMEOUT_S,
    KEEP_UNUSED_S,
    RETRYABLE_STATUSES,
    decoded,
    no_cookies,
    reason,
    told,
    url_mistake,
)
from ffsuper.messages import ExecutionId
from ffsuper.sansio import partition
from ffsuper.store.replies import REFUSALS, UNREADABLE

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

# Rotating a secret takes up to 120 s; everything else is quick.
ANSWER_TIMEOUT_S = 130.0
# A result has 512 MiB at most, and JSON may take more room for it.
ANSWER_LIMIT_BYTES = 1 << 30
# How the protocol tells that a function refused.
REFUSAL = re.compile(r"(\w+) failed: (\w+)")


class NoSuchRouteError(StoreUnsuitableError):
    """The operator's: at this URL is no FlowFabric server, or one without this route."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask(Generic[T]):
    """One request, and how its answer is read.

    Attributes:
        verb: what the caller wanted; stands in errors.
        path: percent-encoded.
        read: turns the body of a successful answer into the result.
        subject: the id of what it is about, and ``missing``: the error code when the server knows no such thing.
        is_repeatable: repeating it does no harm when it had been carried out, but its answer was lost.
    """

    verb: str
    path: str
    read: Callable[[bytes], T]
    method: str = "GET"
    body: Mapping[str, Any] | None = field(default=None, repr=False)  # may hold a token
    query: Mapping[str, str | int] = field(default_factory=dict)
    subject: str = ""
    missing: str = "execution_not_found"
    is_repeatable: bool = True


class ServerWire:
    """The connections to one server, opened when they are needed. Safe to share between threads.

    Args:
        ca_file: certificates to trust, for ``https://``; the system's when absent.
        patience_s: for how long requests are repeated while the server, or its store, cannot be reached.

    Raises:
        ConfigError: httpx is not installed, URL or token cannot be any, or ``ca_file`` holds no certificates.
    """

    def __init__(
        self,
        url: str,
        token: str,
        patience_s: float,
        ca_file: Path | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        try:
            import httpx
        except ImportError:
            raise ConfigError(["a client of a server needs httpx: pip install 'ffsuper[http]'"]) from None
        mistakes = [f"server: {text}" for text in http_url_mistakes(url)]
        if not mistakes and (mistake := url_mistake(url)):
            mistakes.append(f"server: {mistake}")
        mistakes += [f"server: {text}" for text in (token_mistakes(token) if token else ())]
        if ca_file is not None and not url.startswith("https://"):
            mistakes.append("server: a file of certificates needs a URL that begins with https://")
        if mistakes:
            raise ConfigError(mistakes)
        try:
            trusted = ssl.create_default_context(cafile=ca_file)
        except OSError as error:
            raise ConfigError([f"server: {ca_file} holds no certificates: {error}"]) from None
        self.url = url.rstrip("/")
        self._patience_s = patience_s
        self._http = httpx.Client(
            base_url=self.url,
            # What comes packed cannot be bounded by what has come.
            headers={"Accept-Encoding": "identity", **({"Authorization": f"Bearer {token}"} if token else {})},
            cookies=no_cookies(),
            timeout=httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            limits=httpx.Limits(keepalive_expiry=KEEP_UNUSED_S),
            verify=trusted,
            # Proxies in the environment are not followed: the caller names the server.
            trust_env=False,
            transport=transport,
        )

    def close(self) -> None:
        """Drop the connections."""
        self._http.close()

    def call(self, ask: Ask[T]) -> T:
        """Carry out one request, waiting while the server is away.

        Raises:
            StoreUnavailableError: it stayed away; nothing was changed.
            OutcomeUnknownError: it may have been carried out.
            StoreError: the server refused; see ``error_of``.
        """
        return patiently(
            lambda: self._try(ask), self._patience_s, AWAY if ask.is_repeatable else (StoreUnavailableError,)
        )

    def _try(self, ask: Ask[T]) -> T:
        import httpx

        try:
            request = self._http.build_request(ask.method, ask.path, params=ask.query, json=ask.body)
        except ValueError as error:  # half a character, or a number that JSON does not have
            raise InvalidRequestError(ask.verb, "invalid_input", (f"it cannot be sent: {error}",)) from None
        try:
            status, content = self._exchange(request)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise StoreUnavailableError(f"cannot reach the server at {self.url}: {why(error)}") from error
        except httpx.RequestError as error:
            raise lost(ask)(f"no answer from the server at {self.url}: {why(error)}") from error
        if len(content) > ANSWER_LIMIT_BYTES:
            raise StoreUnsuitableError(
                f"{ask.verb}: the server at {self.url} answers more than {ANSWER_LIMIT_BYTES} bytes"
            )
        if not 200 <= status < 300:
            raise error_of(ask, status, content, self.url)
        try:
            return ask.read(content)
        except UNREADABLE:
            raise StoreUnsuitableError(
                f"{ask.verb}: the server at {self.url} answers what the protocol does not have"
            ) from None

    def _exchange(self, request: httpx.Request) -> tuple[int, bytes]:
        """Return status and body of the answer; of one that is too long, no more than shows that."""
        response = self._http.send(request, stream=True)
        content = bytearray()
        try:
            for part in response.iter_raw():
                content += part
                if len(content) > ANSWER_LIMIT_BYTES:
                    break
        finally:
            response.close()
        return response.status_code, bytes(content)


def error_of(ask: Ask[Any], status: int, content: bytes, url: str) -> StoreError:
    """Return our error for an answer that tells of one."""
    answer = decoded(content)
    members = answer if isinstance(answer, dict) else {}
    text = members["error"] if isinstance(members.get("error"), str) else None
    shown = told(content.decode(errors="replace") if text is None else text)
    if status in (401, 403):
        return StoreAccessError(f"the server at {url} refuses access: the token is missing or wrong")
    if status == 429:
        return StoreUnavailableError(f"the server at {url} cannot serve now: {shown}")
    if status >= 500:
        retryable = members.get("retryable")
        if retryable if isinstance(retryable, bool) else status in RETRYABLE_STATUSES:
            return lost(ask)(f"the server at {url} cannot serve now: {status} {shown}")
        return StoreScriptError(f"{ask.verb}: the server at {url} failed: {status} {shown}")
    if text is None and status in (404, 405):
        return NoSuchRouteError(f"{ask.verb}: the server at {url} does not offer this")
    if refusal := REFUSAL.fullmatch(text or ""):
        function, code = refusal.groups()
        return REFUSALS.get(code, RefusedError)(function, code)
    if status == 404:
        return REFUSALS.get(ask.missing, RefusedError)(ask.verb, ask.missing, (ask.subject,))
    if status >= 400:
        return InvalidRequestError(ask.verb, "invalid_input", (shown,))
    return StoreUnsuitableError(f"{ask.verb}: the server at {url} answers {status}")


def lost(ask: Ask[Any]) -> type[StoreError]:
    """Return the error of a request whose answer nobody knows: one that only reads has changed nothing."""
    return StoreUnavailableError if ask.method == "GET" else OutcomeUnknownError


def why(error: Exception) -> str:
    """Return what went wrong on the way."""
    return told(reason(error)) or type(error).__name__


def of_json(pick: Callable[[Any], T]) -> Callable[[bytes], T]:
    """Return what reads a body of JSON."""
    return lambda content: pick(json.loads(content))


def about(
    execution_id: str,
    verb: str,
    rest: str,
    pick: Callable[[Any], T],
    body: Mapping[str, Any] | None = None,
    **more: Any,
) -> Ask[T]:
    """Return a request about one execution.

    Raises:
        ValueError: that is no execution id.
    """
    known = partition.parse(execution_id)
    method = more.pop("method", "GET" if body is None else "POST")
    path = path_of(known, rest)
    return Ask(verb=verb, method=method, path=path, body=body, read=of_json(pick), subject=known, **more)


def path_of(execution_id: ExecutionId, rest: str) -> str:
    """Return the path of an execution, or of something of it."""
    return f"/v1/executions/{quote(execution_id, safe='')}{rest}"


def ignored(_: object) -> None:
    """Read nothing from an answer that says no more than that it worked."""


def now_ms() -> int:
    """Return the Unix time, which requests have to bring."""
    return int(time.time() * 1000)
