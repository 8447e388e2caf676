"""In which order a worker looks at the lanes' partitions, so that every pair is seen and no stuck entry hides others.

A window is a run of partitions of one lane. Windows go round all partitions, starting at a place of the worker's
own; at each window the lanes take turns before the next window begins, so every (lane, partition) pair is looked at
once in a round. A page that was full of executions that we leave alone is followed by the next page of that place;
places that just had work are looked at again together with the next window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ffsuper.messages import LaneId

WINDOW = 32


@dataclass(frozen=True, slots=True)
class Place:
    """A page of one lane's eligible index on one partition."""

    lane: LaneId
    partition: int
    offset: int = 0


class ScanOrder:
    """Where to look next.

    Args:
        partitions: how many there are.
        seed: the partition to begin at.
    """

    def __init__(self, lanes: Sequence[LaneId], partitions: int, seed: int) -> None:
        self._windows = [
            [(lane, (seed + start + step) % partitions) for step in range(min(WINDOW, partitions - start))]
            for start in range(0, partitions, WINDOW)
            for lane in lanes
        ]
        self._position = 0
        self._offsets: dict[tuple[LaneId, int], int] = {}
        self._hot: list[tuple[LaneId, int]] = []
        self._fruitless = 0

    def next_places(self) -> list[Place]:
        """Return the places to read now: those with work last time, and the next window."""
        window = self._windows[self._position % len(self._windows)]
        self._position += 1
        pairs = dict.fromkeys([*self._hot, *window])
        return [Place(lane, partition, self._offsets.get((lane, partition), 0)) for lane, partition in pairs]

    def seen(self, found: Mapping[Place, tuple[int, int]], page: int) -> None:
        """Note what the places held.

        Args:
            found: for each place read, how many members its page had, and how many of them are for us.
            page: how many members a full page has.
        """
        self._hot = []
        for place, (members, ours) in found.items():
            pair = (place.lane, place.partition)
            if ours:
                self._hot.append(pair)
            if members == page and not ours:
                self._offsets[pair] = place.offset + page
            elif place.offset and not ours:
                self._offsets.pop(pair)
        self._fruitless = 0 if self._hot else self._fruitless + 1

    @property
    def round_was_fruitless(self) -> bool:
        """True when every place has been looked at since the last work was found."""
        return self._fruitless >= len(self._windows) and self._fruitless % len(self._windows) == 0
