"""ff_create_pending_waitpoint and ff_close_waitpoint: protocol 06 sections 8 and 9."""

from __future__ import annotations

import pytest

from tests.lua.suspensions import (
    EXECUTION,
    FAR_MS,
    HMAC,
    KEYS,
    PENDING,
    UNSET,
    WAITPOINT,
    WAITPOINT_2,
    WAITPOINT_KEY,
    create_pending,
    field,
    nothing_published,
    put,
    put_active,
    put_pending,
    put_suspended,
    signed,
)
from tests.lua.world import Arg, World

KEY = KEYS.waitpoint(WAITPOINT)


@pytest.mark.parametrize("expires_at", [FAR_MS, "1e3", " -7 ", "inf", "1.5"])
def test_creating_a_pending_waitpoint_writes_exactly_this(world: World, expires_at: Arg) -> None:
    put_active(world)
    before = world.now_ms()
    with world.changes() as c, nothing_published(world):
        reply = create_pending(world, expires_at=expires_at)
    now = c.written[KEY]["created_at"]
    assert before <= int(now) <= world.now_ms()
    token = signed(created_at=now)
    assert reply == [1, "OK", WAITPOINT, WAITPOINT_KEY, token]
    assert c.written == {
        KEY: {
            "waitpoint_id": WAITPOINT,
            "execution_id": EXECUTION,
            "attempt_index": "0",
            "suspension_id": "",
            "waitpoint_key": WAITPOINT_KEY,
            "waitpoint_token": token,
            "state": "pending",
            "created_at": now,
            "activated_at": "",
            "satisfied_at": "",
            "closed_at": "",
            "expires_at": str(expires_at),
            "close_reason": "",
            "signal_count": "0",
            "matched_signal_count": "0",
            "last_signal_at": "",
        },
        PENDING: {WAITPOINT: float(expires_at)},
    }
    assert c.removed == {}


def test_an_unknown_execution_is_refused(world: World) -> None:
    with world.unchanged():
        assert create_pending(world, attempt_index=UNSET) == [0, "execution_not_found"]


@pytest.mark.parametrize(
    ("core", "changes", "reply"),
    [
        ({"lifecycle_phase": "runnable", "ownership_state": "unowned"}, {}, ["execution_not_active", "none", "1"]),
        ({"ownership_state": "lease_revoked"}, {}, ["no_active_lease"]),
        ({"ownership_state": "lease_expired_reclaimable"}, {}, ["no_active_lease"]),
        ({}, {}, ["stale_lease"]),
        ({}, {"attempt_index": "00"}, ["stale_lease"]),
        ({}, {"attempt_index": UNSET}, ["stale_lease"]),
        ({}, {"attempt_index": "0"}, ["waitpoint_already_exists"]),
    ],
)
@pytest.mark.parametrize("state", ["pending", "active"])
def test_refusals_come_in_the_protocols_order(
    world: World, core: dict[str, str], changes: dict[str, Arg], reply: list[str], state: str
) -> None:
    put_active(world, **core)
    put(world, KEY, state=state)
    world.redis.delete(HMAC)
    with world.unchanged():
        assert create_pending(world, **{"attempt_index": "1", "expires_at": "x", **changes}) == [0, *reply]


def test_details_of_an_execution_that_is_not_active_are_empty_when_missing(world: World) -> None:
    put(world, KEYS.core, lifecycle_phase="terminal")
    assert create_pending(world) == [0, "execution_not_active", "", ""]


def test_missing_secrets_are_found_before_a_bad_expiry(world: World) -> None:
    put_active(world)
    world.redis.delete(HMAC)
    with world.unchanged():
        assert create_pending(world, waitpoint_id=UNSET) == [0, "hmac_secret_not_initialized"]


@pytest.mark.parametrize("expires_at", ["", "soon", "nan"])
def test_an_expiry_that_is_no_number_is_refused_where_the_reference_leaves_a_waitpoint_out_of_the_index(
    world: World, expires_at: str
) -> None:
    put_active(world)
    with world.unchanged():
        reply = create_pending(world, expires_at=expires_at)
    assert reply == [0, "invalid_input", f"expires_at must be a number, got: {expires_at}"]


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("waitpoint_id", "waitpoint_id must be given, got: nil"),
        ("waitpoint_key", "waitpoint_key must be given, got: nil"),
        ("expires_at", "expires_at must be a number, got: nil"),
    ],
)
def test_a_call_that_is_too_short_is_refused_with_the_first_absent_argument(
    world: World, name: str, detail: str
) -> None:
    put_active(world)
    with world.unchanged():
        assert create_pending(world, **{name: UNSET}) == [0, "invalid_input", detail]


