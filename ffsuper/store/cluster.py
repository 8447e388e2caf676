"""A cluster: every command goes to the server that has its key, all servers' batches at the same time.

Which server has which slot is asked of any that answers, and again when one is gone or says that a slot has moved.
Being sent elsewhere (MOVED, ASK) promises that nothing was done, so that is followed at once.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from redis.crc import key_slot

from ffsuper.config import StoreConfig
from ffsuper.config_rules import url_mistakes
from ffsuper.errors import OutcomeUnknownError, StoreError, StoreUnavailableError
from ffsuper.store.replies import Call, ElsewhereError
from ffsuper.store.wire import Begun, Command, ServerWire, Wire

SLOTS = 16384
MAX_DETOURS = 5
# Commands without a key; any server can answer them.
KEYLESS = frozenset({"TIME", "PING", "FUNCTION", "CLUSTER", "INFO", "CONFIG", "CLIENT", "PUBLISH"})
ASKING: Command = ("ASKING",)
SLOTS_OF: Command = ("CLUSTER", "SLOTS")
NO_SERVER = StoreUnavailableError("cannot reach the store: its URL names no server")
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


class Routes:
    """Where in a cluster what is, as far as is known. Whoever asks its servers tells what they have answered.

    Attributes:
        is_stale: the slots are to be asked for before anything else.
    """

    def __init__(self, settings: StoreConfig) -> None:
        self.is_stale = True
        self._from_url = seeds(settings)
        self._seeds = self._from_url
        # Slot to address.
        self._map: tuple[Address, ...] = ()

    @property
    def to_ask(self) -> Sequence[Address]:
        """Who may be asked for the slots, the most promising first."""
        return tuple(self._seeds)

    @property
    def addresses(self) -> set[Address]:
        """The servers that have slots."""
        return set(self._map)

    def learn(self, slots: Any, address: Address) -> None:
        """Take what a server has answered to CLUSTER SLOTS.

        Raises:
            StoreError: it is an error, or some slots are nobody's.
        """
        if isinstance(slots, StoreError):
            raise slots
        self._map, replicas = Call(SLOTS_OF, lambda reply: slot_map(reply, address)).parse(slots)
        # Whoever has answered is asked first; then all others that there are now, and those of the URL.
        self._seeds = list(dict.fromkeys([address, *self._map, *replicas, *self._from_url]))
        self.is_stale = False

    def node_of(self, key: str) -> str | None:
        """Name the server that has a key; None while that is not known."""
        return self._map[key_slot(as_bytes(key))] if self._map else None

    def of(self, command: Command) -> Address:
        """Return where a command goes."""
        key = key_of(command)
        return self._map[0] if key is None else self._map[key_slot(key)]


@dataclass(frozen=True, slots=True)
class Leg:
    """Commands of an errand that go to one server together.

    Attributes:
        sent: the commands, with ASKING before those that need it.
        positions: of the commands in the errand.
    """

    address: Address
    sent: list[Command]
    positions: list[int]


class Errand:
    """Commands on their way through a cluster, until each has an answer.

    Attributes:
        replies: in the order of the commands.
    """

    def __init__(self, commands: Sequence[Command], routes: Routes) -> None:
        self.replies: list[Any] = [None] * len(commands)
        self._commands = commands
        self._routes = routes
        self._ways = {position: routes.of(command) for position, command in enumerate(commands)}
        self._asking: set[int] = set()
        self._turns_left = MAX_DETOURS

    def legs(self) -> list[Leg]:
        """Return what to send now; nothing when all is done."""
        if not self._turns_left:
            return []
        self._turns_left -= 1
        legs: dict[Address, Leg] = {}
        for position, address in self._ways.items():
            leg = legs.setdefault(address, Leg(address, [], []))
            leg.sent.extend([ASKING] if position in self._asking else [])
            leg.sent.append(self._commands[position])
            leg.positions.append(position)
        self._ways, self._asking = {}, set()
        return list(legs.values())

    def note(self, leg: Leg, answers: Sequence[Any]) -> None:
        """Take what has come back for what was sent."""
        wanted = [answer for command, answer in zip(leg.sent, answers, strict=True) if command != ASKING]
        for position, answer in zip(leg.positions, wanted, strict=True):
            self.replies[position] = answer
            if isinstance(answer, ElsewhereError) and answer.address:
                self._detour(position, answer, leg.address)
            # It has moved; or its server may be down, or have become a replica.
            if isinstance(answer, OutcomeUnknownError | StoreUnavailableError):
                self._routes.is_stale |= not isinstance(answer, ElsewhereError) or answer.is_moved

    def _detour(self, position: int, answer: ElsewhereError, sent_by: Address) -> None:
        host, _, port = answer.address.rpartition(":")
        try:
            self._ways[position] = address_at(host, port, sent_by)
        except StoreUnavailableError as error:
            self.replies[position] = error
        else:
            if not answer.is_moved:
                self._asking.add(position)


class ClusterWire(Wire):
    """The ways to all servers of a cluster.

    Attributes:
        routes: which has what.
    """

    def __init__(self, settings: StoreConfig, name: str) -> None:
        self._settings = settings
        self._name = name
        self._servers: dict[Address, ServerWire] = {}
        self.routes = Routes(settings)

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """See ``Wire``."""
        if self.routes.is_stale:
            self._refresh()
        errand = Errand(commands, self.routes)
        while legs := errand.legs():
            # All are sent before any answer is read.
            for leg, begun in [(leg, self._begin(leg)) for leg in legs]:
                if isinstance(begun, StoreError):
                    errand.note(leg, [begun] * len(leg.sent))
                else:
                    errand.note(leg, self._server(leg.address).finish(begun))
        return errand.replies

    def _begin(self, leg: Leg) -> Begun | StoreError:
        try:
            return self._server(leg.address).begin(leg.sent)
        except StoreError as error:
            return error

    def servers(self) -> Sequence[Wire]:
        """See ``Wire``."""
        self._refresh()
        return [self._server(address) for address in sorted(self.routes.addresses)]

    def addresses(self) -> set[Address]:
        """Return where its servers are.

        Raises:
            StoreError: no server answers.
        """
        self._refresh()
        return self.routes.addresses

    def close(self) -> None:
        """See ``Wire``."""
        for server in self._servers.values():
            server.close()

    def _server(self, address: Address) -> ServerWire:
        if address not in self._servers:
            self._servers[address] = ServerWire(server_settings(self._settings, address), self._name)
        return self._servers[address]

    def _refresh(self) -> None:
        """Ask for the slots.

        Raises:
            StoreError: no server answers, or none of those that do knows who has all slots.
        """
        failure: StoreError = NO_SERVER
        for address in self.routes.to_ask:
            try:
                self.routes.learn(self._server(address).exchange([SLOTS_OF])[0], address)
            except StoreError as error:
                failure = error
                continue
            for gone in set(self._servers) - self.routes.addresses:
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
        return server_settings(settings, random.choice(sorted(wire.addresses())))
    finally:
        wire.close()


def slot_map(reply: Any, asked_of: Address) -> tuple[tuple[Address, ...], set[Address]]:
    """Read the answer to CLUSTER SLOTS: for each slot its server, and the replicas that there are.

    Args:
        asked_of: stands for a server that does not know its own name.

    Raises:
        StoreUnavailableError: some slots are nobody's, or somebody's who cannot be reached.
    """
    found: list[Address] = [""] * SLOTS
    replicas = set[Address]()
    for first, last, master, *others in reply:
        if not 0 <= first <= last < SLOTS:
            raise ValueError(f"there are no slots {first} to {last}")
        found[first : last + 1] = [address_of(master, asked_of)] * (last + 1 - first)
        replicas |= {address_of(other, asked_of) for other in others}
    if not all(found):
        raise StoreUnavailableError("the cluster is incomplete: some of its slots are on no server")
    return tuple(found), replicas


def address_of(node: Sequence[Any], asked_of: Address) -> Address:
    """Return where a server of the answer is."""
    host, port, *_ = node
    return address_at(as_bytes(host or b"").decode(), port, asked_of)


def address_at(host: str, port: object, told_by: Address) -> Address:
    """Return where a server is.

    Args:
        host: as a server of the cluster calls it; empty where that does not know.
        told_by: that server, whose host it has then.

    Raises:
        StoreUnavailableError: there can be no such server.
    """
    name = host or told_by.rpartition(":")[0]
    address = f"[{name}]:{port}" if ":" in name and not name.startswith("[") else f"{name}:{port}"
    if "/" in address or any(url_mistakes(f"redis://{address}")):
        raise StoreUnavailableError(f"the cluster names a server that cannot be one: {address!r:.200}")
    return address


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
    return part if isinstance(part, bytes) else str(part).encode(errors="replace")


def open_wire(settings: StoreConfig, name: str) -> Wire:
    """Return the way to a store, which opens no connection by itself.

    Args:
        name: shown by CLIENT LIST.
    """
    return ClusterWire(settings, name) if is_cluster(settings) else ServerWire(settings, name)
