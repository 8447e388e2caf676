"""ffsuper_renew: renewals in one call leave what the protocol's calls leave one by one, and answer the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ffsuper.messages import AttemptId, Lease, LeaseId
from ffsuper.store import leases
from ffsuper.store.keys import ExecutionKeys
from ffsuper.store.leases import LEASES_PER_CALL
from tests.lua.claims import APART_MS, reply_to
from tests.lua.executions import LANE, Claimed, claim, create
from tests.lua.holders import OUTDATED, complete, delay, mark, open_stream, revoke
from tests.lua.suspensions import put
from tests.lua.test_claim_together import left, restore, saved, timeless
from tests.lua.world import Arg, World, decoded

TTL_MS = 3 * APART_MS
AGAIN = "again"  # the lease before it once more


def held(claimed: Claimed) -> Lease:
    """Return a lease as its holder knows it."""
    return Lease(
        claimed.execution_id,
        LANE,
        LeaseId(claimed.lease_id),
        int(claimed.epoch),
        AttemptId(claimed.attempt_id),
        claimed.index,
        TTL_MS,
        0.0,
    )


# --- leases of every kind -----------------------------------------------------------------------------------------


def plain(world: World) -> Lease:
    return held(claim(world))


def after(act: Callable[[World, Claimed], Any]) -> Callable[[World], Lease]:
    """Return what claims an execution and does something with it."""

    def make(world: World) -> Lease:
        claimed = claim(world)
        open_stream(world, claimed.keys)
        act(world, claimed)
        return held(claimed)

    return make


def with_core(**core: str) -> Callable[[World], Lease]:
    return after(lambda world, claimed: put(world, claimed.keys.core, **core))


def wrong(**changes: Any) -> Callable[[World], Lease]:
    """Return what claims an execution, and takes its lease for another."""
    return lambda world: replace(plain(world), **changes)


def without(name: str) -> Callable[[World], Lease]:
    return after(lambda world, claimed: world.redis.delete(claimed.keys.part(name)))


def damaged(name: str, **core: str) -> Callable[[World], Lease]:
    """Return what claims an execution and puts something else into the place of one of its keys."""

    def damage(world: World, claimed: Claimed) -> None:
        if core:
            put(world, claimed.keys.core, **core)
        world.redis.delete(claimed.keys.part(name))
        world.redis.rpush(claimed.keys.part(name), "damaged")

    return after(damage)


def marked(world: World, claimed: Claimed) -> None:
    put(world, claimed.keys.core, **OUTDATED)
    mark(world, claimed.keys, claimed.execution_id)


KINDS: dict[str, Callable[[World], Lease]] = {
    "plain": plain,
    "with a stream": after(lambda *_: None),
    "another attempt": wrong(attempt_index=1),
    "another attempt's id": wrong(attempt_id=AttemptId("other")),
    "another lease": wrong(lease_id=LeaseId("other")),
    "another epoch": wrong(epoch=2),
    "completed": after(complete),
    "delayed": after(delay),
    "cancelled": with_core(lifecycle_phase="terminal", terminal_outcome="cancelled"),
    "never claimed": lambda world: replace(plain(world), execution_id=create(world).id),
    "revoked": after(lambda world, claimed: revoke(world, claimed.keys, claimed.execution_id)),
    "once revoked": with_core(lease_revoked_at="5"),
    "run out": with_core(**OUTDATED),
    "marked as run out": after(marked),
    "without expiry": with_core(lease_expires_at=""),
    "expiry is no number": with_core(lease_expires_at="soon"),
    "gone": without("core"),
    "without the lease's record": without("lease:current"),
    "damaged record": damaged("core"),
    "damaged lease": damaged("lease:current"),
    "damaged history": damaged("lease:history"),
    "damaged history of one that ran out": damaged("lease:history", **OUTDATED),
}


def renew_together(world: World, wanted: Sequence[Lease]) -> list[Any]:
    """Renew in one call; return what it answers for each, as the protocol's call does."""
    reply = decoded(world.command(*leases.renew_all(wanted).command))
    assert reply[:2] == [1, "OK"]
    renewed = [1, "OK", reply[2]]
    return [renewed if one == 1 else one[1].partition(" ")[0] if one[0] == -1 else one for one in reply[3:]]


def compare(world: World, wanted: Sequence[Lease]) -> list[Any]:
    """Renew one by one, and from the same state together; return the answers, having found no difference."""
    kept, began_ms = saved(world), world.now_ms()
    apart = [reply_to(world, leases.renew(one).command) for one in wanted]
    left_apart = left(world, began_ms)
    restore(world, kept)
    together = renew_together(world, wanted)
    assert timeless(together, began_ms) == timeless(apart, began_ms)
    assert left(world, began_ms) == left_apart
    return together


@pytest.mark.parametrize("kind", KINDS)
def test_one_renewal_is_as_the_protocols(world: World, kind: str) -> None:
    plain(world)
    compare(world, [KINDS[kind](world)])


