"""When callers do without a function of ours, and when they try it again."""

from __future__ import annotations

import logging

import pytest

from ffsuper.store.spared import WITHOUT_S, Spared


@pytest.mark.parametrize(
    ("missing_at_s", "may_load", "is_worth_calling"),
    [
        ([], False, True),
        ([0], False, False),
        ([0, 0, 0.9], True, True),  # several have met the same loss
        ([0, 0.9, 1.0], True, False),  # another library, which lacks it
        ([0, 5], True, False),
        ([0, 61, 61.9, 122], True, True),  # it was loaded each time
    ],
)
def test_callers_do_without_what_stays_missing(
    missing_at_s: list[float], may_load: bool, is_worth_calling: bool
) -> None:
    times = iter(missing_at_s)
    spared = Spared("ffsuper_renew", lambda: next(times, missing_at_s[-1]), may_load=may_load)
    for _ in missing_at_s:
        spared.note_missing()
    assert spared.is_worth_calling is is_worth_calling


def test_it_is_tried_again_from_time_to_time_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now_s = 0.0
    spared = Spared("ffsuper_renew", lambda: now_s, may_load=True)
    spared.note_missing()
    for tries in range(1, 4):
        now_s = tries * WITHOUT_S
        assert spared.is_worth_calling
        spared.note_missing()
        now_s += WITHOUT_S - 0.1
        assert not spared.is_worth_calling
    now_s += 0.1
    spared.note_present()
    assert spared.is_worth_calling
    assert [(one.levelname, one.message) for one in caplog.records] == [
        ("WARNING", "function missing in the store; doing without"),
        ("INFO", "function in the store again"),
    ]


def test_what_was_there_all_the_time_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    spared = Spared("ffsuper_renew", lambda: 0.0, may_load=True)
    spared.note_present()
    assert (spared.is_worth_calling, caplog.records) == (True, [])
