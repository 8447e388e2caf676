"""Colour for people at terminals: what is good, what is bad, what waits."""

from __future__ import annotations

import os
import sys
from enum import Enum


class Meaning(Enum):
    """What a text tells; the value is how a terminal is asked to show it (ECMA-48, SGR)."""

    GOOD = "32"
    BAD = "31"
    WAITING = "33"
    RUNNING = "36"
    DIM = "2"


# Public states; those that are not here wait for something.
STATES = {
    "active": Meaning.RUNNING,
    "completed": Meaning.GOOD,
    "failed": Meaning.BAD,
    "expired": Meaning.BAD,
    "cancelled": Meaning.DIM,
    "skipped": Meaning.DIM,
}


def is_wanted() -> bool:
    """Tell whether stdout takes colour: NO_COLOR forbids it, else FORCE_COLOR asks for it, else a terminal does."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (sys.stdout.isatty() and os.environ.get("TERM") != "dumb")


def painted(text: str, meaning: Meaning) -> str:
    """Return ``text`` for stdout, in the colour of its meaning where it takes colour. Pad it before."""
    return f"\x1b[{meaning.value}m{text}\x1b[0m" if text and is_wanted() else text


def painted_state(state: str, width: int = 0) -> str:
    """Return a public state for stdout, padded to ``width``."""
    return painted(state.ljust(width), STATES.get(state, Meaning.WAITING))
