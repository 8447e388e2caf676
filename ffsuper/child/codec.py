"""Messages between supervisor and child as frames, and back. Imported inside children.

A message's fields are the members of the frame's header, and its bytes are the body. ``READERS`` says what each type
of field must look like, for a child may be up to anything.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeVar

from ffsuper import messages
from ffsuper.errors import RemoteProtocolError
from ffsuper.messages import (
    FRAME_LIMIT_BYTES,
    Emit,
    Ended,
    FromChild,
    HandlerSettings,
    InterruptReason,
    OnTimeout,
    Progress,
    Ready,
    ReceivedSignal,
    Start,
    ToChild,
)
from ffsuper.sansio.frame import Frame

T = TypeVar("T")

# Room for the whole part of any float; numbers of some thousand digits can be read, but not written any more.
NUMBER_BITS = 1024
UNFIT = (TypeError, ValueError, OverflowError)
SIGNAL_TEXTS = ("signal_id", "name", "category", "source_type", "source_identity", "correlation_id")


def to_frame(message: ToChild | FromChild) -> Frame:
    """Return a message as a frame."""
    match message:
        case Ended(task, outcome):
            header, body = parts(outcome)
            header |= {"task": task, "outcome": type(outcome).__name__}
        case Start():
            header, payload = parts(message)
            header["signals"] = [signal_row(signal) for signal in message.signals]
            body = b"".join([payload, *(signal.payload for signal in message.signals)])
        case Ready(handlers):
            header, body = {"handlers": [handler_row(one) for one in handlers]}, b""
        case _:
            header, body = parts(message)
    header["type"] = type(message).__name__
    return Frame(header, body)


def parts(message: Any) -> tuple[dict[str, Any], bytes]:
    """Return a message's fields for the header, and its bytes."""
    header: dict[str, Any] = {}
    body = b""
    for name in message.__slots__:
        value = getattr(message, name)
        if isinstance(value, bytes):
            body = value
        else:
            header[name] = value.value if isinstance(value, Enum) else value
    return header, body


def signal_row(signal: ReceivedSignal) -> list[Any]:
    """Return a signal for the header; its payload, whose length is told, is part of the body."""
    return [*(getattr(signal, name) for name in SIGNAL_TEXTS), signal.accepted_at_ms, len(signal.payload)]


def handler_row(one: HandlerSettings) -> list[Any]:
    """Return a registration for the header."""
    return [one.execution_kind, one.timeout_s, one.progress_timeout_s, one.is_async]


def for_child(frame: Frame) -> ToChild:
    """Read a message from the supervisor.

    Raises:
        RemoteProtocolError: it is none.
    """
    if frame.header.get("type") == "Start":
        return start_of(frame.header, frame.body)
    message: ToChild = read(kind_of(frame.header, "type", FOR_CHILD), frame.header, frame.body)
    return message


def start_of(header: dict[str, Any], body: bytes) -> Start:
    """Read a start: the body is its payload, then those of the signals."""
    rows = [signal_parts(row) for row in member(header, "signals", "list")]
    begin = len(body) - sum(length for _, length in rows)
    if begin < 0:
        raise RemoteProtocolError(f"a body of {len(body)} bytes, too short for the payloads of its signals")
    payload, signals = body[:begin], []
    for values, length in rows:
        signals.append(ReceivedSignal(**values, payload=body[begin : begin + length]))
        begin += length
    return read(Start, header | {"signals": tuple(signals)}, payload)


def signal_parts(row: Any) -> tuple[dict[str, Any], int]:
    """Read a signal without its payload, and how long that is."""
    try:
        *texts, accepted_at_ms, length = READERS["list"](row)
        values: dict[str, Any] = dict(zip(SIGNAL_TEXTS, map(READERS["str"], texts), strict=True))
        if whole(length) < 0:
            raise ValueError
        return values | {"accepted_at_ms": whole(accepted_at_ms)}, length
    except UNFIT:
        told = reprlib.repr(row)
        raise RemoteProtocolError(f"a signal is {told:.100}, not six texts, a time and a length") from None


