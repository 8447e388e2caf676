from __future__ import annotations

import math

import pytest

from ffsuper.sansio.sweep import FIRST_RETRY_S, WHOLE_PASS_S, Marks

ALL = -math.inf


def test_an_index_that_was_never_looked_at_is_looked_at_from_its_front() -> None:
    assert Marks[str]().bound_ms("index", 0.0) == ALL


def test_a_look_begins_where_the_last_pass_ended_until_a_whole_pass_is_due() -> None:
    marks = Marks[str]()
    marks.passed("index", ALL, 5_000, 10.0, failed=False)
    assert marks.bound_ms("index", 10.0 + WHOLE_PASS_S - 1) == 5_000
    assert marks.bound_ms("index", 10.0 + WHOLE_PASS_S) == ALL
    assert marks.bound_ms("other", 10.0) == ALL


def test_a_pass_in_between_moves_the_bound_and_not_the_whole_pass() -> None:
    marks = Marks[str]()
    marks.passed("index", ALL, 5_000, 10.0, failed=False)
    marks.passed("index", 5_000, 7_000, 12.0, failed=False)
    assert marks.bound_ms("index", 12.0) == 7_000
    assert marks.bound_ms("index", 10.0 + WHOLE_PASS_S) == ALL


def test_failures_are_tried_again_soon_and_then_less_and_less_often() -> None:
    marks, now_s, pauses_s = Marks[str](), 0.0, []
    for _ in range(8):
        marks.passed("index", marks.bound_ms("index", now_s), 5_000, now_s, failed=True)
        pause_s = next(pause_s for pause_s in (1, 2, 4, 8, 16, 30) if marks.bound_ms("index", now_s + pause_s) == ALL)
        pauses_s.append(pause_s)
        now_s += pause_s
    assert pauses_s == [1, 2, 4, 8, 16, 30, 30, 30]


def test_after_a_pass_without_failures_the_pauses_begin_anew() -> None:
    marks = Marks[str]()
    marks.passed("index", ALL, 5_000, 0.0, failed=True)
    marks.passed("index", ALL, 5_000, 1.0, failed=True)
    marks.passed("index", ALL, 5_000, 3.0, failed=False)
    marks.passed("index", ALL, 5_000, 33.0, failed=True)
    assert marks.bound_ms("index", 33.0 + FIRST_RETRY_S) == ALL


@pytest.mark.parametrize(("retry_s", "expected"), [(0.5, 0.5), (20.0, FIRST_RETRY_S)])
def test_a_new_failure_brings_the_next_whole_pass_forward(retry_s: float, expected: float) -> None:
    marks = Marks[str]()
    marks.passed("index", ALL, 5_000, 0.0, failed=False)
    at_s = WHOLE_PASS_S - retry_s
    marks.passed("index", 5_000, 6_000, at_s, failed=True)
    assert marks.bound_ms("index", at_s + expected - 0.1) == 6_000
    assert marks.bound_ms("index", at_s + expected) == ALL
