"""Which retentions the executions of an index have, as far as they were seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

I = TypeVar("I")  # noqa: E741 -- an index

DEFAULT_MS = 86_400_000
# Beyond so many, others are rounded up to powers of two: executions are kept longer, but not looked at so often.
EXACT = 16


class Ages(Generic[I]):
    """At which ages the executions of each index are looked at; at age 0 and after a day at any rate."""

    def __init__(self) -> None:
        self._known: dict[I, set[int]] = {}

    def of(self, indexes: Sequence[I]) -> list[int]:
        """Return all ages that concern one of these, youngest first."""
        return sorted({0, DEFAULT_MS}.union(*(self._known.get(index, ()) for index in indexes)))

    def having(self, age_ms: int, indexes: Sequence[I]) -> list[I]:
        """Return those of the indexes whose executions are looked at, at that age."""
        return [index for index in indexes if age_ms in (0, DEFAULT_MS) or age_ms in self._known.get(index, ())]

    def learn(self, index: I, outcomes: Mapping[str, int]) -> None:
        """Take in the retentions that a page has told: outcomes ``kept:<retention in ms>``."""
        for outcome in outcomes:
            word, _, text = outcome.partition(":")
            if word == "kept" and int(text) != DEFAULT_MS:
                known = self._known.setdefault(index, set())
                retention_ms = int(text)
                known.add(retention_ms if len(known) < EXACT else 1 << (retention_ms - 1).bit_length())
