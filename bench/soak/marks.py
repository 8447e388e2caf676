"""What handlers append to a file, so that when they really ran is known without asking the store."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "SOAK_MARKS"


@functools.cache
def file() -> int:
    """Open the file; its writers may be many, for what they append stays in one piece."""
    return os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def mark(measure: str, execution_id: str) -> None:
    """Say that a handler is here, on the machine's monotonic clock, which all processes share."""
    os.write(file(), f"{measure}\t{execution_id}\t{time.monotonic_ns()}\n".encode())


class Reader:
    """Reads the file on from where it stopped."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._path = path
        self._read_bytes = 0

    def fresh(self) -> Iterator[tuple[str, str, float]]:
        """Yield what has come since: measure, execution id, seconds on the monotonic clock."""
        with self._path.open("rb") as file:
            file.seek(self._read_bytes)
            whole, end, _ = file.read().rpartition(b"\n")
        self._read_bytes += len(whole + end)
        for line in whole.splitlines():
            measure, execution_id, at_ns = line.decode().split("\t")
            yield measure, execution_id, int(at_ns) / 1e9
