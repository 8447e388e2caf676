"""ffsuper_hand_back: a lease is given up before a handler was called, and the next claim begins the same attempt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ffsuper.store.announcements import ELIGIBLE
from ffsuper.store.keys import ExecutionKeys
from tests.lua import claims
from tests.lua.claims import offers, outcomes_together
from tests.lua.executions import (
    LANE,
    RECLAIMER,
    Claimed,
    call_claim_resumed,
    call_reclaim,
    claim,
    claimed,
    create,
    grant,
    grant_reclaim,
    lane_key,
)
from tests.lua.holders import (
    OUTDATED,
    claim_beside_another,
    complete,
    delay,
    fence,
    mark,
    pause_keys,
    promote,
    revoke,
)
from tests.lua.suspensions import UNSET, changed, put
from tests.lua.test_claim_together import left, restore, saved
from tests.lua.test_missing_keys import WithKeys
from tests.lua.world import World

BEGINNING: dict[str, Callable[[World], ExecutionKeys]] = {
    "initial": claims.plain,
    "retry": claims.retried,
    "replay": claims.replayed,
}


def hand_back(world: World, lease: Claimed, **changes: Any) -> Any:
    """Call ffsuper_hand_back."""
    keys = [*pause_keys(lease, "delayed"), lane_key(lease.keys, "eligible")]
    return world.call("ffsuper_hand_back", keys, changed(fence(lease), changes))


def pick(world: World, keys: ExecutionKeys) -> Claimed:
    """Claim by ffsuper_claim_first what comes first, having made sure that it is this execution."""
    (outcome,) = outcomes_together(world, offers(1))
    assert outcome.execution_id == keys.id
    return claimed(keys, outcome.reply)


def picked(world: World, kind: str) -> Claimed:
    return pick(world, BEGINNING[kind](world))


def resumed(world: World) -> Claimed:
    """Claim an attempt that goes on."""
    lease = pick(world, claims.resumed(world))
    assert lease.kind == "resumed"
    return lease


def go_on(world: World, keys: ExecutionKeys) -> Claimed:
    """Claim an interrupted attempt by the protocol's calls."""
    grant(world, keys)
    return claimed(keys, call_claim_resumed(world, keys))


# --- what it leaves -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("take", "note"),
    [
        *(
            pytest.param(lambda world, kind=kind: picked(world, kind), {"not_begun": "1"}, id=kind)
            for kind in BEGINNING
        ),
        pytest.param(claim_beside_another, {"not_begun": "1"}, id="with a timeout"),
        pytest.param(resumed, {}, id="resumed"),
    ],
)
def test_it_leaves_what_a_delay_until_0_and_a_promotion_leave_and_a_note(
    world: World, take: Callable[[World], Claimed], note: dict[str, str]
) -> None:
    lease = take(world)
    kept, began_ms = saved(world), world.now_ms()
    delayed = delay(world, lease, delay_until=0)
    assert promote(world, lease.keys, lease.keys.id, world.now_ms()) == [1, "OK", "promoted"]
    put(world, lease.attempt, **{"attempt_id": lease.attempt_id, **note})
    by_calls = left(world, began_ms)
    restore(world, kept)
    assert hand_back(world, lease) == delayed == [1, "OK", "0"]
    assert left(world, began_ms) == by_calls


def test_what_is_handed_back_has_its_old_place_in_the_index(world: World) -> None:
    first, _ = create(world, priority=9), create(world, priority=5)
    index = lane_key(first, "eligible")
    before = world.value(index)
    hand_back(world, pick(world, first))
    assert world.value(index) == before


def test_an_attempt_without_a_type_gets_no_note(world: World) -> None:
    lease = claim(world)
    world.redis.hdel(lease.attempt, "attempt_type")
    assert hand_back(world, lease) == [1, "OK", "0"]
    assert "not_begun" not in world.value(lease.attempt)
    assert pick(world, lease.keys).kind == "resumed"


