"""From which score on a sweep looks at an index that is ordered by time.

What is due is moved, and most of it leaves the index. What cannot be moved stays in front, for ever perhaps, and must
not be tried again at every look: so a look begins where the last pass over that index ended, for new entries fall due
later than that. Now and then a pass begins at the front again: soon, and then less and less often, while entries
fail; at a slow and steady pace otherwise, for clocks step and entries are written with times that are long past.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Generic, TypeVar

I = TypeVar("I")  # noqa: E741 -- an index

FIRST_RETRY_S = 1.0
WHOLE_PASS_S = 30.0


@dataclass(frozen=True, slots=True)
class Mark:
    """How far one index has been gone through.

    Attributes:
        since_ms: the last pass saw everything that was due before.
        whole_at_s: local time from which on a look begins at the front again.
        retry_s: the pause until then, when the last whole pass met failures; 0 when it met none.
    """

    since_ms: int
    whole_at_s: float
    retry_s: float = 0.0


class Marks(Generic[I]):
    """The marks of all indexes of a sweep. Times: ``_ms`` on the store's clock, ``_s`` on a local one.

    Args:
        first_retry_s: the pause after the first failure.
        whole_pass_s: the longest pause between passes that begin at the front.
    """

    def __init__(self, first_retry_s: float = FIRST_RETRY_S, whole_pass_s: float = WHOLE_PASS_S) -> None:
        self._first_retry_s = first_retry_s
        self._whole_pass_s = whole_pass_s
        self._marks: dict[I, Mark] = {}

    def bound_ms(self, index: I, now_s: float) -> float:
        """Return the lowest score that a look has to consider; minus infinity for all."""
        mark = self._marks.get(index)
        return -math.inf if mark is None or mark.whole_at_s <= now_s else mark.since_ms

    def passed(self, index: I, bound_ms: float, due_ms: int, now_s: float, *, failed: bool) -> None:
        """Note that all entries from ``bound_ms`` to ``due_ms`` were gone through.

        Args:
            failed: whether some could not be moved, and should be tried again.
        """
        known = self._marks.get(index)
        if bound_ms == -math.inf or known is None:
            retry_s = 0.0
            if failed:
                doubled_s = 2 * known.retry_s if known else 0.0
                retry_s = min(doubled_s or self._first_retry_s, self._whole_pass_s)
            self._marks[index] = Mark(due_ms, now_s + (retry_s or self._whole_pass_s), retry_s)
        else:
            whole_at_s = min(known.whole_at_s, now_s + self._first_retry_s) if failed else known.whole_at_s
            self._marks[index] = Mark(due_ms, whole_at_s, known.retry_s)
