"""Messages between supervisor and child as frames, and back. Imported inside children."""

from __future__ import annotations

from typing import Any, TypeVar

from ffsuper.errors import RemoteProtocolError
from ffsuper.messages import (
    Completed,
    Deferred,
    Drain,
    Failed,
    FromChild,
    HandlerSettings,
    Interrupt,
    InterruptReason,
    Progress,
    Ready,
    Start,
    ToChild,
    Unfit,
)
from ffsuper.sansio.frame import Frame

T = TypeVar("T")


def to_frame(message: ToChild | FromChild) -> Frame:
    """Return a message as a frame."""
    kind = type(message).__name__
    match message:
        case Start():
            header = {
                "type": kind,
                "execution_id": message.execution_id,
                "execution_kind": message.execution_kind,
                "attempt_index": message.attempt_index,
                "attempt_type": message.attempt_type,
                "tags": dict(message.tags),
            }
            return Frame(header, message.payload)
        case Interrupt(execution_id, reason):
            return Frame({"type": kind, "execution_id": execution_id, "reason": reason.value})
        case Drain():
            return Frame({"type": kind})
        case Ready(handlers):
            kinds = [[one.execution_kind, one.timeout_s] for one in handlers]
            return Frame({"type": kind, "handlers": kinds})
        case Unfit(reason, traceback):
            return Frame({"type": kind, "reason": reason, "traceback": traceback})
        case Progress(percent, text):
            return Frame({"type": kind, "percent": percent, "message": text})
        case Completed(result):
            return Frame({"type": kind}, result)
        case Failed(reason_text, category, retryable):
            return Frame({"type": kind, "reason": reason_text, "category": category, "retryable": retryable})
        case Deferred(until_ms):
            return Frame({"type": kind, "until_ms": until_ms})


def for_child(frame: Frame) -> ToChild:
    """Read a message from the supervisor.

    Raises:
        RemoteProtocolError: it is none.
    """
    header = frame.header
    match header.get("type"):
        case "Start":
            return Start(
                member(header, "execution_id", str),
                member(header, "execution_kind", str),
                member(header, "attempt_index", int),
                member(header, "attempt_type", str),
                member(header, "tags", dict),
                frame.body,
            )
        case "Interrupt":
            reason = InterruptReason(member(header, "reason", str))
            return Interrupt(member(header, "execution_id", str), reason)
        case "Drain":
            return Drain()
        case other:
            raise RemoteProtocolError(f"the supervisor sent a message of unknown type {other!r:.100}")


def from_child(frame: Frame) -> FromChild:
    """Read a message from a child, which may be up to anything.

    Raises:
        RemoteProtocolError: it is none.
    """
    header = frame.header
    match header.get("type"):
        case "Ready":
            return Ready(tuple(map(handler_settings, member(header, "handlers", list))))
        case "Unfit":
            return Unfit(member(header, "reason", str), member(header, "traceback", str))
        case "Progress":
            percent = member(header, "percent", int)
            if not 0 <= percent <= 100:
                raise RemoteProtocolError(f"percent is {percent}, not 0 to 100")
            return Progress(percent, member(header, "message", str))
        case "Completed":
            return Completed(frame.body)
        case "Failed":
            return Failed(
                member(header, "reason", str), member(header, "category", str), member(header, "retryable", bool)
            )
        case "Deferred":
            return Deferred(member(header, "until_ms", int))
        case other:
            raise RemoteProtocolError(f"message of unknown type {other!r:.100}")


def member(header: dict[str, Any], name: str, kind: type[T]) -> T:
    """Return a member of the right type.

    Raises:
        RemoteProtocolError: it is missing, or something else.
    """
    value = header.get(name)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise RemoteProtocolError(f"member {name!r} is {value!r:.100}, not {kind.__name__}")
    return value


def handler_settings(pair: Any) -> HandlerSettings:
    """Read one registration: ``[kind, timeout_s or null]``."""
    match pair:
        case [str(kind), None]:
            return HandlerSettings(kind, None)
        case [str(kind), int() | float() as timeout_s]:
            return HandlerSettings(kind, float(timeout_s))
        case other:
            raise RemoteProtocolError(f"a handler is {other!r:.100}, not a kind and a timeout")
