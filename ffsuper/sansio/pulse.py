"""Signs of life of the actors: each writes its own, and whoever vouches for the process reads them.

An actor is either resting, which means that it waits for others for as long as that takes, or it does something that
comes to an end: then it must beat again before long. One that does not is stuck, whatever it waits for. These are,
with the ledger, the only things that actors share; no actor's work depends on another's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self


class Pulse:
    """The signs of life of one actor; they end with the block, asynchronous like those of an actor's channels."""

    def __init__(self, name: str, now_s: Callable[[], float], ended: Callable[[Pulse], None]) -> None:
        self.name = name
        self.resting = Rest(self)
        self._now_s = now_s
        self._ended = ended
        self._rests = 0
        self._last_s = now_s()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ended(self)

    def beat(self) -> None:
        """Say that what was being done is done, and that something else begins."""
        self._last_s = self._now_s()

    def silent_s(self) -> float:
        """Return for how long it has done one thing; 0 while it rests."""
        return 0.0 if self._rests else self._now_s() - self._last_s

    def rest(self, change: int) -> None:
        """Begin (1) or end (-1) a rest; for ``Rest``."""
        self._rests += change
        self._last_s = self._now_s()


class Rest:
    """``with pulse.resting:`` around a wait for others; may be entered several times at once."""

    def __init__(self, pulse: Pulse) -> None:
        self._pulse = pulse

    def __enter__(self) -> None:
        self._pulse.rest(1)

    def __exit__(self, *_: object) -> None:
        self._pulse.rest(-1)


class Pulses:
    """All pulses of a process."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._all: dict[Pulse, None] = {}

    def open(self, name: str) -> Pulse:
        """Return the pulse of an actor that begins.

        Args:
            name: for people; several may have the same.
        """
        pulse = Pulse(name, self._now_s, self._all.pop)
        self._all[pulse] = None
        return pulse

    def silent_s(self) -> dict[str, float]:
        """Return for how long actors of each name have done one thing, at most; the worst first."""
        longest_s: dict[str, float] = {}
        for silent_s, name in sorted(((pulse.silent_s(), pulse.name) for pulse in self._all), reverse=True):
            longest_s.setdefault(name, silent_s)
        return longest_s

    def stuck(self, limit_s: float) -> list[str]:
        """Return the names of the actors that have done one thing for longer than that, the worst first."""
        return [name for name, silent_s in self.silent_s().items() if silent_s > limit_s]
