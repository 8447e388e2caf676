"""What the log says of an outcome."""

from __future__ import annotations

import pytest

from ffsuper.messages import Completed, Deferred, Failed, NotBegun, Outcome
from ffsuper.store.delivery import HANDED_BACK, named, why


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Completed(b"a result"), {}),
        (Deferred(0), {}),
        (
            Failed("ValueError: no such file", "exception"),
            {"category": "exception", "reason": "ValueError: no such file"},
        ),
        (Failed("child 7 exited\nits last words", "crash"), {"category": "crash", "reason": "child 7 exited"}),
        (Failed("x" * 1000, "exception"), {"category": "exception", "reason": "x" * 200}),
        (
            Failed("the payload does not fit the handler: got 'hush'", "payload", retryable=False),
            {"category": "payload"},
        ),
    ],
)
def test_a_failure_is_told_by_its_category_and_one_line_that_cites_no_payload(
    outcome: Outcome, expected: dict[str, str]
) -> None:
    assert why(outcome) == expected


def test_what_the_worker_hands_back_is_told_apart_from_what_a_handler_defers() -> None:
    told = [named(one) for one in (HANDED_BACK, NotBegun(), Deferred(0), Completed(b""))]
    assert told == ["handed_back", "handed_back", "deferred", "completed"]
