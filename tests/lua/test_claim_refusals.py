"""What ff_claim_execution refuses: protocol 02, section 6.2."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lua.executions import CLAIM, call_claim, claimable, new_keys
from tests.lua.suspensions import UNSET, put
from tests.lua.world import World


@pytest.mark.parametrize("text", ["", "soon", UNSET])
def test_a_ttl_that_is_no_number_is_refused_first(world: World, text: Any) -> None:
    with world.unchanged():
        reply = call_claim(world, new_keys(), lease_ttl_ms=text, renew_before_ms="x")
    told = "nil" if text is UNSET else text
    assert reply == [0, "invalid_input", f"lease_ttl_ms must be a number, got: {told}"]


@pytest.mark.parametrize("text", ["", "soon", UNSET])
def test_a_renewal_time_that_is_no_number_is_refused_next(world: World, text: Any) -> None:
    with world.unchanged():
        reply = call_claim(world, new_keys(), renew_before_ms=text)
    told = "nil" if text is UNSET else text
    assert reply == [0, "invalid_input", f"renew_before_ms must be a number, got: {told}"]


def test_an_unknown_execution_is_refused(world: World) -> None:
    with world.unchanged():
        assert call_claim(world, new_keys(), attempt_id=UNSET) == [0, "execution_not_found"]


REFUSALS: list[tuple[dict[str, str], str]] = [
    ({"lifecycle_phase": "active"}, "execution_not_leaseable"),
    ({"ownership_state": "leased"}, "lease_conflict"),
    ({"eligibility_state": "blocked_by_route"}, "execution_not_leaseable"),
    ({"terminal_outcome": "failed"}, "execution_not_leaseable"),
    ({"attempt_state": "running_attempt"}, "active_attempt_exists"),
]


@pytest.mark.parametrize("step", range(len(REFUSALS)))
def test_states_are_refused_in_the_protocols_order(world: World, step: int) -> None:
    wrong: dict[str, str] = {}
    for fields, _ in REFUSALS[step:]:
        wrong |= fields
    keys = claimable(world, **wrong)
    world.redis.delete(keys.part("claim_grant"))
    with world.unchanged():
        assert call_claim(world, keys, attempt_id=UNSET) == [0, REFUSALS[step][1]]


def test_an_interrupted_attempt_is_refused_before_the_grant_is_looked_at(world: World) -> None:
    keys = claimable(world, attempt_state="attempt_interrupted")
    world.redis.delete(keys.part("claim_grant"))
    with world.unchanged():
        assert call_claim(world, keys, attempt_id=UNSET) == [0, "use_claim_resumed_execution"]


@pytest.mark.parametrize("damage", [{}, {"worker_id": "another"}, {"worker_id": ""}])
def test_a_grant_that_is_not_there_or_another_workers_is_refused(world: World, damage: dict[str, str]) -> None:
    keys = claimable(world)
    if damage:
        put(world, keys.part("claim_grant"), grant_expires_at="5", **damage)
    else:
        world.redis.delete(keys.part("claim_grant"))
    with world.unchanged():
        assert call_claim(world, keys, attempt_id=UNSET) == [0, "invalid_claim_grant"]


def test_a_grant_is_the_workers_whatever_its_instance_and_lane(world: World) -> None:
    keys = claimable(world)
    assert call_claim(world, keys, worker_instance_id="w2", lane_id="other")[1] == "OK"
    assert world.value(keys.partition.worker_leases("w2")) == {keys.id}


def test_a_grant_that_is_over_is_refused_and_kept(world: World) -> None:
    keys = claimable(world)
    put(world, keys.part("claim_grant"), grant_expires_at="1700000000000")
    with world.unchanged():
        assert call_claim(world, keys, attempt_id=UNSET) == [0, "claim_grant_expired"]


def test_a_grant_without_an_end_is_good(world: World) -> None:
    keys = claimable(world)
    put(world, keys.part("claim_grant"), grant_expires_at="")
    assert call_claim(world, keys)[1] == "OK"


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"attempt_id": UNSET}, "attempt_id must be given, got: nil"),
        ({"lease_ttl_ms": "nan"}, "lease_ttl_ms must be a number, got: nan"),
        ({"attempt_timeout_ms": "soon"}, "attempt_timeout_ms must be a number, got: soon"),
        ({"attempt_timeout_ms": "nan"}, "attempt_timeout_ms must be a number, got: nan"),
        ({"execution_deadline": "soon"}, "execution_deadline must be a number, got: soon"),
        ({"execution_deadline": "nan"}, "execution_deadline must be a number, got: nan"),
    ],
)
def test_arguments_that_the_reference_raises_on_half_way_are_refused_before_the_first_write(
    world: World, changes: dict[str, Any], detail: str
) -> None:
    keys = claimable(world)
    with world.unchanged():
        assert call_claim(world, keys, **changes) == [0, "invalid_input", detail]


@pytest.mark.parametrize("name", list(CLAIM)[:7])
def test_too_few_arguments_are_refused(world: World, name: str) -> None:
    keys = claimable(world)
    changes: dict[str, Any] = {name: UNSET}
    with world.unchanged():
        assert call_claim(world, keys, **changes)[:2] == [0, "invalid_input"]


@pytest.mark.parametrize("name", ["worker_id", "worker_instance_id", "lane_id", "lease_id", "attempt_id"])
def test_empty_texts_are_stored_as_they_are(world: World, name: str) -> None:
    keys = claimable(world)
    put(world, keys.part("claim_grant"), **({"worker_id": ""} if name == "worker_id" else {"note": "any"}))
    changes: dict[str, Any] = {name: ""}
    assert call_claim(world, keys, **changes)[1] == "OK"
