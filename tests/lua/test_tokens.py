"""Waitpoint tokens: protocol 03 section 7 and 06 section 3."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.lua.lua_source import functions_of
from tests.lua.signals import buffer, deliver
from tests.lua.suspensions import (
    HMAC,
    KEYS,
    SECRET,
    WAITPOINT,
    WAITPOINT_2,
    WAITPOINT_KEY,
    create_pending,
    field,
    install_secret,
    put,
    put_active,
    signed,
    suspend,
)
from tests.lua.world import World

SHARED = Path(__file__).parent.parent.parent / "lua" / "shared"
ZEROS = "0" * 64
VECTORS = [
    ("k1", ZEROS, WAITPOINT, WAITPOINT_KEY, "1700000000000", "ca62551660daa55cc51b3acd38e2d48bca47391c"),
    ("k1", SECRET, WAITPOINT, WAITPOINT_KEY, "1700000000000", "62dd03ee9ae323cdd90a7617b501281284457348"),
    ("k1", SECRET.upper(), WAITPOINT, WAITPOINT_KEY, "1700000000000", "62dd03ee9ae323cdd90a7617b501281284457348"),
    ("2026-04", "ab", WAITPOINT, "approval/42", "1713100800150", "a0032195d45d76887dfee7e3c40be2d9dad891e2"),
    ("k2", "0b" * 64, WAITPOINT, WAITPOINT_KEY, "1700000000000", "4d54f582cc86b48aa39d14c09b8603f1aa6289b6"),
    ("k2", "aa" * 80, WAITPOINT, WAITPOINT_KEY, "1700000000000", "a441a0888b4cdf9bf6ea1520554201291002c2eb"),
    ("k1", "", WAITPOINT, WAITPOINT_KEY, "1700000000000", "ca62551660daa55cc51b3acd38e2d48bca47391c"),
    ("k1", ZEROS, WAITPOINT, "schlüssel|x", "1700000000001", "2a587856e6a85b3c3c02a628198bc79b30c64a1d"),
    ("k1", ZEROS, WAITPOINT, "", "0", "844550ae52fa2e2c395fed60a30a65981606d7e1"),
    ("kid-é", "deadbeef", WAITPOINT, WAITPOINT_KEY, "1700000000000", "a07ca7773d910e29d96877279d0b7255817acf15"),
    ("k1", "aabb", WAITPOINT_2, f"wpk:{WAITPOINT_2}", "1700000000000", "399f6b4b7fa6c0acb26b2e4a492396b49c01d64a"),
    (
        "k1",
        "00112233445566778899aabbccddeeff" * 2,
        WAITPOINT_2,
        f"wpk:{WAITPOINT_2}",
        "1700000000000",
        "9876ed074ed9a6500d7770ccc5fe4e1bf5d80c0d",
    ),
    ("k1", "33" * 80, WAITPOINT_2, f"wpk:{WAITPOINT_2}", "1700000000000", "8bc80936d93df0f7abb14a329fe1fc6e2fa591f5"),
]
DIGEST = signed().removeprefix("k1:")


def put_waitpoint(world: World, **fields: Any) -> None:
    """An active execution with a pending waitpoint whose token is ``signed()``."""
    put_active(world)
    record = {"state": "pending", "waitpoint_key": WAITPOINT_KEY, "created_at": "1700000000000", **fields}
    put(world, KEYS.waitpoint(WAITPOINT), **record)


def is_accepted(world: World, token: str, **changes: Any) -> bool:
    return bool(buffer(world, token, **changes)[:2] == [1, "OK"])


@pytest.mark.parametrize(("kid", "secret", "waitpoint_id", "waitpoint_key", "created_at", "digest"), VECTORS)
def test_the_protocols_vectors_are_accepted(
    world: World, kid: str, secret: str, waitpoint_id: str, waitpoint_key: str, created_at: str, digest: str
) -> None:
    put_active(world)
    install_secret(world, secret, kid)
    put(world, KEYS.waitpoint(waitpoint_id), state="pending", waitpoint_key=waitpoint_key, created_at=created_at)
    assert is_accepted(world, f"{kid}:{digest}", waitpoint_id=waitpoint_id)


@pytest.mark.parametrize(
    ("stored", "text"),
    [
        ("01700000000000", "1700000000000"),
        (" 1700000000000", "1700000000000"),
        ("1700000000000.0", "1700000000000"),
        ("1.7e12", "1700000000000"),
        ("99999999999999", "99999999999999"),
        ("100000000000000", "1e+14"),
        ("12345678901234567", "1.2345678901235e+16"),
        ("abc", "0"),
        ("", "0"),
    ],
)
def test_the_waitpoints_time_is_signed_in_its_text_form(world: World, stored: str, text: str) -> None:
    put_waitpoint(world, created_at=stored)
    assert is_accepted(world, signed(created_at=text))


@pytest.mark.parametrize("secret", [SECRET, SECRET.upper(), "ab", "", "aa" * 80])
def test_suspend_and_create_pending_mint_what_validation_accepts(world: World, secret: str) -> None:
    put_active(world)
    install_secret(world, secret)
    pending = create_pending(world, waitpoint_id=WAITPOINT_2, waitpoint_key="a|b")
    created_at = field(world, KEYS.waitpoint(WAITPOINT_2), "created_at")
    assert pending == [1, "OK", WAITPOINT_2, "a|b", signed(secret, WAITPOINT_2, "a|b", created_at)]
    reply = suspend(world)
    created_at = field(world, KEYS.waitpoint(WAITPOINT), "created_at")
    assert reply[5] == signed(secret, created_at=created_at)
    assert deliver(world, reply[5])[:2] == [1, "OK"]


@pytest.mark.parametrize("pair", [" 1", "1 ", "+1", "\t1", "01"])
def test_a_secret_is_read_like_lua_reads_hex_numbers(world: World, pair: str) -> None:
    put_waitpoint(world)
    install_secret(world, pair)
    assert is_accepted(world, signed("01"))


def test_a_negative_pair_of_a_secret_is_a_zero_byte(world: World) -> None:
    put_waitpoint(world)
    install_secret(world, "-1")
    assert is_accepted(world, signed("00"))


UNREADABLE = ["0x", "  ", "zz", "abc", "a", "--", "é"]


@pytest.mark.parametrize("secret", UNREADABLE)
def test_a_secret_that_is_no_hex_neither_mints_nor_validates(world: World, secret: str) -> None:
    put_waitpoint(world)
    install_secret(world, secret)
    with world.unchanged():
        assert suspend(world, waitpoint_id=WAITPOINT_2) == [0, "invalid_secret"]
        assert create_pending(world, waitpoint_id=WAITPOINT_2) == [0, "invalid_secret"]
    assert deliver(world, signed()) == [0, "invalid_secret"]
    assert buffer(world, signed()) == [0, "invalid_secret"]


def test_nothing_is_minted_without_a_current_secret(world: World) -> None:
    put_active(world)
    for gone in ("secret:k1", "current_kid"):
        world.redis.hdel(HMAC, gone)
        with world.unchanged():
            assert suspend(world) == [0, "hmac_secret_not_initialized"]
            assert create_pending(world) == [0, "hmac_secret_not_initialized"]


def test_nothing_is_minted_without_the_key_of_the_secrets(world: World) -> None:
    put_active(world)
    with world.unchanged():
        assert create_pending(world, hmac_secrets=None) == [0, "invalid_keys_missing_hmac"]
        assert create_pending(world, hmac_secrets="") == [0, "invalid_keys_missing_hmac"]


@pytest.mark.parametrize("call", [deliver, buffer])
@pytest.mark.parametrize(
    ("token", "code"),
    [
        ("", "missing_token"),
        (DIGEST, "invalid_token"),
        (f":{DIGEST}", "invalid_token"),
        ("k1:", "invalid_token"),
        (":", "invalid_token"),
        (f"k1:{DIGEST[:39]}", "invalid_token"),
        (f"k1:{DIGEST}0", "invalid_token"),
        (f"k1:x:{DIGEST}", "invalid_token"),
        (f"k1:{DIGEST.upper()}", "invalid_token"),
        (f"k9:{DIGEST}", "invalid_token"),
        (signed(ZEROS), "invalid_token"),
        (signed(waitpoint_id=WAITPOINT_2), "invalid_token"),
    ],
)
def test_a_wrong_token_is_refused_and_stamped_on_the_record(world: World, call: Any, token: str, code: str) -> None:
    put_waitpoint(world)
    before = world.now_ms()
    with world.changes() as c:
        assert call(world, token) == [0, code]
    stamp = c.written.pop(KEYS.core)
    assert stamp.keys() == {"last_hmac_validation_failed_at"}
    assert before <= int(stamp["last_hmac_validation_failed_at"]) <= world.now_ms()
    assert (c.written, c.removed) == ({}, {})


@pytest.mark.parametrize("call", [deliver, buffer])
def test_a_digest_that_is_wrong_in_any_one_place_is_refused(world: World, call: Any) -> None:
    put_waitpoint(world)
    for position, right in enumerate(DIGEST):
        for wrong in ("0" if right != "0" else "1", "\0", " "):
            token = f"k1:{DIGEST[:position]}{wrong}{DIGEST[position + 1 :]}"
            assert call(world, token) == [0, "invalid_token"]


def test_digests_are_compared_to_their_end_wherever_they_differ() -> None:
    functions = {one.name: one for one in functions_of(SHARED / "70_tokens.lua")}
    body = functions["same_digest"].body
    words = re.findall(r"[A-Za-z_]+", body)
    # One way through it: nothing that leaves the loop early, or takes another way for one byte than for another.
    assert {"if", "break", "goto", "while", "repeat", "and", "or", "error"}.isdisjoint(words)
    assert words.count("return") == 1
    assert words.count("for") == 1
    assert "for position = 1, DIGEST_CHARACTERS do" in body
    assert body.rstrip().splitlines()[-1].strip() == "return difference == 0"


def test_a_digest_is_compared_in_no_other_way() -> None:
    functions = [one for path in sorted(SHARED.parent.rglob("*.lua")) for one in functions_of(path)]
    assert [one.name for one in functions if "same_digest(" in one.body] == ["token_fault"]
    assert sorted({one.name for one in functions if "token_digest(" in one.body}) == ["mint_token", "token_fault"]
    (fault,) = [one for one in functions if one.name == "token_fault"]
    assert re.findall(r"\bexpected\b.*", fault.body) == [
        "expected = token_digest(secret, waitpoint_id, waitpoint_key, created_at)",
        "expected) and 'invalid_token' or nil",
    ]


def test_the_key_of_the_secrets_is_looked_for_before_the_token(world: World) -> None:
    put_waitpoint(world)
    assert deliver(world, "", hmac_secrets="") == [0, "invalid_keys_missing_hmac"]
    assert buffer(world, "", hmac_secrets="") == [0, "invalid_keys_missing_hmac"]


def test_a_malformed_token_is_found_before_missing_secrets(world: World) -> None:
    put_waitpoint(world)
    world.redis.delete(HMAC)
    assert buffer(world, "") == [0, "missing_token"]
    assert buffer(world, "k1:short") == [0, "invalid_token"]
    assert buffer(world, signed()) == [0, "hmac_secret_not_initialized"]
    put(world, HMAC, **{"secret:k1": SECRET})
    assert buffer(world, signed()) == [0, "hmac_secret_not_initialized"]


def test_a_current_kid_without_a_secret_is_an_invalid_token_even_with_an_expiry(world: World) -> None:
    put_waitpoint(world)
    world.redis.hdel(HMAC, "secret:k1")
    put(world, HMAC, **{"expires_at:k1": "1"})
    assert buffer(world, signed()) == [0, "invalid_token"]


@pytest.mark.parametrize("expires_at", [None, "", "soon", "0", "-5", "1700000000000"])
def test_a_rotated_out_secret_without_a_future_expiry_is_expired_before_it_is_read(
    world: World, expires_at: str | None
) -> None:
    put_waitpoint(world)
    install_secret(world, ZEROS, "k2")
    put(world, HMAC, **{"secret:k1": "zz"})
    if expires_at is not None:
        put(world, HMAC, **{"expires_at:k1": expires_at})
    assert buffer(world, signed()) == [0, "token_expired"]


@pytest.mark.parametrize("expires_at", ["4102444800000", "inf", "nan", " 4102444800000 "])
def test_several_rotated_out_secrets_are_accepted_until_they_expire(world: World, expires_at: str) -> None:
    put_waitpoint(world)
    install_secret(world, "ab", "k2")
    install_secret(world, ZEROS, "k3")
    put(world, HMAC, **{"expires_at:k1": expires_at, "expires_at:k2": expires_at})
    assert is_accepted(world, signed())
    assert is_accepted(world, signed("ab", kid="k2"))
    assert is_accepted(world, signed(ZEROS, kid="k3"))


def test_the_current_secret_never_expires(world: World) -> None:
    put_waitpoint(world)
    put(world, HMAC, **{"expires_at:k1": "1", "previous_kid": "k1", "previous_expires_at": "1"})
    assert is_accepted(world, signed())
