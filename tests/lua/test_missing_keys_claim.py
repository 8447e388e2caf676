"""Calls with fewer keys than a function writes to: creation, grants, claims, admission. See ``test_missing_keys``."""

from __future__ import annotations

import pytest

from tests.lua import executions
from tests.lua.executions import create, new_keys, reclaimable
from tests.lua.test_fewer_keys import CASES
from tests.lua.test_missing_keys import WithKeys
from tests.lua.world import World

# How many keys the reference needs to answer.
NEEDED = {
    "create": 8,
    "claim": 12,
    "claim, timeout": 13,
    "claim, deadline": 14,
    "claim resumed": 9,
    "claim resumed, timeout": 10,
    "reclaim": 12,
    "priority": 2,
    "block": 3,
    "unblock": 3,
}
READ_BEFORE_ANYTHING_IS_WRITTEN = {"grant": 3, "reclaim grant": 2}


@pytest.mark.parametrize(("name", "needed"), NEEDED.items(), ids=NEEDED)
def test_a_missing_key_is_refused_before_anything_is_written(world: World, name: str, needed: int) -> None:
    act = CASES[name](world)
    with world.unchanged():
        for count in range(needed):
            reply = act(WithKeys(world, count))
            assert isinstance(reply, str) or reply[:2] == [0, "invalid_input"]
        assert reply == [0, "invalid_input", f"KEYS must be {needed}, got: {needed - 1}"]
    assert act(WithKeys(world, needed))[:2] == [1, "OK"]


@pytest.mark.parametrize(
    ("name", "needed"), READ_BEFORE_ANYTHING_IS_WRITTEN.items(), ids=READ_BEFORE_ANYTHING_IS_WRITTEN
)
def test_a_grant_needs_the_keys_that_it_reads(world: World, name: str, needed: int) -> None:
    act = CASES[name](world)
    with world.unchanged():
        assert all(isinstance(act(WithKeys(world, count)), str) for count in range(needed))
    assert act(WithKeys(world, needed))[:2] == [1, "OK"]


def test_a_reclaim_at_the_limit_needs_all_keys(world: World) -> None:
    keys = reclaimable(world, policy='{"max_reclaim_count":0}').keys
    with world.unchanged():
        reply = executions.call_reclaim(WithKeys(world, 13), keys)
        assert reply == [0, "invalid_input", "KEYS must be 14, got: 13"]
    assert executions.call_reclaim(WithKeys(world, 14), keys) == [0, "max_retries_exhausted"]


def test_a_duplicate_is_answered_with_the_keys_that_tell(world: World) -> None:
    keys = create(world, idempotency="ff:idem:{fp:7}:ns:once", dedup_ttl_ms="60000")
    with world.unchanged():
        assert executions.call_create(WithKeys(world, 1), keys) == [1, "DUPLICATE", keys.id]
        again = executions.call_create(WithKeys(world, 6), new_keys(), idempotency="ff:idem:{fp:7}:ns:once")
        assert again == [1, "DUPLICATE", keys.id]