@settings(
    max_examples=400 if os.environ.get("FFSUPER_LONG") else 100,
    derandomize=not os.environ.get("FFSUPER_LONG"),
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(mix=st.lists(st.sampled_from([*KINDS, "plain", "plain", AGAIN]), min_size=2, max_size=9))
def test_any_mix_of_renewals_is_as_the_protocols_one_by_one(world: World, mix: list[str]) -> None:
    world.redis.flushall()
    made = [plain(world)]
    for kind in mix:
        made.append(made[-1] if kind == AGAIN else KINDS[kind](world))
    compare(world, made)


def test_a_damaged_index_stops_renewals_where_it_stops_the_protocols(world: World) -> None:
    wanted = [plain(world), KINDS["another epoch"](world), plain(world)]
    world.redis.set("ff:idx:{fp:7}:lease_expiry", "damaged")
    assert compare(world, wanted) == ["WRONGTYPE", [0, "stale_lease"], "WRONGTYPE"]


def test_one_that_is_refused_or_fails_spoils_no_other(world: World) -> None:
    kinds = ("damaged record", "plain", "gone", "completed", "plain", "damaged lease", "run out", "plain")
    found = compare(world, [KINDS[kind](world) for kind in kinds])
    words = [one if isinstance(one, str) else one[1] for one in found]
    refused = ("execution_not_found", "execution_not_active", "lease_expired")
    assert words == ["WRONGTYPE", "OK", refused[0], refused[1], "OK", "WRONGTYPE", refused[2], "OK"]


def test_an_end_is_told_with_its_outcome(world: World) -> None:
    assert compare(world, [KINDS["completed"](world)]) == [[0, "execution_not_active", "success", "1"]]


def test_every_lease_of_a_call_ends_at_the_time_that_it_answers(world: World) -> None:
    wanted = [plain(world) for _ in range(LEASES_PER_CALL)]
    before_ms = world.now_ms()
    expires_at = decoded(world.command(*leases.renew_all(wanted).command))[2]
    assert before_ms + TTL_MS <= int(expires_at) <= world.now_ms() + TTL_MS
    assert world.value("ff:idx:{fp:7}:lease_expiry") == {one.execution_id: float(expires_at) for one in wanted}
    ends = {world.value(f"ff:exec:{{fp:7}}:{one.execution_id}:core")["lease_expires_at"] for one in wanted}
    assert ends == {expires_at}
    assert set(world.expiries().values()) == {int(expires_at) + leases.HISTORY_GRACE_MS}


def test_a_repeated_call_moves_the_expiry_again(world: World) -> None:
    lease = plain(world)
    renew_together(world, [replace(lease, ttl_ms=TTL_MS * 9)])
    (answer,) = renew_together(world, [lease])
    assert world.value("ff:idx:{fp:7}:lease_expiry") == {lease.execution_id: float(answer[2])}
    assert int(answer[2]) <= world.now_ms() + TTL_MS


def test_no_other_partition_is_reached(world: World) -> None:
    lease = plain(world)
    keys, args = renew_call(lease)
    keys = [key.replace("{fp:7}", "{fp:8}") for key in keys]
    with world.unchanged():
        assert world.call("ffsuper_renew", keys, args)[3:] == [[0, "execution_not_found"]]


# --- the call itself ----------------------------------------------------------------------------------------------


def renew_call(lease: Lease) -> tuple[list[str], list[Arg]]:
    """Return the keys and the arguments of a call that renews one lease."""
    _, _, count, *parts = leases.renew_all([lease]).command
    return [str(key) for key in parts[: int(count)]], parts[int(count) :]


@pytest.mark.parametrize("count", [0, 1])
def test_a_call_with_fewer_keys_is_refused_and_writes_nothing(world: World, count: int) -> None:
    keys, args = renew_call(plain(world))
    with world.unchanged():
        reply = world.call("ffsuper_renew", keys[:count], args)
    assert reply == [0, "invalid_input", f"KEYS must be 2, got: {count}"]


@pytest.mark.parametrize("count", [0, 1])
def test_a_call_without_its_times_is_refused(world: World, count: int) -> None:
    keys, args = renew_call(plain(world))
    with world.unchanged():
        assert world.call("ffsuper_renew", keys, args[:count])[:2] == [0, "invalid_input"]


@pytest.mark.parametrize("count", [3, 4, 5, 6])
def test_a_lease_that_is_not_told_in_full_is_not_renewed(world: World, count: int) -> None:
    keys, args = renew_call(plain(world))
    with world.unchanged():
        assert world.call("ffsuper_renew", keys, args[:count])[3:] == [[0, "stale_lease"]]


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "1.5", "1e30"])
def test_times_are_whole_numbers(world: World, position: int, text: str) -> None:
    keys, args = renew_call(plain(world))
    args[position] = text
    with world.unchanged():
        assert world.call("ffsuper_renew", keys, args)[:2] == [0, "invalid_input"]


@pytest.mark.parametrize("ttl_ms", [0, -5])
def test_a_ttl_that_is_not_positive_is_taken_at_its_word(world: World, ttl_ms: int) -> None:
    lease = replace(plain(world), ttl_ms=ttl_ms)
    ((_, _, expires_at),) = renew_together(world, [lease])
    assert int(expires_at) == int(world.value(ExecutionKeys.of(lease.execution_id).core)["last_mutation_at"]) + ttl_ms
    assert renew_together(world, [lease]) == [[0, "lease_expired"]]


def test_a_time_beyond_fourteen_digits_is_rounded_in_the_texts_and_whole_in_the_index(world: World) -> None:
    lease = replace(plain(world), ttl_ms=9 * 10**15)
    keys = ExecutionKeys.of(lease.execution_id)
    ((_, _, expires_at),) = renew_together(world, [lease])
    core = world.value(keys.core)
    score = 9 * 10**15 + int(core["last_mutation_at"])
    assert expires_at == core["lease_expires_at"] == f"{score:.14g}"
    assert world.value(keys.partition.index("lease_expiry")) == {lease.execution_id: score}
    assert world.expiries() == {keys.part("lease:current"): score + leases.HISTORY_GRACE_MS}


def test_no_leases_are_answered_with_none(world: World) -> None:
    keys, args = renew_call(plain(world))
    with world.unchanged():
        reply = world.call("ffsuper_renew", keys, args[:2])
    assert reply[:2] == [1, "OK"]
    assert len(reply) == 3
