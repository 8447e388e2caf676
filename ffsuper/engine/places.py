"""Which indexes a sweep covers: of all partitions, and of the lanes that are configured or were ever served."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from ffsuper.messages import LaneId
from ffsuper.sansio.pulse import Pulse
from ffsuper.store.looks import Index, Looks, indexes

LANES_AGE_S = 5.0


class Places:
    """The indexes of one sweep. Lanes are asked for anew from time to time.

    Args:
        names: the indexes'.
        lanes: of indexes that lanes have, those that are covered at any rate; None for indexes of whole partitions.
        family: see ``Index``.
    """

    def __init__(
        self,
        looks: Looks,
        names: Sequence[str],
        partitions: Sequence[int],
        lanes: Sequence[LaneId] | None = None,
        family: str = "fp",
    ) -> None:
        self._looks = looks
        self._names = names
        self._partitions = partitions
        self._lanes = lanes
        self._asked_at_s = -LANES_AGE_S
        self._known = [index for name in names for index in indexes(name, partitions, family=family)]

    async def known(self) -> Sequence[Index]:
        """Return the indexes.

        Raises:
            StoreError: the store cannot be asked.
        """
        if self._lanes is not None and trio.current_time() >= self._asked_at_s + LANES_AGE_S:
            lanes = dict.fromkeys([*self._lanes, *await self._looks.lanes()])
            self._known = [index for name in self._names for index in indexes(name, self._partitions, lanes)]
            self._asked_at_s = trio.current_time()
        return self._known

    async def present(self, pulse: Pulse) -> list[Index]:
        """Return those that exist.

        Raises:
            StoreError: the store cannot be asked.
        """
        known = await self.known()
        pulse.beat()
        found = await self._looks.present(known)
        pulse.beat()
        return found