def test_an_attempt_whose_record_is_gone_gets_no_note(world: World) -> None:
    lease = claim(world)
    world.redis.delete(lease.attempt)
    assert hand_back(world, lease) == [1, "OK", "0"]
    assert world.value(lease.attempt).keys() == {"attempt_state", "suspended_at", "suspension_id"}


def test_an_index_that_was_empty_wakes_who_waits_for_it_and_another_does_not(world: World) -> None:
    first, second = claim(world), claim(world)
    with world.messages() as found:
        hand_back(world, first)
        hand_back(world, second)
    assert found == [(f"{ELIGIBLE}{LANE}", "7")]


# --- the next claim -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BEGINNING)
def test_the_next_claim_begins_the_same_attempt_however_often_it_was_handed_back(world: World, kind: str) -> None:
    lease = picked(world, kind)
    assert lease.kind == kind
    counts = {name: value for name, value in world.value(lease.keys.core).items() if name.endswith("_count")}
    attempts = world.value(lease.keys.part("attempts"))
    for _ in range(3):
        hand_back(world, lease)
        again = pick(world, lease.keys)
        assert (again.kind, again.index, again.attempt_id) == (kind, lease.index, lease.attempt_id)
        assert int(again.epoch) == int(lease.epoch) + 1
        assert not {"not_begun", "resumed_at"} & world.value(lease.attempt).keys()
        assert counts.items() <= world.value(lease.keys.core).items()
        assert world.value(lease.keys.part("attempts")) == attempts
        lease = again
    assert complete(world, lease) == [1, "OK", "completed"]


def test_a_reclaimed_attempt_that_is_handed_back_begins_as_such(world: World) -> None:
    lost = claim(world)
    put(world, lost.keys.core, **OUTDATED)
    mark(world, lost.keys, lost.execution_id)
    grant_reclaim(world, lost.keys)
    lease = claimed(lost.keys, call_reclaim(world, lost.keys))
    keys = [*pause_keys(lease, "delayed"), lane_key(lease.keys, "eligible")]
    keys[5] = lease.keys.partition.worker_leases(RECLAIMER)
    world.call("ffsuper_hand_back", keys, changed(fence(lease), {}))
    again = pick(world, lease.keys)
    assert (again.kind, again.index, again.attempt_id) == ("reclaim", 1, lease.attempt_id)


def test_such_a_claim_leaves_what_the_protocols_leaves_but_for_note_and_time_of_resumption(world: World) -> None:
    lease = picked(world, "initial")
    hand_back(world, lease)
    kept, began_ms = saved(world), world.now_ms()
    leases = offers(1)
    (apart,) = claims.outcomes_apart(world, leases)
    world.redis.hdel(lease.attempt, "not_begun", "resumed_at")
    by_calls = left(world, began_ms)
    restore(world, kept)
    (together,) = outcomes_together(world, leases)
    assert left(world, began_ms) == by_calls
    assert (apart.reply[-1], together.reply[-1]) == ("resumed", "initial")
    assert together.context == apart.context


def test_an_attempt_that_was_handed_back_goes_on_after_its_handler_has_paused_it(world: World) -> None:
    lease = picked(world, "initial")
    hand_back(world, lease)
    lease = pick(world, lease.keys)
    delay(world, lease, delay_until=0)
    promote(world, lease.keys, lease.keys.id, world.now_ms())
    assert pick(world, lease.keys).kind == "resumed"


def test_an_attempt_that_goes_on_still_does_when_it_was_handed_back(world: World) -> None:
    """Its handler has been called before: told that it begins, it would miss what it has waited for."""
    lease = resumed(world)
    for _ in range(2):
        assert hand_back(world, lease) == [1, "OK", "0"]
        lease = pick(world, lease.keys)
        assert lease.kind == "resumed"


def test_a_note_is_worth_nothing_after_a_claim_that_has_not_read_it(world: World) -> None:
    """Another worker's, say, whose handler was told that it goes on, and has waited for something since."""
    lease = picked(world, "initial")
    hand_back(world, lease)
    lease = go_on(world, lease.keys)
    assert lease.kind == "resumed"
    delay(world, lease, delay_until=0)
    promote(world, lease.keys, lease.keys.id, world.now_ms())
    lease = pick(world, lease.keys)
    assert lease.kind == "resumed"
    hand_back(world, lease)
    assert pick(world, lease.keys).kind == "resumed"


