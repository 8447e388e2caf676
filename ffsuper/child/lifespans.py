"""Until when each child may live, should the supervisor stand still: a table that both it and the fork server have.

A supervisor that is stopped, or hangs, cannot end what runs under its leases before others take them over. So it
writes down how long each child may live, in memory that it shares with the fork server, which looks there, and kills
whose time is up. Nothing is said or asked for that: a lease that is renewed costs one number.

The supervisor acts first. It gives a lease up a margin before it can end, and most of that margin is its own.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterable, Mapping

# More than there can be children.
PLACES = 8_192
NUMBER_BYTES = 8
SIZE_BYTES = PLACES * NUMBER_BYTES
# Of the margin, what the supervisor has to end a child by itself.
SUPERVISORS_SHARE = 0.75
# A lease lasts longer than this, so that each is seen before it can end; and a nap does not count a machine's sleep.
LONGEST_NAP_S = 0.5


class Lifespans:
    """The table.

    Args:
        descriptor: of the memory; stays the caller's.
    """

    def __init__(self, descriptor: int) -> None:
        memory = mmap.mmap(descriptor, SIZE_BYTES)
        memory.madvise(mmap.MADV_DONTFORK)  # children have no part in it
        self._ends_s = memoryview(memory).cast("d")
        self._free = list(range(PLACES - 1, -1, -1))

    def open(self) -> Lifespan:
        """Return the lifespan of another child, which may live for ever."""
        place = self._free.pop()
        self._ends_s[place] = math.inf
        return Lifespan(place, self._ends_s, self._free)

    def overdue(self, places: Mapping[int, int], now_s: float) -> Iterable[int]:
        """Return the children that should be dead.

        Args:
            places: process id -> place.
        """
        return [pid for pid, place in places.items() if self._ends_s[place] <= now_s]

    def nap_s(self, places: Iterable[int], now_s: float) -> float:
        """Return for how long nobody needs to look."""
        first_s = min((self._ends_s[place] for place in places), default=math.inf)
        return min(max(first_s - now_s, 0.0), LONGEST_NAP_S)


class Lifespan:
    """Until when one child may live.

    Attributes:
        place: in the table.
    """

    def __init__(self, place: int, ends_s: memoryview[float], free: list[int]) -> None:
        self.place = place
        self._ends_s = ends_s
        self._free = free
        self._is_open = True

    def put(self, until_s: float) -> None:
        """Let the child live until then, on the lease clock."""
        if self._is_open:
            self._ends_s[self.place] = until_s

    def close(self) -> None:
        """Give the place back: the child is dead."""
        self._is_open = False
        self._free.append(self.place)


def open_memory() -> int:
    """Return a descriptor of memory for a table."""
    descriptor = os.memfd_create("ffsuper-lifespans", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, SIZE_BYTES)
    return descriptor
