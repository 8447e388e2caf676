"""ff_renew_lease: protocol 03, section 10.1. The other two lease functions are in test_lease_loss."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lua.executions import TTL_MS, claim, lane_key
from tests.lua.holders import OUTDATED, poison, renew, revoke, since
from tests.lua.suspensions import UNSET, put
from tests.lua.world import World

READ = (
    *("lifecycle_phase", "ownership_state", "lease_revoked_at", "lease_expires_at", "current_attempt_index"),
    *("current_attempt_id", "current_lease_id", "current_lease_epoch"),
)
WRONG = {"attempt_index": "7", "attempt_id": "other", "lease_id": "other", "lease_epoch": "9"}


def test_version_is_the_protocols_as_bare_text(world: World) -> None:
    assert world.call("ff_version", [], []) == "5"


def test_renewing_moves_the_expiry_everywhere_but_in_the_active_index(world: World) -> None:
    claim(world)
    lease, before = claim(world), world.now_ms()
    keys, lease_current = lease.keys, lease.keys.part("lease:current")
    poison(world, keys.core, keep=READ)
    poison(world, lease_current, keep=())
    with world.changes() as c:
        reply = renew(world, lease, lease_ttl_ms="60001", lease_history_grace_ms="5000")
    now = since(before, world, c.written[keys.core]["last_mutation_at"])
    expires_at, deadline = int(now) + 60001, int(now) + 40000
    assert reply == [1, "OK", str(expires_at)]
    assert c.removed == {}
    assert c.written == {
        keys.core: {
            "lease_last_renewed_at": now,
            "lease_renewal_deadline": str(deadline),
            "lease_expires_at": str(expires_at),
            "last_mutation_at": now,
        },
        lease_current: {"last_renewed_at": now, "renewal_deadline": str(deadline), "expires_at": str(expires_at)},
        keys.partition.index("lease_expiry"): {keys.id: float(expires_at)},
    }
    assert world.expiries() == {lease_current: expires_at + 5000}
    assert world.value(lane_key(keys, "active"))[keys.id] == lease.expires_at


def test_a_repeated_renewal_moves_the_expiry_again(world: World) -> None:
    lease = claim(world)
    renew(world, lease, lease_ttl_ms=600_000)
    before = world.now_ms()
    expires_at = int(renew(world, lease, lease_ttl_ms=TTL_MS)[2])
    assert before + TTL_MS <= expires_at <= world.now_ms() + TTL_MS
    assert world.value(lease.keys.partition.index("lease_expiry")) == {lease.execution_id: float(expires_at)}
    assert world.expiries() == {lease.keys.part("lease:current"): expires_at + 5000}


def test_a_lease_record_that_has_gone_comes_back_with_its_times_only(world: World) -> None:
    lease = claim(world)
    lease_current = lease.keys.part("lease:current")
    world.redis.delete(lease_current)
    assert renew(world, lease)[:2] == [1, "OK"]
    assert world.value(lease_current).keys() == {"last_renewed_at", "renewal_deadline", "expires_at"}


# --- refusals, in their order -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "soon", "1 s"])
def test_a_ttl_that_is_no_number_is_refused_before_the_record_is_read(world: World, text: str) -> None:
    lease = claim(world)
    world.redis.delete(lease.keys.core)
    with world.unchanged():
        reply = renew(world, lease, lease_ttl_ms=text, lease_history_grace_ms="long")
        assert reply == [0, "invalid_input", f"lease_ttl_ms must be a number, got: {text}"]


@pytest.mark.parametrize(("text", "shown"), [("", ""), ("long", "long"), (UNSET, "nil")])
def test_a_grace_that_is_no_number_is_refused_before_the_record_is_read(world: World, text: Any, shown: str) -> None:
    lease = claim(world)
    world.redis.delete(lease.keys.core)
    with world.unchanged():
        reply = renew(world, lease, lease_history_grace_ms=text)
        assert reply == [0, "invalid_input", f"lease_history_grace_ms must be a number, got: {shown}"]


@pytest.mark.parametrize("first_absent", ["execution_id", "attempt_index", "lease_epoch", "lease_ttl_ms"])
def test_absent_arguments_are_refused(world: World, first_absent: str) -> None:
    lease = claim(world)
    with world.unchanged():
        reply = renew(world, lease, **{first_absent: UNSET})
        assert reply == [0, "invalid_input", "lease_ttl_ms must be a number, got: nil"]


@pytest.mark.parametrize("ttl", ["60000", "1.5"])
def test_renewing_an_unknown_execution_is_refused(world: World, ttl: str) -> None:
    lease = claim(world)
    world.redis.delete(lease.keys.core)
    with world.unchanged():
        assert renew(world, lease, **WRONG, lease_ttl_ms=ttl) == [0, "execution_not_found"]


def test_renewing_the_lease_of_an_execution_that_is_not_active_is_refused_with_outcome_and_epoch(
    world: World,
) -> None:
    lease = claim(world)
    put(world, lease.keys.core, lifecycle_phase="terminal", terminal_outcome="cancelled", current_lease_epoch="4")
    put(world, lease.keys.core, ownership_state="lease_revoked", **OUTDATED)
    with world.unchanged():
        assert renew(world, lease, **WRONG) == [0, "execution_not_active", "cancelled", "4"]
    world.command("HDEL", lease.keys.core, "lifecycle_phase", "terminal_outcome", "current_lease_epoch")
    assert renew(world, lease) == [0, "execution_not_active", "", ""]


@pytest.mark.parametrize("revoked", [{"ownership_state": "lease_revoked"}, {"lease_revoked_at": "5"}])
def test_renewing_a_revoked_lease_is_refused_even_when_it_has_run_out(world: World, revoked: dict[str, str]) -> None:
    lease = claim(world)
    put(world, lease.keys.core, **revoked, **OUTDATED)
    with world.unchanged():
        assert renew(world, lease, **WRONG) == [0, "lease_revoked"]


def test_renewing_a_lease_that_was_really_revoked_is_refused(world: World) -> None:
    lease = claim(world)
    revoke(world, lease.keys, lease.execution_id)
    with world.unchanged():
        assert renew(world, lease) == [0, "lease_revoked"]


@pytest.mark.parametrize("expires_at", ["1000", "", "soon", None])
def test_a_lease_that_has_run_out_is_marked_whoever_calls(world: World, expires_at: str | None) -> None:
    lease = claim(world)
    put(world, lease.keys.core, lease_expires_at=expires_at or "")
    if expires_at is None:
        world.command("HDEL", lease.keys.core, "lease_expires_at")
    with world.changes() as c:
        assert renew(world, lease, **WRONG, lease_ttl_ms="1.5") == [0, "lease_expired"]
    assert c.removed == {}
    assert c.written.keys() == {lease.keys.core, lease.keys.part("lease:history")}
    assert c.written[lease.keys.core]["ownership_state"] == "lease_expired_reclaimable"
    with world.unchanged():
        assert renew(world, lease) == [0, "lease_expired"]


@pytest.mark.parametrize(
    "wrong", [{"attempt_index": "00"}, {"attempt_id": "other"}, {"lease_id": "other"}, {"lease_epoch": "01"}]
)
@pytest.mark.parametrize("ttl", ["60000", "1.5"])
def test_renewing_another_attempt_lease_or_epoch_is_stale(world: World, wrong: dict[str, str], ttl: str) -> None:
    lease = claim(world)
    with world.unchanged():
        assert renew(world, lease, **wrong, lease_ttl_ms=ttl) == [0, "stale_lease"]


# --- numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["1.5", "inf", "-inf", "nan", "1e17", "-1e18"])
@pytest.mark.parametrize("name", ["lease_ttl_ms", "lease_history_grace_ms"])
def test_a_number_that_makes_no_key_expiry_does_not_move_half_of_the_expiries(
    world: World, name: str, text: str
) -> None:
    """The reference raises with the records' times moved, and the expiry index not."""
    lease = claim(world)
    with world.unchanged():
        reply = renew(world, lease, **{name: text})
        assert reply == [0, "invalid_input", f"{name} must be an integer, got: {text}"]


