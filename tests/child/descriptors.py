"""What a process has open, as it sees that itself; for handlers under test."""

from __future__ import annotations

from pathlib import Path


def own_descriptors() -> dict[str, str]:
    """Return this process's descriptors and what each leads to."""
    found = {}
    for one in Path("/proc/self/fd").iterdir():
        try:
            found[one.name] = str(one.readlink())
        except FileNotFoundError:
            continue  # the one that listed them
    return found
