"""ff_update_progress: protocol 05, section 4."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lua.executions import Claimed, claim
from tests.lua.holders import OUTDATED, poison, revoke, since
from tests.lua.suspensions import UNSET, changed, put
from tests.lua.world import Arg, World

READ = ("lifecycle_phase", "ownership_state", "lease_expires_at", "current_lease_id", "current_lease_epoch")
WRONG = {"lease_id": "other", "lease_epoch": "9"}


def report(world: World, lease: Claimed, **changes: Any) -> Any:
    """Call ff_update_progress."""
    args: dict[str, Arg] = {
        "execution_id": lease.execution_id,
        "lease_id": lease.lease_id,
        "lease_epoch": lease.epoch,
        "progress_pct": "40",
        "progress_message": "halfway, nearly",
    }
    return world.call("ff_update_progress", [lease.keys.core], changed(args, changes))


@pytest.mark.parametrize(
    ("changes", "written"),
    [
        ({}, {"progress_pct": "40", "progress_message": "halfway, nearly"}),
        ({"progress_pct": ""}, {"progress_message": "halfway, nearly"}),
        ({"progress_message": ""}, {"progress_pct": "40"}),
        ({"progress_message": UNSET}, {"progress_pct": "40"}),
        ({"progress_pct": "", "progress_message": ""}, {}),
        ({"progress_pct": UNSET}, {}),
        ({"progress_pct": "rather much"}, {"progress_pct": "rather much", "progress_message": "halfway, nearly"}),
        ({"execution_id": "anything"}, {"progress_pct": "40", "progress_message": "halfway, nearly"}),
    ],
)
def test_progress_is_recorded_where_it_is_given(
    world: World, changes: dict[str, Any], written: dict[str, str]
) -> None:
    lease, before = claim(world), world.now_ms()
    poison(world, lease.keys.core, keep=READ)
    with world.changes() as c:
        assert report(world, lease, **changes) == [1, "OK"]
    now = since(before, world, c.written[lease.keys.core]["last_mutation_at"])
    times = {"last_mutation_at": now, "progress_updated_at": now}
    assert c.written == {lease.keys.core: {**times, **written}}
    assert c.removed == {}


def test_a_repeated_report_is_recorded_again(world: World) -> None:
    lease = claim(world)
    report(world, lease)
    put(world, lease.keys.core, progress_updated_at="?")
    assert report(world, lease) == [1, "OK"]
    assert world.value(lease.keys.core)["progress_updated_at"] != "?"


def test_progress_of_an_unknown_execution_is_refused(world: World) -> None:
    lease = claim(world)
    world.redis.delete(lease.keys.core)
    with world.unchanged():
        assert report(world, lease, **WRONG) == [0, "execution_not_found"]


def test_progress_of_an_execution_that_is_not_active_is_refused_with_outcome_and_epoch(world: World) -> None:
    lease = claim(world)
    put(world, lease.keys.core, lifecycle_phase="terminal", terminal_outcome="expired", current_lease_epoch="4")
    put(world, lease.keys.core, ownership_state="lease_revoked", **OUTDATED)
    with world.unchanged():
        assert report(world, lease, **WRONG) == [0, "execution_not_active", "expired", "4"]
    world.command("HDEL", lease.keys.core, "lifecycle_phase", "terminal_outcome", "current_lease_epoch")
    assert report(world, lease) == [0, "execution_not_active", "", ""]


def test_progress_under_a_revoked_lease_is_refused_even_when_it_has_run_out(world: World) -> None:
    lease = claim(world)
    revoke(world, lease.keys, lease.execution_id)
    put(world, lease.keys.core, **OUTDATED)
    with world.unchanged():
        assert report(world, lease, **WRONG) == [0, "lease_revoked"]


@pytest.mark.parametrize("expires_at", ["1000", "", "soon", None])
def test_progress_under_a_lease_that_has_run_out_is_refused_and_marks_nothing(
    world: World, expires_at: str | None
) -> None:
    lease = claim(world)
    put(world, lease.keys.core, lease_expires_at=expires_at or "")
    if expires_at is None:
        world.command("HDEL", lease.keys.core, "lease_expires_at")
    with world.unchanged():
        assert report(world, lease, **WRONG) == [0, "lease_expired"]


@pytest.mark.parametrize(
    "wrong",
    [{"lease_id": "other"}, {"lease_epoch": "2"}, {"lease_epoch": "01"}, {"lease_id": UNSET}, {"lease_epoch": UNSET}],
)
def test_progress_under_another_lease_or_epoch_is_stale(world: World, wrong: dict[str, Any]) -> None:
    lease = claim(world)
    with world.unchanged():
        assert report(world, lease, **wrong) == [0, "stale_lease"]
