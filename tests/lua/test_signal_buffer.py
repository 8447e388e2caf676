"""ff_buffer_signal_for_pending_waitpoint: protocol 06 section 12."""

from __future__ import annotations

import pytest

from tests.lua.signals import POINT, SIGNAL_KEY, buffer, recorded
from tests.lua.suspensions import KEYS, nothing_published, put, put_active, put_pending
from tests.lua.world import World


def test_buffering_records_the_signal_and_nothing_else(world: World) -> None:
    put_active(world)
    token = put_pending(world)
    with world.changes() as c, nothing_published(world):
        reply = buffer(world, token, resume_delay_ms="not read")
    assert reply == [1, "OK", "signal-1", "buffered_for_pending_waitpoint"]
    now = c.written[SIGNAL_KEY]["accepted_at"]
    assert c.written == recorded(now, "buffered_for_pending_waitpoint")
    assert c.removed == {}


@pytest.mark.parametrize("state", ["closed", "expired"])
def test_buffering_looks_at_the_state_before_the_limit_and_at_the_limit_before_a_duplicate(
    world: World, state: str
) -> None:
    put_active(world)
    token = put_pending(world)
    again = {"idempotency_key": "once", "max_signals_per_execution": "1"}
    assert buffer(world, token, **again)[1] == "OK"
    with world.unchanged():
        assert buffer(world, token, **again) == [0, "signal_limit_exceeded"]
        assert buffer(world, token, **{**again, "max_signals_per_execution": "2"}) == [1, "DUPLICATE", "signal-1"]
    put(world, POINT, state=state)
    with world.unchanged():
        assert buffer(world, token, **{**again, "max_signals_per_execution": ""}) == [0, "waitpoint_closed"]


@pytest.mark.parametrize(
    ("phase", "point"),
    [
        ("suspended", {"state": "active"}),
        ("terminal", {"state": "pending"}),
        ("active", {"state": "other"}),
        ("active", {"expires_at": "1"}),
    ],
)
def test_buffering_asks_neither_for_the_phase_nor_for_the_expiry(
    world: World, phase: str, point: dict[str, str]
) -> None:
    put_active(world)
    token = put_pending(world)
    put(world, KEYS.core, lifecycle_phase=phase)
    put(world, POINT, **point)
    assert buffer(world, token)[1] == "OK"
