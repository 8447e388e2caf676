"""Growing, jittered pauses between tries."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses that double from ``first_s`` up to ``longest_s``.

    Attributes:
        tries: how many tries have failed in a row.
    """

    first_s: float = 0.05
    longest_s: float = 2.0
    tries: int = 0

    def pause_s(self, chance: float) -> float:
        """Return the next pause: between half and all of the doubled step, so that many callers spread out.

        Args:
            chance: a random number from 0 to 1; randomness is the caller's.
        """
        step_s = min(self.longest_s, self.first_s * 2.0 ** min(self.tries, 32))
        return step_s * (0.5 + 0.5 * chance)

    def failed(self) -> Backoff:
        """Return the state after one more failure."""
        return Backoff(self.first_s, self.longest_s, self.tries + 1)

    def succeeded(self) -> Backoff:
        """Return the state after a success."""
        return Backoff(self.first_s, self.longest_s)
