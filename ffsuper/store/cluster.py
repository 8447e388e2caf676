"""A cluster: every command goes to the server that has its key, all servers' batches at the same time.

Which server has which slot is asked of any that answers, and again when one is gone or says that a slot has moved.
Being sent elsewhere (MOVED, ASK) promises that nothing was done, so that is followed at once.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from redis.crc import key_slot

from ffsuper.config import StoreConfig
from ffsuper.errors import OutcomeUnknownError, StoreError, StoreUnavailableError
from ffsuper.store.replies import ElsewhereError
from ffsuper.store.wire import Begun, Command, ServerWire, Wire

SLOTS = 16384
MAX_DETOURS = 5
# Commands without a key; any server can answer them.
KEYLESS = frozenset({"TIME", "PING", "FUNCTION", "CLUSTER", "INFO", "CONFIG", "CLIENT", "PUBLISH"})
SCHEMES = {"redis+cluster": "redis", "rediss+cluster": "rediss"}

Address = str


def is_cluster(settings: StoreConfig) -> bool:
    """Tell whether a URL leads to a cluster."""
    return settings.url.partition("://")[0] in SCHEMES


def seeds(settings: StoreConfig) -> list[Address]:
    """Return the servers that the URL names, as ``host:port``."""
    hosts = urlsplit(settings.url).netloc.split(",")
    return [host if has_port(host) else f"{host}:6379" for host in hosts]


def has_port(host: str) -> bool:
    """Tell whether a port stands behind a host; the colons of an address in brackets are none."""
    return ":" in host.rpartition("]")[2]


def server_settings(settings: StoreConfig, address: Address) -> StoreConfig:
    """Return the settings for one server of the cluster."""
    scheme = SCHEMES[settings.url.partition("://")[0]]
    return replace(settings, url=f"{scheme}://{address}")


class ClusterWire(Wire):
    """The ways to all servers of a cluster."""

    def __init__(self, settings: StoreConfig, name: str) -> None:
        self._settings = settings
        self._name = name
        self._servers: dict[Address, ServerWire] = {}
        # Slot to address. Never changed, only replaced: other threads read it.
        self._map: tuple[Address, ...] = ()
        self._seeds = seeds(settings)
        self._is_stale = True

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """See ``Wire``."""
        if self._is_stale:
            self._refresh()
        replies: list[Any] = [None] * len(commands)
        routes = {position: self._route(command) for position, command in enumerate(commands)}
        asking: set[int] = set()
        for _ in range(MAX_DETOURS):
            self._exchange_once(commands, routes, asking, replies)
            asking, routes = set(), {}
            for position, reply in enumerate(replies):
                if isinstance(reply, ElsewhereError) and reply.address:
                    routes[position] = reply.address
                    if reply.is_moved:
                        self._is_stale = True
                    else:
                        asking.add(position)
            if not routes:
                break
        return replies

    def _exchange_once(
        self, commands: Sequence[Command], routes: dict[int, Address], asking: set[int], replies: list[Any]
    ) -> None:
        """Send commands to their servers, then read all replies."""
        groups: dict[Address, list[int]] = {}
        for position, address in routes.items():
            groups.setdefault(address, []).append(position)
        begun: list[tuple[Address, list[int], list[Command], Begun]] = []
        for address, positions in groups.items():
            sent = [part for position in positions for part in asked(commands[position], position in asking)]
            try:
                begun.append((address, positions, sent, self._server(address).begin(sent)))
            except StoreError as error:
                self._is_stale = True
                for position in positions:
                    replies[position] = error
        for address, positions, sent, one in begun:
            answers = iter(self._server(address).finish(one))
            found = [answer for command, answer in zip(sent, answers, strict=True) if command != ("ASKING",)]
            for position, answer in zip(positions, found, strict=True):
                replies[position] = answer
                # It may be down, or have become a replica.
                if isinstance(answer, OutcomeUnknownError | StoreUnavailableError):
                    self._is_stale = True

    def node_of(self, key: str) -> str | None:
        """See ``Wire``."""
        known = self._map
        return known[key_slot(key.encode())] if known else None

    def servers(self) -> Sequence[Wire]:
        """See ``Wire``."""
        self._refresh()
        return [self._server(address) for address in sorted(set(self._map))]

    def addresses(self) -> Sequence[Address]:
        """Return for each slot where it is, as far as that is known."""
        return self._map

    def close(self) -> None:
        """See ``Wire``."""
        for server in self._servers.values():
            server.close()

    def _route(self, command: Command) -> Address:
        key = key_of(command)
        return self._map[0] if key is None else self._map[key_slot(key)]

    def _server(self, address: Address) -> ServerWire:
        if address not in self._servers:
            self._servers[address] = ServerWire(server_settings(self._settings, address), self._name)
        return self._servers[address]

    def _refresh(self) -> None:
        """Ask for the slots.

        Raises:
            StoreError: no server answers, or none of those that do knows who has all slots.
        """
        failure: StoreError = StoreUnavailableError("cannot reach the store: its URL names no server")
        for address in list(self._seeds):
            try:
                (reply,) = self._server(address).exchange([("CLUSTER", "SLOTS")])
                if isinstance(reply, StoreError):
                    raise reply
                self._map, replicas = slot_map(reply, address)
            except StoreError as error:
                failure = error
                continue
            # Whoever has answered is asked first; then all others that there are now, and those of the URL.
            self._seeds = list(dict.fromkeys([address, *self._map, *replicas, *seeds(self._settings)]))
            self._is_stale = False
            for gone in set(self._servers) - set(self._map):
                self._servers.pop(gone).close()
            return
        raise failure


def some_server(settings: StoreConfig) -> StoreConfig:
    """Return settings that lead to one server: that of the URL, or any of its cluster.

    Raises:
        StoreError: the cluster cannot be asked.
    """
    if not is_cluster(settings):
        return settings
    wire = ClusterWire(settings, "ffsuper-setup")
    try:
        wire.servers()
        return server_settings(settings, random.choice(sorted(set(wire.addresses()))))
    finally:
        wire.close()


def slot_map(reply: Any, asked_of: Address) -> tuple[tuple[Address, ...], set[Address]]:
    """Read the answer to CLUSTER SLOTS: for each slot its server, and the replicas that there are.

    Args:
        asked_of: stands for a server that does not know its own name.

    Raises:
        StoreUnavailableError: some slots are nobody's.
    """
    found: list[Address] = [""] * SLOTS
    replicas = set[Address]()
    for first, last, master, *others in reply:
        found[first : last + 1] = [address_of(master, asked_of)] * (last + 1 - first)
        replicas |= {address_of(other, asked_of) for other in others}
    if not all(found):
        raise StoreUnavailableError("the cluster is incomplete: some of its slots are on no server")
    return tuple(found), replicas


def address_of(node: Sequence[Any], asked_of: Address) -> Address:
    """Return where a server of the answer is."""
    host = bytes(node[0] or b"").decode() or asked_of.rpartition(":")[0]
    return f"[{host}]:{node[1]}" if ":" in host and not host.startswith("[") else f"{host}:{node[1]}"


def key_of(command: Command) -> bytes | None:
    """Return a command's first key, which says where it goes; None when any server will do."""
    name = str(command[0])
    if name in KEYLESS:
        return None
    if name == "FCALL":
        return as_bytes(command[3]) if int(command[2]) else None
    if name == "XREAD":
        return as_bytes(command[command.index("STREAMS") + 1])
    return as_bytes(command[1])


def as_bytes(part: Any) -> bytes:
    """Return a key as it is sent."""
    return part if isinstance(part, bytes) else str(part).encode()


def asked(command: Command, is_asked: bool) -> list[Command]:
    """Return what is sent for a command."""
    return [("ASKING",), command] if is_asked else [command]


def open_wire(settings: StoreConfig, name: str) -> Wire:
    """Return the way to a store, which opens no connection by itself.

    Args:
        name: shown by CLIENT LIST.
    """
    return ClusterWire(settings, name) if is_cluster(settings) else ServerWire(settings, name)
