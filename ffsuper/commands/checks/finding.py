"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass

from ffsuper.errors import ConfigError, FfsuperError


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, or may go wrong.

    Attributes:
        text: begins with its place and ends with what to do.
        error: what the worker would end with; None for a warning.
    """

    text: str
    error: type[FfsuperError] | None = None


def problem(text: str, error: type[FfsuperError] = ConfigError) -> Finding:
    """Return what keeps the worker from working."""
    return Finding(text, error)


def warning(text: str) -> Finding:
    """Return what the worker runs with, though somebody should look at it."""
    return Finding(text)
