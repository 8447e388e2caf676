"""Waiting while the store cannot be reached: a state, not a crash."""

from __future__ import annotations

import logging
import random

import trio

from ffsuper.errors import OutcomeUnknownError, StoreAccessError, StoreError, StoreUnavailableError
from ffsuper.sansio.backoff import Backoff

# Errors that end by themselves or by an operator's hand; anything else is a defect or damage.
STORE_AWAY = (StoreUnavailableError, OutcomeUnknownError, StoreAccessError)


class Outage:
    """One actor's patience with the store; logs once when it goes away and once when it is back."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._backoff = Backoff()

    async def wait(self, error: StoreError) -> None:
        """Pause before the next try, longer each time."""
        if self._backoff.tries == 0:
            self._log.warning("store away", extra={"error": error})
        pause_s = self._backoff.pause_s(random.random())
        self._backoff = self._backoff.failed()
        await trio.sleep(pause_s)

    def over(self) -> None:
        """Note that the store has answered."""
        if self._backoff.tries:
            self._log.info("store back", extra={"tries": self._backoff.tries})
            self._backoff = self._backoff.succeeded()
