"""Who rests is never stuck; who does one thing for too long is, and is named."""

from __future__ import annotations

import pytest

from ffsuper.sansio.pulse import Pulses


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_an_actor_that_has_done_one_thing_for_too_long_is_stuck_until_it_beats(clock: Clock) -> None:
    pulses = Pulses(clock)
    pulse = pulses.open("claimer")
    clock.now_s += 30
    assert pulses.stuck(30) == []
    clock.now_s += 1
    assert pulses.stuck(30) == ["claimer"]
    pulse.beat()
    assert pulses.stuck(30) == []


def test_an_actor_that_rests_is_never_stuck_and_has_all_its_time_afterwards(clock: Clock) -> None:
    pulses = Pulses(clock)
    pulse = pulses.open("claimer")
    with pulse.resting:
        clock.now_s += 1000
        assert pulses.stuck(30) == []
    clock.now_s += 30
    assert pulses.stuck(30) == []


def test_several_rests_at_once_last_until_the_last_of_them_ends(clock: Clock) -> None:
    pulses = Pulses(clock)
    pulse = pulses.open("claimer")
    with pulse.resting:
        with pulse.resting:
            pass
        clock.now_s += 1000
        assert pulses.stuck(30) == []


def test_the_one_that_is_stuck_for_longest_is_named_first(clock: Clock) -> None:
    pulses = Pulses(clock)
    pulses.open("scanner")
    clock.now_s += 1
    for _ in range(2):
        pulses.open("claimer")
    clock.now_s += 100
    assert pulses.stuck(30) == ["scanner", "claimer"]


def test_of_several_actors_of_one_name_the_most_silent_counts(clock: Clock) -> None:
    pulses = Pulses(clock)
    with pulses.open("scanner").resting:
        pulses.open("claimer")
        clock.now_s += 5
        pulses.open("claimer")
        clock.now_s += 1
        assert list(pulses.silent_s().items()) == [("claimer", 6.0), ("scanner", 0.0)]


async def test_an_actor_that_has_ended_is_forgotten(clock: Clock) -> None:
    pulses = Pulses(clock)
    async with pulses.open("claimer"):
        clock.now_s += 100
        assert pulses.stuck(30) == ["claimer"]
    assert pulses.stuck(30) == []
