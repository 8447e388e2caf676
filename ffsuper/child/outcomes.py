"""What a handler raises or returns to say how its execution goes on. Imported inside children."""

from __future__ import annotations

import time
from datetime import datetime, timedelta


class Fatal(Exception):  # noqa: N818 -- what users write reads as an outcome: raise Fatal("...")
    """Raised by a handler: the execution has failed, whatever its retry policy says."""


class Defer(Exception):  # noqa: N818 -- raise Defer(until)
    """Raised or returned by a handler: go on later, with the same attempt.

    Args:
        until: seconds from now, a span, or a time with zone.

    Raises:
        ValueError: the time names no zone.
    """

    def __init__(self, until: float | timedelta | datetime) -> None:
        if isinstance(until, datetime) and until.tzinfo is None:
            raise ValueError(f"Defer({until}): the time must name a zone")
        super().__init__(until)
        match until:
            case datetime():
                seconds = until.timestamp()
            case timedelta():
                seconds = time.time() + until.total_seconds()
            case _:
                seconds = time.time() + until
        self.until_ms = int(seconds * 1000)


class SoftTimeout(Exception):  # noqa: N818 -- the field's name for it
    """Raised inside a handler that overruns its timeout: clean up and leave, the process is killed soon."""


class Cancelled(BaseException):
    """Raised inside a handler whose execution was cancelled, or whose lease was lost: nothing it does counts now."""
