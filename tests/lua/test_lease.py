"""ff_renew_lease: protocol 03, section 10.1."""

from __future__ import annotations

from tests.lua.world import World


def test_version_is_the_protocols_as_bare_text(world: World) -> None:
    assert world.call("ff_version", [], []) == "5"


def test_renewing_an_unknown_execution_is_refused(world: World) -> None:
    with world.unchanged():
        reply = world.call("ff_renew_lease", ["a", "b", "c", "d"], ["e", "0", "a", "l", "1", "1000", "5000"])
    assert reply == [0, "execution_not_found"]


def test_a_ttl_that_is_no_number_is_refused_before_the_record_is_read(world: World) -> None:
    reply = world.call("ff_renew_lease", ["a", "b", "c", "d"], ["e", "0", "a", "l", "1", "soon", "5000"])
    assert reply == [0, "invalid_input", "lease_ttl_ms must be a number, got: soon"]
