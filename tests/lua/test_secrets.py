"""Secrets of waitpoint tokens: their change, and how long tokens of the former ones are good."""

from __future__ import annotations

from typing import Any

from tests.lua.signals import deliver
from tests.lua.suspensions import HMAC, KEYS, SECRET, install_secret, put_suspended
from tests.lua.world import World

OTHER = "cd" * 32
GRACE_MS = 60_000


def rotate(world: World, kid: str = "k2", secret: str = OTHER, grace_ms: int = GRACE_MS) -> Any:
    return world.call("ffsuper_rotate_secret", [HMAC, KEYS.partition.rotate_lock], [kid, secret, grace_ms])


def install(world: World, secret: str = OTHER) -> Any:
    return world.call("ffsuper_install_secret", [HMAC], ["k9", secret])


def test_a_partition_gets_one_secret_and_keeps_it(world: World) -> None:
    assert install(world) == [1, "OK", "installed"]
    assert install(world, "ab") == [1, "OK", "kept"]
    assert world.value(HMAC) == {"current_kid": "k9", "secret:k9": OTHER}


def test_a_secret_that_was_lost_is_replaced_under_its_name(world: World) -> None:
    world.command("HSET", HMAC, "current_kid", "k1")
    assert install(world) == [1, "OK", "repaired"]
    assert world.value(HMAC) == {"current_kid": "k1", "secret:k1": OTHER}


def test_a_new_secret_becomes_the_current_one_and_the_former_ages(world: World) -> None:
    install_secret(world)
    now_ms = world.now_ms()
    assert rotate(world) == [1, "OK", "rotated"]
    stored = world.value(HMAC)
    expires_at = int(stored["previous_expires_at"])
    assert now_ms + GRACE_MS <= expires_at <= now_ms + GRACE_MS + 5_000
    assert stored == {
        "current_kid": "k2",
        "secret:k1": SECRET,
        "secret:k2": OTHER,
        "previous_kid": "k1",
        "previous_expires_at": str(expires_at),
        "expires_at:k1": str(expires_at),
    }


def test_the_first_secret_has_no_former_one(world: World) -> None:
    assert rotate(world) == [1, "OK", "rotated"]
    assert world.value(HMAC) == {"current_kid": "k2", "secret:k2": OTHER}


def test_a_repeat_changes_nothing(world: World) -> None:
    install_secret(world)
    rotate(world)
    before = world.value(HMAC)
    assert rotate(world) == [1, "OK", "kept"]
    assert world.value(HMAC) == before


def test_a_secret_that_was_lost_is_put_back(world: World) -> None:
    world.command("HSET", HMAC, "current_kid", "k2")
    assert rotate(world) == [1, "OK", "rotated"]
    assert world.value(HMAC) == {"current_kid": "k2", "secret:k2": OTHER}


def test_a_key_id_keeps_its_secret(world: World) -> None:
    install_secret(world)
    assert rotate(world, "k1") == [0, "kid_in_use", "k1"]
    assert world.value(HMAC) == {"current_kid": "k1", "secret:k1": SECRET}


def test_while_another_server_rotates_nothing_is_done(world: World) -> None:
    install_secret(world)
    world.command("SET", KEYS.partition.rotate_lock, "1")
    assert rotate(world) == [1, "OK", "in_progress"]
    assert world.value(HMAC)["current_kid"] == "k1"


def test_secrets_whose_time_is_over_are_dropped(world: World) -> None:
    install_secret(world)
    for kid, expires_at in (("old", "1"), ("bad", "nonsense"), ("good", str(world.now_ms() + GRACE_MS))):
        world.command("HSET", HMAC, f"expires_at:{kid}", expires_at, f"secret:{kid}", "ab")
    rotate(world)
    kids = {name for name in world.value(HMAC) if name.startswith("secret:")}
    assert kids == {"secret:k1", "secret:k2", "secret:good"}


def test_a_former_secret_that_becomes_current_again_has_a_grace_time_of_its_own_later(world: World) -> None:
    install_secret(world)
    rotate(world)
    assert rotate(world, "k1", SECRET) == [1, "OK", "rotated"]
    assert "expires_at:k1" not in world.value(HMAC)
    world.command("HSET", HMAC, "expires_at:k2", "1")
    assert rotate(world, "k3", "ab" * 32) == [1, "OK", "rotated"]
    assert world.value(HMAC)["secret:k1"] == SECRET


def test_tokens_of_the_former_secret_are_good_for_their_time(world: World) -> None:
    token = put_suspended(world)
    rotate(world)
    assert deliver(world, token)[:2] == [1, "OK"]


def test_tokens_of_the_former_secret_expire(world: World) -> None:
    token = put_suspended(world)
    rotate(world, grace_ms=1)
    world.command("HSET", HMAC, "expires_at:k1", world.now_ms() - 1)
    assert deliver(world, token) == [0, "token_expired"]
