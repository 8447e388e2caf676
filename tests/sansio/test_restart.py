from __future__ import annotations

import pytest

from ffsuper.errors import RestartLimitError
from ffsuper.sansio.restart import RestartLimit, admit_restart

LIMIT = RestartLimit(max_restarts=2, window_s=10.0)


def test_restarts_within_the_limit_are_remembered() -> None:
    assert admit_restart((1.0,), 2.0, LIMIT) == (1.0, 2.0)


def test_old_restarts_are_forgotten() -> None:
    assert admit_restart((1.0, 5.0), 11.5, LIMIT) == (5.0, 11.5)


def test_one_restart_too_many_within_the_window_is_refused() -> None:
    with pytest.raises(RestartLimitError, match="3 restarts within 10 s"):
        admit_restart((1.0, 2.0), 11.0, LIMIT)
