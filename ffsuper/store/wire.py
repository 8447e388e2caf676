"""A batch of commands out, their replies in, and certainty about what was carried out.

redis-py makes the connection (URL, TLS, credentials, handshake) and parses replies with hiredis. Its retries are off:
they would run a function again whose answer was lost.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ffsuper.config import StoreConfig
from ffsuper.errors import ConfigError, OutcomeUnknownError, StoreAccessError, StoreError, StoreUnavailableError
from ffsuper.store.reader import BoundedParser
from ffsuper.store.replies import ACCESS_REFUSED, Call, Part, error_of
from ffsuper.store.tls import certificate_problem

T = TypeVar("T")
Command = tuple[Part, ...]
WAIT_SHARE = 0.8
# What ends a connection; the last two where an error reply tells that a slot has moved, and not where to.
BROKEN = (redis.ConnectionError, redis.TimeoutError, OSError, ValueError, SystemError)
# Of the commands that we send, those that write nothing.
READS = frozenset(
    {"CLUSTER", "EXISTS", "GET", "HEXISTS", "HGET", "HGETALL", "HMGET", "INFO", "PING", "PUBLISH", "SMEMBERS", "TIME"}
    | {"SSCAN", "XRANGE", "XREAD", "XREVRANGE", "ZCARD", "ZMSCORE", "ZRANGE", "ZSCAN", "ZSCORE"}
)


def connection_maker(settings: StoreConfig, name: str) -> redis.ConnectionPool:
    """Return what makes connections to the store; it opens none by itself.

    Args:
        name: shown by CLIENT LIST.
    """
    tls: dict[str, Any] = {}
    if settings.url.startswith("rediss://"):
        files = {
            "ssl_ca_certs": settings.tls_ca_file,
            "ssl_certfile": settings.tls_cert_file,
            "ssl_keyfile": settings.tls_key_file,
        }
        tls = {option: str(path) for option, path in files.items() if path is not None}
        tls |= {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    try:
        return redis.ConnectionPool.from_url(
            settings.url,
            username=settings.username or None,
            password=settings.password or None,
            protocol=2,
            client_name=name,
            socket_timeout=settings.timeout_s,
            socket_connect_timeout=settings.timeout_s,
            retry=Retry(NoBackoff(), 0),
            retry_on_timeout=False,
            parser_class=BoundedParser,
            # A pool counts all that it has ever made, up to a hundred; we hold one at a time, and try for ever.
            max_connections=sys.maxsize,
            **tls,
        )
    except ValueError as error:
        raise ConfigError([f"[store] url: {error}"]) from None


def opened(maker: redis.ConnectionPool) -> Any:
    """Return a new connection, ready for use.

    Raises:
        StoreUnavailableError: the server cannot be reached.
        StoreAccessError: it does not let us in, or we do not trust it.
        StoreError: it cannot be used for another reason.
    """
    connection: Any = maker.make_connection()
    try:
        connection.connect()
    except ACCESS_REFUSED as error:
        raise StoreAccessError(f"the store refuses access: {error}") from None
    except BROKEN as error:
        if told := certificate_problem(connection, error):
            raise StoreAccessError(f"no TLS with the store: {told}") from None
        raise StoreUnavailableError(f"cannot reach the store: {error}") from None
    except redis.RedisError as error:
        raise error_of(error) from None
    return connection


@dataclass(frozen=True, slots=True)
class Begun:
    """Commands that were sent.

    Attributes:
        connection: where their replies come; None when there are none to come.
        replies: in that case, what is said instead.
        waits: whether the number of replicas that have it all comes behind them.
    """

    connection: Any
    replies: list[Any]
    count: int = 0
    waits: bool = False


class Wire(ABC):
    """The way to the store. For one thread at a time."""

    @abstractmethod
    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send all commands at once and read their replies.

        Returns:
            list of replies in the order of ``commands``; a StoreError in the place of each that failed by itself or
            whose answer was lost (OutcomeUnknownError).

        Raises:
            StoreUnavailableError: nothing was sent.
            StoreAccessError: the server does not let us in; nothing was sent.
        """

    @abstractmethod
    def close(self) -> None:
        """Drop the connections; the next exchange opens others."""

    @abstractmethod
    def servers(self) -> Sequence[Wire]:
        """Return the ways to each server that takes writes.

        Raises:
            StoreError: see ``exchange``.
        """

    def run(self, call: Call[T]) -> T:
        """Carry out one call.

        Raises:
            StoreError: see ``exchange``; also instead of an error reply.
        """
        (reply,) = self.exchange([call.command])
        if isinstance(reply, StoreError):
            raise reply
        return call.parse(reply)


