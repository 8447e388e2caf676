"""Whether the store has a function of ours that its callers can do without, as they find out by calling it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

LOG = logging.getLogger(__name__)

# A library that is lost is loaded again at once. Where a function is still missing after this time, there is another
# library, which lacks it; unless it was there in between, as it was if so much time has passed.
LOADED_WITHIN_S = 1.0
ANOTHER_LOSS_S = 60.0
# So long callers do without. Then they try again: the library may have been replaced by a newer one.
WITHOUT_S = 60.0


class Spared:
    """What is known about one function.

    Args:
        may_load: a library that is missing is loaded again.
    """

    def __init__(self, function: str, now_s: Callable[[], float], *, may_load: bool) -> None:
        self._function = function
        self._now_s = now_s
        self._may_load = may_load
        self._missing_since_s = -math.inf
        self._without_until_s = -math.inf
        self._is_lacking = False

    @property
    def is_worth_calling(self) -> bool:
        """False for a while once the store has turned out to lack it, and to stay without it."""
        return not self._is_lacking or self._now_s() >= self._without_until_s

    def note_missing(self) -> None:
        """Note that the store did not have it."""
        now_s = self._now_s()
        if now_s - self._missing_since_s > ANOTHER_LOSS_S:
            self._missing_since_s = now_s
        if not self._is_lacking and self._may_load and now_s - self._missing_since_s < LOADED_WITHIN_S:
            return
        if not self._is_lacking:
            LOG.warning("function missing in the store; doing without", extra={"function": self._function})
        self._is_lacking = True
        self._without_until_s = now_s + WITHOUT_S

    def note_present(self) -> None:
        """Note that the store had it."""
        if self._is_lacking:
            LOG.info("function in the store again", extra={"function": self._function})
        self._is_lacking = False
