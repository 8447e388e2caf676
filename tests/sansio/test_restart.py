from __future__ import annotations

import pytest

from ffsuper.errors import RestartLimitError
from ffsuper.sansio.restart import RestartLimit, admit_restart

LIMIT = RestartLimit(max_restarts=2, window_s=10.0)


def test_restarts_within_the_limit_are_remembered() -> None:
    assert admit_restart((1.0,), 2.0, LIMIT, "died") == (1.0, 2.0)


def test_old_restarts_are_forgotten() -> None:
    assert admit_restart((1.0, 5.0), 11.5, LIMIT, "died") == (5.0, 11.5)


def test_one_restart_too_many_within_the_window_is_refused() -> None:
    with pytest.raises(RestartLimitError) as raised:
        admit_restart((1.0, 2.0), 11.0, LIMIT, "was killed by SIGKILL")
    assert str(raised.value) == (
        "children died 3 times within 10 s ([children] max_restarts, restart_window_s): the last one was killed by"
        " SIGKILL; see its output in the log"
    )
