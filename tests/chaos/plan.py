"""Which faults happen when: drawn from a seed, so that a run can be repeated."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

# Kind of fault -> how long it lasts: shortest and longest, in seconds. The leases of a run last three.
KINDS: dict[str, tuple[float, float]] = {
    "child killed": (0.0, 0.0),
    "child stopped": (0.5, 4.0),
    "fork server killed": (0.0, 0.0),
    "fork server stopped": (0.5, 6.0),
    "supervisor killed": (0.1, 4.0),
    "supervisor stopped": (0.5, 6.0),
    "supervisor drained": (0.0, 0.5),
    "supervisor drained without its store": (1.0, 4.0),
    "supervisor quiet": (0.5, 3.0),
    "supervisor reloaded": (0.5, 3.0),
    "engine leader killed": (0.1, 4.0),
    "engine leader stopped": (1.0, 6.0),
    "store killed": (0.1, 2.0),
    "store killed, its last second lost": (0.1, 2.0),
    "store stopped": (0.5, 5.0),
    "script busy": (0.5, 4.0),
    "out of memory": (0.5, 4.0),
    "failover": (0.2, 1.5),
    "library lost": (0.0, 0.0),
    "network slow": (1.0, 5.0),
    "network cut": (0.0, 0.0),
    "network half closed": (0.2, 2.0),
    "network swallows replies": (0.5, 3.0),
    "network tears replies": (0.0, 0.0),
    "network away": (0.5, 6.0),
    "submitter cut off": (0.2, 2.0),
    "disk full for logs": (1.0, 4.0),
    "clock step of a supervisor": (1.0, 4.0),
    "clock step of the store": (0.0, 0.0),
}
# From one fault to the next. Most last longer, so that some of them meet.
PAUSE_S = (0.6, 2.4)


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault to come.

    Attributes:
        at_s: since the beginning of the run.
        victim: any number; of those that can be hit, the one with this number, modulo how many there are.
        lasts_s: until it is mended.
    """

    at_s: float
    kind: str
    victim: int
    lasts_s: float


def make_plan(seed: int, seconds: float, kinds: Sequence[str] = tuple(KINDS)) -> list[Fault]:
    """Return the faults of a run: all kinds in a random order, again and again."""
    chance = random.Random(seed)
    faults: list[Fault] = []
    at_s = 1.0
    while True:
        for kind in chance.sample(list(kinds), len(kinds)):
            if at_s >= seconds:
                return faults
            faults.append(Fault(at_s, kind, chance.randrange(1000), round(chance.uniform(*KINDS[kind]), 2)))
            at_s = round(at_s + chance.uniform(*PAUSE_S), 2)
