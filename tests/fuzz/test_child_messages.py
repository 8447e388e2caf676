"""Whatever a child says is a message or refused, and every message arrives as it was sent."""

from __future__ import annotations

import contextlib
import json
import math
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ffsuper.child import codec
from ffsuper.errors import RemoteProtocolError
from ffsuper.messages import Emit, Ended, FromChild, Progress, Ready, ToChild
from ffsuper.sansio.frame import HEADER_LIMIT_BYTES, LENGTHS, Decoder, Frame, encode
from tests.fuzz.examples import fuzz
from tests.fuzz.messages import BODIES, SAID, TOLD, framed, headers
from tests.fuzz.values import JSON, damaged

CUTS = st.lists(st.integers(1, 200), max_size=8)


def received(data: bytes, cuts: list[int]) -> list[Frame]:
    """Return the frames in bytes that come in pieces."""
    decoder, found = Decoder(), []
    for cut in [*cuts, len(data)]:
        decoder.feed(data[:cut])
        data = data[cut:]
        while (frame := decoder.next_frame()) is not None:
            found.append(frame)
    decoder.end()
    return found


def taken(frame: Frame) -> FromChild | ToChild | None:
    """Return what both sides make of a frame, which one of them does not know; None when neither does."""
    found: list[FromChild | ToChild] = []
    for read in (codec.from_child, codec.for_child):
        with contextlib.suppress(RemoteProtocolError):
            found.append(read(frame))
    assert len(found) < 2
    return found[0] if found else None


@fuzz(150)
@given(sent=st.lists(SAID, max_size=4), cuts=CUTS)
def test_what_a_child_says_arrives_as_it_was_said_however_it_is_cut(sent: list[FromChild], cuts: list[int]) -> None:
    frames = received(b"".join(encode(codec.to_frame(message)) for message in sent), cuts)
    assert [codec.from_child(frame) for frame in frames] == sent


@fuzz(100)
@given(sent=st.lists(TOLD, max_size=4), cuts=CUTS)
def test_what_a_child_is_told_arrives_as_it_was_told_however_it_is_cut(sent: list[ToChild], cuts: list[int]) -> None:
    frames = received(b"".join(encode(codec.to_frame(message)) for message in sent), cuts)
    assert [codec.for_child(frame) for frame in frames] == sent


@fuzz(300)
@given(header=headers(), body=BODIES)
@example(header={"type": "Start"}, body=b"")
@example(header={"type": "Start", "signals": None}, body=b"")
@example(header={"type": "Start", "signals": [[]]}, body=b"")
@example(header={"type": "Start", "signals": [["a"] * 8]}, body=b"")
@example(header={"type": "Start", "signals": [[*["a"] * 6, 1, -5]]}, body=b"12345")
@example(header={"type": "Start", "signals": [[*["a"] * 6, 1, 5]]}, body=b"")
@example(header={"type": "Start", "signals": [[*[{}] * 6, 1, 0]]}, body=b"")
@example(header={"type": "Ready", "handlers": [["a", math.nan, None, False]]}, body=b"")
@example(header={"type": "Ready", "handlers": [["a", None, 10**400, False]]}, body=b"")
@example(header={"type": "Ready", "handlers": [["a", -1, None, False]]}, body=b"")
@example(header={"type": "Ready", "handlers": [["a", True, None, False]]}, body=b"")
@example(header={"type": "Ended", "task": 1, "outcome": "Deferred", "until_ms": 10**4_300 - 1}, body=b"")
def test_a_message_with_anything_in_its_members_is_one_or_refused(header: dict[str, Any], body: bytes) -> None:
    message = taken(Frame(header, body))
    if message is not None:
        assert_harmless(message)


def assert_harmless(message: FromChild | ToChild) -> None:
    """Check what may be relied upon in a message that was accepted."""
    again = codec.to_frame(message)
    assert taken(again) == message
    encode(again)
    match message:
        case Progress(_, percent):
            assert 0 <= percent <= 100
        case Emit(payload=payload):
            assert len(payload) <= 65_536
        case Ready(handlers):
            for one in handlers:
                for timeout_s in (one.timeout_s, one.progress_timeout_s):
                    assert timeout_s is None or (type(timeout_s) is float and timeout_s > 0)
    for value in numbers_in(message):
        assert str(value + 10**300), "what is reckoned from it can be written"