class ServerWire(Wire):
    """One server: a connection that reconnects by itself and never stays half-read."""

    def __init__(self, settings: StoreConfig, name: str) -> None:
        self._maker = connection_maker(settings, name)
        self._connection: Any = None
        self._replicas = settings.wait_replicas
        self._wait = wait_command(settings)

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """See ``Wire``."""
        return self.finish(self.begin(commands))

    def begin(self, commands: Sequence[Command]) -> Begun:
        """Send commands, whose replies ``finish`` reads.

        Raises:
            StoreError: see ``exchange``.
        """
        connection = self._ready_connection()
        waits = self._replicas > 0 and not all(command[0] in READS for command in commands)
        packed = packed_for(connection, [*commands, self._wait] if waits else commands)
        try:
            connection.send_packed_command(packed, check_health=False)
        except (redis.RedisError, OSError) as error:
            self.close()
            return Begun(None, [lost_answer(error)] * len(commands))
        return Begun(connection, [], len(commands), waits)

    def finish(self, begun: Begun) -> list[Any]:
        """Read the replies to what was begun last."""
        if begun.connection is None:
            return begun.replies
        if not begun.waits:
            return self._read(begun.connection, begun.count)
        *replies, reached = self._read(begun.connection, begun.count + 1)
        return confirmed(replies, reached, self._replicas)

    def servers(self) -> Sequence[Wire]:
        """See ``Wire``."""
        return [self]

    def close(self) -> None:
        """See ``Wire``."""
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None

    def _ready_connection(self) -> Any:
        """Return an open connection, replacing one that the server has closed meanwhile."""
        try:
            if self._connection is not None and self._connection.can_read(timeout=0):
                self.close()
        except (redis.RedisError, OSError):
            self.close()
        if self._connection is None:
            self._connection = opened(self._maker)
        return self._connection

    def _read(self, connection: Any, count: int) -> list[Any]:
        replies: list[Any] = []
        for _ in range(count):
            try:
                replies.append(connection.read_response(disable_decoding=True))
            except (*ACCESS_REFUSED, redis.exceptions.BusyLoadingError) as error:
                # redis-py drops the connection on these, though they are answers like any other.
                return self._cut_short([*replies, error_of(error)], count, error)
            except (*BROKEN, redis.InvalidResponse) as error:
                return self._cut_short(replies, count, error)
            except redis.RedisError as error:
                replies.append(error_of(error))
                if isinstance(error, redis.exceptions.ReadOnlyError):
                    self._connection = None  # a failover: the name leads elsewhere now
        if self._connection is None:
            connection.disconnect()
        return replies

    def _cut_short(self, replies: list[Any], count: int, error: Exception) -> list[Any]:
        self.close()
        return [*replies, *[lost_answer(error)] * (count - len(replies))]


def packed_for(connection: Any, commands: Sequence[Command]) -> Any:
    """Return commands as they are sent. What is no text, as a user's message may be, goes with question marks."""
    try:
        return connection.pack_commands(commands)
    except UnicodeEncodeError:
        return connection.pack_commands([tuple(map(sendable, command)) for command in commands])


def sendable(part: Part) -> Part:
    """Return a part that can be sent."""
    return part.encode(errors="replace") if isinstance(part, str) else part


def lost_answer(why: object) -> StoreError:
    """Return the error of a command that was sent, wholly or in part, and not answered."""
    return OutcomeUnknownError(f"the store's answer was lost: {why}")


def wait_command(settings: StoreConfig) -> Command:
    """Return what is sent behind a batch that writes; it is answered in any case before we give up."""
    return ("WAIT", settings.wait_replicas, max(1, int(settings.timeout_s * 1000 * WAIT_SHARE)))


def confirmed(replies: Sequence[Any], reached: Any, wanted: int) -> list[Any]:
    """Return replies as they count when so many replicas have what was written.

    Args:
        reached: the reply to WAIT.
    """
    if isinstance(reached, int) and reached >= wanted:
        return list(replies)
    told = f"{reached} of {wanted} replicas have it" if isinstance(reached, int) else str(reached)
    doubt = OutcomeUnknownError(f"what was written may be lost: {told}")
    return [reply if isinstance(reply, StoreError) else doubt for reply in replies]
