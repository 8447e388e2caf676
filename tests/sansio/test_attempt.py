from __future__ import annotations

import signal

import pytest

from ffsuper.messages import Death
from ffsuper.sansio.attempt import DUMP_S, Step, crashed, ladder, timed_out


def death(exit_code: int | None = None, by_signal: int | None = None, output: tuple[str, ...] = ()) -> Death:
    return Death(123, exit_code, by_signal, 1_000_000, output)


def test_an_overrunning_handler_is_interrupted_then_shown_then_killed() -> None:
    assert ladder(100.0, 30.0, 5.0) == (
        (130.0, Step.INTERRUPT),
        (135.0, Step.DUMP),
        (135.0 + DUMP_S, Step.KILL),
    )


@pytest.mark.parametrize("timeout_s", [None, 0.0])
def test_without_a_timeout_a_handler_may_run_for_ever(timeout_s: float | None) -> None:
    assert ladder(100.0, timeout_s, 5.0) == ()


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
    assert crashed(death(exit_code=1, output=lines)).reason.splitlines()[1:] == [f"line {n}" for n in range(10, 20)]


def test_a_killed_overrun_is_a_retryable_timeout() -> None:
    failure = timed_out(30.0, 5.0)
    assert (failure.category, failure.retryable) == ("timeout", True)
    assert "30 s" in failure.reason