def test_creating_it_twice_is_refused(world: World) -> None:
    put_active(world)
    create_pending(world)
    with world.unchanged():
        assert create_pending(world) == [0, "waitpoint_already_exists"]


def test_the_lease_is_not_checked_beyond_its_state(world: World) -> None:
    put_active(world, lease_expires_at="1")
    assert create_pending(world)[:2] == [1, "OK"]


@pytest.mark.parametrize("state", ["closed", "expired", "other", None])
def test_the_id_of_a_waitpoint_that_is_not_open_can_be_used_again(world: World, state: str | None) -> None:
    put_active(world)
    put(world, KEY, stray="1", **({"state": state} if state else {}))
    assert create_pending(world)[:2] == [1, "OK"]
    assert (field(world, KEY, "state"), field(world, KEY, "stray")) == ("pending", "1")


def close(world: World, *args: Arg) -> list[str]:
    reply: list[str] = world.call("ff_close_waitpoint", [KEYS.core, KEY, PENDING], list(args))
    return reply


@pytest.mark.parametrize(
    ("args", "reason"), [((), "proactive_close"), (("",), ""), (("never_committed",), "never_committed")]
)
def test_closing_a_pending_waitpoint_writes_exactly_this(world: World, args: tuple[str, ...], reason: str) -> None:
    put_active(world)
    put_pending(world)
    put(world, KEY, closed_at="?", close_reason="?")
    before = world.now_ms()
    with world.changes() as c, nothing_published(world):
        assert close(world, WAITPOINT, *args) == [1, "OK"]
    now = c.written[KEY]["closed_at"]
    assert before <= int(now) <= world.now_ms()
    assert c.written == {KEY: {"state": "closed", "closed_at": now, "close_reason": reason}}
    assert c.removed == {PENDING: {WAITPOINT: FAR_MS}}
    with world.unchanged():
        assert close(world, WAITPOINT, *args) == [1, "OK", "already_closed"]


def test_closing_an_active_waitpoint_leaves_the_suspension_as_it_is(world: World) -> None:
    put_suspended(world)
    with world.changes() as c:
        assert close(world, WAITPOINT) == [1, "OK"]
    assert c.written.keys() == {KEY}


NOT_OPEN = [
    ({"state": "closed"}, [1, "OK", "already_closed"]),
    ({"state": "expired"}, [1, "OK", "already_closed"]),
    ({"state": "other"}, [0, "waitpoint_not_open"]),
    ({"state": ""}, [0, "waitpoint_not_open"]),
    ({"stray": "1"}, [0, "waitpoint_not_open"]),
    ({}, [0, "waitpoint_not_found"]),
]


@pytest.mark.parametrize(("record", "reply"), NOT_OPEN)
def test_a_waitpoint_that_is_not_open_leaves_the_expiry_index_where_the_reference_retries_it_for_ever(
    world: World, record: dict[str, str], reply: list[object]
) -> None:
    if record:
        put(world, KEY, **record)
    world.command("ZADD", PENDING, 1, WAITPOINT, 2, WAITPOINT_2)
    with world.changes() as c:
        assert close(world, WAITPOINT, "never_committed") == reply
    assert (c.written, c.removed) == ({}, {PENDING: {WAITPOINT: 1}})
    with world.unchanged():
        assert close(world, WAITPOINT, "never_committed") == reply


@pytest.mark.parametrize(("record", "reply"), NOT_OPEN)
def test_an_absent_waitpoint_id_changes_no_answer_about_a_waitpoint_that_is_not_open(
    world: World, record: dict[str, str], reply: list[object]
) -> None:
    if record:
        put(world, KEY, **record)
    with world.unchanged():
        assert close(world) == reply


def test_an_open_waitpoint_is_not_closed_without_its_id(world: World) -> None:
    put_active(world)
    put_pending(world)
    with world.unchanged():
        assert close(world) == [0, "invalid_input", "waitpoint_id must be given, got: nil"]
