"""ff_create_budget and ff_reset_budget: protocol 08, sections 2.1 and 2.3."""

from __future__ import annotations

import pytest

from tests.lua.budgets import (
    BUDGET,
    ID,
    LIMITS,
    NOW,
    POLICIES,
    RESETS,
    USAGE,
    create,
    create_args,
    create_with,
    definition,
    report,
    reset,
)
from tests.lua.world import World

# create


def test_creating_writes_definition_limits_and_index(world: World) -> None:
    with world.changes() as c:
        assert create(world, {"tok": ("100", "80"), "usd": ("007", "")}) == [1, "OK", ID]
    assert c.removed == {}
    assert c.written == {
        BUDGET: definition(),
        LIMITS: {"hard:tok": "100", "soft:tok": "80", "hard:usd": "007", "soft:usd": ""},
        POLICIES: {ID},
    }


def test_creating_with_an_interval_schedules_the_first_reset(world: World) -> None:
    with world.changes() as c:
        create(world, {}, interval="60000")
    assert c.written == {
        BUDGET: definition(reset_interval_ms="60000", next_reset_at="1700000060000"),
        RESETS: {ID: 1700000060000.0},
        POLICIES: {ID},
    }


@pytest.mark.parametrize(
    ("interval", "due", "score"),
    [
        ("0x10", "1700000000016", 1700000000016.0),
        ("0.5", "1700000000000.5", 1700000000000.5),
        ("1e15", "1.0017e+15", 1001700000000000.0),
        ("inf", "inf", float("inf")),
    ],
)
def test_the_next_reset_is_in_text_form_and_its_score_is_that_text(
    world: World, interval: str, due: str, score: float
) -> None:
    create(world, interval=interval)
    assert world.value(BUDGET)["next_reset_at"] == due
    assert world.value(BUDGET)["reset_interval_ms"] == interval
    assert world.value(RESETS) == {ID: score}


@pytest.mark.parametrize("interval", ["0", "-5", "nan", "-inf"])
def test_an_interval_not_above_zero_schedules_nothing_and_leaves_now_unread(world: World, interval: str) -> None:
    with world.changes() as c:
        assert create(world, {}, interval=interval, now="whenever") == [1, "OK", ID]
    changed = {"reset_interval_ms": interval, "created_at": "whenever", "last_updated_at": "whenever"}
    assert c.written == {BUDGET: definition(**changed), POLICIES: {ID}}


def test_creating_again_changes_nothing_but_repairs_the_index(world: World) -> None:
    create(world)
    with world.unchanged():
        assert create(world, {"tok": ("1", "1")}, interval="bad") == [1, "ALREADY_SATISFIED", ID]
    world.redis.delete(POLICIES)
    with world.changes() as c:
        assert create_with(world, [ID]) == [1, "ALREADY_SATISFIED", ID]
    assert c.written == {POLICIES: {ID}}


def test_a_key_of_any_other_type_counts_as_the_budget(world: World) -> None:
    world.redis.set(BUDGET, "text")
    assert create(world) == [1, "ALREADY_SATISFIED", ID]


@pytest.mark.parametrize("early", ["report", "reset"])
def test_a_report_or_reset_that_came_first_does_not_keep_the_budget_from_its_limits(world: World, early: str) -> None:
    if early == "report":
        report(world, ("tok", "30"))
    else:
        reset(world)
    assert create(world) == [1, "OK", ID]
    assert definition().items() <= world.value(BUDGET).items()
    assert world.value(LIMITS) == {"hard:tok": "100", "soft:tok": "80"}
    assert create(world) == [1, "ALREADY_SATISFIED", ID]
    report(world, ("tok", "60"))
    assert report(world, ("tok", "60"))[1] == "HARD_BREACH"


@pytest.mark.parametrize(("count", "got"), [("", ""), ("few", "few"), (None, "nil")])
def test_a_dimension_count_that_is_no_number_is_refused_with_the_id_indexed(
    world: World, count: str | None, got: str
) -> None:
    args = create_args({}, interval="bad")[:8]
    with world.changes() as c:
        reply = create_with(world, args if count is None else [*args, count])
    assert reply == [0, "invalid_input", f"dim_count must be a number, got: {got}"]
    assert c.written == {POLICIES: {ID}}


@pytest.mark.parametrize("count", ["0.5", "-1", "-1.5", "nan", "-inf", "0"])
def test_a_dimension_count_below_one_writes_no_limits(world: World, count: str) -> None:
    assert create_with(world, [*create_args({})[:8], count, "tok", "100", "80"]) == [1, "OK", ID]
    assert world.redis.exists(LIMITS) == 0


@pytest.mark.parametrize(
    ("count", "detail"),
    [
        ("1.5", "dim_count must be an integer, got: 1.5"),
        ("inf", "dim_count must be an integer, got: inf"),
        ("1e17", "dim_count must be an integer, got: 1e17"),
        ("2", "dim_count must match the limits given, got: 2"),
        ("1e9", "dim_count must match the limits given, got: 1e9"),
    ],
)
def test_a_count_beyond_the_limits_given_is_refused_and_leaves_no_half_budget(
    world: World, count: str, detail: str
) -> None:
    with world.unchanged():
        reply = create_with(world, [*create_args({})[:8], count, "tok", "100", "80"])
    assert reply == [0, "invalid_input", detail]


