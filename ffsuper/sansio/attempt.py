"""What happens to an attempt over time, and what its child's death means.

A handler that overruns is asked, then shown, then stopped:

    start --timeout, no progress, deadline--> INTERRUPT (an exception inside the handler, or a cancelled scope)
          --grace--> DUMP (stacks to stderr) --> KILL

A cancellation or a lost lease begins the same ladder, with its own grace.
"""

from __future__ import annotations

import math
from collections import deque
from enum import Enum, auto

from ffsuper.messages import Death, Failed, InterruptReason
from ffsuper.sansio.crash import signal_name

# Time for the child to write its stacks before it is killed.
DUMP_S = 0.2
# For a handler whose lease was lost: enough to be told, not to go on.
LOST_GRACE_S = 0.1
# Of the child's output, what a failure's reason tells; the crash report has more.
REASON_LINES = 3


class Step(Enum):
    """What to do to a child that overruns."""

    INTERRUPT = auto()
    DUMP = auto()
    KILL = auto()


class Ladder:
    """When to do what to one handler.

    Attributes:
        reason: why it was interrupted; None while it was not.
        next_s: when the next step is due; infinite when none is.
    """

    def __init__(
        self, started_s: float, grace_s: float, timeout_s: float, progress_timeout_s: float, deadline_s: float
    ) -> None:
        """Begin; a timeout of 0 and an infinite deadline never come.

        Args:
            deadline_s: when the execution expires, on the same clock as ``started_s``.
        """
        self._grace_s = grace_s
        self._progress_timeout_s = progress_timeout_s or math.inf
        self._causes = {
            InterruptReason.TIMEOUT: started_s + (timeout_s or math.inf),
            InterruptReason.NO_PROGRESS: started_s + self._progress_timeout_s,
            InterruptReason.DEADLINE: deadline_s,
        }
        self._steps: deque[tuple[float, Step]] = deque()
        self.reason: InterruptReason | None = None

    @property
    def next_s(self) -> float:
        """When the next step is due."""
        if self.reason is None:
            return min(self._causes.values())
        return self._steps[0][0] if self._steps else math.inf

    def progressed(self, now_s: float) -> None:
        """Note a sign of progress."""
        self._causes[InterruptReason.NO_PROGRESS] = now_s + self._progress_timeout_s

    def interrupt(self, now_s: float, reason: InterruptReason, grace_s: float) -> None:
        """Have the handler interrupted now; one that was interrupted already may only have less time for it."""
        self.reason = reason
        left_s = self._steps[0][0] - now_s if self._steps else math.inf
        dump_s = now_s + min(grace_s, left_s)
        self._steps = deque([(now_s, Step.INTERRUPT), (dump_s, Step.DUMP), (dump_s + DUMP_S, Step.KILL)])

    def take(self, now_s: float) -> Step:
        """Return the step that is due, which counts as done then."""
        if self.reason is None:
            self.interrupt(now_s, min(self._causes, key=lambda cause: self._causes[cause]), self._grace_s)
        return self._steps.popleft()[1]


def lease_grace_s(margin_s: float) -> float:
    """Return how long a handler has whose lease was lost: its child must be dead before the lease can have ended."""
    return min(LOST_GRACE_S, margin_s / 4)


def killed(reason: InterruptReason | None) -> Failed:
    """Return the failure of an attempt whose handler did not heed its interrupt, so that its child was killed."""
    told = f"{REASONS.get(reason, 'interrupted')}; the handler did not end in time, and its child was killed"
    return Failed(told, "timeout") if reason is not InterruptReason.DEADLINE else after_deadline(told)


def after_deadline(reason: str) -> Failed:
    """Return the failure of an attempt that its execution's deadline has ended."""
    return Failed(reason, "deadline", retryable=False)


REASONS: dict[InterruptReason | None, str] = {
    InterruptReason.TIMEOUT: "timed out",
    InterruptReason.NO_PROGRESS: "no progress for too long",
    InterruptReason.DEADLINE: "the execution's deadline has passed",
}


def crashed(death: Death) -> Failed:
    """Return the failure of an attempt whose child died under it, with the child's last words."""
    last_words = [line.text for line in death.last_output[-REASON_LINES:]]
    return Failed("\n".join([f"child {death.pid} {manner(death)}", *last_words]), "crash")


def manner(death: Death) -> str:
    """Say in words how a child ended."""
    if death.signal is None:
        return f"exited with code {death.exit_code} while running"
    return f"was killed by {signal_name(death.signal)}"
