"""ff_mark_lease_expired_if_due and ff_revoke_lease: protocol 03, sections 10.2 and 10.3."""

from __future__ import annotations

import pytest

from tests.lua import holders
from tests.lua.executions import WORKER, Claimed, claim, create, lane_key, new_keys
from tests.lua.holders import (
    FAR_MS,
    OUTDATED,
    POISON,
    cancel,
    claim_beside_another,
    complete,
    expire,
    mark,
    member,
    open_stream,
    poison,
    revoke,
    since,
)
from tests.lua.suspensions import put
from tests.lua.world import World

MARK_READ = ("lifecycle_phase", "ownership_state", "eligibility_state", "terminal_outcome", "lease_expires_at")
REVOKE_READ = ("lifecycle_phase", "ownership_state", "eligibility_state")
EXPIRED, REVOKED = "lease_expired_reclaimable", "lease_revoked"


def put_outdated(world: World, **core: str) -> Claimed:
    """Claim one of two executions, whose lease has then run out."""
    claim(world)
    lease = claim(world)
    put(world, lease.keys.core, **{**OUTDATED, **core})
    return lease


# --- ff_mark_lease_expired_if_due ---------------------------------------------------------------------------------


def test_marking_makes_the_execution_reclaimable_and_leaves_it_in_every_index(world: World) -> None:
    lease = put_outdated(world)
    keys, stream_meta, before = lease.keys, open_stream(world, lease.keys), world.now_ms()
    poison(world, keys.core, keep=MARK_READ)
    put(world, keys.core, current_attempt_index="0", eligibility_state="kept", terminal_outcome="kept as well")
    with world.changes() as c:
        assert mark(world, keys, keys.id) == [1, "OK", "marked_expired"]
    now = since(before, world, c.written[keys.core]["lease_expired_at"])
    assert c.removed == {}
    assert c.written == {
        keys.core: {
            "ownership_state": EXPIRED,
            "blocking_reason": "waiting_for_worker",
            "blocking_detail": "lease expired, awaiting reclaim",
            "attempt_state": "attempt_interrupted",
            "public_state": "active",
            "lease_expired_at": now,
            "last_mutation_at": now,
        },
        keys.part("lease:history"): [
            (
                *("event", "expired", "lease_id", POISON, "lease_epoch", POISON, "attempt_index", "0"),
                *("attempt_id", POISON, "worker_id", POISON, "worker_instance_id", POISON, "ts", now),
            )
        ],
        stream_meta: {"closed_at": now, "closed_reason": "lease_expired"},
    }


def test_marking_a_record_that_lacks_fields_fills_in_what_is_not_known(world: World) -> None:
    lease = put_outdated(world)
    fields = [name for name in world.value(lease.keys.core) if name not in ("lifecycle_phase", "lease_expires_at")]
    world.command("HDEL", lease.keys.core, *fields)
    assert mark(world, lease.keys, lease.execution_id) == [1, "OK", "marked_expired"]
    core = world.value(lease.keys.core)
    assert (core["eligibility_state"], core["terminal_outcome"]) == ("not_applicable", "none")
    event = world.value(lease.keys.part("lease:history"))[-1]
    assert event[2:-2] == (
        *("lease_id", "", "lease_epoch", "", "attempt_index", "", "attempt_id", ""),
        *("worker_id", "", "worker_instance_id", ""),
    )


def test_marking_keeps_an_earlier_close_of_the_stream(world: World) -> None:
    lease = put_outdated(world)
    put(world, lease.keys.stream_meta(0), closed_at="5", closed_reason="attempt_success")
    with world.changes() as c:
        mark(world, lease.keys, lease.execution_id)
    assert lease.keys.stream_meta(0) not in c.written


@pytest.mark.parametrize("expires_at", ["", "soon", None])
def test_an_active_record_without_a_readable_expiry_is_marked(world: World, expires_at: str | None) -> None:
    """On an empty one the reference raises in every sweep."""
    lease = put_outdated(world, lease_expires_at=expires_at or "")
    if expires_at is None:
        world.command("HDEL", lease.keys.core, "lease_expires_at")
    assert mark(world, lease.keys, lease.execution_id) == [1, "OK", "marked_expired"]


def test_an_active_execution_of_an_unknown_ownership_is_marked(world: World) -> None:
    lease = put_outdated(world, ownership_state="strange")
    assert mark(world, lease.keys, lease.execution_id) == [1, "OK", "marked_expired"]


@pytest.mark.parametrize(
    ("core", "reply"),
    [
        ({"ownership_state": EXPIRED}, "already_expired"),
        ({"ownership_state": REVOKED}, "already_revoked"),
        ({"lease_expires_at": str(FAR_MS)}, "not_yet_expired"),
    ],
)
def test_a_lease_that_is_not_to_be_marked_stays_in_the_index(world: World, core: dict[str, str], reply: str) -> None:
    lease = put_outdated(world, **core)
    with world.unchanged():
        assert mark(world, lease.keys, lease.execution_id) == [1, "ALREADY_SATISFIED", reply]
        assert mark(world, lease.keys) == [1, "ALREADY_SATISFIED", reply]


