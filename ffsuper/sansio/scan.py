"""In which order a worker looks at the lanes' partitions, so that every pair is seen and no stuck entry hides others.

A round goes through all partitions, starting at a place of the worker's own, 32 at a time: at each of these windows
the lanes take turns before the next one begins, so every (lane, partition) pair is looked at once in a round. A page
that was full of executions that we leave alone is followed by the next page of that place; places that just had work
are looked at again together with the next ones. Each look begins a step further on, for what comes first in it is
claimed first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ffsuper.messages import LaneId

# Partitions of one lane before the next lane's turn.
WINDOW = 32
# Partitions from the beginning of one look to that of the next.
STEP = 32


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
        self._round = [
            (lane, (seed + start + step) % partitions)
            for start in range(0, partitions, WINDOW)
            for lane in lanes
            for step in range(min(WINDOW, partitions - start))
        ]
        self._partitions = partitions
        self._begin = seed % partitions
        self._position = 0
        self._offsets: dict[tuple[LaneId, int], int] = {}
        self._hot: list[tuple[LaneId, int]] = []
        self._others: set[tuple[LaneId, int]] = set()
        self._fruitless = 0

    def next_places(self, count: int = WINDOW) -> list[Place]:
        """Return the places to read now: those with work last time, and the next ones of the round.

        Args:
            count: of the round's, while there is no work; else a window's, for a look is paid for by what it finds.
        """
        if self._hot:
            count = min(count, WINDOW)
        if self.round_was_fruitless:
            self._fruitless = 0
        window = self._round[self._position : self._position + count]
        self._position = (self._position + len(window)) % len(self._round)
        self._fruitless += len(window)
        pairs = list(dict.fromkeys([*self._hot, *window]))
        if self._hot:
            self._begin = (self._begin + STEP) % self._partitions
            pairs.sort(key=lambda pair: (pair[1] - self._begin) % self._partitions)
        return [Place(lane, partition, self._offsets.get((lane, partition), 0)) for lane, partition in pairs]

    def seen(self, places: Sequence[Place], found: Mapping[Place, tuple[int, int]], page: int) -> None:
        """Note what the places held.

        Args:
            places: what was read.
            found: for each place that had any, how many members its page had, and how many of them are for us.
            page: how many members a full page has.
        """
        self._hot, is_paging = [], False
        for place in places:
            members, ours = found.get(place, (0, 0))
            pair = (place.lane, place.partition)
            if ours:
                self._hot.append(pair)
            if members and not ours:
                self._others.add(pair)
            else:
                self._others.discard(pair)
            if members == page and not ours:
                self._offsets[pair] = place.offset + page
                is_paging = True
            elif place.offset and not ours:
                self._offsets.pop(pair)
        if self._hot or is_paging:
            self._fruitless = 0

    @property
    def has_others_work(self) -> bool:
        """True when some place had members and nothing for us when it was last looked at."""
        return bool(self._others)

    @property
    def round_was_fruitless(self) -> bool:
        """True when every place has been looked at to its end since work was found, or the last such round ended."""
        return self._fruitless >= len(self._round)
