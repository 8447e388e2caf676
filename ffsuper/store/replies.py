"""What comes back from the store: status replies of the functions, and the server's own error replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import redis

from ffsuper.errors import (
    ExecutionNotFoundError,
    InvalidRequestError,
    LeaseLostError,
    LibraryMissingError,
    RefusedError,
    StoreAccessError,
    StoreError,
    StoreScriptError,
    StoreUnavailableError,
    UnreadableReplyError,
    WrongTypeError,
)

T = TypeVar("T")
Part = str | bytes | int | float
# What reading a reply of another form than the expected comes to.
UNREADABLE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
# No count and no time has more.
MOST_DIGITS = 18


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One command and how its reply is read.

    Attributes:
        read: turns the raw reply into the result, or raises a StoreError.
    """

    command: tuple[Part, ...]
    read: Callable[[Any], T]

    def parse(self, reply: Any) -> T:
        """Return what the reply says; the store is others' too, so it may say anything.

        Raises:
            UnreadableReplyError: it is not what should come.
            StoreError: as ``read`` says.
        """
        try:
            return self.read(reply)
        except UNREADABLE as error:
            told = " ".join(map(str, self.command[:2]))
            raise UnreadableReplyError(f"{told}: the reply cannot be read: {error!s:.200}") from error


REFUSALS: dict[str, type[RefusedError]] = {
    "execution_not_found": ExecutionNotFoundError,
    "stale_lease": LeaseLostError,
    "lease_expired": LeaseLostError,
    "lease_revoked": LeaseLostError,
    "execution_not_active": LeaseLostError,
    "invalid_input": InvalidRequestError,
    "invalid_policy_json": InvalidRequestError,
    "invalid_capabilities": InvalidRequestError,
}


class ElsewhereError(StoreUnavailableError):
    """Nobody's: in a cluster, another server has the keys, or has them in part; nothing was done.

    Attributes:
        address: where they are, as ``host:port``; empty while they are on their way.
        is_moved: for good.
    """

    def __init__(self, text: str, address: str, *, is_moved: bool) -> None:
        super().__init__(text)
        self.address = address
        self.is_moved = is_moved


# Error replies that promise that nothing was done and that waiting may help.
WAITING_HELPS = (
    redis.exceptions.BusyLoadingError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
)
WAITING_HELPS_WORDS = ("BUSY", "MISCONF", "NOREPLICAS")
ACCESS_REFUSED = (
    redis.exceptions.AuthenticationError,
    redis.exceptions.AuthorizationError,
    redis.exceptions.NoPermissionError,
)


def fcall(function: str, keys: tuple[str, ...], args: tuple[Part, ...], parse: Callable[[Status], T]) -> Call[T]:
    """Return the call of a function that answers ``[1, status, …]`` or ``[0, code, detail…]``."""

    def read(reply: Any) -> T:
        return parse(status_of(function, reply))

    return Call(("FCALL", function, len(keys), *keys, *args), read)


@dataclass(frozen=True, slots=True)
class Status:
    """A function's successful reply.

    Attributes:
        word: ``OK``, ``DUPLICATE``, ``ALREADY_SATISFIED``, ...
        fields: what follows it, as bytes.
    """

    word: str
    fields: tuple[bytes, ...]

    def text(self, position: int) -> str:
        """Return a field as text; empty when the reply is shorter."""
        return self.fields[position].decode() if position < len(self.fields) else ""

    def number(self, position: int) -> int:
        """Return a field as a whole number; the functions may answer fractions of a millisecond."""
        return int(float(self.fields[position]))


def status_of(function: str, reply: Any) -> Status:
    """Read a function's reply.

    Raises:
        RefusedError: the function refused; a subclass where callers treat the code apart.
        UnreadableReplyError: the reply is none of the protocol's.
    """
    if not isinstance(reply, list) or not reply or not isinstance(reply[0], int):
        raise UnreadableReplyError(f"{function}: unexpected reply {reply!r:.200}")
    word = as_bytes(reply[1]).decode(errors="replace") if len(reply) > 1 else ""
    fields = tuple(as_bytes(field) for field in reply[2:])
    if reply[0] == 1:
        return Status(word, fields)
    details = tuple(field.decode(errors="replace") for field in fields)
    raise REFUSALS.get(word, RefusedError)(function, word or "unknown", details)


def as_bytes(value: Any) -> bytes:
    """Return a reply element as bytes; missing ones are empty."""
    if value is None:
        return b""
    return value if isinstance(value, bytes) else str(value).encode()


def error_of(error: redis.RedisError) -> StoreError:
    """Return our error for an error reply of the server, which carried out nothing or stopped in a function."""
    text = str(error)
    if isinstance(error, redis.exceptions.AskError):  # MovedError is one as well
        is_moved = isinstance(error, redis.exceptions.MovedError)
        return ElsewhereError(f"other server has these keys: {text}", f"{error.host}:{error.port}", is_moved=is_moved)
    if isinstance(error, redis.exceptions.TryAgainError):
        return ElsewhereError("these keys are being moved to another server", "", is_moved=False)
    if isinstance(error, WAITING_HELPS) or text.startswith(WAITING_HELPS_WORDS):
        return StoreUnavailableError(f"the store cannot serve now: {text}")
    if isinstance(error, ACCESS_REFUSED):
        return StoreAccessError(f"the store refuses access: {text}")
    if "Function not found" in text:
        return LibraryMissingError("the store lacks the function: its library is lost, or of another release")
    return WrongTypeError(text) if text.startswith("WRONGTYPE") else StoreScriptError(text)


def whole(text: str) -> int:
    """Read a number that counts something or is a time; 0 for what is none."""
    return int(text) if text.isdecimal() and len(text) <= MOST_DIGITS else 0


def text_fields(reply: Sequence[bytes]) -> dict[str, str]:
    """Return a hash as text; bytes that are no UTF-8 are replaced."""
    texts = [part.decode(errors="replace") for part in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))
