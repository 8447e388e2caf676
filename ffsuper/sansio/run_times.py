"""Which kinds of executions have been short of late, so that the next one may be claimed before they have ended."""

from __future__ import annotations

from collections import Counter

# A run of this length hides some round trips to the store, and what waits behind it does not wait long.
SHORT_S = 0.02
# So many in a row.
RUNS = 8
# Kinds are the submitters' words: what is remembered of them must not grow for ever.
KINDS = 1_000


class RunTimes:
    """How long runs have taken, by kind."""

    def __init__(self) -> None:
        self._short_runs: Counter[str] = Counter()

    def note(self, kind: str, seconds: float) -> None:
        """Note that a run has taken so long, or does already."""
        if seconds <= SHORT_S:
            if len(self._short_runs) > KINDS:
                self._short_runs.clear()
            self._short_runs[kind] += 1
        else:
            self._short_runs.pop(kind, None)

    def are_short(self, kind: str) -> bool:
        """Tell whether a run is likely to be short."""
        return self._short_runs[kind] >= RUNS
