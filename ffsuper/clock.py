"""The local clock that leases are judged by."""

from __future__ import annotations

import time


def boottime_s() -> float:
    """Return seconds since boot, counting time in suspend, unaffected by changes of the wall clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
