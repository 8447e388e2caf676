"""ff_delay_execution and ff_move_to_waiting_children: protocol 02, sections 6.5 and 6.6."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.lua.executions import call_claim, call_claim_resumed, claim, claimed, grant, lane_key
from tests.lua.holders import (
    FAR_MS,
    FLOW,
    GUARDED,
    RELEASED,
    claim_beside_another,
    complete,
    delay,
    held,
    open_stream,
    poison,
    promote,
    published,
    since,
    wait_for_children,
)
from tests.lua.suspensions import UNSET, put
from tests.lua.world import World

Pause = Callable[..., Any]


def paused_attempt(now: str, why: str) -> dict[str, str]:
    return {"attempt_state": "suspended", "suspended_at": now, "suspension_id": why}


def released(lease_id: str, attempt_id: str, why: str, now: str) -> tuple[str, ...]:
    fields = ("event", "released", "lease_id", lease_id, "lease_epoch", "1", "attempt_index", "0")
    return (*fields, "attempt_id", attempt_id, "reason", why, "ts", now)


def test_delaying_puts_the_attempt_aside_until_a_time_and_releases_the_lease(world: World) -> None:
    lease = claim_beside_another(world)
    keys, before = lease.keys, world.now_ms()
    open_stream(world, keys)
    poison(world, keys.core, keep=GUARDED)
    lost = held(world, lease)
    with world.changes() as c:
        assert delay(world, lease, delay_until=str(FAR_MS)) == [1, "OK", str(FAR_MS)]
    now = since(before, world, c.written[lease.attempt]["suspended_at"])
    assert c.written == {
        keys.core: {
            **RELEASED,
            "lifecycle_phase": "runnable",
            "eligibility_state": "not_eligible_until_time",
            "blocking_reason": "waiting_for_delay",
            "blocking_detail": f"delayed until {FAR_MS}",
            "terminal_outcome": "none",
            "attempt_state": "attempt_interrupted",
            "public_state": "delayed",
            "delay_until": str(FAR_MS),
            "last_transition_at": now,
            "last_mutation_at": now,
        },
        lease.attempt: paused_attempt(now, "worker_delay"),
        lane_key(keys, "delayed"): {keys.id: FAR_MS},
        keys.part("lease:history"): [released(lease.lease_id, lease.attempt_id, "worker_delay", now)],
    }
    assert c.removed == lost


def test_waiting_for_children_puts_the_attempt_aside_and_releases_the_lease(world: World) -> None:
    lease = claim_beside_another(world)
    keys, before = lease.keys, world.now_ms()
    open_stream(world, keys)
    poison(world, keys.core, keep=(*GUARDED, "created_at"))
    put(world, keys.core, created_at="1700000000000")
    lost = held(world, lease)
    with world.changes() as c:
        assert wait_for_children(world, lease) == [1, "OK"]
    now = since(before, world, c.written[lease.attempt]["suspended_at"])
    assert c.written == {
        keys.core: {
            **RELEASED,
            "lifecycle_phase": "runnable",
            "eligibility_state": "blocked_by_dependencies",
            "blocking_reason": "waiting_for_children",
            "blocking_detail": "waiting for child executions to complete",
            "terminal_outcome": "none",
            "attempt_state": "attempt_interrupted",
            "public_state": "waiting_children",
            "last_transition_at": now,
            "last_mutation_at": now,
        },
        lease.attempt: paused_attempt(now, "waiting_children"),
        lane_key(keys, "blocked:dependencies"): {keys.id: 1700000000000},
        keys.part("lease:history"): [released(lease.lease_id, lease.attempt_id, "waiting_children", now)],
    }
    assert c.removed == lost


@pytest.mark.parametrize("pause", [delay, wait_for_children])
def test_a_repeated_pause_is_told_that_nothing_is_active_and_changes_nothing(world: World, pause: Pause) -> None:
    lease = claim(world)
    pause(world, lease)
    with world.unchanged():
        assert pause(world, lease) == [0, "execution_not_active", "none", "1"]


@pytest.mark.parametrize("pause", [delay, wait_for_children])
def test_a_pause_is_not_announced(world: World, pause: Pause) -> None:
    lease = claim(world)
    put(world, lease.keys.core, flow_id=FLOW)
    with published(world) as messages:
        pause(world, lease)
    assert messages == []


def test_a_delayed_attempt_goes_on_once_its_time_has_come(world: World) -> None:
    lease = claim(world)
    delay(world, lease, delay_until="5000")
    assert promote(world, lease.keys, lease.execution_id, "5000") == [1, "OK", "promoted"]
    grant(world, lease.keys)
    assert call_claim(world, lease.keys) == [0, "use_claim_resumed_execution"]
    again = claimed(lease.keys, call_claim_resumed(world, lease.keys))
    assert (again.attempt_id, again.index, again.epoch, again.kind) == (lease.attempt_id, 0, "2", "resumed")
    assert complete(world, again) == [1, "OK", "completed"]


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("5", 5),
        ("-5", -5),
        ("0", 0),
        (" 0x10 ", 16),
        ("1e3", 1000),
        ("1.5", 1.5),
        ("inf", float("inf")),
        ("-inf", -float("inf")),
        ("99999999999999999999", 1e20),
    ],
)
def test_whatever_reads_as_a_number_is_a_time_and_is_kept_as_it_was_written(
    world: World, text: str, score: float
) -> None:
    lease = claim(world)
    assert delay(world, lease, delay_until=text) == [1, "OK", text]
    assert world.value(lease.keys.core)["delay_until"] == text
    assert world.value(lane_key(lease.keys, "delayed")) == {lease.execution_id: score}


@pytest.mark.parametrize("text", ["", "soon", "5 ms", "nan", "-nan", UNSET])
def test_a_delay_that_is_no_time_does_not_drop_the_execution_from_every_index(world: World, text: Any) -> None:
    """The reference raises with the lease released and the execution in no index."""
    lease = claim(world)
    shown = "nil" if text is UNSET else text
    with world.unchanged():
        reply = delay(world, lease, delay_until=text)
        assert reply == [0, "invalid_input", f"delay_until must be a number, got: {shown}"]


@pytest.mark.parametrize("damage", [None, "", "long ago", "nan"])
def test_an_execution_whose_creation_time_is_damaged_still_waits_for_its_children(
    world: World, damage: str | None
) -> None:
    lease = claim(world)
    if damage is None:
        world.command("HDEL", lease.keys.core, "created_at")
    else:
        put(world, lease.keys.core, created_at=damage)
    assert wait_for_children(world, lease) == [1, "OK"]
    assert world.value(lane_key(lease.keys, "blocked:dependencies")) == {lease.execution_id: 0}


@pytest.mark.parametrize("pause", [delay, wait_for_children])
def test_an_attempt_index_that_the_record_lacks_is_empty_in_the_history(world: World, pause: Pause) -> None:
    lease = claim(world)
    world.command("HDEL", lease.keys.core, "current_attempt_index")
    assert pause(world, lease)[:2] == [1, "OK"]
    event = world.value(lease.keys.part("lease:history"))[-1]
    assert event[6:8] == ("attempt_index", "")
