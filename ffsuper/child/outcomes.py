"""What a handler raises or returns to say how its execution goes on. Imported inside children."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Literal

from ffsuper.messages import CancelledByHandler, Deferred, Failed, OnTimeout, Outcome, Suspended, WaitingForChildren

# What Suspend's on_timeout may be, and the protocol's word for it.
ON_TIMEOUT = {
    "fail": OnTimeout.FAIL,
    "cancel": OnTimeout.CANCEL,
    "expire": OnTimeout.EXPIRE,
    "resume": OnTimeout.RESUME,
    "escalate": OnTimeout.ESCALATE,
}


class Fatal(Exception):  # noqa: N818 -- what users write reads as an outcome: raise Fatal("...")
    """Raised by a handler: the execution has failed, whatever its retry policy says.

    Args:
        category: stored with the attempt.
    """

    def __init__(self, reason: object = "", *, category: str = "fatal") -> None:
        super().__init__(reason)
        self.category = category


class Directive(Exception):  # noqa: N818 -- raise Defer(60)
    """What a handler raises or returns to end its run without a result."""

    def outcome(self) -> Outcome:
        """Return what the supervisor is told."""
        raise NotImplementedError


class Defer(Directive):
    """Go on later, with the same attempt.

    Args:
        until: seconds from now, a span, or a time with zone.

    Raises:
        ValueError: the time names no zone.
    """

    def __init__(self, until: float | timedelta | datetime) -> None:
        if isinstance(until, datetime) and until.tzinfo is None:
            raise ValueError(f"Defer({until}): the time must name a zone")
        super().__init__(until)
        match until:
            case datetime():
                seconds = until.timestamp()
            case timedelta():
                seconds = time.time() + until.total_seconds()
            case _:
                seconds = time.time() + until
        self.until_ms = int(seconds * 1000)

    def outcome(self) -> Outcome:
        """Return what the supervisor is told."""
        return Deferred(self.until_ms)


class Suspend(Directive):
    """Give the lease back and wait for signals; the handler is then called again, with ``Context.signals``.

    Args:
        signals: names of the signals that are waited for; none for any signal.
        match: whether ``all`` of them are needed or ``any`` one is enough.
        timeout: seconds or a span; None to wait for ever.
        on_timeout: what becomes of the execution then: ``fail``, ``cancel``, ``expire``, ``resume`` (with no
            signals), or ``escalate`` to an operator.
        waitpoint: one of ``Context.create_waitpoint``, whose token was handed out; a new one when None.
        reason: why, in the protocol's words: ``waiting_for_signal``, ``waiting_for_approval``, ...

    Raises:
        ValueError: an argument is none of these.
    """

    def __init__(
        self,
        *signals: str,
        match: Literal["all", "any"] = "all",
        timeout: float | timedelta | None = None,
        on_timeout: Literal["fail", "cancel", "expire", "resume", "escalate"] = "fail",
        waitpoint: object | None = None,
        reason: str = "waiting_for_signal",
    ) -> None:
        super().__init__(*signals)
        if match not in ("all", "any"):
            raise ValueError(f"match is {match!r}, neither 'all' nor 'any'")
        if on_timeout not in ON_TIMEOUT:
            raise ValueError(f"on_timeout is {on_timeout!r}, none of {', '.join(ON_TIMEOUT)}")
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        if seconds is not None and not seconds > 0:
            raise ValueError(f"timeout is {timeout!r}, not positive")
        self.suspended = Suspended(
            reason_code=reason,
            signal_names=signals,
            match_all=match == "all" and len(signals) > 1,
            timeout_ms=None if seconds is None else max(1, int(seconds * 1000)),
            on_timeout=ON_TIMEOUT[on_timeout],
            waitpoint_id=str(getattr(waitpoint, "id", "")),
        )

    def outcome(self) -> Outcome:
        """Return what the supervisor is told."""
        return self.suspended


class WaitChildren(Directive):
    """Give the lease back until the executions that this one depends on have succeeded; then go on, same attempt."""

    def outcome(self) -> Outcome:
        """Return what the supervisor is told."""
        return WaitingForChildren()


class Cancel(Directive):
    """End the execution as cancelled."""

    def __init__(self, reason: str = "cancelled by its handler") -> None:
        super().__init__(reason)
        self.reason = reason

    def outcome(self) -> Outcome:
        """Return what the supervisor is told."""
        return CancelledByHandler(self.reason)


class SoftTimeout(Exception):  # noqa: N818 -- the field's name for it
    """Raised inside a handler that overruns a timeout: clean up and leave, the process is killed soon."""


class Cancelled(BaseException):
    """Raised inside a handler whose execution was cancelled, or whose lease was lost: nothing it does counts now."""


class RequestRefused(Exception):  # noqa: N818 -- reads as what happened
    """The store refused what a handler asked through its context, or could not be asked in time."""


def failed(error: BaseException, limit: int) -> Failed:
    """Return the failure for what a handler raised.

    Args:
        limit: characters of the reason that are kept.
    """
    name, words = type(error).__name__, words_of(error)
    text = (f"{name}: {words}" if words else name)[:limit]
    match error:
        case Fatal(category=category):
            return Failed(words[:limit] or name, str(category), retryable=False)
        case SoftTimeout():
            return Failed(text, "timeout")
        case Cancelled():
            return Failed(text, "cancelled")
        case _:
            return Failed(text, "exception")


def words_of(error: BaseException) -> str:
    """Return an exception's text, whatever its class does when asked for it."""
    try:
        return str(error).encode(errors="replace").decode()
    except Exception:  # noqa: BLE001 -- the user's class may raise anything
        return "(its text cannot be had)"