@pytest.mark.parametrize(
    ("core", "reply"),
    [
        ({"lifecycle_phase": "runnable", "ownership_state": EXPIRED}, "not_active"),
        ({"lifecycle_phase": "", "ownership_state": "unowned"}, "not_active"),
        ({"ownership_state": "unowned"}, "unowned"),
    ],
)
def test_what_has_no_lease_leaves_the_index(world: World, core: dict[str, str], reply: str) -> None:
    lease = put_outdated(world, **core)
    index = lease.keys.partition.index("lease_expiry")
    lost = member(world, index, lease.keys)
    with world.changes() as c:
        assert mark(world, lease.keys, lease.execution_id) == [1, "ALREADY_SATISFIED", reply]
    assert (c.written, c.removed) == ({}, {index: lost})
    with world.unchanged():
        assert mark(world, lease.keys, lease.execution_id) == [1, "ALREADY_SATISFIED", reply]


def test_an_execution_that_is_gone_leaves_the_index(world: World) -> None:
    keys = new_keys()
    index = keys.partition.index("lease_expiry")
    world.redis.zadd(index, {keys.id: 5, "another": 6})
    with world.changes() as c:
        assert mark(world, keys, keys.id) == [1, "ALREADY_SATISFIED", "execution_not_found"]
    assert (c.written, c.removed) == ({}, {index: {keys.id: 5}})


def test_a_record_without_a_phase_is_not_active(world: World) -> None:
    lease = put_outdated(world)
    world.command("HDEL", lease.keys.core, "lifecycle_phase")
    assert mark(world, lease.keys, lease.execution_id) == [1, "ALREADY_SATISFIED", "not_active"]


def test_a_repeated_mark_changes_nothing(world: World) -> None:
    lease = put_outdated(world)
    mark(world, lease.keys, lease.execution_id)
    with world.unchanged():
        assert mark(world, lease.keys, lease.execution_id) == [1, "ALREADY_SATISFIED", "already_expired"]


def test_marking_needs_the_execution_id_where_it_clears_the_index(world: World) -> None:
    lease = put_outdated(world, ownership_state="unowned")
    with world.unchanged():
        assert mark(world, lease.keys) == [0, "invalid_input", "execution_id must be given, got: nil"]


# --- ff_revoke_lease ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("expires_at", ["1000", str(FAR_MS)])
def test_revoking_takes_the_lease_away_and_leaves_the_execution_active(world: World, expires_at: str) -> None:
    lease, before = claim_beside_another(world), world.now_ms()
    keys, lease_current = lease.keys, lease.keys.part("lease:current")
    open_stream(world, keys)
    poison(world, keys.core, keep=REVOKE_READ)
    put(world, keys.core, eligibility_state="kept", lease_expires_at=expires_at, current_lease_id="lease-1")
    lost = {
        lease_current: world.value(lease_current),
        keys.partition.index("lease_expiry"): member(world, keys.partition.index("lease_expiry"), keys),
        keys.partition.worker_leases(WORKER): {keys.id},
    }
    with world.changes() as c:
        assert revoke(world, keys, keys.id, "lease-1", "operator_revoke") == [1, "OK", "revoked", "lease-1", POISON]
    now = since(before, world, c.written[keys.core]["lease_revoked_at"])
    assert c.removed == lost
    assert c.written == {
        keys.core: {
            "ownership_state": REVOKED,
            "blocking_reason": "waiting_for_worker",
            "blocking_detail": "lease revoked: operator_revoke",
            "terminal_outcome": "none",
            "attempt_state": "attempt_interrupted",
            "public_state": "active",
            "lease_revoked_at": now,
            "lease_revoke_reason": "operator_revoke",
            "last_mutation_at": now,
        },
        keys.part("lease:history"): [
            (
                *("event", "revoked", "lease_id", "lease-1", "lease_epoch", POISON, "attempt_index", POISON),
                *("attempt_id", POISON, "worker_id", POISON, "worker_instance_id", POISON),
                *("reason", "operator_revoke", "ts", now),
            )
        ],
    }
    assert keys.id in world.value(lane_key(keys, "active"))
    assert keys.id in world.value(keys.partition.index("attempt_timeout"))


@pytest.mark.parametrize(
    ("args", "reason"), [((), "operator"), (("",), "operator"), (("", ""), ""), (("", "x"), "x")]
)
def test_without_an_expected_lease_any_is_revoked_and_the_reason_is_the_operators_when_absent(
    world: World, args: tuple[str, ...], reason: str
) -> None:
    lease = claim(world)
    reply = revoke(world, lease.keys, lease.execution_id, *args)
    assert reply == [1, "OK", "revoked", lease.lease_id, "1"]
    assert world.value(lease.keys.core)["lease_revoke_reason"] == reason


def test_an_eligibility_state_that_the_record_lacks_becomes_not_applicable(world: World) -> None:
    lease = claim(world)
    world.command("HDEL", lease.keys.core, "eligibility_state")
    revoke(world, lease.keys, lease.execution_id)
    assert world.value(lease.keys.core)["eligibility_state"] == "not_applicable"


