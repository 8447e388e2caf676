"""A burst gets through, then so many lines a second; what does not is counted until it is told."""

from __future__ import annotations

import pytest

from ffsuper.sansio.rate import MANY_BUCKETS, TELL_S, RateLimit


def admitted(limit: RateLimit[str], count: int, now_s: float, kind: str = "output") -> int:
    return sum(limit.admits(kind, now_s) for _ in range(count))


@pytest.mark.parametrize(
    ("burst", "per_second", "times_s", "expected"),
    [
        (1, 1.0, [0, 0, 0.9, 1.1, 1.2], [1, 0, 0, 1, 0]),
        (3, 1.0, [0, 0, 0, 0, 1, 1], [1, 1, 1, 0, 1, 0]),
        (2, 10.0, [0, 0, 0, 1000, 1000, 1000], [1, 1, 0, 1, 1, 0]),
        (2, 0.5, [0, 0, 1, 2, 3, 4], [1, 1, 0, 1, 0, 1]),
        (1, 0.0, [0, 0, 0, 0], [1, 1, 1, 1]),
    ],
)
def test_a_burst_at_once_and_then_so_many_a_second(
    burst: int, per_second: float, times_s: list[float], expected: list[int]
) -> None:
    limit = RateLimit[str](burst, per_second)
    assert [limit.admits("output", now_s) for now_s in times_s] == [bool(one) for one in expected]


@pytest.mark.parametrize("now_s", [0.0, 123_456.789, 1e9])
def test_rounding_takes_no_line_of_a_burst_away(now_s: float) -> None:
    assert admitted(RateLimit(500, 100), 1000, now_s) == 500


def test_a_kind_does_not_use_up_what_another_has() -> None:
    limit = RateLimit[str](5, 1)
    assert admitted(limit, 100, 0.0, "output") == 5
    assert admitted(limit, 100, 0.0, "claimed") == 5


def test_what_was_dropped_is_told_once_and_not_at_once() -> None:
    limit = RateLimit[str](1, 1)
    admitted(limit, 10, 0.0, "output")
    assert limit.take_dropped(TELL_S / 2) == {}
    admitted(limit, 3, TELL_S / 2, "claimed")
    assert limit.take_dropped(TELL_S) == {"output": 9, "claimed": 2}
    assert limit.take_dropped(10 * TELL_S) == {}


def test_every_next_time_is_a_while_after_its_own_first_drop() -> None:
    limit = RateLimit[str](1, 0.001)
    admitted(limit, 2, 0.0)
    assert limit.take_dropped(100.0) == {"output": 1}
    admitted(limit, 1, 100.0)
    assert limit.take_dropped(100.0 + TELL_S / 2) == {}
    assert limit.take_dropped(100.0 + TELL_S) == {"output": 1}


def test_at_the_end_the_rest_is_told_whatever_the_time() -> None:
    limit = RateLimit[str](1, 1)
    admitted(limit, 3, 0.0)
    assert limit.take_dropped() == {"output": 2}
    assert limit.take_dropped() == {}


def test_kinds_that_are_no_more_are_forgotten_and_those_that_are_over_their_rate_are_not() -> None:
    limit = RateLimit[str](1000, 1)
    admitted(limit, 1000, 0.0, "flooding")
    for number in range(3 * MANY_BUCKETS):
        limit.admits(f"child {number}", number * 0.3)
    assert len(limit) <= MANY_BUCKETS
    assert admitted(limit, 1000, 900.0, "flooding") == 900


def test_many_kinds_at_once_are_all_limited() -> None:
    limit = RateLimit[str](1, 1)
    assert sum(limit.admits(str(number % 3000), 0.0) for number in range(9000)) == 3000