def from_child(frame: Frame) -> FromChild:
    """Read a message from a child, which may be up to anything.

    Raises:
        RemoteProtocolError: it is none.
    """
    header = frame.header
    match header.get("type"):
        case "Ended":
            kind = kind_of(header, "outcome", OUTCOMES)
            return Ended(member(header, "task", "int"), read(kind, header, frame.body))
        case "Ready":
            return Ready(tuple(map(handler_settings, member(header, "handlers", "list"))))
    message: FromChild = read(kind_of(header, "type", FROM_CHILD), header, frame.body)
    match message:
        case Progress(_, percent, _) if not 0 <= percent <= 100:
            raise RemoteProtocolError(f"percent is {percent}, not 0 to 100")
        case Emit(payload=payload) if len(payload) > FRAME_LIMIT_BYTES:
            raise RemoteProtocolError(f"a frame of {len(payload)} bytes, over the limit of {FRAME_LIMIT_BYTES}")
    return message


def handler_settings(row: Any) -> HandlerSettings:
    """Read one registration."""
    try:
        kind, timeout_s, progress_s, is_async = READERS["list"](row)
        timeouts = seconds(timeout_s), seconds(progress_s)
        return HandlerSettings(READERS["str"](kind), *timeouts, READERS["bool"](is_async))
    except UNFIT:
        told = reprlib.repr(row)
        raise RemoteProtocolError(
            f"a handler is {told:.100}, not a kind, two timeouts and whether it is async"
        ) from None


def kind_of(header: Mapping[str, Any], name: str, kinds: Mapping[str, type[T]]) -> type[T]:
    """Return the class that a member names."""
    kind = header.get(name)
    if not isinstance(kind, str) or kind not in kinds:
        raise RemoteProtocolError(f"message of unknown {name} {reprlib.repr(kind):.100}")
    return kinds[kind]


def read(kind: type[T], header: Mapping[str, Any], body: bytes) -> T:
    """Return a message of a class, from members that have its fields' names and fit their types."""
    values = {}
    for name, field in kind.__dataclass_fields__.items():  # type: ignore[attr-defined]
        values[name] = body if field.type == "bytes" else member(header, name, field.type)
    return kind(**values)


def member(header: Mapping[str, Any], name: str, wanted: str) -> Any:
    """Return a member of the right type.

    Raises:
        RemoteProtocolError: it is missing, or something else.
    """
    value = header.get(name)
    try:
        return READERS[wanted](value)
    except UNFIT:
        raise RemoteProtocolError(f"member {name!r} is {reprlib.repr(value):.100}, not {wanted}") from None


def exactly(kind: type) -> Callable[[Any], Any]:
    """Return the reader of a plain type; a bool is no int."""

    def take(value: Any) -> Any:
        if type(value) is not kind:
            raise TypeError
        return value

    return take


def whole(value: Any) -> int:
    """Read a whole number, unless it is too large to be reckoned with."""
    if type(value) is not int:
        raise TypeError
    if value.bit_length() > NUMBER_BITS:
        raise OverflowError
    return value


def seconds(value: Any) -> float | None:
    """Read a time that may be absent; ``inf`` is one."""
    if value is None:
        return None
    if type(value) not in (int, float) or not value > 0:
        raise ValueError
    return float(value)


def choice(kind: type[Enum]) -> Callable[[Any], Enum]:
    """Return the reader of one of a few words."""
    return lambda value: kind(READERS["str"](value))


def texts(value: Any) -> tuple[str, ...]:
    """Read a list of texts."""
    return tuple(map(READERS["str"], value if isinstance(value, tuple) else READERS["list"](value)))


def table(value_kind: str) -> Callable[[Any], dict[str, Any]]:
    """Return the reader of an object with values of one type."""
    return lambda value: {name: READERS[value_kind](one) for name, one in READERS["dict"](value).items()}


READERS: Mapping[str, Callable[[Any], Any]] = {
    **{kind.__name__: exactly(kind) for kind in (str, bool, list, dict)},
    "int": whole,
    "int | None": lambda value: None if value is None else whole(value),
    "tuple[str, ...]": texts,
    "Mapping[str, str]": table("str"),
    "Mapping[str, int]": table("int"),
    "InterruptReason": choice(InterruptReason),
    "OnTimeout": choice(OnTimeout),
    "tuple[ReceivedSignal, ...]": tuple,
}


def named(*names: str) -> dict[str, type[Any]]:
    """Return message classes by name."""
    return {name: getattr(messages, name) for name in names}


FOR_CHILD = named("Interrupt", "Drain", "Emitted", "UsageReported", "WaitpointCreated", "RequestFailed")
FROM_CHILD = named("Unfit", "Progress", "Emit", "ReportUsage", "CreateWaitpoint")
OUTCOMES = named("Completed", "Failed", "Deferred", "Suspended", "WaitingForChildren", "CancelledByHandler")