def test_a_record_that_lacks_its_lease_is_revoked_and_told_as_empty(world: World) -> None:
    lease = claim(world)
    lacking = ("lease_id", "lease_epoch", "attempt_index", "attempt_id", "worker_id", "worker_instance_id")
    world.command("HDEL", lease.keys.core, *(f"current_{name}" for name in lacking))
    refused = revoke(world, lease.keys, lease.execution_id, "other")
    assert refused == [0, "stale_lease", "expected other but current is "]
    assert revoke(world, lease.keys, lease.execution_id) == [1, "OK", "revoked", "", ""]
    event = world.value(lease.keys.part("lease:history"))[-1]
    assert event[2:14] == tuple(part for name in lacking for part in (name, ""))


def test_revoking_the_lease_of_an_unknown_execution_is_refused(world: World) -> None:
    with world.unchanged():
        assert revoke(world, new_keys()) == [0, "execution_not_found"]


def test_revoking_the_lease_of_an_execution_that_is_not_active_is_refused_with_outcome_and_epoch(
    world: World,
) -> None:
    lease = claim(world)
    put(world, lease.keys.core, lifecycle_phase="terminal", terminal_outcome="expired", current_lease_epoch="4")
    put(world, lease.keys.core, ownership_state=REVOKED)
    with world.unchanged():
        assert revoke(world, lease.keys, lease.execution_id, "other") == [0, "execution_not_active", "expired", "4"]
    world.command("HDEL", lease.keys.core, "lifecycle_phase", "terminal_outcome", "current_lease_epoch")
    assert revoke(world, lease.keys) == [0, "execution_not_active", "", ""]


@pytest.mark.parametrize(("ownership", "reply"), [(REVOKED, "already_revoked"), (EXPIRED, "already_expired")])
def test_a_lease_that_is_lost_already_is_not_revoked_whatever_is_expected(
    world: World, ownership: str, reply: str
) -> None:
    lease = claim(world)
    put(world, lease.keys.core, ownership_state=ownership)
    with world.unchanged():
        assert revoke(world, lease.keys, lease.execution_id, "other") == [1, "ALREADY_SATISFIED", reply]
        assert revoke(world, lease.keys) == [1, "ALREADY_SATISFIED", reply]


@pytest.mark.parametrize("ownership", ["unowned", "", "strange"])
def test_an_active_execution_without_a_lease_has_none_to_revoke(world: World, ownership: str) -> None:
    lease = claim(world)
    put(world, lease.keys.core, ownership_state=ownership)
    with world.unchanged():
        assert revoke(world, lease.keys, lease.execution_id, "other") == [0, "no_active_lease"]


def test_another_lease_than_the_expected_one_is_not_revoked(world: World) -> None:
    lease = claim(world)
    with world.unchanged():
        reply = revoke(world, lease.keys, lease.execution_id, "other")
        assert reply == [0, "stale_lease", f"expected other but current is {lease.lease_id}"]


def test_revoking_needs_the_execution_id(world: World) -> None:
    lease = claim(world)
    with world.unchanged():
        assert revoke(world, lease.keys) == [0, "invalid_input", "execution_id must be given, got: nil"]


def test_a_repeated_revocation_changes_nothing(world: World) -> None:
    lease = claim(world)
    revoke(world, lease.keys, lease.execution_id)
    with world.unchanged():
        assert revoke(world, lease.keys, lease.execution_id) == [1, "ALREADY_SATISFIED", "already_revoked"]


def test_the_holder_of_a_revoked_lease_can_do_nothing_but_an_operator_and_a_timeout_can(world: World) -> None:
    first, second = claim(world), claim(world)
    for lease in (first, second):
        revoke(world, lease.keys, lease.execution_id)
        assert complete(world, lease) == [0, "lease_revoked"]
    assert cancel(world, first.keys) == [1, "OK", "cancelled", "active"]
    assert expire(world, second.keys, second.execution_id) == [1, "OK", "expired", "active"]


def test_a_lease_history_is_kept_to_about_a_thousand_events(world: World) -> None:
    keys = create(world)
    history = keys.part("lease:history")
    for _ in range(1200):
        world.command("XADD", history, "*", "event", "old")
    put(world, keys.core, lifecycle_phase="active", ownership_state="leased")
    revoke(world, keys, keys.id)
    assert 1000 <= len(world.value(history)) < 1200


@pytest.mark.parametrize("how", ["cancel", "expire", "revoke"])
def test_who_takes_a_lease_away_says_so_on_a_channel_of_ours(world: World, how: str) -> None:
    lease = claim(world)
    with world.redis.pubsub() as subscription:  # type: ignore[no-untyped-call]
        subscription.subscribe("ffsuper:lease_ends")
        assert next(subscription.listen())["type"] == "subscribe"
        if how == "cancel":
            holders.cancel(world, lease.keys)
        elif how == "expire":
            holders.expire(world, lease.keys, lease.execution_id)
        else:
            holders.revoke(world, lease.keys, lease.execution_id)
        assert next(subscription.listen())["data"] == lease.execution_id.encode()
