from __future__ import annotations

import math
import signal

import pytest

from ffsuper.messages import Death, InterruptReason, OutputLine
from ffsuper.sansio.attempt import DUMP_S, LOST_GRACE_S, Ladder, Step, crashed, killed, lease_grace_s


def death(exit_code: int | None = None, by_signal: int | None = None, output: tuple[str, ...] = ()) -> Death:
    return Death(123, exit_code, by_signal, 1_000_000, tuple(OutputLine("stdout", 5, text) for text in output))


def steps(ladder: Ladder, until_s: float = 10_000.0) -> list[tuple[float, Step]]:
    """Take every step at its time."""
    taken = []
    while (at_s := ladder.next_s) <= until_s:
        taken.append((at_s, ladder.take(at_s)))
    return taken


def ladder_of(timeout_s: float = 0.0, progress_timeout_s: float = 0.0, deadline_s: float = math.inf) -> Ladder:
    return Ladder(100.0, 5.0, timeout_s, progress_timeout_s, deadline_s)


def climb(at_s: float, grace_s: float = 5.0) -> list[tuple[float, Step]]:
    return [(at_s, Step.INTERRUPT), (at_s + grace_s, Step.DUMP), (at_s + grace_s + DUMP_S, Step.KILL)]


def test_without_a_cause_a_handler_may_run_for_ever() -> None:
    assert ladder_of().next_s == math.inf


@pytest.mark.parametrize(
    ("ladder", "at_s", "reason"),
    [
        (ladder_of(timeout_s=30.0), 130.0, InterruptReason.TIMEOUT),
        (ladder_of(timeout_s=30.0, progress_timeout_s=10.0), 110.0, InterruptReason.NO_PROGRESS),
        (ladder_of(timeout_s=30.0, deadline_s=120.0), 120.0, InterruptReason.DEADLINE),
    ],
)
def test_the_first_cause_interrupts_then_shows_then_kills(
    ladder: Ladder, at_s: float, reason: InterruptReason
) -> None:
    assert steps(ladder) == climb(at_s)
    assert ladder.reason is reason


def test_progress_puts_its_own_timeout_off_and_no_other() -> None:
    ladder = ladder_of(timeout_s=30.0, progress_timeout_s=10.0)
    ladder.progressed(125.0)
    assert ladder.next_s == 130.0


def test_a_cancellation_begins_the_ladder_at_once() -> None:
    ladder = ladder_of(timeout_s=30.0)
    ladder.interrupt(103.0, InterruptReason.CANCELLED, 2.0)
    assert steps(ladder) == climb(103.0, 2.0)


def test_a_lost_lease_leaves_an_interrupted_handler_less_time_and_never_more() -> None:
    ladder = ladder_of(timeout_s=30.0)
    assert ladder.take(130.0) is Step.INTERRUPT
    ladder.interrupt(131.0, InterruptReason.LEASE_LOST, 0.1)
    assert steps(ladder) == climb(131.0, 0.1)
    ladder = ladder_of(timeout_s=30.0)
    ladder.take(130.0)
    ladder.interrupt(134.0, InterruptReason.CANCELLED, 5.0)
    assert steps(ladder) == climb(134.0, 1.0)


def test_a_handler_whose_lease_is_lost_is_killed_well_within_the_margin() -> None:
    assert lease_grace_s(2.0) == LOST_GRACE_S
    assert lease_grace_s(0.004) == 0.001


@pytest.mark.parametrize(
    ("reason", "category", "retryable", "told"),
    [
        (InterruptReason.TIMEOUT, "timeout", True, "timed out; the handler did not end in time"),
        (InterruptReason.NO_PROGRESS, "timeout", True, "no progress for too long"),
        (InterruptReason.DEADLINE, "deadline", False, "deadline has passed"),
        (None, "timeout", True, "interrupted"),
    ],
)
def test_a_kill_is_told_with_its_reason(
    reason: InterruptReason | None, category: str, retryable: bool, told: str
) -> None:
    failure = killed(reason)
    assert (failure.category, failure.retryable) == (category, retryable)
    assert told in failure.reason


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (death(by_signal=signal.SIGSEGV), "child 123 was killed by SIGSEGV"),
        (death(by_signal=63), "child 123 was killed by signal 63"),
        (death(exit_code=3), "child 123 exited with code 3 while running"),
    ],
)
def test_a_crash_tells_how_the_child_ended(end: Death, told: str) -> None:
    failure = crashed(end)
    assert (failure.reason, failure.category, failure.retryable) == (told, "crash", True)


def test_a_crash_carries_the_last_lines_of_output() -> None:
    lines = tuple(f"line {number}" for number in range(20))
    assert crashed(death(exit_code=1, output=lines)).reason.splitlines()[1:] == ["line 17", "line 18", "line 19"]
