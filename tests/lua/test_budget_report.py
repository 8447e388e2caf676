"""ff_report_usage_and_check: protocol 08, section 2.2."""

from __future__ import annotations

import pytest

from tests.lua.budgets import BUDGET, DAY_MS, ID, NOW, REPORT_KEY, USAGE, create, report, report_with, reset
from tests.lua.world import Arg, World


def test_the_worked_example_of_the_protocol(world: World) -> None:
    create(world, interval="60000")
    assert report(world, ("tok", "50")) == [1, "OK"]
    assert report(world, ("tok", "30")) == [1, "OK"]
    assert report(world, ("tok", "5"), key=REPORT_KEY) == [1, "SOFT_BREACH", "tok", "85", "80"]
    assert report(world, ("tok", "5"), key=REPORT_KEY) == [1, "ALREADY_APPLIED"]
    assert report(world, ("x", "1"), ("tok", "16")) == [1, "HARD_BREACH", "tok", "85", "100"]
    assert world.value(USAGE) == {"tok": "85"}
    assert report(world, ("tok", "15")) == [1, "SOFT_BREACH", "tok", "100", "80"]
    counts = {"soft_breach_count": "2", "breach_count": "1", "last_breach_dim": "tok"}
    assert counts.items() <= world.value(BUDGET).items()
    assert reset(world, ID, "1700000050000") == [1, "OK", "1700000110000"]
    assert counts | {"last_breach_dim": ""} == {name: world.value(BUDGET)[name] for name in counts}


def test_a_report_within_the_limits_adds_to_each_dimension(world: World) -> None:
    create(world)
    with world.changes() as c:
        assert report(world, ("tok", "80"), ("usd", "-3"), now="later") == [1, "OK"]
    assert c.written == {USAGE: {"tok": "80", "usd": "-3"}, BUDGET: {"last_updated_at": "later"}}
    assert c.removed == {}


def test_a_report_without_dimensions_is_only_dated(world: World) -> None:
    create(world)
    with world.changes() as c:
        assert report(world, now="later", key=REPORT_KEY) == [1, "OK"]
    assert c.written == {BUDGET: {"last_updated_at": "later"}, REPORT_KEY: "1"}


@pytest.mark.parametrize("delta", ["1e1", "0xa", " 10 ", "10.0"])
def test_a_delta_is_what_lua_reads_as_a_whole_number(world: World, delta: str) -> None:
    report(world, ("tok", delta))
    assert world.value(USAGE) == {"tok": "10"}


def test_a_delta_of_minus_zero_is_zero(world: World) -> None:
    report(world, ("tok", "9007199254740993"))
    world.redis.hset(USAGE, "tok", "9007199254740993")
    assert report(world, ("tok", "-0")) == [1, "OK"]
    assert world.value(USAGE) == {"tok": "9007199254740993"}


def test_a_hard_breach_names_the_first_dimension_over_and_adds_nothing(world: World) -> None:
    create(world, {"a": ("10", "1"), "b": ("007", "1"), "c": ("5", "1")})
    report(world, ("b", "3"))
    with world.changes() as c:
        reply = report(world, ("a", "10"), ("b", "5"), ("c", "6"), now="later", key=REPORT_KEY)
    assert reply == [1, "HARD_BREACH", "b", "3", "007"]
    assert c.written == {
        BUDGET: {"breach_count": "1", "last_breach_at": "later", "last_breach_dim": "b", "last_updated_at": "later"}
    }
    assert c.removed == {}


def test_a_hard_breach_is_not_remembered_and_counts_again(world: World) -> None:
    create(world)
    for count in ("1", "2"):
        assert report(world, ("tok", "101"), key=REPORT_KEY)[1] == "HARD_BREACH"
        assert world.value(BUDGET)["breach_count"] == count


def test_a_hard_breach_wins_over_bad_deltas_behind_it_and_over_bad_fractions(world: World) -> None:
    create(world)
    assert report(world, ("x", "0.5"), ("tok", "101"), ("y", "bad"))[1:3] == ["HARD_BREACH", "tok"]


@pytest.mark.parametrize("limit", ["0", "-1", "", "none", "nan"])
def test_a_limit_not_above_zero_or_no_number_is_no_limit(world: World, limit: str) -> None:
    create(world, {"tok": (limit, limit)})
    assert report(world, ("tok", "1000000")) == [1, "OK"]


def test_a_soft_breach_names_the_first_dimension_over_and_counts_once(world: World) -> None:
    create(world, {"a": ("0", "10"), "b": ("0", "1e1"), "c": ("0", "5")})
    with world.changes() as c:
        reply = report(world, ("a", "10"), ("b", "11"), ("c", "6"), now="later", key=REPORT_KEY)
    assert reply == [1, "SOFT_BREACH", "b", "11", "10"]
    assert c.written == {
        USAGE: {"a": "10", "b": "11", "c": "6"},
        BUDGET: {"soft_breach_count": "1", "last_updated_at": "later"},
        REPORT_KEY: "1",
    }


