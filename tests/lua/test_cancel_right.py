"""Who may cancel an execution with ff_cancel_execution: protocol 02, section 6.4, the checks."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lua.executions import claim, create, new_keys
from tests.lua.holders import OUTDATED, cancel, fence, revoke
from tests.lua.suspensions import UNSET, put
from tests.lua.world import World


def test_cancelling_an_unknown_execution_is_refused(world: World) -> None:
    with world.unchanged():
        assert cancel(world, new_keys(), reason=UNSET) == [0, "execution_not_found"]


def test_cancelling_an_ended_execution_is_refused_with_outcome_and_epoch(world: World) -> None:
    keys = create(world)
    put(world, keys.core, lifecycle_phase="terminal", terminal_outcome="success", ownership_state="lease_revoked")
    put(world, keys.core, current_lease_epoch="3")
    with world.unchanged():
        reply = cancel(world, keys, source="lease_holder", lease_id="other")
        assert reply == [0, "execution_not_active", "success", "3"]
    world.command("HDEL", keys.core, "terminal_outcome", "current_lease_epoch")
    assert cancel(world, keys, reason=UNSET) == [0, "execution_not_active", "", ""]


@pytest.mark.parametrize("source", ["lease_holder", "flow_cascade", "system_timeout", "", UNSET])
def test_a_revoked_lease_cancels_nothing(world: World, source: Any) -> None:
    lease = claim(world)
    revoke(world, lease.keys, lease.execution_id)
    with world.unchanged():
        assert cancel(world, lease.keys, source=source) == [0, "lease_revoked"]
        if source is not UNSET:
            stale = cancel(world, lease.keys, source=source, lease_id="other", lease_epoch="9")
            assert stale == [0, "lease_revoked"]


@pytest.mark.parametrize(
    "wrong", [{"lease_id": "other"}, {"lease_epoch": "2"}, {"lease_epoch": "01"}, {"lease_epoch": UNSET}]
)
@pytest.mark.parametrize("source", ["lease_holder", "flow_cascade", ""])
def test_a_holder_who_names_another_lease_or_epoch_is_stale(world: World, source: str, wrong: dict[str, Any]) -> None:
    lease = claim(world)
    named = {"lease_id": lease.lease_id, "lease_epoch": lease.epoch, **wrong}
    with world.unchanged():
        assert cancel(world, lease.keys, source=source, **named) == [0, "stale_lease"]


def test_a_holder_may_cancel_with_its_own_lease_even_when_that_has_run_out(world: World) -> None:
    lease = claim(world)
    put(world, lease.keys.core, **OUTDATED)
    named = {name: fence(lease)[name] for name in ("lease_id", "lease_epoch")}
    assert cancel(world, lease.keys, source="lease_holder", **named) == [1, "OK", "cancelled", "active"]


@pytest.mark.parametrize("source", ["lease_holder", "flow_cascade", "", UNSET])
def test_who_names_no_lease_is_not_asked_for_it(world: World, source: Any) -> None:
    lease = claim(world)
    assert cancel(world, lease.keys, source=source) == [1, "OK", "cancelled", "active"]


def test_an_operator_needs_no_lease(world: World) -> None:
    lease, revoked = claim(world), claim(world)
    revoke(world, revoked.keys, revoked.execution_id)
    for claimed in (lease, revoked):
        reply = cancel(world, claimed.keys, lease_id="other", lease_epoch="9")
        assert reply == [1, "OK", "cancelled", "active"]


@pytest.mark.parametrize("phase", ["runnable", "suspended", "submitted"])
def test_an_execution_that_is_not_active_needs_no_lease(world: World, phase: str) -> None:
    keys = create(world)
    put(world, keys.core, lifecycle_phase=phase, ownership_state="lease_revoked")
    reply = cancel(world, keys, source="lease_holder", lease_id="other", lease_epoch="9")
    assert reply == [1, "OK", "cancelled", phase]


@pytest.mark.parametrize(
    ("source", "by"), [("flow_cascade", "flow_cascade"), ("anything", "anything"), ("", None), (UNSET, None)]
)
def test_the_record_names_the_source_or_itself(world: World, source: Any, by: str | None) -> None:
    keys = create(world)
    cancel(world, keys, source=source)
    assert world.value(keys.core)["cancelled_by"] == (by or keys.id)


def test_an_absent_epoch_is_an_empty_one(world: World) -> None:
    lease = claim(world)
    put(world, lease.keys.core, current_lease_epoch="")
    reply = cancel(world, lease.keys, source="lease_holder", lease_id=lease.lease_id, lease_epoch=UNSET)
    assert reply == [1, "OK", "cancelled", "active"]
