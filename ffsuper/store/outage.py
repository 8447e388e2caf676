"""Waiting while the store cannot be reached: a state, not a crash."""

from __future__ import annotations

import logging
import random
from weakref import WeakSet

import trio

from ffsuper.errors import OutcomeUnknownError, StoreAccessError, StoreError, StoreUnavailableError
from ffsuper.sansio.backoff import Backoff

# Errors that end by themselves or by an operator's hand; anything else is a defect or damage.
STORE_AWAY = (StoreUnavailableError, OutcomeUnknownError, StoreAccessError)


# Who of this process's actors has told that the store is away, at most one, and is to tell that it is back: every
# actor meets the same outage, and one line is enough. Weak, for an actor may end before the outage does.
TELLING: WeakSet[Outage] = WeakSet()


class Outage:
    """One actor's patience with the store.

    The first actor of the process to meet an outage logs that the store is away, and later that it is back.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._backoff = Backoff()

    async def wait(self, error: StoreError) -> None:
        """Pause before the next try, longer each time."""
        if not TELLING:
            TELLING.add(self)
            if self._backoff.tries == 0:  # else it is told, and who told it has ended
                self._log.warning("store away", extra={"error": error})
        pause_s = self._backoff.pause_s(random.random())
        self._backoff = self._backoff.failed()
        await trio.sleep(pause_s)

    def over(self) -> None:
        """Note that the store has answered."""
        if not self._backoff.tries:
            return
        if self in TELLING:
            TELLING.discard(self)
            self._log.info("store back", extra={"tries": self._backoff.tries})
        self._backoff = self._backoff.succeeded()