def test_a_dimension_given_twice_is_checked_each_time_against_the_same_usage(world: World) -> None:
    create(world)
    assert report(world, ("tok", "60"), ("tok", "60")) == [1, "SOFT_BREACH", "tok", "120", "80"]


def test_large_usage_is_reported_in_text_form(world: World) -> None:
    create(world, {"tok": ("123456789012346", "1")})
    assert report(world, ("tok", "123456789012345"))[1:] == ["SOFT_BREACH", "tok", "1.2345678901234e+14", "1"]
    assert report(world, ("tok", "2"))[1:] == ["HARD_BREACH", "tok", "1.2345678901234e+14", "123456789012346"]


def test_a_report_key_makes_the_repeat_harmless_for_a_day(world: World) -> None:
    create(world)
    before_ms = world.now_ms()
    report(world, ("tok", "10"), key=REPORT_KEY)
    assert before_ms + DAY_MS <= world.expiries()[REPORT_KEY] <= world.now_ms() + DAY_MS
    with world.unchanged():
        assert report(world, ("tok", "bad"), key=REPORT_KEY) == [1, "ALREADY_APPLIED"]


@pytest.mark.parametrize("key", ["", None])
def test_without_a_report_key_each_repeat_counts(world: World, key: str | None) -> None:
    report(world, ("tok", "10"), key=key)
    report(world, ("tok", "10"), key=key)
    assert world.value(USAGE) == {"tok": "20"}


def test_an_unknown_budget_takes_reports(world: World) -> None:
    with world.changes() as c:
        assert report(world, ("tok", "10")) == [1, "OK"]
    assert c.written == {USAGE: {"tok": "10"}, BUDGET: {"last_updated_at": NOW}}


@pytest.mark.parametrize(("args", "got"), [([], "nil"), ([""], ""), (["few", "tok", "1", NOW], "few")])
def test_a_report_with_a_dimension_count_that_is_no_number_is_refused(
    world: World, args: list[Arg], got: str
) -> None:
    with world.unchanged():
        assert report_with(world, args) == [0, "invalid_input", f"dim_count must be a number, got: {got}"]


@pytest.mark.parametrize("delta", ["", "ten", "1.5", "nan", "inf", "-inf", "1e17", "-1e17"])
def test_a_bad_delta_adds_nothing_to_the_dimensions_before_it(world: World, delta: str) -> None:
    with world.unchanged():
        status, code, detail = report(world, ("tok", "5"), ("usd", delta), key=REPORT_KEY)
    assert [status, code] == [0, "invalid_input"]
    assert detail.startswith("delta must be ")


@pytest.mark.parametrize(
    ("used", "delta"), [(2**63 - 1, "1"), (-(2**63), "-1"), (2**63 - 10**16, "99999999999999999")]
)
def test_a_counter_that_would_overflow_adds_nothing_to_the_dimensions_before_it(
    world: World, used: int, delta: str
) -> None:
    world.redis.hset(USAGE, "usd", str(used))
    with world.unchanged():
        assert report(world, ("tok", "5"), ("usd", delta))[:2] == [0, "invalid_input"]
    assert report(world, ("usd", "-5" if used > 0 else "5")) == [1, "OK"]
    assert int(world.value(USAGE)["usd"]) == (used - 5 if used > 0 else used + 5)


@pytest.mark.parametrize(("count", "kept"), [("1", 1), ("1", 2), ("2", 4), ("1.5", 4), ("1e9", 4), ("inf", 4)])
def test_too_few_arguments_for_the_dimensions_are_refused(world: World, count: str, kept: int) -> None:
    create(world)
    with world.unchanged():
        reply = report_with(world, [count, "tok", "1", NOW][:kept])
    assert reply[:2] == [0, "invalid_input"]


@pytest.mark.parametrize("delta", ["1", "1000"])
def test_an_absent_time_is_refused_before_anything_is_counted(world: World, delta: str) -> None:
    create(world)
    with world.unchanged():
        assert report_with(world, ["1", "tok", delta]) == [0, "invalid_input", "now_ms must be given, got: nil"]


@pytest.mark.parametrize(
    ("damaged", "after"),
    [("", "5"), ("many", "5"), ("7.5", "12"), ("1e1", "15"), ("nan", "5"), ("1e18", "1000000000000000000")],
)
def test_a_damaged_counter_goes_on_from_what_can_be_read(world: World, damaged: str, after: str) -> None:
    world.redis.hset(USAGE, "usd", damaged)
    assert report(world, ("tok", "1"), ("usd", "5")) == [1, "OK"]
    assert world.value(USAGE) == {"tok": "1", "usd": after}


def test_damaged_counts_of_breaches_start_again_and_stop_no_report(world: World) -> None:
    create(world)
    world.redis.hset(BUDGET, mapping={"breach_count": "many", "soft_breach_count": ""})
    assert report(world, ("tok", "101"))[1] == "HARD_BREACH"
    assert report(world, ("tok", "90"), key=REPORT_KEY) == [1, "SOFT_BREACH", "tok", "90", "80"]
    assert {"breach_count": "1", "soft_breach_count": "1"}.items() <= world.value(BUDGET).items()
