"""Claim grants from a FlowFabric server, one request each.

httpx is imported only when a worker asks a server: direct workers do without it.
"""

from __future__ import annotations

import json
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import trio

from ffsuper.config import ClaimConfig, WorkerConfig
from ffsuper.errors import ConfigError, ServerAwayError, ServerError, ServerRefusedError
from ffsuper.messages import Candidate, ClaimKind, LaneId
from ffsuper.sansio import partition

if TYPE_CHECKING:
    from http.cookiejar import CookieJar

    import httpx

# A grant takes some 300 bytes.
MAX_ANSWER_BYTES = 64 * 1024
MAX_TOLD_CHARACTERS = 200
CONNECT_TIMEOUT_S = 10.0
# Shorter than servers keep unused connections open, so that none is used just when it is closed.
KEEP_UNUSED_S = 2.0
RETRYABLE_STATUSES = frozenset({429, 502, 503, 504})
# Both are called {fp:N} in keys; the other families hold no executions.
EXECUTION_FAMILIES = ("execution", "flow")


@asynccontextmanager
async def open_grants(claim: ClaimConfig, worker: WorkerConfig) -> AsyncIterator[Grants]:
    """Make ready to ask the server; it is first connected to when it is first asked.

    Raises:
        ConfigError: httpx is not installed or takes no such URL, or ``ca_file`` holds no certificates.
    """
    try:
        import httpx
    except ImportError:
        raise ConfigError(
            ['[claim] source: "server" needs httpx; install it with pip install "ffsuper[http]"']
        ) from None
    if mistake := url_mistake(claim.server_url):
        raise ConfigError([f"[claim] server_url: {mistake}"])
    try:
        trusted = ssl.create_default_context(cafile=claim.ca_file)
    except OSError as error:
        raise ConfigError([f"[claim] ca_file: {claim.ca_file} holds no certificates: {error}"]) from None
    for name in ("httpx", "httpcore"):
        # They log every request.
        logging.getLogger(name).setLevel(logging.WARNING)
    # Undecoded answers are bounded; those that are packed would not be.
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    if claim.token:
        headers["Authorization"] = f"Bearer {claim.token}"
    timeout = httpx.Timeout(None, connect=min(CONNECT_TIMEOUT_S, claim.server_timeout_s))
    # Proxies in the environment are not followed: what this worker does is in worker.toml.
    limits = httpx.Limits(keepalive_expiry=KEEP_UNUSED_S)
    async with httpx.AsyncClient(
        headers=headers, cookies=no_cookies(), verify=trusted, timeout=timeout, limits=limits, trust_env=False
    ) as client:
        yield Grants(client, claim, worker)


