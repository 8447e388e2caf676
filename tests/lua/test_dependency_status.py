"""ff_evaluate_flow_eligibility and ff_promote_blocked_to_eligible: protocol 09, sections 4.2 and 4.3."""

from __future__ import annotations

import pytest

from tests.lua.executions import lane_key, new_keys
from tests.lua.flows import (
    CREATED_AT,
    LATER,
    SCORE,
    child,
    evaluate,
    promote_blocked,
    replay_keys,
    resolve,
    waiting,
)
from tests.lua.holders import poison
from tests.lua.suspensions import UNSET, nothing_published, put
from tests.lua.world import World

READ = (
    *("lifecycle_phase", "eligibility_state", "terminal_outcome", "attempt_state", "priority", "created_at"),
    "execution_id",
)


# --- evaluate -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("core", "status"),
    [
        ({"lifecycle_phase": "active", "ownership_state": "leased", "terminal_outcome": "failed"}, "not_runnable"),
        ({"lifecycle_phase": "terminal"}, "not_runnable"),
        ({"lifecycle_phase": ""}, "not_runnable"),
        ({"ownership_state": "leased", "terminal_outcome": "failed"}, "owned"),
        ({"ownership_state": ""}, "owned"),
        ({"terminal_outcome": "failed"}, "terminal"),
        ({"terminal_outcome": ""}, "terminal"),
        ({}, "impossible"),
    ],
)
def test_the_record_is_evaluated_first_and_in_this_order(world: World, core: dict[str, str], status: str) -> None:
    keys = waiting(world, "e1", "e2")
    put(world, keys.part("deps:meta"), impossible_required_count="1")
    put(world, keys.core, eligibility_state="any", **core)
    with world.unchanged(), nothing_published(world):
        assert evaluate(world, keys) == [1, "OK", status]


@pytest.mark.parametrize(
    ("counts", "status"),
    [
        (("2", "1"), "impossible"),
        (("2", "0"), "blocked_by_dependencies"),
        (("2", None), "blocked_by_dependencies"),
        (("0", "0"), "eligible"),
        (("-1", "-1"), "eligible"),
        ((None, None), "eligible"),
        (("", "many"), "eligible"),
        (("nan", "nan"), "eligible"),
    ],
)
def test_the_counters_decide_about_a_runnable_execution(
    world: World, counts: tuple[str | None, str | None], status: str
) -> None:
    keys = waiting(world)
    for field, count in zip(("unsatisfied_required_count", "impossible_required_count"), counts, strict=True):
        put(world, keys.part("deps:meta"), **{field: count or ""})
        if count is None:
            world.redis.hdel(keys.part("deps:meta"), field)
    with world.unchanged():
        assert evaluate(world, keys) == [1, "OK", status]


def test_an_execution_without_dependencies_is_eligible_even_when_it_is_delayed(world: World) -> None:
    keys = child(world, eligibility_state="not_eligible_until_time")
    assert evaluate(world, keys) == [1, "OK", "eligible"]


def test_what_is_no_execution_is_not_found_and_a_record_without_a_phase_is_not_runnable(world: World) -> None:
    keys = new_keys()
    assert evaluate(world, keys) == [1, "OK", "not_found"]
    put(world, keys.core, execution_id=keys.id)
    assert evaluate(world, keys) == [1, "OK", "not_runnable"]


# --- promote ------------------------------------------------------------------------------------------------------


def test_promoting_releases_an_execution_without_open_edges_at_its_old_place(world: World) -> None:
    keys = waiting(world)
    put(world, keys.part("deps:meta"), unsatisfied_required_count="0", impossible_required_count="1")
    world.redis.delete(keys.part("deps:unresolved"))
    poison(world, keys.core, keep=READ)
    with world.changes() as c, nothing_published(world):
        assert promote_blocked(world, keys) == [1, "OK"]
    assert c.written == {
        keys.core: {
            "eligibility_state": "eligible_now",
            "blocking_reason": "waiting_for_worker",
            "blocking_detail": "",
            "public_state": "waiting",
            "last_transition_at": LATER,
            "last_mutation_at": LATER,
        },
        lane_key(keys, "eligible"): {keys.id: SCORE},
    }
    assert c.removed == {lane_key(keys, "blocked:dependencies"): {keys.id: CREATED_AT}}


