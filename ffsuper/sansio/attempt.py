"""What happens to an attempt over time, and what its child's death means.

A handler that overruns is asked, then shown, then stopped:

    start --timeout--> INTERRUPT (an exception inside the handler) --grace--> DUMP (stacks to stderr) --> KILL
"""

from __future__ import annotations

import signal
from enum import Enum, auto

from ffsuper.messages import Death, Failed

# Time for the child to write its stacks before it is killed.
DUMP_S = 0.2
# Of the child's output, what is kept with the attempt.
OUTPUT_LINES = 10


class Step(Enum):
    """What to do to a child that overruns."""

    INTERRUPT = auto()
    DUMP = auto()
    KILL = auto()


def ladder(started_s: float, timeout_s: float | None, grace_s: float) -> tuple[tuple[float, Step], ...]:
    """Return when to take which step, earliest first; nothing without a timeout."""
    if not timeout_s:
        return ()
    interrupt_s = started_s + timeout_s
    dump_s = interrupt_s + grace_s
    return ((interrupt_s, Step.INTERRUPT), (dump_s, Step.DUMP), (dump_s + DUMP_S, Step.KILL))


def timed_out(timeout_s: float, grace_s: float) -> Failed:
    """Return the failure of an attempt whose child had to be killed for overrunning."""
    return Failed(
        f"timed out: still running {grace_s:g} s after the interrupt that came at {timeout_s:g} s; child killed",
        "timeout",
    )


def crashed(death: Death) -> Failed:
    """Return the failure of an attempt whose child died under it, with the child's last words."""
    lines = [f"child {death.pid} {manner(death)}", *death.last_output[-OUTPUT_LINES:]]
    return Failed("\n".join(lines), "crash")


def manner(death: Death) -> str:
    """Say in words how a child ended."""
    if death.signal is None:
        return f"exited with code {death.exit_code} while running"
    try:
        name = signal.Signals(death.signal).name
    except ValueError:
        name = f"signal {death.signal}"
    return f"was killed by {name}"
