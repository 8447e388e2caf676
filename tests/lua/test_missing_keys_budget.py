"""Calls with fewer keys than a function writes to: budgets and quotas. See ``test_missing_keys``."""

from __future__ import annotations

import pytest

from tests.lua import budgets, test_quota
from tests.lua.budgets import REPORT_KEY
from tests.lua.test_fewer_keys import CASES
from tests.lua.test_missing_keys import WithKeys
from tests.lua.world import World

NEEDED = {
    "create budget": 5,
    "report": 3,
    "report, soft breach": 3,
    "report, hard breach": 3,
    "reset": 3,
    "create quota": 5,
    "admit": 5,
    "release": 3,
}


@pytest.mark.parametrize(("name", "needed"), NEEDED.items(), ids=NEEDED)
def test_a_missing_key_is_refused_before_anything_is_written(world: World, name: str, needed: int) -> None:
    act = CASES[name](world)
    with world.unchanged():
        for count in range(needed):
            reply = act(WithKeys(world, count))
            assert isinstance(reply, str) or reply[:2] == [0, "invalid_input"]
        assert reply == [0, "invalid_input", f"KEYS must be {needed}, got: {needed - 1}"]
    answer = act(WithKeys(world, needed))
    assert answer == ["ADMITTED"] or answer[0] == 1


def test_a_report_that_was_counted_is_answered_without_keys(world: World) -> None:
    budgets.report(world, ("tok", "1"), key=REPORT_KEY)
    with world.unchanged():
        assert budgets.report(WithKeys(world, 0), ("tok", "1"), key=REPORT_KEY) == [1, "ALREADY_APPLIED"]


def test_a_quota_that_exists_is_answered_with_its_own_key(world: World) -> None:
    arguments = (test_quota.ID, "60", "9", "2", "5")
    test_quota.create(world, *arguments)
    with world.unchanged():
        assert test_quota.create(WithKeys(world, 1), *arguments)[:2] == [1, "ALREADY_SATISFIED"]


def test_what_is_not_admitted_is_answered_without_the_set_of_the_admitted(world: World) -> None:
    given = WithKeys(world, 4)
    test_quota.check(world, cap="1")
    with world.unchanged():
        assert test_quota.check(given) == ["ALREADY_ADMITTED"]
        assert test_quota.check(given, test_quota.E2, rate="1")[0] == "RATE_EXCEEDED"
        assert test_quota.check(given, test_quota.E2, cap="1") == ["CONCURRENCY_EXCEEDED"]