@pytest.mark.parametrize("count", ["-1", "", "nan", None])
def test_a_count_that_is_below_0_or_damaged_is_not_open(world: World, count: str | None) -> None:
    keys = waiting(world)
    world.redis.delete(keys.part("deps:unresolved"), keys.part("deps:meta"))
    if count is not None:
        put(world, keys.part("deps:meta"), unsatisfied_required_count=count)
    assert promote_blocked(world, keys) == [1, "OK"]


@pytest.mark.parametrize("attempt_state", ["none", ""])
def test_promoting_an_execution_that_never_ran_says_so(world: World, attempt_state: str) -> None:
    keys = waiting(world)
    world.redis.delete(keys.part("deps:unresolved"), keys.part("deps:meta"))
    put(world, keys.core, attempt_state=attempt_state)
    promote_blocked(world, keys, now_ms="soon")
    core = world.value(keys.core)
    assert (core["attempt_state"], core["last_mutation_at"]) == ("pending_first_attempt", "soon")


@pytest.mark.parametrize(
    ("core", "code"),
    [
        (
            {"lifecycle_phase": "active", "eligibility_state": "not_applicable", "terminal_outcome": "failed"},
            "not_runnable",
        ),
        ({"eligibility_state": "eligible_now", "terminal_outcome": "failed"}, "not_blocked_by_deps"),
        ({"terminal_outcome": "failed"}, "terminal"),
        ({"terminal_outcome": ""}, "terminal"),
    ],
)
def test_promoting_is_refused_in_the_protocols_order(world: World, core: dict[str, str], code: str) -> None:
    keys = waiting(world)
    put(world, keys.core, **core)
    with world.unchanged():
        assert promote_blocked(world, keys, now_ms=UNSET) == [0, code]


@pytest.mark.parametrize(
    ("count", "edges", "details"),
    [
        ("2", ("e1", "e2"), ["2", "2"]),
        ("1", (), ["1", "0"]),
        ("0", ("e1",), ["0", "1"]),
        ("-1", ("e1",), ["-1", "1"]),
        (None, ("e1",), ["0", "1"]),
        ("1.5", (), ["1.5", "0"]),
    ],
)
def test_promoting_is_refused_while_the_counter_or_the_set_knows_an_open_edge(
    world: World, count: str | None, edges: tuple[str, ...], details: list[str]
) -> None:
    keys = waiting(world)
    world.redis.delete(keys.part("deps:unresolved"), keys.part("deps:meta"))
    if edges:
        world.redis.sadd(keys.part("deps:unresolved"), *edges)
    if count is not None:
        put(world, keys.part("deps:meta"), unsatisfied_required_count=count)
    with world.unchanged():
        assert promote_blocked(world, keys, now_ms=UNSET) == [0, "deps_not_satisfied", *details]


def test_promoting_an_unknown_execution_is_refused(world: World) -> None:
    with world.unchanged():
        assert promote_blocked(world, new_keys(), execution_id=UNSET) == [0, "execution_not_found"]


def test_a_repeated_promotion_is_refused(world: World) -> None:
    keys = waiting(world)
    resolve(world, keys)
    with world.unchanged():
        assert promote_blocked(world, keys) == [0, "not_blocked_by_deps"]


@pytest.mark.parametrize("first_absent", ["execution_id", "now_ms"])
def test_promoting_without_an_id_or_a_time_is_refused(world: World, first_absent: str) -> None:
    keys = waiting(world)
    world.redis.delete(*replay_keys(keys)[5:])
    with world.unchanged():
        reply = promote_blocked(world, keys, **{first_absent: UNSET})
        assert reply == [0, "invalid_input", "now_ms must be given, got: nil"]


@pytest.mark.parametrize("damaged", ["", "high", "nan"])
def test_a_damaged_priority_does_not_leave_the_execution_in_no_index(world: World, damaged: str) -> None:
    """The reference raises with the execution taken out of the blocked index."""
    keys = waiting(world)
    world.redis.delete(keys.part("deps:unresolved"), keys.part("deps:meta"))
    put(world, keys.core, priority=damaged)
    assert promote_blocked(world, keys) == [1, "OK"]
    assert world.value(lane_key(keys, "eligible")) == {keys.id: CREATED_AT}
