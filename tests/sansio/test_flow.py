from __future__ import annotations

from collections.abc import Mapping

import pytest

from ffsuper.sansio.flow import flow_state, is_ended


@pytest.mark.parametrize(
    ("counts", "state", "ended"),
    [
        ({"completed": 2}, "completed", True),
        ({"completed": 2, "skipped": 1, "unknown": 1, "active": 0}, "completed", True),
        ({"completed": 2, "failed": 1}, "failed", True),
        ({"cancelled": 1}, "failed", True),
        ({"expired": 1, "skipped": 1}, "failed", True),
        ({"failed": 1, "active": 1, "suspended": 1}, "running", False),
        ({"completed": 1, "suspended": 1, "waiting": 1}, "blocked", False),
        ({"delayed": 1}, "blocked", False),
        ({"rate_limited": 1}, "blocked", False),
        ({"waiting_children": 1}, "blocked", False),
        ({"completed": 1, "waiting": 1}, "open", False),
    ],
)
def test_the_state_of_a_flow_is_what_its_members_come_to(counts: Mapping[str, int], state: str, ended: bool) -> None:
    assert (flow_state(counts), is_ended(counts)) == (state, ended)