def numbers_in(message: Any) -> list[int]:
    """Return the numbers of a message."""
    values = [getattr(message, name) for name in message.__slots__]
    values += [number for value in values if isinstance(value, dict) for number in value.values()]
    found = [value for value in values if type(value) is int]
    return found + (numbers_in(message.outcome) if isinstance(message, Ended) else [])


@fuzz(100)
@given(
    kind=st.sampled_from(["Ready", "Start", "Ended", "ReportUsage", "Interrupt"]), values=st.lists(JSON, max_size=3)
)
def test_a_list_of_anything_is_read_or_refused(kind: str, values: list[Any]) -> None:
    named = {"handlers": values, "signals": values, "outcome": values, "usage": values, "reason": values, "task": 1}
    taken(Frame({"type": kind, **named}))
    taken(Frame({"type": values, **named}))


DEEP: dict[str, dict[str, Any]] = {
    "type": {},
    "outcome": {"type": "Ended", "task": 1},
    "reason": {"type": "Unfit"},
    "on_timeout": {"type": "Ended", "task": 1, "outcome": "Suspended", "reason_code": "", "signal_names": []},
    "handlers": {"type": "Ready"},
    "signals": {"type": "Start"},
    "usage": {"type": "ReportUsage", "task": 1, "request": 1, "budget_id": ""},
    "task": {"type": "Interrupt"},
}


@pytest.mark.parametrize("member", DEEP)
def test_what_is_nested_as_deeply_as_can_be_read_is_refused(member: str) -> None:
    before, after = json.dumps(DEEP[member] | {member: "?", "match_all": True, "timeout_ms": None}).split('"?"')
    readable = 0
    for depth in range(700, 1_000, 5):
        with contextlib.suppress(RemoteProtocolError):
            (frame,) = received(framed(f"{before}{'[' * depth}{']' * depth}{after}".encode()), [])
            readable += 1
            assert taken(frame) is None
    assert readable


@fuzz(200)
@given(data=st.data(), sent=st.lists(SAID | TOLD, min_size=1, max_size=3), cuts=CUTS)
def test_damaged_bytes_are_messages_or_refused(data: st.DataObject, sent: list[Any], cuts: list[int]) -> None:
    whole = b"".join(encode(codec.to_frame(message)) for message in sent)
    try:
        frames = received(data.draw(damaged(whole)), cuts)
    except RemoteProtocolError:
        return
    for frame in frames:
        taken(frame)


@fuzz(200)
@given(data=st.binary(max_size=60), cuts=CUTS, is_header=st.booleans())
def test_any_bytes_are_messages_or_refused(data: bytes, cuts: list[int], is_header: bool) -> None:
    try:
        frames = received(framed(data) if is_header else data, cuts)
    except RemoteProtocolError:
        return
    for frame in frames:
        taken(frame)


@pytest.mark.parametrize("part", ["[],", "{},", "0,", '"\xff",', '{"a":0},', "9" * 4_000 + ","])
def test_the_largest_header_takes_a_bounded_room(part: str) -> None:
    header = b"[" + (part * (HEADER_LIMIT_BYTES // len(part.encode()))).encode()[: HEADER_LIMIT_BYTES - 3].rstrip(
        b","
    )
    data = framed(b'{"a":' + header + b"]}") if len(header) < HEADER_LIMIT_BYTES - 10 else framed(header + b"]")
    tracemalloc.start()
    try:
        decoder = Decoder()
        decoder.feed(data)
        with contextlib.suppress(RemoteProtocolError):
            decoder.next_frame()
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


@fuzz(50)
@given(lengths=st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)), sent=st.binary(max_size=20))
def test_no_room_is_taken_for_what_is_only_announced(lengths: tuple[int, int], sent: bytes) -> None:
    tracemalloc.start()
    try:
        decoder = Decoder()
        decoder.feed(LENGTHS.pack(*lengths) + sent)
        with contextlib.suppress(RemoteProtocolError):
            decoder.next_frame()
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
