"""ff_issue_claim_grant and ff_issue_reclaim_grant: protocol 05, sections 2 and 6."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ffsuper.store.keys import ExecutionKeys
from tests.lua.executions import (
    GRANT,
    LANE,
    POOL,
    WORKER,
    call_grant,
    call_reclaim_grant,
    claim,
    create,
    lane_key,
    new_keys,
)
from tests.lua.suspensions import UNSET, nothing_published, put
from tests.lua.world import World

Grant = Callable[..., Any]
MANY = ",".join(f"t{number:03}" for number in range(257))
LONG = "x" * 4097


def claimable(world: World, **core: str) -> ExecutionKeys:
    """Create an execution that can be granted for a claim, then set fields of its record."""
    keys = create(world)
    if core:
        put(world, keys.core, **core)
    return keys


def reclaimable(world: World, **core: str) -> ExecutionKeys:
    """Claim an execution and set its record as an expired lease leaves it, then other fields."""
    keys = claim(world).keys
    put(world, keys.core, **{"ownership_state": "lease_expired_reclaimable", **core})
    return keys


both = pytest.mark.parametrize(
    ("call", "ready"), [(call_grant, claimable), (call_reclaim_grant, reclaimable)], ids=["claim", "reclaim"]
)
Ready = Callable[..., ExecutionKeys]


@both
def test_a_grant_is_written_with_its_end_as_expiry_and_nothing_else_changes(
    world: World, call: Grant, ready: Ready
) -> None:
    keys = ready(world)
    before = world.now_ms()
    with world.changes() as c, nothing_published(world):
        reply = call(
            world, keys, capability_hash="h", route_snapshot_json="{r}", admission_summary="s", capabilities="a"
        )
    now = int(c.written[keys.part("claim_grant")]["created_at"])
    assert reply == [1, "OK", keys.id]
    assert before <= now <= world.now_ms()
    assert c.removed == {}
    assert c.written == {
        keys.part("claim_grant"): {
            "worker_id": POOL,
            "worker_instance_id": WORKER,
            "lane_id": LANE,
            "capability_hash": "h",
            "route_snapshot_json": "{r}",
            "admission_summary": "s",
            "created_at": str(now),
            "grant_expires_at": str(now + 5000),
        }
    }
    assert world.expiries()[keys.part("claim_grant")] == now + 5000


@both
def test_the_last_three_arguments_may_be_absent(world: World, call: Grant, ready: Ready) -> None:
    keys = ready(world)
    assert call(world, keys, route_snapshot_json=UNSET) == [1, "OK", keys.id]
    grant = world.value(keys.part("claim_grant"))
    assert (grant["route_snapshot_json"], grant["admission_summary"]) == ("", "")


@both
def test_a_second_grant_is_refused_while_the_first_lives(world: World, call: Grant, ready: Ready) -> None:
    keys = ready(world)
    call(world, keys)
    with world.unchanged():
        assert call(world, keys) == [0, "grant_already_exists"]
    world.redis.delete(keys.part("claim_grant"))
    assert call(world, keys) == [1, "OK", keys.id]


@both
@pytest.mark.parametrize("ttl", ["0", "-1", "-1e15", "-1e16"])
def test_a_grant_that_is_over_at_once_is_granted_and_gone(world: World, call: Grant, ready: Ready, ttl: str) -> None:
    keys = ready(world)
    with world.unchanged():
        assert call(world, keys, grant_ttl_ms=ttl) == [1, "OK", keys.id]


@both
@pytest.mark.parametrize(("ttl", "offset"), [("0x1388", 5000), (" 5e3 ", 5000)])
def test_a_ttl_in_any_form_of_number_is_taken(world: World, call: Grant, ready: Ready, ttl: str, offset: int) -> None:
    keys = ready(world)
    call(world, keys, grant_ttl_ms=ttl)
    grant = world.value(keys.part("claim_grant"))
    assert int(grant["grant_expires_at"]) - int(grant["created_at"]) == offset


@both
def test_a_far_end_is_stored_in_text_form(world: World, call: Grant, ready: Ready) -> None:
    keys = ready(world)
    call(world, keys, grant_ttl_ms="1e15")
    expires_at = world.expiries()[keys.part("claim_grant")]
    assert world.value(keys.part("claim_grant"))["grant_expires_at"] == f"{expires_at:.14g}"


# --- refusals, in order -------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("ttl", ["", "soon", UNSET])
def test_a_ttl_that_is_no_number_is_refused_first(world: World, call: Grant, ready: Ready, ttl: Any) -> None:
    with world.unchanged():
        reply = call(world, new_keys(), grant_ttl_ms=ttl)
    text = "nil" if ttl is UNSET else ttl
    assert reply == [0, "invalid_input", f"grant_ttl_ms must be a number, got: {text}"]


@both
def test_an_unknown_execution_is_refused(world: World, call: Grant, ready: Ready) -> None:
    with world.unchanged():
        assert call(world, new_keys()) == [0, "execution_not_found"]


@pytest.mark.parametrize(
    "core",
    [
        {"lifecycle_phase": "active"},
        {"lifecycle_phase": "terminal"},
        {"lifecycle_phase": "suspended"},
        {"lifecycle_phase": "submitted"},
        {"eligibility_state": "not_eligible_until_time"},
        {"eligibility_state": "blocked_by_budget"},
        {"eligibility_state": ""},
    ],
)
def test_an_execution_that_is_not_eligible_is_refused_a_claim_grant(world: World, core: dict[str, str]) -> None:
    keys = claimable(world, required_capabilities="gpu", **core)
    put(world, keys.part("claim_grant"), worker_id="other")
    world.redis.zrem(lane_key(keys, "eligible"), keys.id)
    with world.unchanged():
        assert call_grant(world, keys, grant_ttl_ms="1.5") == [0, "execution_not_eligible"]


@pytest.mark.parametrize(
    "core",
    [
        {"lifecycle_phase": "runnable"},
        {"lifecycle_phase": "terminal"},
        {"ownership_state": "leased"},
        {"ownership_state": "unowned"},
        {"ownership_state": ""},
    ],
)
def test_an_execution_whose_lease_is_not_over_is_refused_a_reclaim_grant(world: World, core: dict[str, str]) -> None:
    keys = reclaimable(world, required_capabilities="gpu", **core)
    put(world, keys.part("claim_grant"), worker_id="other")
    with world.unchanged():
        assert call_reclaim_grant(world, keys, grant_ttl_ms="1.5") == [0, "execution_not_reclaimable"]


def test_a_revoked_lease_can_be_granted_for_a_reclaim(world: World) -> None:
    keys = reclaimable(world, ownership_state="lease_revoked")
    assert call_reclaim_grant(world, keys) == [1, "OK", keys.id]


@both
def test_an_earlier_grant_is_found_before_the_index_and_the_capabilities(
    world: World, call: Grant, ready: Ready
) -> None:
    keys = ready(world, required_capabilities="gpu")
    put(world, keys.part("claim_grant"), worker_id="other")
    world.redis.zrem(lane_key(keys, "eligible"), keys.id)
    with world.unchanged():
        assert call(world, keys, grant_ttl_ms="1.5") == [0, "grant_already_exists"]


def test_an_execution_that_is_not_in_the_eligible_index_is_refused_a_claim_grant(world: World) -> None:
    keys = claimable(world, required_capabilities="gpu")
    world.redis.zrem(lane_key(keys, "eligible"), keys.id)
    with world.unchanged():
        assert call_grant(world, keys, grant_ttl_ms="1.5") == [0, "execution_not_in_eligible_set"]


@both
@pytest.mark.parametrize(
    ("required", "offered", "detail"),
    [
        (LONG, LONG, "required:too_many_bytes"),
        (MANY, LONG, "required:too_many_tokens"),
        ("gpu", LONG, "worker:too_many_bytes"),
        ("gpu", MANY, "worker:too_many_tokens"),
        ("", LONG, "worker:too_many_bytes"),
        ("", MANY, "worker:too_many_tokens"),
        (",,", MANY, "worker:too_many_tokens"),
    ],
)
def test_capabilities_over_the_limits_are_refused(
    world: World, call: Grant, ready: Ready, required: str, offered: str, detail: str
) -> None:
    keys = ready(world, required_capabilities=required)
    with world.unchanged():
        reply = call(world, keys, capabilities=offered, grant_ttl_ms="1.5")
    assert reply == [0, "invalid_capabilities", detail]


@both
@pytest.mark.parametrize(
    ("required", "offered"),
    [
        ("gpu", "gpu"),
        ("gpu", "cuda,gpu"),
        ("a,b,b", ",b,,a,"),
        (",,", ""),
        ("", "anything"),
        (MANY[:-5], MANY[:-5]),
        ("x" * 4096, "x" * 4096),
        ("東京-gpu", "東京-gpu"),
    ],
)
def test_a_worker_with_all_required_tokens_is_granted(
    world: World, call: Grant, ready: Ready, required: str, offered: str
) -> None:
    keys = ready(world, required_capabilities=required)
    assert call(world, keys, capabilities=offered) == [1, "OK", keys.id]


@both
@pytest.mark.parametrize(
    ("required", "offered", "missing"),
    [
        ("gpu", "", "gpu"),
        ("gpu", UNSET, "gpu"),
        ("gpu", "GPU,gpu ,gp,gpux", "gpu"),
        ("zz,B,a,a,有", "a2", "B,a,zz,有"),
        ("a,b,c", "b", "a,c"),
    ],
)
def test_a_worker_that_lacks_tokens_is_refused_and_only_the_time_of_it_is_noted(
    world: World, call: Grant, ready: Ready, required: str, offered: Any, missing: str
) -> None:
    keys = ready(world, required_capabilities=required, last_capability_mismatch_at="5")
    before = world.now_ms()
    with world.changes() as c, nothing_published(world):
        # A TTL that no expiry can be made of is found later.
        reply = call(world, keys, capabilities=offered, grant_ttl_ms="1.5")
    noted = c.written[keys.core]["last_capability_mismatch_at"]
    assert decoded_missing(reply) == [0, "capability_mismatch", missing]
    assert before <= int(noted) <= world.now_ms()
    assert (c.written, c.removed) == ({keys.core: {"last_capability_mismatch_at": noted}}, {})


def decoded_missing(reply: Any) -> Any:
    """Return the reply with its detail read as UTF-8; the world reads bytes one by one."""
    return [reply[0], reply[1], reply[2].encode("latin-1").decode()]


@both
@pytest.mark.parametrize("ttl", ["1.5", "inf", "-inf", "nan", "1e17", "-1e18"])
def test_a_ttl_that_makes_no_expiry_is_refused_where_the_reference_leaves_a_grant_for_ever(
    world: World, call: Grant, ready: Ready, ttl: str
) -> None:
    keys = ready(world)
    with world.unchanged():
        reply = call(world, keys, grant_ttl_ms=ttl)
    assert reply == [0, "invalid_input", f"grant_ttl_ms must be an integer, got: {ttl}"]


@both
@pytest.mark.parametrize("name", list(GRANT)[:6])
def test_too_few_arguments_are_refused(world: World, call: Grant, ready: Ready, name: str) -> None:
    keys = ready(world)
    changes: dict[str, Any] = {name: UNSET}
    with world.unchanged():
        assert call(world, keys, **changes) == [0, "invalid_input", "grant_ttl_ms must be a number, got: nil"]
