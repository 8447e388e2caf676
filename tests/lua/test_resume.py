"""ff_resume_execution: protocol 06 section 7."""

from __future__ import annotations

import pytest

from tests.lua.suspensions import (
    CREATED_AT,
    EXECUTION,
    FAR_MS,
    KEYS,
    SCORE,
    SUSPENSION,
    SUSPENSION_TIMEOUT,
    WAITPOINT,
    field,
    lane,
    nothing_published,
    put,
    put_suspended,
    resume,
)
from tests.lua.world import World


def put_poisoned(world: World, **suspension: str) -> None:
    """A suspension with a timeout, on a record whose fields that a resume must write hold a '?'."""
    put_suspended(world, **suspension)
    names = ("ownership_state", "eligibility_state", "blocking_reason", "blocking_detail", "terminal_outcome")
    more = ("attempt_state", "public_state", "last_transition_at", "last_mutation_at")
    put(world, KEYS.core, **dict.fromkeys(names + more, "?"))
    world.command("ZADD", SUSPENSION_TIMEOUT, FAR_MS, EXECUTION)


def resumed_core(now: str) -> dict[str, str]:
    return {
        "lifecycle_phase": "runnable",
        "ownership_state": "unowned",
        "eligibility_state": "eligible_now",
        "blocking_reason": "waiting_for_worker",
        "blocking_detail": "",
        "terminal_outcome": "none",
        "attempt_state": "attempt_interrupted",
        "public_state": "waiting",
        "current_suspension_id": "",
        "current_waitpoint_id": "",
        "last_transition_at": now,
        "last_mutation_at": now,
    }


REMOVED = {lane("suspended"): {EXECUTION: 9999999999999}, SUSPENSION_TIMEOUT: {EXECUTION: FAR_MS}}


@pytest.mark.parametrize(
    "args", [(EXECUTION,), (EXECUTION, "operator"), (EXECUTION, "", "0"), (EXECUTION, "x", "-5")]
)
def test_resuming_makes_the_execution_claimable_and_closes_its_waitpoint(world: World, args: tuple[str, ...]) -> None:
    put_poisoned(world)
    before = world.now_ms()
    with world.changes() as c, nothing_published(world):
        assert resume(world, *args) == [1, "OK", "waiting"]
    now = c.written[KEYS.core]["last_mutation_at"]
    assert before <= int(now) <= world.now_ms()
    closing = {"satisfied_at": now, "closed_at": now, "close_reason": "resumed"}
    assert c.written == {
        KEYS.core: resumed_core(now),
        lane("eligible"): {EXECUTION: SCORE},
        KEYS.waitpoint(WAITPOINT): {"state": "closed", **closing},
        SUSPENSION: closing,
    }
    assert c.removed == REMOVED
    with world.unchanged():
        assert resume(world) == [0, "execution_not_suspended"]


@pytest.mark.parametrize(
    ("delay", "text", "delay_ms"), [("250", "250", 250), ("1e3", "1000", 1000), (" 0x10 ", "16", 16)]
)
def test_a_resume_delay_writes_delay_until_so_that_the_execution_can_be_promoted(
    world: World, delay: str, text: str, delay_ms: int
) -> None:
    put_poisoned(world)
    with world.changes() as c:
        assert resume(world, EXECUTION, "operator", delay) == [1, "OK", "delayed"]
    now = c.written[KEYS.core]["last_mutation_at"]
    due = int(now) + delay_ms
    assert c.written[KEYS.core] == {
        **resumed_core(now),
        "eligibility_state": "not_eligible_until_time",
        "blocking_reason": "waiting_for_resume_delay",
        "blocking_detail": f"resume delay {text}ms",
        "public_state": "delayed",
        "delay_until": str(due),
    }
    assert c.written[lane("delayed")] == {EXECUTION: due}
    assert lane("eligible") not in c.written
    assert c.removed == REMOVED


def test_a_fraction_of_a_millisecond_is_a_delay(world: World) -> None:
    put_poisoned(world)
    assert resume(world, EXECUTION, "operator", "0.5") == [1, "OK", "delayed"]
    core = world.value(KEYS.core)
    assert core["blocking_detail"] == "resume delay 0.5ms"
    assert core["delay_until"] == core["last_mutation_at"] + ".5"
    assert world.value(lane("delayed")) == {EXECUTION: float(core["delay_until"])}


def test_a_delay_without_end_keeps_the_execution_in_the_delayed_index(world: World) -> None:
    put_poisoned(world)
    assert resume(world, EXECUTION, "operator", "inf") == [1, "OK", "delayed"]
    assert field(world, KEYS.core, "delay_until") == "inf"
    assert world.value(lane("delayed")) == {EXECUTION: float("inf")}


def test_a_delay_that_is_no_comparable_number_is_none(world: World) -> None:
    put_poisoned(world)
    assert resume(world, EXECUTION, "operator", "nan") == [1, "OK", "waiting"]


@pytest.mark.parametrize(
    ("core", "score"),
    [
        ({"priority": "", "created_at": "x"}, 0),
        ({"priority": "nan"}, CREATED_AT),
        ({"priority": "0", "created_at": "-nan"}, 0),
        ({"priority": "0"}, CREATED_AT),
        ({"priority": "9000", "created_at": "1795404648100"}, -8998204595351900),
    ],
)
def test_the_place_among_the_eligible_follows_priority_and_age(
    world: World, core: dict[str, str], score: int
) -> None:
    put_poisoned(world)
    put(world, KEYS.core, **core)
    assert resume(world)[1] == "OK"
    assert world.value(lane("eligible")) == {EXECUTION: score}


def test_an_unknown_execution_is_refused(world: World) -> None:
    with world.unchanged():
        assert resume(world, EXECUTION, "x", "soon") == [0, "execution_not_found"]


@pytest.mark.parametrize("phase", ["active", "runnable", "terminal", ""])
def test_an_execution_that_is_not_suspended_is_refused(world: World, phase: str) -> None:
    put_poisoned(world)
    put(world, KEYS.core, lifecycle_phase=phase)
    with world.unchanged():
        assert resume(world, EXECUTION, "x", "soon") == [0, "execution_not_suspended"]


@pytest.mark.parametrize("suspension", [{"closed_at": "5"}, {"suspension_id": ""}, None])
def test_a_suspension_that_is_closed_or_missing_is_refused(world: World, suspension: dict[str, str] | None) -> None:
    put_poisoned(world, **(suspension or {}))
    if suspension is None:
        world.redis.delete(SUSPENSION)
    with world.unchanged():
        assert resume(world, EXECUTION, "x", "soon") == [0, "execution_not_suspended"]


@pytest.mark.parametrize("delay", ["", "soon", "1 2"])
def test_a_delay_that_is_no_number_is_refused(world: World, delay: str) -> None:
    put_poisoned(world)
    with world.unchanged():
        reply = resume(world, EXECUTION, "operator", delay)
    assert reply == [0, "invalid_input", f"resume_delay_ms must be a number, got: {delay}"]


def test_a_waitpoint_that_does_not_exist_is_written_all_the_same(world: World) -> None:
    put_poisoned(world)
    world.redis.delete(KEYS.waitpoint(WAITPOINT))
    assert resume(world)[1] == "OK"
    assert world.value(KEYS.waitpoint(WAITPOINT)).keys() == {"state", "satisfied_at", "closed_at", "close_reason"}
