"""How many lines of one kind a log takes: a burst at once, then so many a second; what is dropped is counted.

Each kind has a token bucket. Of it only the time is kept at which it will be full again: a line is admitted while
that is at most a burst away, and moves it on by the time that one token takes to come.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

Kind = TypeVar("Kind", bound=Hashable)

# What was dropped is told at most so often.
TELL_S = 1.0
# Kinds come and go, as children do; full buckets are forgotten when there are more than this.
MANY_BUCKETS = 1_000


class RateLimit(Generic[Kind]):
    """The buckets of all kinds.

    Args:
        burst: tokens in a full bucket, at least 1.
        per_second: tokens that come; 0 for no limit at all.
    """

    def __init__(self, burst: int, per_second: float) -> None:
        self._token_s = 1 / per_second if per_second else 0.0
        # A little more than all tokens but one, so that rounding takes none away.
        self._slack_s = (burst - 0.99) * self._token_s
        self._full_at_s: dict[Kind, float] = {}
        self._many = MANY_BUCKETS
        self._dropped: Counter[Kind] = Counter()
        self._tell_at_s = math.inf

    def __len__(self) -> int:
        return len(self._full_at_s)

    def admits(self, kind: Kind, now_s: float) -> bool:
        """Take a token for one line of a kind; without one, the line counts as dropped."""
        full_at_s = max(self._full_at_s.get(kind, now_s), now_s)
        if full_at_s - now_s > self._slack_s:
            if not self._dropped:
                self._tell_at_s = now_s + TELL_S
            self._dropped[kind] += 1
            return False
        self._full_at_s[kind] = full_at_s + self._token_s
        if len(self._full_at_s) > self._many:
            self._full_at_s = {one: at_s for one, at_s in self._full_at_s.items() if at_s > now_s}
            self._many = max(MANY_BUCKETS, 2 * len(self._full_at_s))
        return True

    def take_dropped(self, now_s: float = math.inf) -> Mapping[Kind, int]:
        """Return how many lines of each kind were dropped, once it is time to tell; they are forgotten then."""
        if not self._dropped or now_s < self._tell_at_s:
            return {}
        dropped, self._dropped = self._dropped, Counter()
        return dropped
