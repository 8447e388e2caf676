"""How often children may die unasked before restarting them is pointless."""

from __future__ import annotations

from dataclasses import dataclass

from ffsuper.errors import RestartLimitError

Times = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class RestartLimit:
    """At most ``max_restarts`` within ``window_s`` seconds."""

    max_restarts: int
    window_s: float


def admit_restart(history: Times, now: float, limit: RestartLimit, how: str) -> Times:
    """Return ``history`` with a restart at ``now`` added and forgotten ones dropped.

    Args:
        history: earlier restarts, oldest first, in seconds on the same clock as ``now``.
        how: the child has ended that is to be replaced, for the error.

    Raises:
        RestartLimitError: this restart is one too many.

    Source: Erlang/OTP supervisor, "Restart intensity and period".
    """
    recent = (*(t for t in history if now - t <= limit.window_s), now)
    if len(recent) > limit.max_restarts:
        raise RestartLimitError(
            f"children died {len(recent)} times within {limit.window_s:g} s ([children] max_restarts,"
            f" restart_window_s): the last one {how}; see its output in the log"
        )
    return recent
