"""Calls with fewer keys than a function writes to: flows and dependencies. See ``test_missing_keys``.

The verdict on an edge writes to more keys the more it changes: each needs the keys up to the last that it writes to.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.lua.flows import UPSTREAM_RESULT, create_flow, resolve, waiting
from tests.lua.suspensions import put
from tests.lua.test_missing_keys import WithKeys
from tests.lua.world import World

WAITS = {"lifecycle_phase": "runnable"}
OPEN_ATTEMPT = {"lifecycle_phase": "active", "attempt_state": "running_attempt"}
ENDED = {"lifecycle_phase": "terminal", "terminal_outcome": "cancelled"}

VERDICTS = [
    pytest.param(WAITS, ["e1"], "success", 7, id="released"),
    pytest.param(WAITS, ["e1", "e2"], "success", 4, id="another-edge-open"),
    pytest.param(OPEN_ATTEMPT, ["e1"], "success", 4, id="not-waiting"),
    pytest.param(ENDED, ["e1"], "success", 4, id="ended"),
    pytest.param(WAITS, ["e1"], "failed", 7, id="skipped"),
    pytest.param(OPEN_ATTEMPT, ["e1"], "failed", 9, id="skipped-in-an-attempt"),
    pytest.param(ENDED, ["e1"], "failed", 4, id="ended-and-impossible"),
]


@pytest.mark.parametrize(("core", "edges", "outcome", "needed"), VERDICTS)
def test_a_verdict_needs_the_keys_that_it_writes_to(
    world: World, core: dict[str, str], edges: list[str], outcome: str, needed: int
) -> None:
    keys = waiting(world, *edges)
    put(world, keys.core, **core)
    with world.unchanged():
        for count in range(needed):
            reply: Any = resolve(WithKeys(world, count), keys, outcome=outcome)
            assert isinstance(reply, str) or reply == [0, "invalid_input", f"KEYS must be {needed}, got: {count}"]
    assert resolve(WithKeys(world, needed), keys, outcome=outcome)[:2] == [1, "OK"]


def test_an_edge_that_passes_data_needs_all_keys(world: World) -> None:
    keys = waiting(world, data_passing_ref="result")
    world.redis.set(UPSTREAM_RESULT, "out")
    with world.unchanged():
        assert resolve(WithKeys(world, 10), keys) == [0, "invalid_input", "KEYS must be 11, got: 10"]
    assert resolve(WithKeys(world, 11), keys) == [1, "OK", "satisfied", "data_injected"]


@pytest.mark.parametrize("outcome", ["success", "failed"])
def test_a_verdict_for_a_child_that_is_gone_needs_the_keys_of_its_edges_only(world: World, outcome: str) -> None:
    keys = waiting(world, data_passing_ref="result")
    world.redis.delete(keys.core)
    assert resolve(WithKeys(world, 4), keys, outcome=outcome)[:2] == [1, "OK"]
    assert world.value(keys.part("deps:unresolved")) is None


def test_a_flow_is_not_created_without_its_index(world: World) -> None:
    with world.unchanged():
        assert create_flow(WithKeys(world, 2)) == [0, "invalid_input", "KEYS must be 3, got: 2"]