def test_a_new_attempt_after_one_that_was_handed_back_begins(world: World) -> None:
    lease = picked(world, "initial")
    hand_back(world, lease)
    go_on(world, lease.keys)
    put(world, lease.keys.core, **OUTDATED)
    mark(world, lease.keys, lease.execution_id)
    grant_reclaim(world, lease.keys)
    reclaimed = claimed(lease.keys, call_reclaim(world, lease.keys))
    assert (reclaimed.kind, "not_begun" in world.value(reclaimed.attempt)) == ("reclaim", False)


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong", [{"lease_id": "other"}, {"lease_epoch": "2"}, {"lease_epoch": "01"}, {"attempt_id": "other"}]
)
def test_another_lease_epoch_or_attempt_is_stale(world: World, wrong: dict[str, str]) -> None:
    lease = claim(world)
    with world.unchanged(), world.messages() as found:
        assert hand_back(world, lease, **wrong) == [0, "stale_lease"]
    assert found == []


@pytest.mark.parametrize("first_absent", ["execution_id", "lease_id", "lease_epoch", "attempt_id"])
def test_absent_arguments_are_nobodys_lease(world: World, first_absent: str) -> None:
    lease = claim(world)
    with world.unchanged():
        assert hand_back(world, lease, **{first_absent: UNSET}) == [0, "stale_lease"]


def test_a_repeat_is_told_that_nothing_is_active_and_changes_nothing(world: World) -> None:
    lease = claim(world)
    hand_back(world, lease)
    with world.unchanged():
        assert hand_back(world, lease) == [0, "execution_not_active", "none", "1"]


def test_a_repeat_after_the_next_claim_takes_nothing_away(world: World) -> None:
    lease = picked(world, "initial")
    hand_back(world, lease)
    pick(world, lease.keys)
    with world.unchanged():
        assert hand_back(world, lease) == [0, "stale_lease"]


def test_an_unknown_execution_is_refused(world: World) -> None:
    lease = claim(world)
    world.redis.delete(lease.keys.core)
    with world.unchanged():
        assert hand_back(world, lease) == [0, "execution_not_found"]


def test_a_revoked_lease_is_refused(world: World) -> None:
    lease = claim(world)
    revoke(world, lease.keys, lease.execution_id)
    with world.unchanged():
        assert hand_back(world, lease) == [0, "lease_revoked"]


def test_a_lease_that_has_run_out_is_refused_and_marked_as_by_every_holder(world: World) -> None:
    lease = claim(world)
    put(world, lease.keys.core, **OUTDATED)
    assert hand_back(world, lease) == [0, "lease_expired"]
    assert world.value(lease.keys.core)["ownership_state"] == "lease_expired_reclaimable"
    assert "not_begun" not in world.value(lease.attempt)
    with world.unchanged():
        assert hand_back(world, lease) == [0, "lease_expired"]


@pytest.mark.parametrize("count", range(10))
def test_fewer_keys_are_refused(world: World, count: int) -> None:
    lease = claim(world)
    with world.unchanged():
        reply = hand_back(WithKeys(world, count), lease)
        assert reply == [0, "invalid_input", f"KEYS must be 10, got: {count}"]


@pytest.mark.parametrize("damaged", ["core", "attempt"])
def test_a_record_of_another_kind_is_left_as_it_is(world: World, damaged: str) -> None:
    lease = claim(world)
    key = lease.keys.core if damaged == "core" else lease.attempt
    world.redis.delete(key)
    world.redis.set(key, "x")
    with world.unchanged():
        assert "WRONGTYPE" in hand_back(WithKeys(world, 10), lease)


def test_who_holds_no_lease_is_refused_whatever_the_attempts_record_is_like(world: World) -> None:
    lease = claim(world)
    world.redis.delete(lease.attempt)
    world.redis.set(lease.attempt, "x")
    with world.unchanged():
        assert hand_back(world, lease, lease_id="other") == [0, "stale_lease"]
