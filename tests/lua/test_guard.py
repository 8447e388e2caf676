"""The lease guard of the functions that end or pause an attempt: protocol 03, section 4.

ff_suspend_execution, which has more keys and checks, is tested for it in test_suspension.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.lua.executions import Claimed, claim
from tests.lua.holders import (
    OUTDATED,
    complete,
    delay,
    fail,
    open_stream,
    poison,
    revoke,
    since,
    wait_for_children,
)
from tests.lua.suspensions import UNSET, put
from tests.lua.world import World

Holder = Callable[..., Any]
WRONG = {"lease_id": "other", "lease_epoch": "9", "attempt_id": "other"}

for_every_holder = pytest.mark.parametrize("act", [complete, fail, delay, wait_for_children])


@for_every_holder
def test_an_unknown_execution_is_refused(world: World, act: Holder) -> None:
    lease = claim(world)
    world.redis.delete(lease.keys.core)
    with world.unchanged():
        assert act(world, lease, **WRONG) == [0, "execution_not_found"]


@for_every_holder
@pytest.mark.parametrize("phase", ["terminal", "runnable", "suspended", "submitted", ""])
def test_an_execution_that_is_not_active_is_refused_with_outcome_and_epoch(
    world: World, act: Holder, phase: str
) -> None:
    lease = claim(world)
    put(world, lease.keys.core, lifecycle_phase=phase, terminal_outcome="skipped", ownership_state="lease_revoked")
    put(world, lease.keys.core, current_lease_epoch="4", **OUTDATED)
    with world.unchanged():
        assert act(world, lease, **WRONG) == [0, "execution_not_active", "skipped", "4"]


@for_every_holder
def test_an_inactive_record_without_outcome_and_epoch_gives_empty_details(world: World, act: Holder) -> None:
    lease = claim(world)
    world.command("HDEL", lease.keys.core, "lifecycle_phase", "terminal_outcome", "current_lease_epoch")
    with world.unchanged():
        assert act(world, lease) == [0, "execution_not_active", "", ""]


@for_every_holder
def test_a_revoked_lease_is_refused_even_when_it_has_run_out(world: World, act: Holder) -> None:
    lease = claim(world)
    assert revoke(world, lease.keys, lease.execution_id)[:2] == [1, "OK"]
    put(world, lease.keys.core, **OUTDATED)
    with world.unchanged():
        assert act(world, lease, **WRONG) == [0, "lease_revoked"]


@for_every_holder
def test_a_lease_that_has_run_out_is_marked_whoever_calls(world: World, act: Holder) -> None:
    lease = claim(world)
    stream_meta, before = open_stream(world, lease.keys), world.now_ms()
    put(world, lease.keys.core, **OUTDATED)
    read = ("lifecycle_phase", "ownership_state", "eligibility_state", "terminal_outcome", *OUTDATED)
    poison(world, lease.keys.core, keep=read)
    put(world, lease.keys.core, current_attempt_index="0")
    with world.changes() as c:
        assert act(world, lease, **WRONG) == [0, "lease_expired"]
    now = since(before, world, c.written[lease.keys.core]["lease_expired_at"])
    assert c.removed == {}
    assert c.written == {
        lease.keys.core: marked(now),
        lease.keys.part("lease:history"): [
            (
                *("event", "expired", "lease_id", "?", "lease_epoch", "?", "attempt_index", "0", "attempt_id", "?"),
                *("worker_id", "?", "worker_instance_id", "?", "ts", now),
            )
        ],
        stream_meta: {"closed_at": now, "closed_reason": "lease_expired"},
    }


def marked(now: str) -> dict[str, str]:
    return {
        "ownership_state": "lease_expired_reclaimable",
        "blocking_reason": "waiting_for_worker",
        "blocking_detail": "lease expired, awaiting reclaim",
        "attempt_state": "attempt_interrupted",
        "public_state": "active",
        "lease_expired_at": now,
        "last_mutation_at": now,
    }


@for_every_holder
def test_a_lease_that_is_marked_already_is_refused_without_another_mark(world: World, act: Holder) -> None:
    lease = claim(world)
    put(world, lease.keys.core, **OUTDATED)
    act(world, lease)
    with world.unchanged():
        assert act(world, lease) == [0, "lease_expired"]


@for_every_holder
def test_a_marked_lease_whose_expiry_lies_ahead_still_counts(world: World, act: Holder) -> None:
    lease = claim(world)
    put(world, lease.keys.core, ownership_state="lease_expired_reclaimable")
    assert act(world, lease)[:2] == [1, "OK"]


@for_every_holder
@pytest.mark.parametrize("damage", ["", "soon", None])
def test_an_active_record_without_a_readable_expiry_counts_as_expired(
    world: World, act: Holder, damage: str | None
) -> None:
    lease = claim(world)
    if damage is None:
        world.command("HDEL", lease.keys.core, "lease_expires_at")
    else:
        put(world, lease.keys.core, lease_expires_at=damage)
    assert act(world, lease) == [0, "lease_expired"]
    assert world.value(lease.keys.core)["ownership_state"] == "lease_expired_reclaimable"


@for_every_holder
@pytest.mark.parametrize(
    "wrong", [{"lease_id": "other"}, {"lease_epoch": "2"}, {"lease_epoch": "01"}, {"attempt_id": "other"}]
)
def test_another_lease_epoch_or_attempt_is_stale(world: World, act: Holder, wrong: dict[str, str]) -> None:
    lease = claim(world)
    with world.unchanged():
        assert act(world, lease, **wrong) == [0, "stale_lease"]


@for_every_holder
@pytest.mark.parametrize("first_absent", ["execution_id", "lease_id", "lease_epoch", "attempt_id"])
def test_a_fence_with_absent_arguments_is_stale(world: World, act: Holder, first_absent: str) -> None:
    lease = claim(world)
    with world.unchanged():
        assert act(world, lease, **{first_absent: UNSET}) == [0, "stale_lease"]


@for_every_holder
def test_a_record_without_the_fields_of_a_lease_is_nobodys(world: World, act: Holder) -> None:
    lease: Claimed = claim(world)
    world.command("HDEL", lease.keys.core, "current_lease_id", "current_lease_epoch", "current_attempt_id")
    with world.unchanged():
        assert act(world, lease, lease_id="", lease_epoch="", attempt_id="") == [0, "stale_lease"]
        assert act(world, lease, execution_id=UNSET) == [0, "stale_lease"]
