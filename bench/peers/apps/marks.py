"""What every handler of every system does: append 24 bytes to a file, so that all starts are known in one way."""

from __future__ import annotations

import functools
import os
import struct
import time
from collections.abc import Iterator

MARK = struct.Struct("<qqq")
NO_OP = -1


@functools.cache
def file() -> int:
    """Open the file; its writers may be many, for what they append stays in one piece."""
    return os.open(os.environ["BENCH_MARKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def mark(number: int = NO_OP) -> None:
    """Say that a handler has started."""
    os.write(file(), MARK.pack(number, os.getpid(), time.monotonic_ns()))


def count() -> int:
    """Return how many handlers have started."""
    try:
        return os.stat(os.environ["BENCH_MARKS"]).st_size // MARK.size  # noqa: PTH116
    except FileNotFoundError:
        return 0


def read(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the starts: number, process id, nanoseconds on the machine's monotonic clock."""
    return MARK.iter_unpack(data[: len(data) // MARK.size * MARK.size])
