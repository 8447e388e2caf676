"""Which lanes a sweep covers: those that are configured, and all that workers have ever served."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from ffsuper.messages import LaneId
from ffsuper.store.looks import Looks

AGE_S = 5.0


class LaneList:
    """The lanes of one sweep, asked for anew from time to time."""

    def __init__(self, looks: Looks, configured: Sequence[LaneId]) -> None:
        self._looks = looks
        self._configured = configured
        self._known: list[LaneId] = []
        self._asked_at_s = -AGE_S

    async def known(self) -> list[LaneId]:
        """Return the lanes.

        Raises:
            StoreError: the store cannot be asked.
        """
        if trio.current_time() >= self._asked_at_s + AGE_S:
            self._known = list(dict.fromkeys([*self._configured, *await self._looks.lanes()]))
            self._asked_at_s = trio.current_time()
        return self._known