@pytest.mark.parametrize(("text", "ttl_ms"), [("1e3", 1000), ("0x10", 16), (" 7000 ", 7000), ("5000.0", 5000)])
def test_whatever_reads_as_a_whole_number_is_a_ttl(world: World, text: str, ttl_ms: int) -> None:
    lease = claim(world)
    expires_at = int(renew(world, lease, lease_ttl_ms=text)[2])
    assert expires_at - int(world.value(lease.keys.core)["last_mutation_at"]) == ttl_ms


def test_fractions_that_add_up_to_a_whole_key_expiry_are_kept_in_the_times(world: World) -> None:
    lease = claim(world)
    reply = renew(world, lease, lease_ttl_ms="60000.5", lease_history_grace_ms="0.5")
    core = world.value(lease.keys.core)
    now = int(core["last_mutation_at"])
    assert reply == [1, "OK", f"{now + 60000}.5"]
    assert core["lease_expires_at"] == f"{now + 60000}.5"
    assert world.value(lease.keys.partition.index("lease_expiry")) == {lease.execution_id: now + 60000.5}
    assert world.expiries() == {lease.keys.part("lease:current"): now + 60001}


def test_a_time_beyond_fourteen_digits_is_rounded_in_the_texts_and_whole_in_the_index(world: World) -> None:
    lease = claim(world)
    (_, _, expires_at) = renew(world, lease, lease_ttl_ms="9000000000000000")
    core = world.value(lease.keys.core)
    score = 9 * 10**15 + int(core["last_mutation_at"])
    assert expires_at == core["lease_expires_at"] == f"{score:.14g}"
    assert world.value(lease.keys.partition.index("lease_expiry")) == {lease.execution_id: score}


@pytest.mark.parametrize("ttl", ["0", "-5"])
def test_a_ttl_that_is_not_positive_is_taken_at_its_word(world: World, ttl: str) -> None:
    lease = claim(world)
    reply = renew(world, lease, lease_ttl_ms=ttl)
    assert int(reply[2]) == int(world.value(lease.keys.core)["last_mutation_at"]) + int(ttl)
    assert renew(world, lease) == [0, "lease_expired"]


def test_a_grace_that_is_over_at_once_deletes_the_lease_record_and_not_the_lease(world: World) -> None:
    lease = claim(world)
    assert renew(world, lease, lease_history_grace_ms="-120000")[:2] == [1, "OK"]
    assert world.value(lease.keys.part("lease:current")) is None
    assert renew(world, lease)[:2] == [1, "OK"]