@pytest.mark.parametrize("interval", ["", "daily"])
def test_an_interval_that_is_no_number_is_refused_and_leaves_no_half_budget(world: World, interval: str) -> None:
    with world.unchanged():
        reply = create(world, interval=interval)
    assert reply == [0, "invalid_input", f"reset_interval_ms must be a number, got: {interval}"]


@pytest.mark.parametrize("now", ["", "noon", "nan"])
def test_a_schedule_needs_a_time_to_count_from(world: World, now: str) -> None:
    with world.unchanged():
        reply = create(world, interval="60000", now=now)
    assert reply == [0, "invalid_input", f"now_ms must be a number, got: {now}"]


def test_an_endless_interval_from_before_all_time_is_refused(world: World) -> None:
    with world.unchanged():
        assert create(world, interval="inf", now="-inf")[1] == "invalid_input"


def test_an_absent_budget_id_is_refused(world: World) -> None:
    with world.unchanged():
        assert create_with(world, []) == [0, "invalid_input", "budget_id must be given, got: nil"]


def test_a_dimension_given_twice_ends_with_its_last_limits(world: World) -> None:
    create_with(world, [*create_args({})[:8], "2", "tok", "tok", "1", "2", "3", "4"])
    assert world.value(LIMITS) == {"hard:tok": "2", "soft:tok": "4"}


# reset


def test_resetting_zeroes_every_field_of_the_usage_and_schedules_the_next(world: World) -> None:
    create(world, interval="60000")
    report(world, ("tok", "90"), ("usd", "5"))
    report(world, ("tok", "90"))
    world.redis.hset(USAGE, "breached_at", "1700")
    with world.changes() as c:
        assert reset(world, ID, "1700000050000") == [1, "OK", "1700000110000"]
    assert c.removed == {}
    assert c.written == {
        USAGE: {"tok": "0", "usd": "0", "breached_at": "0"},
        BUDGET: {
            "reset_count": "1",
            "last_reset_at": "1700000050000",
            "last_updated_at": "1700000050000",
            "last_breach_at": "",
            "last_breach_dim": "",
            "next_reset_at": "1700000110000",
        },
        RESETS: {ID: 1700000110000.0},
    }


def test_resetting_again_counts_again_and_moves_the_schedule(world: World) -> None:
    create(world, interval="60000")
    assert reset(world, ID, "1000") == [1, "OK", "61000"]
    assert reset(world, ID, "2000") == [1, "OK", "62000"]
    assert world.value(BUDGET)["reset_count"] == "2"
    assert world.value(RESETS) == {ID: 62000.0}


@pytest.mark.parametrize("interval", ["0", "-1", "", "daily", "nan"])
def test_without_a_usable_interval_the_budget_is_no_longer_due(world: World, interval: str) -> None:
    create(world, interval="60000")
    world.redis.hset(BUDGET, "reset_interval_ms", interval)
    with world.changes() as c:
        assert reset(world, ID, "whenever") == [1, "OK", "0"]
    assert c.removed == {RESETS: {ID: 1700000060000.0}}
    assert world.value(BUDGET)["next_reset_at"] == "1700000060000"
    assert world.value(BUDGET)["last_reset_at"] == "whenever"


def test_resetting_an_unknown_budget_is_recorded(world: World) -> None:
    with world.changes() as c:
        assert reset(world) == [1, "OK", "0"]
    assert c.written == {
        BUDGET: {
            "reset_count": "1",
            "last_reset_at": NOW,
            "last_updated_at": NOW,
            "last_breach_at": "",
            "last_breach_dim": "",
        }
    }


def test_a_budget_of_more_dimensions_than_the_script_stack_can_be_reset(world: World) -> None:
    world.redis.hset(USAGE, mapping={f"d{number}": number for number in range(9000)})
    assert reset(world) == [1, "OK", "0"]
    assert set(world.value(USAGE).values()) == {"0"}


def test_a_budget_with_a_damaged_count_of_resets_can_be_reset(world: World) -> None:
    create(world, interval="60000")
    world.redis.hset(BUDGET, "reset_count", "1.5")
    assert reset(world, ID, "2000") == [1, "OK", "62000"]
    assert world.value(BUDGET)["reset_count"] == "1"


@pytest.mark.parametrize("now", ["", "noon", "nan"])
def test_a_time_that_schedules_nothing_is_refused_with_the_usage_kept(world: World, now: str) -> None:
    create(world, interval="60000")
    report(world, ("tok", "5"))
    with world.unchanged():
        assert reset(world, ID, now) == [0, "invalid_input", f"now_ms must be a number, got: {now}"]


def test_absent_arguments_of_a_reset_are_refused_with_the_usage_kept(world: World) -> None:
    report(world, ("tok", "5"))
    keys = [BUDGET, USAGE, RESETS]
    with world.unchanged():
        assert reset(world, ID) == [0, "invalid_input", "now_ms must be given, got: nil"]
        reply = world.call("ff_reset_budget", keys, [])
    assert reply == [0, "invalid_input", "budget_id must be given, got: nil"]
