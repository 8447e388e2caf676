"""Replies out of bytes, by hiredis, and no larger ones than a store of ours has reason to send.

hiredis keeps what has come of a reply until it is whole, and makes room for an array as soon as its length is
announced: ten bytes ask for sixteen gigabytes, and giving these back takes the program a quarter of a minute. So
announcements are looked at before hiredis sees them. What looks like one may as well be part of a text: it is one if
it begins a line, and hiredis, having got all that stands before it, has nothing left whose end it waits for. A reply
that is too large costs the connection.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Any

import hiredis
import redis
from redis.connection import DefaultParser

# A value has 512 MiB at most, as Redis comes.
REPLY_LIMIT_BYTES = 1 << 30
# In all arrays of a reply: room of 128 MiB, given back in 0.2 s.
ELEMENTS_LIMIT = 1 << 24
# Shorter arrays do not count: hiredis lets few of them be within one another.
ANNOUNCEMENT = re.compile(rb"\*(\d{4,})")
# The end of what has come may be the beginning of one.
BEGUN = re.compile(rb"\*\d{0,20}\Z")
# What else announces so many elements, in later versions of Redis' protocol.
AGGREGATES = bytes.maketrans(b"%~>|", b"****")


class BoundedReader:
    """Reads like hiredis' own, which it takes over while that is new."""

    def __init__(self, reader: hiredis.Reader) -> None:
        self._reader = reader
        self._incomplete = reader.gets()
        self._replies = deque[Any]()
        self._broken: redis.RedisError | None = None
        self._begun = b""
        self._last = b""
        # Of the reply that is under way.
        self._bytes = 0
        self._elements = 0

    def feed(self, data: bytes | bytearray, start: int = 0, length: int | None = None) -> None:
        """Take bytes, or a part of them."""
        came = self._begun + bytes(data[start : None if length is None else start + length])
        seen = came.translate(AGGREGATES)
        begun = BEGUN.search(seen, max(0, len(seen) - 21))
        whole = len(seen) if begun is None else begun.start()
        self._begun = came[whole:]
        taken = 0
        try:
            for announcement in ANNOUNCEMENT.finditer(seen, 0, whole):
                self._take(came[taken : announcement.start()])
                taken = announcement.start()
                if self._last in (b"", b"\n") and not self._reader.has_data():
                    self._count(int(announcement[1][:20]))
            self._take(came[taken:whole])
        except redis.RedisError as error:
            self._broken = error

    def _take(self, data: bytes) -> None:
        self._reader.feed(data)
        self._bytes += len(data)
        self._last = data[-1:] or self._last
        while (reply := self._reader.gets()) is not self._incomplete:
            self._replies.append(reply)
            self._bytes = self._elements = 0
        if self._bytes > REPLY_LIMIT_BYTES:
            raise redis.InvalidResponse(f"a reply of more than {REPLY_LIMIT_BYTES} bytes")

    def _count(self, elements: int) -> None:
        self._elements += elements
        if self._elements > ELEMENTS_LIMIT:
            raise redis.InvalidResponse(f"a reply of more than {ELEMENTS_LIMIT} elements")

    def gets(self, *_: bool) -> Any:
        """Return the next reply that is whole.

        Raises:
            redis.RedisError: what came is no reply, or too large; nothing more can be read.
        """
        if self._replies:
            return self._replies.popleft()
        if self._broken is not None:
            raise self._broken
        return self._incomplete

    def has_data(self) -> bool:
        """Tell whether something has come that was not returned yet."""
        return bool(self._replies or self._begun or self._broken) or self._reader.has_data()


class BoundedParser(DefaultParser):  # type: ignore[misc, valid-type]
    """What redis-py reads replies with, on connections of ours."""

    def on_connect(self, connection: Any, **options: Any) -> None:
        """Begin to read from a connection."""
        super().on_connect(connection, **options)
        self._reader: Any = BoundedReader(self._reader)
