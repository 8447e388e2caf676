"""ffsuper_report_crash: the report of a crash, stored by the lease's holder with its attempt."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lua.executions import Claimed, call_claim, claim, claimed, create, grant
from tests.lua.holders import GUARDED, OUTDATED, fail, fence, poison, promote, revoke
from tests.lua.suspensions import UNSET, changed, put
from tests.lua.test_missing_keys import WithKeys
from tests.lua.world import World

REPORT = '{"signal":"SIGSEGV"}'
RETRY = {"max_retries": 1, "backoff": {"type": "fixed", "delay_ms": 0}}


def report_crash(world: World, lease: Claimed, **changes: Any) -> Any:
    """Call ffsuper_report_crash."""
    keys = [lease.keys.core, lease.attempt, lease.keys.part("lease:history")]
    return world.call("ffsuper_report_crash", keys, changed({**fence(lease), "report": REPORT}, changes))


@pytest.mark.parametrize("report", [REPORT, "", "é \xff"])
def test_a_report_is_stored_with_the_attempt_and_nothing_else_changes(world: World, report: str) -> None:
    lease = claim(world)
    poison(world, lease.keys.core, keep=GUARDED)
    poison(world, lease.attempt, keep=())
    with world.changes() as c:
        assert report_crash(world, lease, report=report.encode("latin-1")) == [1, "OK"]
    assert c.written == {lease.attempt: {"crash_report": report}}
    assert c.removed == {}


def test_a_repeated_report_changes_nothing_and_a_later_one_replaces_it(world: World) -> None:
    lease = claim(world)
    report_crash(world, lease)
    with world.unchanged():
        assert report_crash(world, lease) == [1, "OK"]
    report_crash(world, lease, report="{}")
    assert world.value(lease.attempt)["crash_report"] == "{}"


def test_the_failure_that_follows_keeps_the_report_and_the_next_attempt_has_none(world: World) -> None:
    lease = claim(world)
    report_crash(world, lease)
    assert fail(world, lease, RETRY)[2] == "retry_scheduled"
    assert world.value(lease.attempt)["crash_report"] == REPORT
    assert promote(world, lease.keys, lease.keys.id, world.now_ms())[:2] == [1, "OK"]
    grant(world, lease.keys)
    retry = claimed(lease.keys, call_claim(world, lease.keys))
    assert (retry.index, "crash_report" in world.value(retry.attempt)) == (1, False)


def test_an_attempt_whose_record_has_gone_gets_the_report_all_the_same(world: World) -> None:
    lease = claim(world)
    world.redis.delete(lease.attempt)
    assert report_crash(world, lease) == [1, "OK"]
    assert world.value(lease.attempt) == {"crash_report": REPORT}


# --- refusals -----------------------------------------------------------------------------------------------------


def test_a_report_about_an_unknown_execution_is_refused(world: World) -> None:
    lease = claim(world)
    world.redis.delete(lease.keys.core)
    with world.unchanged():
        assert report_crash(world, lease) == [0, "execution_not_found"]


def test_a_report_after_the_outcome_is_refused(world: World) -> None:
    lease = claim(world)
    fail(world, lease)
    with world.unchanged():
        assert report_crash(world, lease) == [0, "execution_not_active", "failed", "1"]


def test_a_report_under_a_revoked_lease_is_refused(world: World) -> None:
    lease = claim(world)
    revoke(world, lease.keys, lease.execution_id)
    with world.unchanged():
        assert report_crash(world, lease) == [0, "lease_revoked"]


def test_a_report_under_a_lease_that_has_run_out_is_refused_and_the_lease_marked_as_by_every_holder(
    world: World,
) -> None:
    lease = claim(world)
    put(world, lease.keys.core, **OUTDATED)
    assert report_crash(world, lease) == [0, "lease_expired"]
    assert world.value(lease.keys.core)["ownership_state"] == "lease_expired_reclaimable"
    assert "crash_report" not in world.value(lease.attempt)
    with world.unchanged():
        assert report_crash(world, lease) == [0, "lease_expired"]


@pytest.mark.parametrize(
    "wrong", [{"lease_id": "other"}, {"lease_epoch": "2"}, {"lease_epoch": "01"}, {"attempt_id": "other"}]
)
def test_a_report_under_another_lease_epoch_or_attempt_is_stale(world: World, wrong: dict[str, str]) -> None:
    lease = claim(world)
    with world.unchanged():
        assert report_crash(world, lease, **wrong) == [0, "stale_lease"]


@pytest.mark.parametrize("first_absent", ["execution_id", "lease_id", "lease_epoch", "attempt_id", "report"])
def test_absent_arguments_are_refused(world: World, first_absent: str) -> None:
    lease = claim(world)
    with world.unchanged():
        reply = report_crash(world, lease, **{first_absent: UNSET})
        assert reply == [0, "invalid_input", "report must be given, got: nil"]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_keys_are_refused(world: World, count: int) -> None:
    lease = claim(world)
    with world.unchanged():
        reply = report_crash(WithKeys(world, count), lease)
        assert reply == [0, "invalid_input", f"KEYS must be 3, got: {count}"]


@pytest.mark.parametrize("damaged", ["core", "attempt"])
def test_a_key_of_another_kind_is_left_as_it_is(world: World, damaged: str) -> None:
    lease = claim(world, create(world))
    key = lease.keys.core if damaged == "core" else lease.attempt
    world.redis.delete(key)
    world.redis.set(key, "x")
    with world.unchanged():
        assert "WRONGTYPE" in report_crash(WithKeys(world, 3), lease)