class Grants:
    """Asks on behalf of one worker."""

    def __init__(self, client: httpx.AsyncClient, claim: ClaimConfig, worker: WorkerConfig) -> None:
        self._client = client
        # Dots too, because ".." in a path is somewhere else.
        name = quote(worker.id, safe="").replace(".", "%2E")
        self._url = f"{claim.server_url.rstrip('/')}/v1/workers/{name}/claim"
        self._timeout_s = claim.server_timeout_s
        self._request = {
            "worker_instance_id": worker.instance_id,
            "capabilities": list(worker.capabilities),
            "grant_ttl_ms": claim.grant_ttl_ms,
        }

    async def ask(self, lane: LaneId, wait_s: float = 0.0) -> Candidate | None:
        """Return an execution of the lane that is granted to this worker; None when there is nothing to do.

        Args:
            wait_s: the server may wait for so long for something to come. Ours does; FlowFabric's answers at once.

        Raises:
            ServerAwayError: ask again later. Every failure of the network is one, not only those in which the request
                was certainly not read: a grant that was lost on the way lapses by itself.
            ServerRefusedError: asking again does not help by itself.
        """
        # Half the time that its answer may take is left for the way and the store.
        wait_ms = int(min(wait_s, self._timeout_s / 2) * 1000)
        waiting = {"wait_ms": wait_ms} if wait_ms else {}
        status, content = await self._post({"lane_id": lane, **self._request, **waiting})
        match status:
            case 200:
                return read_grant(content, lane)
            case 204:
                return None
        raise read_error(status, content)

    async def _post(self, request: dict[str, Any]) -> tuple[int, bytes]:
        """Return status and body of the answer."""
        import httpx

        content = b""
        try:
            # The inner scope ends the reading inside httpx, which does not clean up after a loop that is left.
            with trio.fail_after(self._timeout_s), trio.CancelScope() as reading:
                async with self._client.stream("POST", self._url, json=request) as response:
                    async for part in response.aiter_raw():
                        content += part
                        if len(content) > MAX_ANSWER_BYTES:
                            reading.cancel()
        except trio.TooSlowError:
            raise ServerAwayError(f"no answer within {self._timeout_s} s") from None
        except httpx.TransportError as error:
            raise ServerAwayError(f"{type(error).__name__}: {told(reason(error))}") from error
        if len(content) > MAX_ANSWER_BYTES:
            raise ServerRefusedError(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
        return response.status_code, content


def url_mistake(url: str) -> str:
    """Say that httpx takes no such URL, though it may look like one; empty when it does.

    Nothing of the URL is repeated: there may be a password in it.
    """
    import httpx

    try:
        is_one = bool(httpx.URL(url).host)  # which decodes it, at the latest
    except (httpx.InvalidURL, UnicodeError):
        is_one = False
    return "" if is_one else "names a host or a port that cannot be one"


def no_cookies() -> CookieJar:
    """Return a jar that takes none: something on the way may set some, even such that no request can carry."""
    from http.cookiejar import CookieJar

    class NoCookies(CookieJar):
        def extract_cookies(self, response: object, request: object) -> None:
            """Take none."""

    return NoCookies()


def read_grant(content: bytes, lane: LaneId) -> Candidate:
    """Read the answer to a request that was granted.

    The execution's id tells its partition; what else the answer says of it is only compared. Grant key and expiry are
    for the store to know.

    Raises:
        ServerRefusedError: it is no such answer.
    """
    grant = decoded(content)
    try:
        execution_id = partition.parse(grant["execution_id"])
    except (TypeError, KeyError, AttributeError, ValueError):
        raise ServerRefusedError("malformed_response: there is no execution id in the grant") from None
    family, index = grant.get("partition_family", "execution"), grant.get("partition_index")
    if family not in EXECUTION_FAMILIES:
        raise ServerRefusedError(f"malformed_response: partition family {told(str(family))}")
    if index is not None and index != partition.partition_of(execution_id):
        raise ServerRefusedError(f"malformed_response: {execution_id} is not on partition {told(str(index))}")
    return Candidate(execution_id, lane, ClaimKind.NEW, execution_kind="", is_granted=True)


def read_error(status: int, content: bytes) -> ServerError:
    """Read an answer that is neither a grant nor that there is nothing to do."""
    answer = decoded(content)
    members = answer if isinstance(answer, dict) else {}
    text = members["error"] if isinstance(members.get("error"), str) else content.decode(errors="replace")
    retryable = members.get("retryable")
    if not isinstance(retryable, bool):
        retryable = status in RETRYABLE_STATUSES
    return (ServerAwayError if retryable else ServerRefusedError)(f"{status} {told(text)}".rstrip())


def decoded(content: bytes) -> Any:
    """Return what JSON says; None when it is none."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def reason(error: BaseException) -> str:
    """Return what an error says, or what caused it where it says nothing: a certificate's fault is at the bottom."""
    cause: BaseException | None = error
    while cause is not None and not str(cause):
        cause = cause.__cause__ or cause.__context__
    return str(cause or "")


def told(text: str) -> str:
    """Return a stranger's text as it may stand in a log: on one bounded line."""
    return "".join(one if one.isprintable() else " " for one in text[:MAX_TOLD_CHARACTERS])
