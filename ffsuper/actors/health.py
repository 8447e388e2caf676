"""Says over HTTP whether the worker lives (/livez) and takes on work (/readyz), and what it has counted (/metrics).

Probes ask often, and there may be many who do: none of these costs the actors or the store more than it has to.
"""

from __future__ import annotations

import errno
import logging
import math
import socket
from http import HTTPStatus

import trio

from ffsuper import metrics
from ffsuper.errors import ConfigError
from ffsuper.http1 import Answer, Service, plain
from ffsuper.standing import Standing, State
from ffsuper.store.presence import Presence

LOG = logging.getLogger(__name__)

AUTO = "auto"
LOOPBACK = "127.0.0.1"
PORT = 9464
BACKLOG = 64
# The store is asked no more often than this, however many probes ask us.
ASK_AGAIN_S = 1.0
# Who cannot listen at an address, by errno.
WHAT_THEN = {
    errno.EADDRINUSE: 'name another one, or "auto" for a free port',
    errno.EACCES: "name a port above 1023",
    errno.EADDRNOTAVAIL: "name an address of this machine",
}
INDEX = b"ffsuper worker: /livez /readyz /metrics\n"


async def run(listener: socket.socket, standing: Standing, presence: Presence) -> None:
    """Answer until cancelled."""
    desk = Desk(standing, presence)
    listening = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
    await trio.serve_listeners(Service(desk.answer).serve, [listening])


class Desk:
    """Where the answers are."""

    def __init__(self, standing: Standing, presence: Presence) -> None:
        self._standing = standing
        self._presence = presence
        self._asking = trio.Lock()
        self._asked_s = -math.inf
        self._writing = trio.CapacityLimiter(1)

    async def answer(self, path: str) -> Answer:
        """Answer to who asks for a path."""
        match path:
            case "/":
                return Answer(HTTPStatus.OK, INDEX)
            case "/livez":
                return verdict(self._standing.objection())
            case "/readyz":
                return verdict(self._standing.objection() or await self._why_idle())
            case "/metrics":
                seen = metrics.look(self._standing, self._presence.instance_id)
                text = await trio.to_thread.run_sync(seen.text, limiter=self._writing)
                return Answer(HTTPStatus.OK, text, metrics.CONTENT_TYPE)
        return plain(HTTPStatus.NOT_FOUND)

    async def _why_idle(self) -> str:
        """Return why no work is taken on; empty when it is."""
        if self._standing.state is not State.RUNNING:
            return str(self._standing.state.value)
        return "" if await self._store_answers() else "store away"

    async def _store_answers(self) -> bool:
        async with self._asking:
            if trio.current_time() - self._asked_s >= ASK_AGAIN_S:
                self._standing.store_answers = await self._presence.answers()
                self._asked_s = trio.current_time()
            return self._standing.store_answers


def verdict(objection: str) -> Answer:
    """Return what a probe is told."""
    status = HTTPStatus.SERVICE_UNAVAILABLE if objection else HTTPStatus.OK
    return Answer(status, f"{objection or 'ok'}\n".encode())


def open_listener(address: str) -> socket.socket | None:
    """Listen at an address as ``[status] listen`` has it; None where nothing is to be served.

    Raises:
        ConfigError: nobody can listen there.
    """
    if not address:
        return None
    if address == AUTO:
        return open_automatically()
    host, _, port = address.rpartition(":")
    try:
        return listen(host.strip("[]"), int(port))
    except OSError as error:
        advice = WHAT_THEN.get(error.errno or 0, "name another one")
        raise ConfigError([f"[status] listen: {address}: {error.strerror}: {advice}"]) from None


def open_automatically() -> socket.socket | None:
    """Listen at the usual port, or where that is taken at a free one; None where there is no network at all."""
    try:
        try:
            return listen(LOOPBACK, PORT)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return listen(LOOPBACK, 0)
    except OSError as error:
        LOG.warning("health and metrics are not served", extra={"error": error.strerror})
        return None


def listen(host: str, port: int) -> socket.socket:
    """Listen at a port; 0 for a free one."""
    family, kind, protocol, _, where = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # What is left of connections to a predecessor keeps nobody out.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def address_of(listener: socket.socket) -> str:
    """Return where a socket listens, as ``[status] listen`` would have it."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
