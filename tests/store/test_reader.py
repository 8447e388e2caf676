"""Replies that are announced as larger than any that we ask for cost a connection, and neither memory nor time."""

from __future__ import annotations

import time
from typing import Any

import hiredis
import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from ffsuper.store import reader
from ffsuper.store.reader import ELEMENTS_LIMIT, BoundedReader

NOT_YET = object()


def plain() -> hiredis.Reader:
    return hiredis.Reader(protocolError=redis.InvalidResponse, notEnoughData=NOT_YET)


def replies_of(bounded: BoundedReader) -> list[Any]:
    found = []
    while (reply := bounded.gets()) is not NOT_YET:
        found.append(reply)
    return found


def resp(reply: Any) -> bytes:
    """Return a reply as a server writes it."""
    match reply:
        case int():
            return b":%d\r\n" % reply
        case str():
            return b"+%b\r\n" % reply.encode()
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(reply), reply)
    return b"*%d\r\n" % len(reply) + b"".join(map(resp, reply))


LOOKS = st.sampled_from(
    (b"*2147483647\r\n", b"*1000", b"*", b"%9999", b"~12345678901234567890123\r\n", b"\r\n*5000\r\n")
)
TEXTS = LOOKS | st.binary(max_size=8)
LINES = st.sampled_from(("OK", "*9999999999", "> 5000", ""))
REPLIES = st.recursive(st.integers(-9, 9) | TEXTS | LINES, lambda inner: st.lists(inner, max_size=5), max_leaves=8)


@given(replies=st.lists(REPLIES, max_size=5), cuts=st.lists(st.integers(1, 40), max_size=30))
@example(replies=[[0] * 1_500, b"*1500\r\n"], cuts=[3, 1, 1, 1])
@example(replies=[b"*99999999999"], cuts=[1] * 30)
def test_replies_are_read_as_they_were_written_whatever_is_in_them_and_however_they_are_cut(
    replies: list[Any], cuts: list[int]
) -> None:
    data, bounded, found = b"".join(map(resp, replies)), BoundedReader(plain()), []
    for cut in cuts:
        bounded.feed(data[:cut])
        data = data[cut:]
        found += replies_of(bounded)
    bounded.feed(bytearray(b"??" + data + b"??"), 2, len(data))
    found += replies_of(bounded)
    assert found == [one.encode() if isinstance(one, str) else one for one in as_bytes(replies)]
    assert not bounded.has_data()


def as_bytes(reply: Any) -> Any:
    """Return a reply with its lines as hiredis gives them."""
    if isinstance(reply, list):
        return [as_bytes(one) for one in reply]
    return reply.encode() if isinstance(reply, str) else reply


@pytest.mark.parametrize("kind", [b"*", b"%", b"~", b">", b"|"])
@pytest.mark.parametrize("before", [b"", b"*2\r\n$3\r\nabc\r\n", b"+OK\r\n", b"*1\r\n*1\r\n"])
@pytest.mark.parametrize("cut", [1, 4, 100])
def test_room_is_made_for_no_more_elements_than_the_limit(kind: bytes, before: bytes, cut: int) -> None:
    bounded, began_s = BoundedReader(plain()), time.process_time()
    announced = b"%b%d\r\n" % (kind, 2**31 - 1)
    bounded.feed(before + announced[:cut])
    bounded.feed(announced[cut:])
    with pytest.raises(redis.InvalidResponse, match=f"a reply of more than {ELEMENTS_LIMIT} elements"):
        replies_of(bounded)
    del bounded
    assert time.process_time() - began_s < 1.0


def test_arrays_within_one_another_count_together_and_those_of_other_replies_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reader, "ELEMENTS_LIMIT", 4_000)
    bounded = BoundedReader(plain())
    for _ in range(3):
        bounded.feed(resp([0] * 2_000))
        (reply,) = replies_of(bounded)
        assert len(reply) == 2_000
    bounded.feed(b"*2000\r\n" * 2)
    assert replies_of(bounded) == []
    bounded.feed(b"*1000\r\n")
    with pytest.raises(redis.InvalidResponse):
        bounded.gets()


def test_of_a_reply_that_is_not_whole_no_more_is_kept_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "REPLY_LIMIT_BYTES", 1_000)
    bounded = BoundedReader(plain())
    for _ in range(50):
        bounded.feed(resp([b"x" * 900]))
        assert replies_of(bounded) == [[b"x" * 900]]
    bounded.feed(b"+before\r\n$%d\r\n" % 2**40)
    bounded.feed(b"x" * 900)
    assert bounded.gets() == b"before"
    assert bounded.gets() is NOT_YET
    bounded.feed(b"x" * 900)
    with pytest.raises(redis.InvalidResponse, match="a reply of more than 1000 bytes"):
        bounded.gets()


def test_what_came_before_nonsense_is_read() -> None:
    bounded = BoundedReader(plain())
    bounded.feed(b":1\r\n:2\r\n?")
    assert [bounded.gets(), bounded.gets()] == [1, 2]
    assert bounded.has_data()
    for _ in range(2):
        with pytest.raises(redis.InvalidResponse):
            bounded.gets()
