from __future__ import annotations

from ffsuper.sansio.backoff import Backoff


def test_pauses_double_up_to_the_longest() -> None:
    backoff, pauses = Backoff(first_s=1.0, longest_s=5.0), []
    for _ in range(5):
        pauses.append(backoff.pause_s(chance=1.0))
        backoff = backoff.failed()
    assert pauses == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_chance_takes_up_to_half_of_a_pause_away() -> None:
    assert Backoff(first_s=1.0).pause_s(chance=0.0) == 0.5


def test_a_success_begins_again_at_the_shortest_pause() -> None:
    assert Backoff(first_s=1.0).failed().failed().succeeded() == Backoff(first_s=1.0)


def test_thousands_of_failures_do_not_overflow() -> None:
    assert Backoff(first_s=1.0, longest_s=3.0, tries=100_000).pause_s(chance=1.0) == 3.0
